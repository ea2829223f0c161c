//! Dropout on a GPU. See `dropout.cu`.

use super::Dropout;
use crate::cuda::{blocks_for, launch, on_16_bytes, ptx, suffix};
use crate::ops::permute;
use medley_tensor::device::{CudaDevice, Device, KernelArg, Ptx};
use medley_tensor::{Op, Result, Tensor};

static PTX: Ptx = ptx!("dropout.ptx");
const THREADS: usize = 256;

/// `x · mask / (1 − p)`, in x's dtype.
pub(crate) fn mask(device: &CudaDevice, op: &Dropout, x: &Tensor) -> Result<Tensor> {
    let suffix = suffix(Dropout::NAME, x.dtype())?;
    let x = permute::cuda::dense(x)?;
    let y = Tensor::empty_on(&Device::Cuda(device.clone()), x.shape(), x.dtype())?;
    let n = x.numel();
    if n == 0 {
        return Ok(y);
    }
    let (from, to) = (x.device_ptr()?, y.device_ptr()?);
    let arguments = [
        KernelArg::Ptr(to),
        KernelArg::Ptr(from),
        KernelArg::U64(n as u64),
        KernelArg::U32(u32::from(on_16_bytes(&[from, to]))),
        KernelArg::F32(op.p),
        KernelArg::F32(1.0 / (1.0 - op.p)),
        KernelArg::U64(op.seed),
        KernelArg::U64(op.stream),
    ];
    let per_thread = 16 / x.dtype().bytes_for(1);
    let grid = [blocks_for(Dropout::NAME, n.div_ceil(per_thread), THREADS)?, 1, 1];
    launch(device, &PTX, &format!("dropout_fwd_{suffix}"), grid, [THREADS as u32, 1, 1], 0, &arguments)?;
    Ok(y)
}
