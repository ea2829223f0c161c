//! Matrices in device memory, and how the tensor-core kernels want them.

use crate::cuda::{blocks_for, launch, ptx, u32_arg};
use medley_tensor::device::{CudaDevice, DeviceBuffer, KernelArg, Ptx};
use medley_tensor::{DType, Error, Result, Tensor};

pub(super) static PARTS: Ptx = ptx!("gemm_parts.ptx");

/// Elements of a 16-byte chunk, the unit of cp.async.
const CHUNK: usize = 8;

/// A matrix in device memory: element (r, c) lies `r · row_stride + c · col_stride` elements after `address`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Matrix {
    pub(crate) address: u64,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) row_stride: usize,
    pub(crate) col_stride: usize,
    pub(crate) dtype: DType,
}

impl Matrix {
    /// The matrix `[rows, cols]` held by `t` (f32, bf16 or f16 on a GPU), as a view of its storage.
    ///
    /// # Errors
    /// When `t` is no such matrix.
    pub(crate) fn of(op: &'static str, t: &Tensor) -> Result<Matrix> {
        let ([rows, cols], [row_stride, col_stride]) = (t.shape(), t.strides()) else {
            return Err(Error::shape(op, "a matrix [rows, cols]", t.shape()));
        };
        let (rows, cols, row_stride, col_stride) = (*rows, *cols, *row_stride, *col_stride);
        Ok(Matrix { address: t.device_ptr()?, rows, cols, row_stride, col_stride, dtype: t.dtype() })
    }

    /// Contiguous rows: the leading dimensions of `t` together.
    ///
    /// # Errors
    /// When `t` is not contiguous or not on a GPU.
    pub(crate) fn rows_of(op: &'static str, t: &Tensor) -> Result<Matrix> {
        if !t.is_contiguous() {
            let (shape, strides) = (t.shape().to_vec(), t.strides().to_vec());
            return Err(Error::NotContiguous { op, shape, strides });
        }
        let cols = t.shape().last().copied().unwrap_or(1);
        let rows = t.shape().iter().rev().skip(1).product();
        Ok(Matrix { address: t.device_ptr()?, rows, cols, row_stride: cols, col_stride: 1, dtype: t.dtype() })
    }

    /// The transposed view.
    pub(crate) fn t(self) -> Matrix {
        Matrix {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }

    /// Which dimension is contiguous, columns (the contraction of an operand `[rows, K]`) first.
    pub(super) fn order(&self) -> Option<Order> {
        if self.col_stride == 1 || self.cols <= 1 && self.row_stride != 1 {
            Some(Order::KMajor)
        } else if self.row_stride == 1 || self.rows <= 1 {
            Some(Order::RowMajor)
        } else {
            None
        }
    }
}

/// Which dimension of an operand `[rows, K]` is contiguous.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// Neighbours along K.
    KMajor,
    /// Neighbours along the rows.
    RowMajor,
}

/// A 16-bit operand whose chunks of 16 bytes are aligned.
pub(super) struct Aligned {
    pub(super) address: u64,
    /// Elements from line to line.
    pub(super) ld: usize,
    /// First elements of the batch's matrices, where there is a batch.
    pub(super) starts: Vec<u64>,
    /// Keeps a copy alive until its kernel is in the stream.
    _copy: Option<DeviceBuffer>,
}

/// `matrix` (of each batch entry, when `starts` says where they begin) in `order` with aligned lines; copied where
/// it does not lie that way.
pub(super) fn aligned(
    op: &'static str,
    device: &CudaDevice,
    matrix: Matrix,
    order: Order,
    starts: &[usize],
) -> Result<Aligned> {
    let (lines, width, line_stride, stride) = match order {
        Order::KMajor => (matrix.rows, matrix.cols, matrix.row_stride, matrix.col_stride),
        Order::RowMajor => (matrix.cols, matrix.rows, matrix.col_stride, matrix.row_stride),
    };
    let in_place = (stride == 1 || width <= 1)
        && (line_stride.is_multiple_of(CHUNK) || lines <= 1)
        && matrix.address.is_multiple_of(16)
        && starts.iter().all(|s| s.is_multiple_of(CHUNK));
    if in_place {
        let ld = if lines <= 1 { width.next_multiple_of(CHUNK) } else { line_stride };
        let starts = starts.iter().map(|&s| s as u64).collect();
        return Ok(Aligned { address: matrix.address, ld, starts, _copy: None });
    }
    let ld = width.next_multiple_of(CHUNK);
    let mut distinct = starts.to_vec();
    distinct.sort_unstable();
    distinct.dedup();
    let firsts = if starts.is_empty() { &[0][..] } else { &distinct };
    let copy = device.alloc(firsts.len() * lines * ld * 2)?;
    for (i, first) in firsts.iter().enumerate() {
        let arguments = [
            KernelArg::Ptr(matrix.address + 2 * *first as u64),
            KernelArg::Ptr(copy.ptr() + (2 * i * lines * ld) as u64),
            u32_arg(op, "the number of rows", lines)?,
            u32_arg(op, "the row length", width)?,
            KernelArg::U64(line_stride as u64),
            KernelArg::U64(stride as u64),
            u32_arg(op, "the row length", ld)?,
        ];
        let grid = [blocks_for(op, lines * ld, 256)?, 1, 1];
        launch(device, &PARTS, "gemm_pad", grid, [256, 1, 1], 0, &arguments)?;
    }
    let place = |s: &usize| (distinct.partition_point(|d| d < s) * lines * ld) as u64;
    Ok(Aligned { address: copy.ptr(), ld, starts: starts.iter().map(place).collect(), _copy: Some(copy) })
}
