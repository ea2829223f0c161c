//! The CPU matrix engine: `C ← alpha · A · B + beta · C`.
//!
//! How the data moves (the blocking of BLIS, Van Zee and van de Geijn, 2015):
//!
//! ```text
//! for columns of C in blocks of NC                   a block of B: KC × NC, packed to f32 once by all
//!   for depth in blocks of KC                        threads together, stays in the third-level cache
//!     for rows of C in blocks of MC   ── threads ──  a block of A: MC × KC, packed by its thread into its
//!       for panels of 16 columns                     second-level cache
//!         for panels of 6 rows                       a panel of B: KC × 16, in the first-level cache
//!           microkernel 6 × 16                       12 accumulators in registers
//! ```
//! Operands may be f32, bf16, f16 or NF4 and strided in any way; they are widened to f32 while they are
//! packed, so a weight is never held in f32 as a whole. With few rows (decoding) a thread packs a piece of B
//! into its first-level cache and uses it at once: B is read from memory once and never written back.
//!
//! Each element of C is summed over the depth in ascending order, in blocks that depend on the depth alone.
//! So the result does not depend on the number of threads, and a row of C does not depend on which other
//! rows it is computed with.
//!
//! The floor is 85 % of the machine's FMA peak at training shapes (`cargo bench --bench gemm` measures both).
//! Reached on two Zen 3 cores (AVX2, 101 GFLOP/s a core measured), two threads, at 2048×576×1536,
//! 2048×1536×576, 2048³ and 2048×49152×576 (m×n×k): 176–181 GFLOP/s, 87–90 % of peak, whether the weights
//! are f32, bf16 or NF4. The `gemm` crate reaches 174–184 in f32 in the same run.

mod blocking;
mod micro;
#[cfg(target_arch = "x86_64")]
mod micro_avx2;
#[cfg(target_arch = "aarch64")]
mod micro_neon;
mod micro_portable;
mod operand;
mod pack;
#[cfg(target_arch = "x86_64")]
mod pack_avx2;
#[cfg(target_arch = "x86_64")]
mod pack_nf4_avx2;
#[cfg(test)]
mod tests;
mod workspace;

use thiserror::Error;

use super::{Isa, isa};
use blocking::Product;
pub use operand::{MatData, MatMut, MatRef};

/// What can be wrong with a product's operands.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum GemmError {
    /// The shapes do not fit together.
    #[error(
        "gemm: A is {a_rows}x{a_cols}, B is {b_rows}x{b_cols} and C is {c_rows}x{c_cols}; expected A m x k, B k x n, C m x n"
    )]
    Shape {
        /// Rows of A.
        a_rows: usize,
        /// Columns of A.
        a_cols: usize,
        /// Rows of B.
        b_rows: usize,
        /// Columns of B.
        b_cols: usize,
        /// Rows of C.
        c_rows: usize,
        /// Columns of C.
        c_cols: usize,
    },
    /// A matrix reaches past the end of its data.
    #[error(
        "gemm {what}: {rows}x{cols} with strides {row_stride} and {col_stride} reaches past its {len} elements"
    )]
    OutOfBounds {
        /// Which matrix.
        what: &'static str,
        /// Its rows.
        rows: usize,
        /// Its columns.
        cols: usize,
        /// Distance of rows in elements.
        row_stride: usize,
        /// Distance of columns in elements.
        col_stride: usize,
        /// Elements there are.
        len: usize,
    },
    /// The rows of a result overlap.
    #[error(
        "gemm result: rows of {cols} elements that start {row_stride} apart overlap; row_stride must be at least the number of columns"
    )]
    Overlap {
        /// Columns of the result.
        cols: usize,
        /// Distance of rows in elements.
        row_stride: usize,
    },
    /// An NF4 operand has too little data for its shape.
    #[error("gemm NF4 operand {rows}x{cols}: {part} has {have} elements, expected at least {need}")]
    Nf4 {
        /// Which part is short.
        part: &'static str,
        /// Elements needed.
        need: usize,
        /// Elements there are.
        have: usize,
        /// Rows of the operand.
        rows: usize,
        /// Columns of the operand.
        cols: usize,
    },
}

/// The result of the matrix engine's functions.
pub type Result<T> = std::result::Result<T, GemmError>;

/// `C ← alpha · A · B + beta · C` with A m×k, B k×n and C m×n, summed in f32.
///
/// With `beta == 0` C is not read (it may hold anything); with `alpha == 0` or k = 0 the operands are not
/// read. Large products are cut over rayon's current pool; the result is the same bit for bit whatever the
/// number of threads, and a row of C is the same whatever the other rows are.
///
/// # Errors
/// [`GemmError::Shape`] where the shapes do not fit together.
pub fn gemm(alpha: f32, a: MatRef, b: MatRef, beta: f32, c: &mut MatMut) -> Result<()> {
    gemm_on(isa(), alpha, a, b, beta, c)
}

/// [`gemm`] with a chosen family of kernels, one of [`Isa::available`].
fn gemm_on(isa: Isa, alpha: f32, a: MatRef, b: MatRef, beta: f32, c: &mut MatMut) -> Result<()> {
    if a.cols != b.rows || a.rows != c.rows || b.cols != c.cols {
        return Err(GemmError::Shape {
            a_rows: a.rows,
            a_cols: a.cols,
            b_rows: b.rows,
            b_cols: b.cols,
            c_rows: c.rows,
            c_cols: c.cols,
        });
    }
    if c.rows == 0 || c.cols == 0 {
        return Ok(());
    }
    if alpha == 0.0 || a.cols == 0 {
        scale(beta, c);
        return Ok(());
    }
    Product::new(isa, alpha, a, b, beta, c).run();
    Ok(())
}

/// `C ← beta · C`.
fn scale(beta: f32, c: &mut MatMut) {
    for row in c.data.chunks_mut(c.row_stride.max(1)).take(c.rows) {
        let cols = c.cols.min(row.len());
        if beta == 0.0 {
            row[..cols].fill(0.0);
        } else {
            row[..cols].iter_mut().for_each(|value| *value *= beta);
        }
    }
}
