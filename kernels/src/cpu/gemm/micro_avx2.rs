//! The microkernel for AVX2 + FMA.
//!
//! Six rows by two registers of eight columns: for each k two loads of B, six broadcasts of A and twelve
//! fused multiply-adds. With two FMA pipes that is six cycles, in which eight loads and 23 micro-operations
//! fit easily, so the tile runs at the FMA peak once both panels sit in the first-level cache.

use std::arch::x86_64::*;

use super::micro::{MR, NR, Tile, max_panels};

/// Computes one tile; see [`super::micro::run`].
///
/// # Safety
/// The contract of [`super::micro::run`], and the machine has AVX2 and FMA.
pub(super) unsafe fn run(tile: &Tile) {
    let packed = tile.a_row_stride == 1 && tile.a_col_stride == MR;
    debug_assert!(tile.panels <= max_panels(tile.mr));
    // SAFETY: the caller's contract, passed on unchanged; PANELS equals tile.panels in every arm.
    unsafe {
        match (tile.mr, tile.panels, packed) {
            (6, _, true) => kernel::<6, 1, true>(tile),
            (6, _, false) => kernel::<6, 1, false>(tile),
            (5, _, true) => kernel::<5, 1, true>(tile),
            (5, _, false) => kernel::<5, 1, false>(tile),
            (4, _, true) => kernel::<4, 1, true>(tile),
            (4, _, false) => kernel::<4, 1, false>(tile),
            (3, _, true) => kernel::<3, 1, true>(tile),
            (3, _, false) => kernel::<3, 1, false>(tile),
            (2, 2, _) => kernel::<2, 2, false>(tile),
            (2, _, _) => kernel::<2, 1, false>(tile),
            (_, 4, _) => kernel::<1, 4, false>(tile),
            (_, 3, _) => kernel::<1, 3, false>(tile),
            (_, 2, _) => kernel::<1, 2, false>(tile),
            (_, _, _) => kernel::<1, 1, false>(tile),
        }
    }
}

/// # Safety
/// The contract of [`super::micro::run`] with `ROWS == mr` and `PANELS == panels`.
#[target_feature(enable = "avx2,fma")]
unsafe fn kernel<const ROWS: usize, const PANELS: usize, const PACKED: bool>(tile: &Tile) {
    let (row_stride, col_stride) = if PACKED { (1, MR) } else { (tile.a_row_stride, tile.a_col_stride) };
    let kc = tile.kc;
    let mut acc = [[[_mm256_setzero_ps(); 2]; PANELS]; ROWS];
    // SAFETY: every address below names an element that the contract of `run` grants: k < kc, i < ROWS,
    // p < PANELS; a prefetch touches nothing.
    unsafe {
        for i in 0..ROWS {
            let row = tile.c.add(i * tile.ldc);
            _mm_prefetch::<_MM_HINT_T0>(row.cast());
            _mm_prefetch::<_MM_HINT_T0>(row.wrapping_add(NR - 1).cast());
        }
        if tile.partial.resume {
            for (i, row) in acc.iter_mut().enumerate() {
                for (h, sum) in row.as_flattened_mut().iter_mut().enumerate() {
                    *sum = _mm256_loadu_ps(tile.partial.sums.add(i * tile.partial.stride + 8 * h));
                }
            }
        }
        let mut a = tile.a;
        let mut b = tile.b;
        for _ in 0..kc {
            // Plain indices, since one of them walks memory as well.
            #[allow(clippy::needless_range_loop)]
            for p in 0..PANELS {
                let b0 = _mm256_loadu_ps(b.add(p * kc * NR));
                let b1 = _mm256_loadu_ps(b.add(p * kc * NR + 8));
                for i in 0..ROWS {
                    let ai = _mm256_broadcast_ss(&*a.add(i * row_stride));
                    acc[i][p][0] = _mm256_fmadd_ps(ai, b0, acc[i][p][0]);
                    acc[i][p][1] = _mm256_fmadd_ps(ai, b1, acc[i][p][1]);
                }
            }
            a = a.wrapping_add(col_stride);
            b = b.wrapping_add(NR);
        }
        if !tile.partial.finish {
            for (i, row) in acc.iter().enumerate() {
                for (h, &sum) in row.as_flattened().iter().enumerate() {
                    _mm256_storeu_ps(tile.partial.sums.add(i * tile.partial.stride + 8 * h), sum);
                }
            }
            return;
        }
        let alpha = _mm256_set1_ps(tile.alpha);
        let beta = _mm256_set1_ps(tile.beta);
        for (i, row) in acc.iter().enumerate() {
            for (p, sums) in row.iter().enumerate() {
                let c = tile.c.add(i * tile.ldc + p * NR);
                let columns = tile.nr - p * NR;
                if columns >= NR {
                    for (h, &sum) in sums.iter().enumerate() {
                        let c = c.add(8 * h);
                        let value = if tile.beta == 0.0 {
                            _mm256_mul_ps(alpha, sum)
                        } else {
                            _mm256_fmadd_ps(alpha, sum, _mm256_mul_ps(beta, _mm256_loadu_ps(c)))
                        };
                        _mm256_storeu_ps(c, value);
                    }
                } else {
                    let mut lanes = [0.0f32; NR];
                    _mm256_storeu_ps(lanes.as_mut_ptr(), sums[0]);
                    _mm256_storeu_ps(lanes.as_mut_ptr().add(8), sums[1]);
                    for (j, &sum) in lanes.iter().enumerate().take(columns) {
                        // The same operations as above, a lane at a time: an element's value does not
                        // depend on whether its tile is whole.
                        let c = c.add(j);
                        *c = if tile.beta == 0.0 {
                            tile.alpha * sum
                        } else {
                            tile.alpha.mul_add(sum, tile.beta * *c)
                        };
                    }
                }
            }
        }
    }
}
