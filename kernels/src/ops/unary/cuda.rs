//! Functions of one variable on a GPU. See `unary.cu`.

use super::{Unary, UnaryKind};
use crate::cuda::{Kernel, pointwise, ptx};
use medley_tensor::device::{CudaDevice, KernelArg, Ptx};
use medley_tensor::{Op, Result, Tensor};

static PTX: Ptx = ptx!("unary.ptx");
const FORWARD: Kernel = Kernel { op: Unary::NAME, ptx: &PTX, entry: "unary_fwd" };
const BACKWARD: Kernel = Kernel { op: Unary::NAME, ptx: &PTX, entry: "unary_bwd" };

/// `f(x)`, in x's dtype.
pub(crate) fn forward(device: &CudaDevice, kind: UnaryKind, x: &Tensor) -> Result<Tensor> {
    pointwise(device, &FORWARD, x.shape(), &[x], &[KernelArg::U32(kind as u32)])
}

/// `dy · f′(x)`.
pub(crate) fn backward(device: &CudaDevice, kind: UnaryKind, dy: &Tensor, x: &Tensor) -> Result<Tensor> {
    pointwise(device, &BACKWARD, x.shape(), &[dy, x], &[KernelArg::U32(kind as u32)])
}
