//! Row gather and its transpose on a GPU. See `index_select.cu`.

use super::IndexSelect;
use crate::cuda::{blocks_for, launch, on_16_bytes, ptr, ptx, suffix, upload};
use crate::ops::permute;
use medley_tensor::device::{CudaDevice, Device, KernelArg, Ptx};
use medley_tensor::{Op, Result, Tensor};

static PTX: Ptx = ptx!("index_select.ptx");
const THREADS: usize = 256;
/// Threads of a block of the backward pass.
const ADDERS: usize = 128;

/// Rows `indices` of `x [N, ..]`, in x's dtype and of `shape [T, ..]`.
pub(crate) fn forward(device: &CudaDevice, x: &Tensor, indices: &[u32], shape: &[usize]) -> Result<Tensor> {
    suffix(IndexSelect::NAME, x.dtype())?;
    let y = Tensor::empty_on(&Device::Cuda(device.clone()), shape, x.dtype())?;
    if y.numel() == 0 {
        return Ok(y);
    }
    let x = permute::cuda::dense(x)?;
    let row = x.dtype().bytes_for(y.numel() / indices.len());
    let fits = |unit: usize| (row as u64 | x.device_ptr().unwrap_or(1)).is_multiple_of(unit as u64);
    let unit = if fits(16) {
        4
    } else if fits(4) {
        2
    } else {
        1
    };
    let ids = upload(device, indices)?;
    let units = (row >> unit) * indices.len();
    let arguments = [
        ptr(IndexSelect::NAME, device, &y)?,
        ptr(IndexSelect::NAME, device, &x)?,
        KernelArg::Ptr(ids.ptr()),
        KernelArg::U64(units as u64),
        KernelArg::U64((row >> unit) as u64),
        KernelArg::U32(unit),
    ];
    let grid = [blocks_for(IndexSelect::NAME, units, THREADS)?, 1, 1];
    launch(device, &PTX, "index_select_fwd_any", grid, [THREADS as u32, 1, 1], 0, &arguments)?;
    Ok(y)
}

/// Which tokens each destination gets, as `index_select.cu` reads it.
struct Destinations {
    rows: Vec<u32>,
    starts: Vec<u32>,
    order: Vec<u32>,
}

impl Destinations {
    fn new(indices: &[u32]) -> Self {
        let mut pairs: Vec<(u32, u32)> = indices.iter().copied().zip(0..).collect();
        pairs.sort_unstable();
        let (mut rows, mut starts) = (vec![], vec![]);
        for (&(row, _), at) in pairs.iter().zip(0..) {
            if rows.last() != Some(&row) {
                rows.push(row);
                starts.push(at);
            }
        }
        starts.push(pairs.len() as u32);
        Destinations { rows, starts, order: pairs.into_iter().map(|(_, t)| t).collect() }
    }
}

/// `dx[index] = Σ dy[t]` over the tokens with that index, of `shape [N, ..]` and in dy's dtype, summed in
/// f32 in the order of the tokens.
pub(crate) fn backward(device: &CudaDevice, dy: &Tensor, indices: &[u32], shape: &[usize]) -> Result<Tensor> {
    let suffix = suffix(IndexSelect::NAME, dy.dtype())?;
    let dx = Tensor::zeros_on(&Device::Cuda(device.clone()), shape, dy.dtype())?;
    if dy.numel() == 0 {
        return Ok(dx);
    }
    let dy = permute::cuda::dense(dy)?;
    let h = dy.numel() / indices.len();
    let per = 16 / dy.dtype().bytes_for(1);
    let vectors = h.is_multiple_of(per) && on_16_bytes(&[dx.device_ptr()?, dy.device_ptr()?]);
    let to = Destinations::new(indices);
    let (rows, starts, order) =
        (upload(device, &to.rows)?, upload(device, &to.starts)?, upload(device, &to.order)?);
    let arguments = [
        ptr(IndexSelect::NAME, device, &dx)?,
        ptr(IndexSelect::NAME, device, &dy)?,
        KernelArg::Ptr(rows.ptr()),
        KernelArg::Ptr(starts.ptr()),
        KernelArg::Ptr(order.ptr()),
        KernelArg::U64(to.rows.len() as u64),
        KernelArg::U64(h as u64),
        KernelArg::U32(u32::from(vectors)),
    ];
    let columns = if vectors { h / per } else { h };
    let grid = [blocks_for(IndexSelect::NAME, to.rows.len() * columns, ADDERS)?, 1, 1];
    let entry = format!("index_select_bwd_{suffix}");
    launch(device, &PTX, &entry, grid, [ADDERS as u32, 1, 1], 0, &arguments)?;
    Ok(dx)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_listed_by_destination_in_order() {
        let to = Destinations::new(&[4, 0, 4, 9, 0]);
        assert_eq!((to.rows, to.starts, to.order), (vec![0, 4, 9], vec![0, 2, 4, 5], vec![1, 4, 0, 2, 3]));
    }
}
