//! The noise on a GPU. See `neftune.cu`.

use super::{Neftune, Stretch};
use crate::cuda::{blocks_for, launch, on_16_bytes, ptx, suffix, u32_arg, upload};
use crate::ops::permute;
use medley_tensor::device::{CudaDevice, Device, KernelArg, Ptx};
use medley_tensor::{Op, Result, Tensor};

static PTX: Ptx = ptx!("neftune.ptx");
const THREADS: usize = 256;
/// Elements of a block.
const SPAN: usize = 4 * THREADS;

/// One sequence, by `neftune.cu`'s layout.
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Sequence {
    start: u64,
    n: u64,
    size: f32,
    first_block: u32,
}

/// `x [T, h] + noise`, in x's dtype; `sequences` are `(first row, rows, size)`.
pub(super) fn forward(
    device: &CudaDevice,
    op: &Neftune,
    x: &Tensor,
    h: usize,
    sequences: &[Stretch],
) -> Result<Tensor> {
    let suffix = suffix(Neftune::NAME, x.dtype())?;
    let x = permute::cuda::dense(x)?;
    let y = Tensor::empty_on(&Device::Cuda(device.clone()), x.shape(), x.dtype())?;
    let mut blocks = 0usize;
    let mut table = Vec::with_capacity(sequences.len());
    for &(first, rows, size) in sequences {
        let first_block = blocks_for(Neftune::NAME, blocks, 1)?;
        table.push(Sequence { start: (first * h) as u64, n: (rows * h) as u64, size, first_block });
        blocks += (rows * h).div_ceil(SPAN);
    }
    if blocks == 0 {
        return Ok(y);
    }
    let (from, to) = (x.device_ptr()?, y.device_ptr()?);
    let uploaded = upload(device, &table)?;
    let arguments = [
        KernelArg::Ptr(to),
        KernelArg::Ptr(from),
        KernelArg::Ptr(uploaded.ptr()),
        u32_arg(Neftune::NAME, "the number of sequences", table.len())?,
        KernelArg::U32(u32::from(on_16_bytes(&[from, to]))),
        KernelArg::U64(op.seed),
        KernelArg::U64(op.stream),
    ];
    let grid = [blocks_for(Neftune::NAME, blocks, 1)?, 1, 1];
    launch(device, &PTX, &format!("neftune_fwd_{suffix}"), grid, [THREADS as u32, 1, 1], 0, &arguments)?;
    Ok(y)
}
