//! Arithmetic with broadcasting on a GPU. See `binary.cu`.

use super::{Binary, BinaryKind};
use crate::cuda::{Kernel, cast, pointwise, pointwise_pair, ptx};
use medley_tensor::device::{CudaDevice, KernelArg, Ptx};
use medley_tensor::{DType, Op, Result, Tensor};

static PTX: Ptx = ptx!("binary.ptx");
const FORWARD: Kernel = Kernel { op: Binary::NAME, ptx: &PTX, entry: "binary_fwd" };
const BACKWARD: Kernel = Kernel { op: Binary::NAME, ptx: &PTX, entry: "binary_bwd" };

/// Both operands in one dtype: theirs if it is the same, else f32.
pub(crate) fn promoted(a: &Tensor, b: &Tensor) -> Result<[Tensor; 2]> {
    if a.dtype() == b.dtype() {
        return Ok([a.clone(), b.clone()]);
    }
    Ok([cast(a, DType::F32)?, cast(b, DType::F32)?])
}

/// `a ∘ b` of `shape`, in the dtype of both.
pub(crate) fn forward(
    device: &CudaDevice,
    kind: BinaryKind,
    shape: &[usize],
    a: &Tensor,
    b: &Tensor,
) -> Result<Tensor> {
    pointwise(device, &FORWARD, shape, &[a, b], &[KernelArg::U32(kind as u32)])
}

/// The gradients of a product or a quotient, not yet summed over what was broadcast.
pub(crate) fn backward(
    device: &CudaDevice,
    kind: BinaryKind,
    dy: &Tensor,
    a: &Tensor,
    b: &Tensor,
    needs: &[bool],
) -> Result<[Option<Tensor>; 2]> {
    pointwise_pair(device, &BACKWARD, dy.shape(), &[dy, a, b], needs, &[KernelArg::U32(kind as u32)])
}
