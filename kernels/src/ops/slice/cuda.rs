//! The gradient of a slice on a GPU. See `slice.cu`.

use super::Slice;
use crate::cuda::{blocks_for, launch, ptr, ptx, suffix};
use crate::ops::concat::cuda::Bytes;
use crate::ops::permute;
use medley_tensor::device::{CudaDevice, Device, Ptx};
use medley_tensor::{Op, Result, Tensor};

static PTX: Ptx = ptx!("slice.ptx");
const THREADS: usize = 256;

/// `dy` at its place in zeros of `shape`, in dy's dtype.
pub(crate) fn backward(device: &CudaDevice, op: &Slice, dy: &Tensor, shape: &[usize]) -> Result<Tensor> {
    suffix(Slice::NAME, dy.dtype())?;
    let on = Device::Cuda(device.clone());
    if dy.numel() == 0 {
        return Tensor::zeros_on(&on, shape, dy.dtype());
    }
    let dx = Tensor::empty_on(&on, shape, dy.dtype())?;
    let dy = permute::cuda::dense(dy)?;
    let place = Bytes::new(shape, op.dim, op.start, op.len, dy.dtype().bytes_for(1));
    let pointers = [dx.device_ptr()?, dy.device_ptr()?];
    let (units, rest) = place.arguments(dx.dtype().bytes_for(dx.numel()), pointers);
    let mut arguments = vec![ptr(Slice::NAME, device, &dx)?, ptr(Slice::NAME, device, &dy)?];
    arguments.extend(rest);
    let grid = [blocks_for(Slice::NAME, units, THREADS)?, 1, 1];
    launch(device, &PTX, "slice_bwd_any", grid, [THREADS as u32, 1, 1], 0, &arguments)?;
    Ok(dx)
}
