//! RMSNorm on a GPU. See `rms_norm.cu`.

use super::{NAME, Saved};
use crate::cuda::{blocks_for, launch, ptr, ptx, suffix, u32_arg};
use medley_tensor::device::{CudaDevice, Device, KernelArg, Ptx};
use medley_tensor::{DType, Error, Result, Tensor};

static PTX: Ptx = ptx!("rms_norm.ptx");

const NULL: KernelArg = KernelArg::Ptr(0);
/// Rows and columns that one block of the weight gradient sums, and its threads.
const SLAB_ROWS: usize = 64;
const SLABS: usize = 256;
const COLUMNS: usize = 256;

/// Threads for a row of `h` elements, eight a thread.
fn threads(h: usize) -> u32 {
    (h.div_ceil(8).next_multiple_of(32)).min(1024) as u32
}

/// `(y, x + delta, saved)`; without a delta the second is x. `x` and `delta` are contiguous.
pub(crate) fn forward(
    device: &CudaDevice,
    x: &Tensor,
    delta: Option<&Tensor>,
    weight: &Tensor,
    eps: f32,
) -> Result<(Tensor, Tensor, Saved)> {
    let dtype = suffix(NAME, x.dtype())?;
    if let Some(delta) = delta
        && delta.dtype() != x.dtype()
    {
        return Err(Error::dtype(NAME, format!("a delta of x's {dtype}"), delta.dtype()));
    }
    let h = weight.numel();
    let rows = x.numel() / h;
    let on = Device::Cuda(device.clone());
    let weight = crate::cuda::to_f32(weight)?;
    let y = Tensor::empty_on(&on, x.shape(), x.dtype())?;
    let inv_rms = Tensor::empty_on(&on, &[rows], DType::F32)?;
    let sum = match delta {
        Some(_) => Tensor::empty_on(&on, x.shape(), x.dtype())?,
        None => x.clone(),
    };
    let (delta, target) = match delta {
        Some(delta) => (ptr(NAME, device, delta)?, ptr(NAME, device, &sum)?),
        None => (NULL, NULL),
    };
    let arguments = [
        ptr(NAME, device, x)?,
        delta,
        ptr(NAME, device, &weight)?,
        ptr(NAME, device, &y)?,
        target,
        ptr(NAME, device, &inv_rms)?,
        u32_arg(NAME, "the row length", h)?,
        KernelArg::F32(eps),
    ];
    let grid = [blocks_for(NAME, rows, 1)?, 1, 1];
    launch(device, &PTX, &format!("rms_norm_fwd_{dtype}"), grid, [threads(h), 1, 1], 0, &arguments)?;
    Ok((y, sum.clone(), Saved { x: sum, weight, inv_rms }))
}

/// `[dx, dw]`: dx in x's dtype, dw in f32.
pub(crate) fn backward(
    device: &CudaDevice,
    saved: &Saved,
    dy: &Tensor,
    extra: Option<&Tensor>,
    dx: bool,
    dw: bool,
) -> Result<[Option<Tensor>; 2]> {
    let x = &saved.x;
    let dtype = suffix(NAME, x.dtype())?;
    for gradient in [Some(dy), extra].into_iter().flatten() {
        if gradient.dtype() != x.dtype() {
            return Err(Error::dtype(NAME, format!("a gradient of x's {dtype}"), gradient.dtype()));
        }
    }
    let h = saved.weight.numel();
    let rows = x.numel() / h;
    let on = Device::Cuda(device.clone());
    let length = u32_arg(NAME, "the row length", h)?;
    let dx = if dx {
        let out = Tensor::empty_on(&on, x.shape(), x.dtype())?;
        let arguments = [
            ptr(NAME, device, x)?,
            ptr(NAME, device, &saved.weight)?,
            ptr(NAME, device, &saved.inv_rms)?,
            ptr(NAME, device, dy)?,
            extra.map_or(Ok(NULL), |e| ptr(NAME, device, e))?,
            ptr(NAME, device, &out)?,
            length,
        ];
        let grid = [blocks_for(NAME, rows, 1)?, 1, 1];
        launch(device, &PTX, &format!("rms_norm_bwd_dx_{dtype}"), grid, [threads(h), 1, 1], 0, &arguments)?;
        Some(out)
    } else {
        None
    };
    let dw = if dw {
        let out = Tensor::empty_on(&on, &[h], DType::F32)?;
        let slab = rows.div_ceil(SLABS).max(SLAB_ROWS);
        let slabs = rows.div_ceil(slab);
        let partial = Tensor::empty_on(&on, &[slabs, h], DType::F32)?;
        let columns = blocks_for(NAME, h, COLUMNS)?;
        let arguments = [
            ptr(NAME, device, x)?,
            ptr(NAME, device, &saved.inv_rms)?,
            ptr(NAME, device, dy)?,
            ptr(NAME, device, &partial)?,
            u32_arg(NAME, "the number of rows", rows)?,
            length,
            KernelArg::U32(slab as u32),
        ];
        let entry = format!("rms_norm_bwd_dw_{dtype}");
        let block = [COLUMNS as u32, 1, 1];
        launch(device, &PTX, &entry, [columns, slabs as u32, 1], block, 0, &arguments)?;
        let arguments = [
            ptr(NAME, device, &partial)?,
            ptr(NAME, device, &out)?,
            KernelArg::U32(slabs as u32),
            length,
        ];
        launch(device, &PTX, "rms_norm_bwd_sum_f32", [columns, 1, 1], block, 0, &arguments)?;
        Some(out)
    } else {
        None
    };
    Ok([dx, dw])
}
