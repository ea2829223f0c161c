//! Strided views made contiguous on a GPU: transposes through shared memory (see `permute.cu`), other
//! views by the tensor layer's copy.

use super::Permute;
use crate::cuda::{blocks_for, launch, ptx, upload};
use medley_tensor::device::{CudaDevice, Device, KernelArg, Ptx};
use medley_tensor::{Op, Result, Tensor};

static PTX: Ptx = ptx!("permute.ptx");
const THREADS: u32 = 256;

/// A dimension of the result and its strides.
#[derive(Clone, Copy)]
struct Dimension {
    extent: usize,
    from: usize,
    to: usize,
}

/// `t` with its elements in row-major order: itself where they are, else a copy.
///
/// # Errors
/// When memory runs out.
pub(crate) fn dense(t: &Tensor) -> Result<Tensor> {
    let size = t.dtype().bytes_for(1);
    match (t.cuda_device(), transposed(t)) {
        (Some(device), Some(dimensions)) if size == 2 || size == 4 => transpose(device, t, dimensions),
        _ => t.contiguous(),
    }
}

/// The merged dimensions of a view whose innermost dimension lies strided and another one adjacent: that
/// one first, the innermost second, the others after them from the inside out.
fn transposed(t: &Tensor) -> Option<Vec<Dimension>> {
    if t.is_contiguous() {
        return None;
    }
    let mut out: Vec<Dimension> = vec![];
    let mut to = 1;
    for (&extent, &from) in t.shape().iter().zip(t.strides()).rev().filter(|(n, _)| **n != 1) {
        match out.last_mut() {
            Some(inner) if from == inner.from * inner.extent => inner.extent *= extent,
            _ => out.push(Dimension { extent, from, to }),
        }
        to *= extent;
    }
    let adjacent = out.iter().position(|d| d.from == 1)?;
    if adjacent == 0 {
        return None;
    }
    let a = out.remove(adjacent);
    out.insert(0, a);
    Some(out)
}

fn transpose(device: &CudaDevice, t: &Tensor, dimensions: Vec<Dimension>) -> Result<Tensor> {
    let y = Tensor::empty_on(&Device::Cuda(device.clone()), t.shape(), t.dtype())?;
    let (from, to) = (t.device_ptr()?, y.device_ptr()?);
    let (a, b, batch) = (dimensions[0], dimensions[1], &dimensions[2..]);
    let wide = t.dtype().bytes_for(1) == 4;
    let even = |n: usize| n.is_multiple_of(2);
    let pairs = !wide
        && from.is_multiple_of(4)
        && [a.extent, a.to, b.extent, b.from].into_iter().all(even)
        && batch.iter().all(|d| even(d.from) && even(d.to));
    let side = if pairs { 64 } else { 32 };
    let (a_tiles, b_tiles) = (a.extent.div_ceil(side), b.extent.div_ceil(side));
    let layout = if batch.is_empty() {
        None
    } else {
        let numbers = batch.iter().flat_map(|d| [d.extent as u64, d.from as u64, d.to as u64]);
        Some(upload(device, &numbers.collect::<Vec<u64>>())?)
    };
    let tiles = batch.iter().map(|d| d.extent).product::<usize>() * a_tiles * b_tiles;
    let grid = [blocks_for(Permute::NAME, tiles, 1)?, 1, 1];
    let arguments = [
        KernelArg::Ptr(to),
        KernelArg::Ptr(from),
        KernelArg::Ptr(layout.as_ref().map_or(0, |l| l.ptr())),
        KernelArg::U32(batch.len() as u32),
        KernelArg::U32(a_tiles as u32),
        KernelArg::U32(b_tiles as u32),
        KernelArg::U64(a.extent as u64),
        KernelArg::U64(b.extent as u64),
        KernelArg::U64(a.to as u64),
        KernelArg::U64(b.from as u64),
    ];
    let entry = match (wide, pairs) {
        (true, _) => "permute_fwd_b32",
        (false, true) => "permute_fwd_pairs_b16",
        (false, false) => "permute_fwd_b16",
    };
    launch(device, &PTX, entry, grid, [THREADS, 1, 1], 0, &arguments)?;
    Ok(y)
}
