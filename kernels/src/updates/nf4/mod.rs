//! NF4 quantisation and its inverse over whole matrices, in parallel. The format and the arithmetic of
//! a block are [`medley_tensor::quant`]'s; results are the same bit for bit.

mod cuda;
#[cfg(test)]
mod tests;

use medley_tensor::quant::nf4::BLOCK;
use medley_tensor::quant::{Absmax, AbsmaxRef, Error, Nf4Matrix, Result};
use medley_tensor::{DType, Tensor};
use rayon::prelude::*;

/// The float matrix `t` [rows, cols] in NF4, on the device it lies on; with `double_quant` the block scales too. Both
/// devices give the same bits.
///
/// # Errors
/// When `t` is no float matrix, a value is not finite (its index is named), or device memory runs out.
pub fn quantize_tensor(t: &Tensor, double_quant: bool) -> medley_tensor::Result<Tensor> {
    let t = t.contiguous()?;
    if let Some(device) = t.cuda_device() {
        return cuda::quantize(device, &t, double_quant);
    }
    let [rows, cols] = *t.shape() else {
        return Err(medley_tensor::Error::shape("nf4", "a matrix [rows, cols]", t.shape()));
    };
    Ok(Tensor::from_nf4(quantize(&t.to_vec_f32()?, rows, cols, double_quant)?))
}

/// The NF4 matrix `t`, whole, in `dtype` (f32, bf16 or f16), on the device it lies on.
///
/// # Errors
/// When `t` holds no whole NF4 matrix, for another dtype, or when device memory runs out.
pub fn dequantize_tensor(t: &Tensor, dtype: DType) -> medley_tensor::Result<Tensor> {
    let whole = |rows, cols| t.is_contiguous() && t.shape() == [rows, cols];
    if let (Some(device), Some(matrix)) = (t.cuda_device(), t.nf4_on_device())
        && whole(matrix.rows, matrix.cols)
    {
        return cuda::dequantize(device, matrix, dtype);
    }
    if let Some(matrix) = t.nf4()
        && whole(matrix.rows(), matrix.cols())
    {
        let mut out = vec![0.0; t.numel()];
        dequantize(matrix, &mut out)?;
        return Tensor::from_vec(out, t.shape())?.to_dtype(dtype);
    }
    Err(medley_tensor::Error::dtype("nf4", "a whole NF4 matrix", t.dtype()))
}

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
