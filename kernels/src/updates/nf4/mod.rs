//! NF4 quantisation and its inverse over whole matrices, in parallel. The format and the arithmetic of
//! a block are [`medley_tensor::quant`]'s; results are the same bit for bit.

#[cfg(test)]
mod tests;

use medley_tensor::quant::nf4::BLOCK;
use medley_tensor::quant::{Absmax, AbsmaxRef, Error, Nf4Matrix, Result};
use rayon::prelude::*;

/// Elements one task handles: whole blocks, and whole bytes of two codes.
const CHUNK: usize = 512 * BLOCK;

/// Quantises row-major `data` [rows, cols]; with `double_quant` the block scales too.
///
/// # Errors
/// When `data` has not rows·cols elements, or one is not finite (its index is named).
pub fn quantize(data: &[f32], rows: usize, cols: usize, double_quant: bool) -> Result<Nf4Matrix> {
    if data.len() <= CHUNK || rows.checked_mul(cols) != Some(data.len()) {
        return Nf4Matrix::quantize(data, rows, cols, double_quant);
    }
    let parts: Vec<Nf4Matrix> = data
        .par_chunks(CHUNK)
        .map(|part| Nf4Matrix::quantize(part, 1, part.len(), false))
        .enumerate()
        .map(|(i, part)| part.map_err(|e| in_matrix(e, rows, cols, i * CHUNK)))
        .collect::<Result<_>>()?;
    let mut codes = Vec::with_capacity(data.len().div_ceil(2));
    let mut absmax = Vec::with_capacity(data.len().div_ceil(BLOCK));
    for part in &parts {
        let part = part.as_ref();
        codes.extend_from_slice(part.codes);
        if let AbsmaxRef::F32(scales) = part.absmax {
            absmax.extend_from_slice(scales);
        }
    }
    let absmax = if double_quant { Absmax::double_quantize(&absmax) } else { Absmax::F32(absmax.into()) };
    Nf4Matrix::from_parts(codes.into(), absmax, rows, cols)
}

/// An error of a part, told of the whole matrix.
fn in_matrix(error: Error, rows: usize, cols: usize, start: usize) -> Error {
    match error {
        Error::NotFinite { index, value, .. } => Error::NotFinite { rows, cols, index: start + index, value },
        other => other,
    }
}

/// Writes the whole matrix, row-major, as f32.
///
/// # Errors
/// Unless `out` holds rows·cols elements.
pub fn dequantize(matrix: &Nf4Matrix, out: &mut [f32]) -> Result<()> {
    let view = matrix.as_ref();
    if out.len() != view.rows * view.cols {
        return matrix.dequantize_into(out);
    }
    out.par_chunks_mut(CHUNK).enumerate().for_each(|(i, out)| view.dequantize_range(i * CHUNK, out));
    Ok(())
}
