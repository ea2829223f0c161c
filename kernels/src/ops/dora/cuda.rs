//! DoRA's magnitudes on a GPU. See `dora.cu`.

use super::{Dora, Saved};
use crate::cuda::gemm::{Matrix, Options, Target, column_sums, product};
use crate::cuda::{blocks_for, cast, launch, on_16_bytes, on_device, ptr, ptx, suffix, u32_arg};
use crate::ops::BinaryKind;
use crate::ops::linear::cuda::{Weight, f32_bias};
use medley_tensor::device::{CudaDevice, Device, KernelArg, Ptx};
use medley_tensor::{DType, Op, Result, Tensor};

static PTX: Ptx = ptx!("dora.ptx");
const NAME: &str = Dora::NAME;
const THREADS: usize = 256;
/// Rows that one block of the magnitudes' gradient sums at least, and blocks a column at most.
const SLAB_ROWS: usize = 64;
const SLABS: usize = 256;

/// `z ∘ factor (+ bias)` by columns; z is contiguous, factor and bias f32.
fn scaled(device: &CudaDevice, z: &Tensor, factor: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let suffix = suffix(NAME, z.dtype())?;
    let y = Tensor::empty_on(&Device::Cuda(device.clone()), z.shape(), z.dtype())?;
    let n = factor.numel();
    if y.numel() == 0 {
        return Ok(y);
    }
    let mut addresses = vec![y.device_ptr()?, z.device_ptr()?, factor.device_ptr()?];
    addresses.extend(bias.map(Tensor::device_ptr).transpose()?);
    let vectors = n.is_multiple_of(8) && on_16_bytes(&addresses);
    let width = if vectors { 8 } else { 1 };
    let threads = n.div_ceil(width).next_multiple_of(32).min(THREADS);
    let tiles = n.div_ceil(threads * width);
    let arguments = [
        ptr(NAME, device, &y)?,
        ptr(NAME, device, z)?,
        ptr(NAME, device, factor)?,
        bias.map_or(Ok(KernelArg::Ptr(0)), |bias| ptr(NAME, device, bias))?,
        u32_arg(NAME, "the row length", n)?,
        u32_arg(NAME, "the number of tiles of a row", tiles)?,
        KernelArg::U32(u32::from(vectors)),
    ];
    let grid = [blocks_for(NAME, z.numel() / n * tiles, 1)?, 1, 1];
    launch(device, &PTX, &format!("dora_fwd_{suffix}"), grid, [threads as u32, 1, 1], 0, &arguments)?;
    Ok(y)
}

/// `(y, m / norm)`; z, m and norm are contiguous.
pub(super) fn forward(
    device: &CudaDevice,
    z: &Tensor,
    m: &Tensor,
    norm: &Tensor,
    bias: Option<&Tensor>,
) -> Result<(Tensor, Tensor)> {
    on_device(NAME, device, m)?;
    on_device(NAME, device, norm)?;
    let factor = crate::ops::binary::cuda::forward(device, BinaryKind::Div, m.shape(), m, norm)?;
    let bias = f32_bias(NAME, device, bias)?;
    Ok((scaled(device, z, &factor, bias.as_ref())?, factor))
}

/// `[dz, dm, dbias]`, the last where `bias` asks for it.
pub(super) fn backward(
    device: &CudaDevice,
    saved: &Saved,
    dy: &Tensor,
    bias: bool,
) -> Result<[Option<Tensor>; 3]> {
    let dz = saved.factor.as_ref().map(|factor| scaled(device, dy, factor, None)).transpose()?;
    let dm = match &saved.magnitude {
        Some((z, norm)) => Some(magnitude_gradient(device, dy, z, norm)?),
        None => None,
    };
    let db = if bias { Some(column_sums(NAME, device, dy)?) } else { None };
    Ok([dz, dm, db])
}

