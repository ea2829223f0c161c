//! The SIMD video instructions: `vadd2/4 vsub2/4 vavrg2/4 vabsdiff2/4 vmin2/4 vmax2/4 vset2/4`, and their
//! scalar forms, without byte selectors and masks (compilers do not emit those).

/// The operation on each lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum VideoOperation {
    /// Sum.
    Add,
    /// Difference.
    Sub,
    /// |a − b|.
    AbsoluteDifference,
    /// Smaller.
    Min,
    /// Larger.
    Max,
    /// Mean, rounded half up (a negative sum is rounded down).
    Average,
    /// 1 if equal, less, …, 0 otherwise.
    Set(Comparison),
}

/// The comparisons of `vset`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Comparison {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
}

/// One video instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Video {
    /// What each lane does.
    pub operation: VideoOperation,
    /// 4 (bytes), 2 (halves) or 1 (the whole register).
    pub lanes: u32,
    /// Lanes of a are signed.
    pub a_signed: bool,
    /// Lanes of b are signed.
    pub b_signed: bool,
    /// Lanes of the result are signed: decides what `.sat` clamps to.
    pub d_signed: bool,
    /// `.sat`.
    pub saturate: bool,
    /// `.add`: the result is c plus the sum of the lanes.
    pub accumulate: bool,
}

impl Video {
    /// The result for one thread.
    pub fn run(&self, a: u32, b: u32, c: u32) -> u32 {
        let bits = 32 / self.lanes;
        let lane = |x: u32, i: u32, signed: bool| -> i64 {
            let raw = u64::from(x) >> (bits * i) << (64 - bits);
            if signed { raw as i64 >> (64 - bits) } else { (raw >> (64 - bits)) as i64 }
        };
        let (mut packed, mut sum) = (0u64, i64::from(c));
        for i in 0..self.lanes {
            let (x, y) = (lane(a, i, self.a_signed), lane(b, i, self.b_signed));
            let value = match self.operation {
                VideoOperation::Add => x + y,
                VideoOperation::Sub => x - y,
                VideoOperation::AbsoluteDifference => (x - y).abs(),
                VideoOperation::Min => x.min(y),
                VideoOperation::Max => x.max(y),
                VideoOperation::Average => (x + y + i64::from(x + y >= 0)) >> 1,
                VideoOperation::Set(comparison) => i64::from(match comparison {
                    Comparison::Eq => x == y,
                    Comparison::Ne => x != y,
                    Comparison::Lt => x < y,
                    Comparison::Le => x <= y,
                    Comparison::Gt => x > y,
                    Comparison::Ge => x >= y,
                }),
            };
            let value = match (self.saturate, self.d_signed) {
                (false, _) => value,
                (true, true) => value.clamp(-(1 << (bits - 1)), (1 << (bits - 1)) - 1),
                (true, false) => value.clamp(0, (1 << bits) - 1),
            };
            packed |= (value as u64 & (u64::MAX >> (64 - bits))) << (bits * i);
            sum += value;
        }
        if self.accumulate { sum as u32 } else { packed as u32 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Video = Video {
        operation: VideoOperation::Add,
        lanes: 4,
        a_signed: false,
        b_signed: false,
        d_signed: false,
        saturate: false,
        accumulate: false,
    };

    #[test]
    fn lanes_do_not_touch_each_other() {
        assert_eq!(PLAIN.run(0xff01_80ff, 0x0101_8001, 0), 0x0002_0000);
        let sat = Video { saturate: true, ..PLAIN };
        assert_eq!(sat.run(0xff01_80ff, 0x0101_8001, 0), 0xff02_ffff);
        let signed = Video { a_signed: true, b_signed: true, d_signed: true, ..sat };
        assert_eq!(signed.run(0x7f01_80ff, 0x0101_8001, 0), 0x7f02_8000);
        let halves = Video { lanes: 2, operation: VideoOperation::Sub, ..PLAIN };
        assert_eq!(halves.run(0x0000_0005, 0x0001_0003, 0), 0xffff_0002);
    }

    #[test]
    fn sums_of_differences_and_comparisons() {
        let sad = Video { operation: VideoOperation::AbsoluteDifference, accumulate: true, ..PLAIN };
        assert_eq!(sad.run(0x0a00_05ff, 0x0500_0a00, 100), 100 + 5 + 5 + 255);
        let set = Video { operation: VideoOperation::Set(Comparison::Gt), ..PLAIN };
        assert_eq!(set.run(0x0a00_05ff, 0x0500_0a00, 0), 0x0100_0001);
        let average = Video { operation: VideoOperation::Average, ..PLAIN };
        assert_eq!(average.run(0x0102_0304, 0x0203_0405, 0), 0x0203_0405);
        let whole = Video { lanes: 1, operation: VideoOperation::Max, a_signed: true, b_signed: true, ..PLAIN };
        assert_eq!(whole.run(0xffff_ffff, 3, 0), 3);
    }
}
