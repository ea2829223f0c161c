//! Tensors as operands of the matrix engine: any storage, used where it lies.

use crate::cpu::gemm::{GemmError, MatData, MatMut, MatRef, gemm};
use medley_tensor::storage::CpuStorage;
use medley_tensor::{Error, Result, Tensor};

impl From<GemmError> for Error {
    fn from(error: GemmError) -> Self {
        Error::value("gemm", error.to_string())
    }
}

/// The matrix `[rows, cols]` held by `t` (f32, bf16, f16 or NF4), as a view of its storage.
///
/// # Errors
/// When `t` is not a matrix of a float dtype, or is a view into an NF4 matrix that does not start
/// at its first element.
pub(crate) fn matrix<'a>(op: &'static str, t: &'a Tensor) -> Result<MatRef<'a>> {
    let ([rows, cols], [row_stride, col_stride]) = (t.shape(), t.strides()) else {
        return Err(Error::shape(op, "a matrix [rows, cols]", t.shape()));
    };
    // An empty view may start past the end of its storage.
    let start = if t.numel() == 0 { 0 } else { t.offset() };
    let data = match t.cpu(op)? {
        CpuStorage::F32(b) => MatData::F32(&b.as_slice()[start..]),
        CpuStorage::BF16(b) => MatData::Bf16(&b.as_slice()[start..]),
        CpuStorage::F16(b) => MatData::F16(&b.as_slice()[start..]),
        CpuStorage::Nf4 { matrix, .. } if start == 0 => MatData::Nf4(matrix.as_ref()),
        CpuStorage::Nf4 { .. } => {
            let message = "an NF4 weight is used whole; this is a view that starts inside one";
            return Err(Error::value(op, message));
        }
        _ => return Err(Error::dtype(op, "f32, bf16, f16 or nf4", t.dtype())),
    };
    Ok(MatRef::new(data, *rows, *cols, *row_stride, *col_stride)?)
}

/// Row-major f32 rows as an operand.
pub(crate) fn rows_of(data: &[f32], rows: usize, cols: usize) -> Result<MatRef<'_>> {
    Ok(MatRef::row_major(MatData::F32(data), rows, cols)?)
}

/// `c ← alpha · a · b + beta · c` with `c` row-major.
pub(crate) fn product(alpha: f32, a: MatRef, b: MatRef, beta: f32, c: &mut [f32]) -> Result<()> {
    Ok(gemm(alpha, a, b, beta, &mut MatMut::row_major(c, a.rows(), b.cols())?)?)
}
