//! The register file of a warp: one row of 32 lanes a register, so that a loop over lanes vectorises.
//!
//! Registers of 8, 16 and 32 bits share 32-bit rows (the unused upper bits are zero), 64-bit registers
//! have their own, predicates are one bit a lane. Literals and special registers are rows too: every
//! operand is a row number, and reading one never branches on what it is.

/// A lane mask with every lane set.
pub(crate) const FULL: u32 = u32::MAX;

/// One 32-bit register of a warp.
pub(crate) type Row32 = [u32; 32];
/// One 64-bit register of a warp.
pub(crate) type Row64 = [u64; 32];

const LANE_BIT: Row32 = {
    let mut bits = [0; 32];
    let mut i = 0;
    while i < 32 {
        bits[i] = 1 << i;
        i += 1;
    }
    bits
};

/// A row number: relative to the running function's frame, or absolute (literals, special registers).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Row(u32);

impl Row {
    const ABSOLUTE: u32 = 1 << 31;

    pub(crate) fn frame(index: u32) -> Self {
        Self(index)
    }

    pub(crate) fn absolute(index: u32) -> Self {
        Self(index | Self::ABSOLUTE)
    }

    #[inline(always)]
    fn at(self, base: u32) -> usize {
        let absolute = self.0 & Self::ABSOLUTE != 0;
        (self.0 & !Self::ABSOLUTE).wrapping_add(if absolute { 0 } else { base }) as usize
    }
}

/// Where the running function's frame begins in each kind of storage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Base {
    pub r32: u32,
    pub r64: u32,
    pub pred: u32,
    /// In 4-byte words.
    pub param: u32,
    /// In bytes.
    pub local: u32,
}

/// The registers of one warp.
#[derive(Clone, Debug, Default)]
pub(crate) struct Regs {
    pub r32: Vec<Row32>,
    pub r64: Vec<Row64>,
    pub pred: Vec<u32>,
    /// `.param` variables of calls, by 4-byte word.
    pub param: Vec<Row32>,
    pub base: Base,
}

impl Regs {
    #[inline(always)]
    pub(crate) fn row32(&self, row: Row) -> &Row32 {
        &self.r32[row.at(self.base.r32)]
    }

    #[inline(always)]
    pub(crate) fn row64(&self, row: Row) -> &Row64 {
        &self.r64[row.at(self.base.r64)]
    }

    #[inline(always)]
    pub(crate) fn pred(&self, row: Row) -> u32 {
        self.pred[row.at(self.base.pred)]
    }

    #[inline(always)]
    pub(crate) fn set_pred(&mut self, row: Row, mask: u32, value: u32) {
        let p = &mut self.pred[row.at(self.base.pred)];
        *p = (*p & !mask) | (value & mask);
    }

    #[inline(always)]
    pub(crate) fn set32(&mut self, row: Row, mask: u32, value: &Row32) {
        let d = &mut self.r32[row.at(self.base.r32)];
        if mask == FULL {
            *d = *value;
        } else {
            for i in 0..32 {
                d[i] = if mask & LANE_BIT[i] != 0 { value[i] } else { d[i] };
            }
        }
    }

    #[inline(always)]
    pub(crate) fn set64(&mut self, row: Row, mask: u32, value: &Row64) {
        let d = &mut self.r64[row.at(self.base.r64)];
        if mask == FULL {
            *d = *value;
        } else {
            for i in 0..32 {
                d[i] = if mask & LANE_BIT[i] != 0 { value[i] } else { d[i] };
            }
        }
    }

    /// Writes `value` into `row` of every register kind a [`Reg`] may be.
    #[inline(always)]
    pub(crate) fn set(&mut self, reg: Reg, mask: u32, value: &Row64) {
        match reg {
            Reg::W32(row) => {
                let mut low = [0; 32];
                for i in 0..32 {
                    low[i] = value[i] as u32;
                }
                self.set32(row, mask, &low);
            }
            Reg::W64(row) => self.set64(row, mask, value),
            Reg::Pred(row) => {
                let bits = (0..32).fold(0, |m, i| m | u32::from(value[i] != 0) << i);
                self.set_pred(row, mask, bits);
            }
            Reg::Sink => {}
        }
    }

    /// The register's lanes, zero-extended.
    #[inline(always)]
    pub(crate) fn get(&self, reg: Reg) -> Row64 {
        let mut out = [0; 32];
        match reg {
            Reg::W32(row) => {
                let r = self.row32(row);
                for i in 0..32 {
                    out[i] = u64::from(r[i]);
                }
            }
            Reg::W64(row) => out = *self.row64(row),
            Reg::Pred(row) => {
                let p = self.pred(row);
                for (i, o) in out.iter_mut().enumerate() {
                    *o = u64::from(p >> i & 1);
                }
            }
            Reg::Sink => {}
        }
        out
    }
}

