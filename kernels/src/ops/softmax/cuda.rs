//! Softmax on a GPU. See `softmax.cu`.

use super::Softmax;
use crate::cuda::{blocks_for, launch, on_16_bytes, ptr, ptx, suffix};
use medley_tensor::device::{CudaDevice, Device, KernelArg, Ptx};
use medley_tensor::{Op, Result, Tensor};

static PTX: Ptx = ptx!("softmax.ptx");
const THREADS: usize = 256;
/// Shared memory a block may take without opting in to more.
const SHARED: usize = 48 << 10;

/// Launches `softmax_{pass}` over the rows of `n` of its contiguous `operands`; `kept` of them stay in
/// shared memory where they fit.
fn rows(device: &CudaDevice, pass: &str, operands: &[&Tensor], n: usize, kept: usize) -> Result<Tensor> {
    let like = operands[0];
    let suffix = suffix(Softmax::NAME, like.dtype())?;
    let out = Tensor::empty_on(&Device::Cuda(device.clone()), like.shape(), like.dtype())?;
    if out.numel() == 0 {
        return Ok(out);
    }
    let rows = out.numel() / n;
    let mut addresses = vec![out.device_ptr()?];
    for t in operands {
        addresses.push(t.device_ptr()?);
    }
    let vectors = n.is_multiple_of(8) && on_16_bytes(&addresses);
    let lanes = if n > 1024 { THREADS } else { n.div_ceil(8).next_power_of_two().min(32) };
    let pitch = n.next_multiple_of(8);
    let shared = THREADS / lanes * kept * like.dtype().bytes_for(pitch);
    let (pitch, shared) = if shared <= SHARED { (pitch, shared) } else { (0, 0) };
    let mut arguments = vec![ptr(Softmax::NAME, device, &out)?];
    for t in operands {
        arguments.push(ptr(Softmax::NAME, device, t)?);
    }
    arguments.extend([
        KernelArg::U64(rows as u64),
        KernelArg::U64(n as u64),
        KernelArg::U32(lanes as u32),
        KernelArg::U32(u32::from(vectors)),
        KernelArg::U32(pitch as u32),
    ]);
    let grid = [blocks_for(Softmax::NAME, rows * lanes, THREADS)?, 1, 1];
    let entry = format!("softmax_{pass}_{suffix}");
    launch(device, &PTX, &entry, grid, [THREADS as u32, 1, 1], shared as u32, &arguments)?;
    Ok(out)
}

/// Softmax of contiguous `x` over rows of `n`, in x's dtype.
pub(crate) fn forward(device: &CudaDevice, x: &Tensor, n: usize) -> Result<Tensor> {
    rows(device, "fwd", &[x], n, 1)
}

/// `y·(dy − Σ y·dy)` of contiguous `y` and `dy` over rows of `n`.
pub(crate) fn backward(device: &CudaDevice, y: &Tensor, dy: &Tensor, n: usize) -> Result<Tensor> {
    rows(device, "bwd", &[y, dy], n, 2)
}
