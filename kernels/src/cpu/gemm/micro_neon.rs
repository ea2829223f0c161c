//! The microkernel for NEON: six rows by four registers of four columns, 24 accumulators of 32 registers.

use std::arch::aarch64::*;

use super::micro::{NR, Tile};

/// Computes one tile; see [`super::micro::run`].
///
/// # Safety
/// The contract of [`super::micro::run`], and the machine has NEON.
pub(super) unsafe fn run(tile: &Tile) {
    for panel in 0..tile.panels {
        // SAFETY: the caller's contract, passed on unchanged; ROWS equals tile.mr in every arm.
        unsafe {
            match tile.mr {
                6 => kernel::<6>(tile, panel),
                5 => kernel::<5>(tile, panel),
                4 => kernel::<4>(tile, panel),
                3 => kernel::<3>(tile, panel),
                2 => kernel::<2>(tile, panel),
                _ => kernel::<1>(tile, panel),
            }
        }
    }
}

/// # Safety
/// The contract of [`super::micro::run`] with `ROWS == mr` and `panel < panels`.
#[target_feature(enable = "neon")]
unsafe fn kernel<const ROWS: usize>(tile: &Tile, panel: usize) {
    let columns = tile.nr - panel * NR;
    let mut acc = [[vdupq_n_f32(0.0); 4]; ROWS];
    // SAFETY: every address below names an element that the contract of `run` grants: k < kc, i < ROWS,
    // columns of this panel.
    unsafe {
        let sums = tile.partial.sums.wrapping_add(panel * NR);
        if tile.partial.resume {
            for (i, row) in acc.iter_mut().enumerate() {
                for (h, sum) in row.iter_mut().enumerate() {
                    *sum = vld1q_f32(sums.add(i * tile.partial.stride + 4 * h));
                }
            }
        }
        let mut a = tile.a;
        let mut b = tile.b.add(panel * tile.kc * NR);
        for _ in 0..tile.kc {
            let b0 = vld1q_f32(b);
            let b1 = vld1q_f32(b.add(4));
            let b2 = vld1q_f32(b.add(8));
            let b3 = vld1q_f32(b.add(12));
            for (i, row) in acc.iter_mut().enumerate() {
                let ai = vld1q_dup_f32(a.add(i * tile.a_row_stride));
                row[0] = vfmaq_f32(row[0], ai, b0);
                row[1] = vfmaq_f32(row[1], ai, b1);
                row[2] = vfmaq_f32(row[2], ai, b2);
                row[3] = vfmaq_f32(row[3], ai, b3);
            }
            a = a.wrapping_add(tile.a_col_stride);
            b = b.wrapping_add(NR);
        }
        if !tile.partial.finish {
            for (i, row) in acc.iter().enumerate() {
                for (h, &sum) in row.iter().enumerate() {
                    vst1q_f32(sums.add(i * tile.partial.stride + 4 * h), sum);
                }
            }
            return;
        }
        for (i, row) in acc.iter().enumerate() {
            let c = tile.c.add(i * tile.ldc + panel * NR);
            if columns >= NR {
                for (h, &sum) in row.iter().enumerate() {
                    let c = c.add(4 * h);
                    let value = if tile.beta == 0.0 {
                        vmulq_n_f32(sum, tile.alpha)
                    } else {
                        vfmaq_n_f32(vmulq_n_f32(vld1q_f32(c), tile.beta), sum, tile.alpha)
                    };
                    vst1q_f32(c, value);
                }
            } else {
                let mut lanes = [0.0f32; NR];
                for (h, &sum) in row.iter().enumerate() {
                    vst1q_f32(lanes.as_mut_ptr().add(4 * h), sum);
                }
                for (j, &sum) in lanes.iter().enumerate().take(columns) {
                    // The same operations as above, a lane at a time.
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