/// A register operand with its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reg {
    W32(Row),
    W64(Row),
    Pred(Row),
    /// `_`.
    Sink,
}

/// A value a lane can hold, and how it lies in a row.
pub(crate) trait Lane: Copy + Default + Send + Sync + 'static {
    fn get(regs: &Regs, row: Row) -> [Self; 32];
    fn put(regs: &mut Regs, row: Row, mask: u32, value: &[Self; 32]);
}

macro_rules! lane {
    ($($t:ty, $get:ident, $set:ident, $raw:ty, $from:expr, $to:expr;)*) => {$(
        impl Lane for $t {
            #[inline(always)]
            fn get(regs: &Regs, row: Row) -> [Self; 32] {
                let r = regs.$get(row);
                let mut out = [<$t>::default(); 32];
                for i in 0..32 {
                    out[i] = $from(r[i]);
                }
                out
            }

            #[inline(always)]
            fn put(regs: &mut Regs, row: Row, mask: u32, value: &[Self; 32]) {
                let mut raw: [$raw; 32] = [0; 32];
                for i in 0..32 {
                    raw[i] = $to(value[i]);
                }
                regs.$set(row, mask, &raw);
            }
        }
    )*};
}

lane! {
    u32, row32, set32, u32, |x| x, |x| x;
    i32, row32, set32, u32, |x| x as i32, |x| x as u32;
    f32, row32, set32, u32, f32::from_bits, f32::to_bits;
    u16, row32, set32, u32, |x| x as u16, u32::from;
    i16, row32, set32, u32, |x| x as i16, |x| u32::from(x as u16);
    u8, row32, set32, u32, |x| x as u8, u32::from;
    i8, row32, set32, u32, |x| x as i8, |x| u32::from(x as u8);
    u64, row64, set64, u64, |x| x, |x| x;
    i64, row64, set64, u64, |x| x as i64, |x| x as u64;
    f64, row64, set64, u64, f64::from_bits, f64::to_bits;
}

impl Lane for bool {
    #[inline(always)]
    fn get(regs: &Regs, row: Row) -> [Self; 32] {
        let p = regs.pred(row);
        std::array::from_fn(|i| p >> i & 1 != 0)
    }

    #[inline(always)]
    fn put(regs: &mut Regs, row: Row, mask: u32, value: &[Self; 32]) {
        let bits = (0..32).fold(0, |m, i| m | u32::from(value[i]) << i);
        regs.set_pred(row, mask, bits);
    }
}

/// An arithmetic instruction, compiled: reads rows, computes all lanes, writes those in the mask.
pub(crate) type Alu = Box<dyn Fn(&mut Regs, u32) + Send + Sync>;

/// `d = f(a)`.
pub(crate) fn map1<A: Lane, D: Lane>(
    d: Row,
    a: Row,
    f: impl Fn(A) -> D + Send + Sync + 'static,
) -> Alu {
    Box::new(move |regs, mask| {
        let a = A::get(regs, a);
        let mut out = [D::default(); 32];
        for i in 0..32 {
            out[i] = f(a[i]);
        }
        D::put(regs, d, mask, &out);
    })
}

/// `d = f(a, b)`.
pub(crate) fn map2<A: Lane, B: Lane, D: Lane>(
    d: Row,
    [a, b]: [Row; 2],
    f: impl Fn(A, B) -> D + Send + Sync + 'static,
) -> Alu {
    Box::new(move |regs, mask| {
        let a = A::get(regs, a);
        let b = B::get(regs, b);
        let mut out = [D::default(); 32];
        for i in 0..32 {
            out[i] = f(a[i], b[i]);
        }
        D::put(regs, d, mask, &out);
    })
}

/// `d = f(a, b, c)`.
pub(crate) fn map3<A: Lane, B: Lane, C: Lane, D: Lane>(
    d: Row,
    [a, b, c]: [Row; 3],
    f: impl Fn(A, B, C) -> D + Send + Sync + 'static,
) -> Alu {
    Box::new(move |regs, mask| {
        let a = A::get(regs, a);
        let b = B::get(regs, b);
        let c = C::get(regs, c);
        let mut out = [D::default(); 32];
        for i in 0..32 {
            out[i] = f(a[i], b[i], c[i]);
        }
        D::put(regs, d, mask, &out);
    })
}

/// Bits of the lanes where `f(a, b)` holds.
#[inline(always)]
pub(crate) fn lanes_where<T: Copy>(a: &[T; 32], b: &[T; 32], f: impl Fn(T, T) -> bool) -> u32 {
    let mut bits = 0;
    for i in 0..32 {
        bits |= u32::from(f(a[i], b[i])) << i;
    }
    bits
}
