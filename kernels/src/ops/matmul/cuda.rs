//! Batched products on a GPU: one launch whatever the batch, whose matrices are found by a small table of first
//! elements, so that broadcasting and permuted views cost nothing. The kernels are `crate::cuda::gemm`'s.

use super::Matmul;
use crate::cuda::{cast, on_device};
use crate::cuda::gemm::{Matrix, Options, Target, product};
use medley_tensor::device::{CudaDevice, Device};
use medley_tensor::layout::broadcast_shape;
use medley_tensor::{DType, Error, Op, Result, Tensor};

const NAME: &str = Matmul::NAME;

/// `t`'s matrix at the start of its storage view, and the first element of each of the batch's.
fn matrices(t: &Tensor, batch: &[usize]) -> Result<(Matrix, Vec<usize>)> {
    let r = t.rank();
    let (rows, cols) = (t.shape()[r - 2], t.shape()[r - 1]);
    let full: Vec<usize> = batch.iter().copied().chain([rows, cols]).collect();
    let layout = t.layout().broadcast_to(&full)?;
    let strides = &layout.strides()[batch.len()..];
    let firsts = layout.narrow(batch.len(), 0, 1)?.narrow(batch.len() + 1, 0, 1)?;
    let starts = firsts.indices().map(|i| i - t.offset()).collect();
    let (row_stride, col_stride) = (strides[0], strides[1]);
    Ok((Matrix { address: t.device_ptr()?, rows, cols, row_stride, col_stride, dtype: t.dtype() }, starts))
}

/// `a · b` over all matrices of the batch; shapes are known to fit. The output has the dtype of both, or is f32 where
/// they differ.
pub(super) fn product_on(device: &CudaDevice, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    for t in [a, b] {
        on_device(NAME, device, t)?;
        if ![DType::F32, DType::F16, DType::BF16].contains(&t.dtype()) {
            return Err(Error::dtype(NAME, "f32, f16 or bf16", t.dtype()));
        }
    }
    let dtype = if a.dtype() == b.dtype() { a.dtype() } else { DType::F32 };
    let (a, b) = (&cast(a, dtype)?, &cast(b, dtype)?);
    let (ra, rb) = (a.rank(), b.rank());
    let batch = broadcast_shape(NAME, &a.shape()[..ra - 2], &b.shape()[..rb - 2])?;
    let (m, k, n) = (a.shape()[ra - 2], a.shape()[ra - 1], b.shape()[rb - 1]);
    let shape: Vec<usize> = batch.iter().copied().chain([m, n]).collect();
    let on = Device::Cuda(device.clone());
    if shape.contains(&0) || k == 0 {
        return Tensor::zeros_on(&on, &shape, dtype);
    }
    let out = Tensor::empty_on(&on, &shape, dtype)?;
    let ((ma, sa), (mb, sb)) = (matrices(a, &batch)?, matrices(b, &batch)?);
    if let ([0], [0]) = (&sa[..], &sb[..]) {
        product(NAME, device, 1.0, ma, mb, Target::of(&out)?, Options::default())?;
    } else {
        let options = Options { batch: Some((&sa, &sb, m * n)), ..Options::default() };
        product(NAME, device, 1.0, ma, mb, Target::of(&out)?, options)?;
    }
    Ok(out)
}
