//! `ldmatrix`, `stmatrix` and `mma.sync`.

use super::access::addresses;
use super::context::{Context, Step, Trouble, Worker};
use super::regs::Reg;
use super::warp::Warp;
use crate::error::FaultKind;
use crate::memory::SHARED_WINDOW;
use crate::memory::shared::Shared;
use crate::program::{Matrix, Mma, Place};
use crate::semantics::matrix_load::{collect, distribute};

impl Warp {
    /// Shared offsets of the rows: lanes 8i to 8i + 7 address matrix i.
    fn rows(&self, matrix: &Matrix) -> Step<[u64; 32]> {
        let mut at = addresses(&self.regs, &matrix.address);
        if matrix.place == Place::Generic {
            for (lane, a) in at.iter_mut().enumerate().take(8 * matrix.regs.len()) {
                if *a < SHARED_WINDOW {
                    return Err(Trouble::new(
                        FaultKind::OutOfBounds,
                        lane as u32,
                        format!("row address 0x{a:x} is not in shared memory"),
                    ));
                }
                *a -= SHARED_WINDOW;
            }
        }
        Ok(at)
    }

    pub(super) fn load_matrix(
        &mut self,
        matrix: &Matrix,
        context: &Context,
        shared: &mut Shared,
        worker: &mut Worker,
    ) -> Step<()> {
        let n = matrix.regs.len();
        let at = self.rows(matrix)?;
        if context.counts {
            worker.counts.matrix(&at, n as u32, false);
        }
        let mut rows = [[0; 4]; 32];
        for lane in 0..8 * n {
            let offset = self.shared_offset("reads", at[lane], 16, lane, shared)?;
            if shared.shadowed() {
                shared
                    .note_read(offset, 16, self.index)
                    .map_err(|p| Trouble::new(p.kind, lane as u32, p.message))?;
            }
            for (w, word) in rows[lane].iter_mut().enumerate() {
                *word = shared.word(offset / 4 + w);
            }
        }
        let values = distribute(&rows, n, matrix.transposed);
        for (reg, value) in matrix.regs.iter().zip(&values) {
            if let Reg::W32(row) = *reg {
                self.regs.set32(row, u32::MAX, value);
            }
        }
        Ok(())
    }

    pub(super) fn store_matrix(
        &mut self,
        matrix: &Matrix,
        context: &Context,
        shared: &mut Shared,
        worker: &mut Worker,
    ) -> Step<()> {
        let n = matrix.regs.len();
        let at = self.rows(matrix)?;
        if context.counts {
            worker.counts.matrix(&at, n as u32, true);
        }
        let mut values = [[0; 32]; 4];
        for (value, reg) in values.iter_mut().zip(&matrix.regs) {
            if let Reg::W32(row) = *reg {
                *value = *self.regs.row32(row);
            }
        }
        let rows = collect(&values, n, matrix.transposed);
        for lane in 0..8 * n {
            let offset = self.shared_offset("writes", at[lane], 16, lane, shared)?;
            if shared.shadowed() {
                shared
                    .note_write(offset, 16, self.index)
                    .map_err(|p| Trouble::new(p.kind, lane as u32, p.message))?;
            }
            for (w, word) in rows[lane].iter().enumerate() {
                *shared.word_mut(offset / 4 + w) = *word;
            }
        }
        Ok(())
    }

    pub(super) fn multiply(&mut self, mma: &Mma, context: &Context, worker: &mut Worker) {
        if context.counts {
            worker.counts.mma(mma.operation.flops());
        }
        mma.execute(&mut self.regs);
    }
}
