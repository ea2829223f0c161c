//! Which kernel a product takes: tile, splits of K, NF4 and LoRA schedules. All rules are functions of the shape and
//! the device alone, so that a run is reproducible on one machine.

/// How a product with an NF4 matrix is computed; both give the same values up to the order of sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nf4Schedule {
    /// Codes become fragments in registers: the weight is read at 4 bits, and decoded once for every 64 rows of x.
    Fused,
    /// The weight is written in 16 bits to scratch at the speed of memory, then multiplied by a dense kernel.
    Dequantize,
}

/// How the low-rank path of a LoRA layer is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoraSchedule {
    /// In the main product's own pass over x; every block column repeats h.
    Fused,
    /// h first, then one product over K + r.
    TwoStep,
}

/// A dense kernel's tile of C.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tile {
    /// 128 x 128.
    Large,
    /// 64 x 128.
    Small,
}

impl Tile {
    pub(super) fn rows(self) -> usize {
        match self {
            Tile::Large => 128,
            Tile::Small => 64,
        }
    }

    pub(super) const COLUMNS: usize = 128;
}

/// Tile and splits of K.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) tile: Tile,
    pub(super) splits: usize,
}

/// Depth of a dense kernel's tile.
pub(super) const DEPTH: usize = 32;

/// The cheapest plan for C `[m, n]` with `depth` tiles of k and `batch` matrices, on `processors` multiprocessors.
///
/// The unit is what a 128 x 128 tile of 32 k's takes: 64 mma a warp. A block of n tiles costs n + 6 (filling the
/// pipeline, writing C), the small tile 0.55 of that a tile (half the mma, three quarters of the ldmatrix). Blocks of
/// one multiprocessor share its tensor cores, so the time is rounds of one block each. Splits write and read f32
/// partials: about 640 of them a unit and multiprocessor at 10 bytes a clock (A100), and a launch of 5 units.
pub(super) fn plan(
    m: usize,
    n: usize,
    depth: usize,
    batch: usize,
    processors: usize,
    tiles: &[Tile],
) -> Plan {
    let mut best = (f64::INFINITY, Plan { tile: Tile::Large, splits: 1 });
    for &tile in tiles {
        let blocks = m.div_ceil(tile.rows()) * n.div_ceil(Tile::COLUMNS) * batch;
        let unit = if tile == Tile::Large { 1.0 } else { 0.55 };
        for splits in [1, 2, 3, 4, 6, 8, 12, 16] {
            if splits > 1 && depth / splits < 4 {
                break;
            }
            let rounds = (blocks * splits).div_ceil(processors.max(1)) as f64;
            let mut time = rounds * (depth.div_ceil(splits) as f64 * unit + 6.0);
            if splits > 1 {
                time += (splits * batch * m * n) as f64 / (640.0 * processors.max(1) as f64) + 5.0;
            }
            if time < best.0 {
                best = (time, Plan { tile, splits });
            }
        }
    }
    best.1
}

/// Splits for blocks that are bound by reading the weight: two blocks a multiprocessor, at least four tiles each.
pub(super) fn thin_splits(blocks: usize, depth: usize, processors: usize) -> usize {
    (2 * processors / blocks.max(1)).clamp(1, 16).min((depth / 4).max(1))
}

impl Nf4Schedule {
    /// Fused up to the number of rows where dequantising pays: 128 (sm_80, sm_86), 256 (sm_89), 64 (sm_90), as
    /// measured for bitsandbytes' fused kernel (its dispatch table in `ops.py`, 2026), which decodes like ours.
    /// Blocks of 64 must not run across rows: K (the contiguous dimension of W) is a multiple of 64.
    pub(crate) fn choose(rows: usize, cols: usize, capability: (u32, u32)) -> Nf4Schedule {
        let most = match capability {
            (8, 9) => 256,
            (9.., _) => 64,
            _ => 128,
        };
        if rows <= most && cols.is_multiple_of(64) { Nf4Schedule::Fused } else { Nf4Schedule::Dequantize }
    }
}

/// Largest rank that the fused kernels accumulate.
pub(crate) const FUSED_RANK: usize = 64;

impl LoraSchedule {
    /// Fused where the repeated h costs less than a second read of x and a launch. In bytes of memory traffic, at 150
    /// operations a byte (a card's tensor rate over its bandwidth: 76 on a 3090, 165 on a 4090, 200 on an A100):
    /// `2·M·K·r · (N/128) / 150` against `2·M·K + 5 MB` (5 µs at 1 TB/s), r rounded up to 32.
    pub(crate) fn choose(m: usize, n: usize, k: usize, rank: usize) -> LoraSchedule {
        let repeated =
            2.0 * (m * k) as f64 * rank.next_multiple_of(32) as f64 * n.div_ceil(128) as f64 / 150.0;
        let fused = rank <= FUSED_RANK && repeated < 2.0 * (m * k) as f64 + 5e6;
        if fused { LoraSchedule::Fused } else { LoraSchedule::TwoStep }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: [Tile; 2] = [Tile::Large, Tile::Small];

    #[test]
    fn large_products_take_large_tiles_and_thin_ones_split() {
        let plan = |m, n, k: usize| super::plan(m, n, k.div_ceil(DEPTH), 1, 108, &BOTH);
        assert_eq!(plan(4096, 4096, 4096), Plan { tile: Tile::Large, splits: 1 });
        assert_eq!(plan(64, 4096, 4096).tile, Tile::Small);
        assert!(plan(16, 4096, 4096).splits >= 3, "32 blocks leave most of 108 multiprocessors idle");
        assert_eq!(plan(64, 64, 64).splits, 1);
        assert_eq!(super::plan(64, 64, 2, 500, 108, &BOTH).splits, 1);
    }

    #[test]
    fn schedules_follow_the_shape() {
        assert_eq!(Nf4Schedule::choose(16, 4096, (8, 6)), Nf4Schedule::Fused);
        assert_eq!(Nf4Schedule::choose(16, 4097, (8, 6)), Nf4Schedule::Dequantize);
        assert_eq!(Nf4Schedule::choose(200, 4096, (8, 6)), Nf4Schedule::Dequantize);
        assert_eq!(Nf4Schedule::choose(200, 4096, (8, 9)), Nf4Schedule::Fused);
        assert_eq!(Nf4Schedule::choose(65, 4096, (9, 0)), Nf4Schedule::Dequantize);
        assert_eq!(LoraSchedule::choose(16, 4096, 4096, 16), LoraSchedule::Fused);
        assert_eq!(LoraSchedule::choose(4096, 4096, 4096, 16), LoraSchedule::TwoStep);
        assert_eq!(LoraSchedule::choose(16, 4096, 4096, 65), LoraSchedule::TwoStep);
    }
}
