//! `ldmatrix`, `stmatrix`, `mma.sync` and `wmma.mma`.

use super::access::addresses;
use super::context::{Context, Step, Trouble, Worker};
use super::regs::{FULL, Reg, Regs, Row};
use super::warp::Warp;
use crate::error::FaultKind;
use crate::memory::SHARED_WINDOW;
use crate::memory::shared::Shared;
use crate::program::{Matrix, Multiply, Place};
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
            worker.counts.shared_rows(self.pc, &at.map(|a| a as u32), n as u32);
        }
        let mut rows = [[0; 4]; 32];
        for lane in 0..8 * n {
            let offset = self.shared_read(at[lane], 16, lane, shared)?;
            for (w, word) in rows[lane].iter_mut().enumerate() {
                *word = shared.word(offset / 4 + w);
            }
        }
        let values = distribute(&rows, n, matrix.transposed);
        for (reg, value) in matrix.regs.iter().zip(&values) {
            if let Reg::W32(row) = *reg {
                self.regs.set32(row, FULL, value);
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
            worker.counts.shared_rows(self.pc, &at.map(|a| a as u32), n as u32);
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

    pub(super) fn multiply(&mut self, multiply: &Multiply) {
        let regs = &mut self.regs;
        if multiply.operation.is_f64() {
            let read = |rows: &[Row]| rows.iter().map(|&r| *regs.row64(r)).collect::<Vec<_>>();
            let (a, b, c) = (read(&multiply.a), read(&multiply.b), read(&multiply.c));
            let mut d = [[0; 32]; 8];
            let d = &mut d[..multiply.d.len()];
            multiply.operation.run_f64(&a, &b, &c, d);
            for (row, value) in multiply.d.iter().zip(d) {
                regs.set64(*row, FULL, value);
            }
            return;
        }
        // The m16n8k16 shapes take at most four registers each; wmma up to eight.
        let most = [&multiply.a, &multiply.b, &multiply.c, &multiply.d];
        if most.iter().all(|rows| rows.len() <= 4) {
            multiply.with_rows::<4>(regs);
        } else {
            multiply.with_rows::<8>(regs);
        }
    }
}

impl Multiply {
    fn with_rows<const N: usize>(&self, regs: &mut Regs) {
        let read = |rows: &[Row]| {
            let mut out = [[0; 32]; N];
            for (value, &row) in out.iter_mut().zip(rows) {
                *value = *regs.row32(row);
            }
            out
        };
        let (a, b, c) = (read(&self.a), read(&self.b), read(&self.c));
        let mut d = [[0; 32]; N];
        let d = &mut d[..self.d.len()];
        let [na, nb, nc] = [&self.a, &self.b, &self.c].map(Vec::len);
        self.operation.run(&a[..na], &b[..nb], &c[..nc], d);
        for (row, value) in self.d.iter().zip(d) {
            regs.set32(*row, FULL, value);
        }
    }
}
