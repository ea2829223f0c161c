//! The microkernel in plain Rust: correct everywhere, vectorised by the compiler where it can.

use super::micro::{MR, NR, Tile};

/// `C[mr, 16·panels] ← alpha · A[mr, kc] · B[kc, …] + beta · C`; see [`super::micro::run`] for the contract.
///
/// # Safety
/// The pointers of `tile` satisfy the contract of [`super::micro::run`].
pub(super) unsafe fn run(tile: &Tile) {
    for panel in 0..tile.panels {
        let columns = tile.nr.saturating_sub(panel * NR).min(NR);
        let mut acc = [[0.0f32; NR]; MR];
        if tile.partial.resume {
            for (i, row) in acc.iter_mut().enumerate().take(tile.mr) {
                // SAFETY: a row of `panels`·16 sums is there by the contract.
                *row = unsafe { *partial_row(tile, i, panel) };
            }
        }
        for k in 0..tile.kc {
            // SAFETY: k < kc and panel < panels, so this row of 16 lies inside the packed panel.
            let b = unsafe { &*tile.b.add((panel * tile.kc + k) * NR).cast::<[f32; NR]>() };
            for (i, row) in acc.iter_mut().enumerate().take(tile.mr) {
                // SAFETY: i < mr and k < kc, inside A by the contract.
                let a = unsafe { *tile.a.add(i * tile.a_row_stride + k * tile.a_col_stride) };
                for (sum, b) in row.iter_mut().zip(b) {
                    *sum += a * b;
                }
            }
        }
        for (i, row) in acc.iter().enumerate().take(tile.mr) {
            if !tile.partial.finish {
                // SAFETY: as above.
                unsafe { *partial_row(tile, i, panel) = *row };
                continue;
            }
            for (j, sum) in row.iter().enumerate().take(columns) {
                // SAFETY: i < mr and panel*16 + j < nr, inside C by the contract.
                unsafe {
                    let c = tile.c.add(i * tile.ldc + panel * NR + j);
                    *c = if tile.beta == 0.0 { tile.alpha * sum } else { tile.alpha * sum + tile.beta * *c };
                }
            }
        }
    }
}

/// The kept sums of row `i` in panel `panel`.
fn partial_row(tile: &Tile, i: usize, panel: usize) -> *mut [f32; NR] {
    tile.partial.sums.wrapping_add(i * tile.partial.stride + panel * NR).cast()
}