/// `(Σ_rows dy ∘ z) / norm` in f32.
fn magnitude_gradient(device: &CudaDevice, dy: &Tensor, z: &Tensor, norm: &Tensor) -> Result<Tensor> {
    let on = Device::Cuda(device.clone());
    let n = norm.numel();
    if z.numel() == 0 {
        return Tensor::zeros_on(&on, &[n], DType::F32);
    }
    let dy = cast(dy, z.dtype())?;
    let rows = z.numel() / n;
    let slab = rows.div_ceil(SLABS).max(SLAB_ROWS);
    let slabs = rows.div_ceil(slab);
    let partial = Tensor::empty_on(&on, &[slabs, n], DType::F32)?;
    let dm = Tensor::empty_on(&on, &[n], DType::F32)?;
    let (columns, length) = (blocks_for(NAME, n, THREADS)?, u32_arg(NAME, "the row length", n)?);
    let block = [THREADS as u32, 1, 1];
    let arguments = [
        ptr(NAME, device, &partial)?,
        ptr(NAME, device, &dy)?,
        ptr(NAME, device, z)?,
        u32_arg(NAME, "the number of rows", rows)?,
        length,
        KernelArg::U32(slab as u32),
    ];
    let entry = format!("dora_bwd_dm_{}", suffix(NAME, z.dtype())?);
    launch(device, &PTX, &entry, [columns, slabs as u32, 1], block, 0, &arguments)?;
    let arguments = [
        ptr(NAME, device, &dm)?,
        ptr(NAME, device, &partial)?,
        ptr(NAME, device, norm)?,
        KernelArg::U32(slabs as u32),
        length,
    ];
    launch(device, &PTX, "dora_bwd_sum_f32", [columns, 1, 1], block, 0, &arguments)?;
    Ok(dm)
}

/// The row norms of `W + scale·B·A` `[N]` f32; `squares` are those of W. A enters the product with W in `compute`, as
/// it does in the layer itself; everything else is f32.
pub(super) fn row_norms(
    device: &CudaDevice,
    weight: &Tensor,
    [a, b]: [&Tensor; 2],
    scale: f32,
    squares: &Tensor,
    compute: DType,
) -> Result<Tensor> {
    let on = Device::Cuda(device.clone());
    for t in [a, b, squares] {
        on_device(NAME, device, t)?;
    }
    let (rank, n) = (a.shape()[0], b.shape()[0]);
    let low = cast(a, compute)?;
    let aw = Tensor::empty_on(&on, &[rank, n], DType::F32)?;
    let weight = Weight::of(NAME, device, weight, compute)?;
    weight.multiply(NAME, device, Matrix::of(NAME, &low)?, true, Target::of(&aw)?, Options::default(), None)?;
    let aa = Tensor::empty_on(&on, &[rank, rank], DType::F32)?;
    let (a_rows, b_rows) = (Matrix::of(NAME, a)?, Matrix::of(NAME, b)?);
    product(NAME, device, 1.0, a_rows, a_rows.t(), Target::of(&aa)?, Options::default())?;
    let aab = Tensor::empty_on(&on, &[rank, n], DType::F32)?;
    product(NAME, device, 1.0, Matrix::of(NAME, &aa)?, b_rows.t(), Target::of(&aab)?, Options::default())?;
    let norm = Tensor::empty_on(&on, &[n], DType::F32)?;
    let arguments = [
        ptr(NAME, device, &norm)?,
        ptr(NAME, device, squares)?,
        ptr(NAME, device, b)?,
        ptr(NAME, device, &aw)?,
        ptr(NAME, device, &aab)?,
        u32_arg(NAME, "the number of rows", n)?,
        u32_arg(NAME, "the rank", rank)?,
        KernelArg::F32(scale),
    ];
    let grid = [blocks_for(NAME, n, THREADS)?, 1, 1];
    launch(device, &PTX, "dora_norm_f32", grid, [THREADS as u32, 1, 1], 0, &arguments)?;
    Ok(norm)
}
