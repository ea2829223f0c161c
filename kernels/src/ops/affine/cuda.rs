//! `mul · x + add` on a GPU. See `affine.cu`.

use super::Affine;
use crate::cuda::{Kernel, pointwise, ptx};
use medley_tensor::device::{CudaDevice, KernelArg, Ptx};
use medley_tensor::{Op, Result, Tensor};

static PTX: Ptx = ptx!("affine.ptx");
const FORWARD: Kernel = Kernel { op: Affine::NAME, ptx: &PTX, entry: "affine_fwd" };

/// `mul · x + add` of `x` broadcast to `shape`, in x's dtype.
pub(crate) fn forward(device: &CudaDevice, op: Affine, x: &Tensor, shape: &[usize]) -> Result<Tensor> {
    pointwise(device, &FORWARD, shape, &[x], &[KernelArg::F32(op.mul), KernelArg::F32(op.add)])
}
