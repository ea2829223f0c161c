//! One register tile: its size, what it is given, and the choice of the instruction set.
//!
//! All instruction sets share the tile 6×16, so that packed panels look the same everywhere:
//! 12 accumulators of 8 lanes on AVX2 (of 16 registers), 24 of 4 lanes on NEON (of 32).
//! Every element of C is one chain of multiply-adds over k in ascending order, whatever the tile's size
//! or place, so a row of C does not depend on how many rows it is computed with.

use crate::cpu::Isa;

/// Rows of a register tile, and lanes of a packed panel of A.
pub(super) const MR: usize = 6;
/// Columns of a register tile, and lanes of a packed panel of B.
pub(super) const NR: usize = 16;

/// The operands of one tile: `C[mr, nr] ← alpha · A[mr, kc] · B[kc, nr] + beta · C[mr, nr]`.
pub(super) struct Tile {
    /// Depth of the product.
    pub kc: usize,
    /// A: element (i, k) at `i·a_row_stride + k·a_col_stride`.
    pub a: *const f32,
    /// Distance of A's rows in elements; 1 in a packed panel.
    pub a_row_stride: usize,
    /// Distance of A's columns in elements; [`MR`] in a packed panel.
    pub a_col_stride: usize,
    /// B: `panels` packed panels of `kc` × [`NR`], one after the other.
    pub b: *const f32,
    /// How many panels of B the tile spans: `nr.div_ceil(NR)`, at most [`max_panels`] of `mr`.
    pub panels: usize,
    /// C: element (i, j) at `i·ldc + j`.
    pub c: *mut f32,
    /// Distance of C's rows in elements.
    pub ldc: usize,
    /// Rows used, 1 to [`MR`].
    pub mr: usize,
    /// Columns used, 1 to `panels`·[`NR`].
    pub nr: usize,
    /// Factor of the product.
    pub alpha: f32,
    /// Factor of the old C; 0 means that C is not read.
    pub beta: f32,
    /// Sums kept between tiles that cut the depth of a block among them.
    pub partial: Partial,
}

/// Where a tile's sums come from and go to. A depth block may be computed as several tiles, first to last:
/// the sums move through memory unrounded, so the values are those of one tile.
#[derive(Clone, Copy)]
pub(super) struct Partial {
    /// Sums: element (i, j) at `i·stride + j`, `panels`·[`NR`] of them a row; unused by a whole tile.
    pub sums: *mut f32,
    /// Distance of their rows in elements.
    pub stride: usize,
    /// The sums start from `sums` instead of 0.
    pub resume: bool,
    /// The sums go to C instead of `sums`.
    pub finish: bool,
}

impl Partial {
    /// A tile that is computed in one go.
    pub const WHOLE: Partial = Partial { sums: std::ptr::null_mut(), stride: 0, resume: false, finish: true };
}

/// How many panels of B one call may span: few rows take several, so that enough independent chains of
/// multiply-adds are in flight to hide their latency.
pub(super) fn max_panels(mr: usize) -> usize {
    match mr {
        1 => 4,
        2 => 2,
        _ => 1,
    }
}

/// Computes one tile.
///
/// # Safety
/// `a`, `b` and `c` point to memory that holds every element the strides, `kc`, `mr`, `panels` and `nr`
/// name (see [`Tile`]), and so does `partial.sums` unless the tile is whole; nobody else touches that part of C
/// or of the sums meanwhile; the machine offers `isa`.
#[inline]
pub(super) unsafe fn run(isa: Isa, tile: &Tile) {
    debug_assert!((1..=MR).contains(&tile.mr) && tile.panels == tile.nr.div_ceil(NR));
    match isa {
        // SAFETY: the caller's contract.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { super::micro_avx2::run(tile) },
        // SAFETY: the caller's contract.
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => unsafe { super::micro_neon::run(tile) },
        // SAFETY: the caller's contract.
        _ => unsafe { super::micro_portable::run(tile) },
    }
}
