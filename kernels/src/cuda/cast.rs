//! Casts between the float dtypes on a GPU. See `cast.cu`.

use super::{blocks_for, launch, ptr, ptx, suffix};
use medley_tensor::device::{Device, KernelArg, Ptx};
use medley_tensor::{DType, Error, Result, Tensor};

static PTX: Ptx = ptx!("cast.ptx");

const NAME: &str = "cast";
const THREADS: usize = 256;
/// Elements a thread handles: 16 bytes of the narrower dtype.
const PER_THREAD: usize = 8;

/// `t` in another of f32, bf16 and f16 (round to nearest even), on the device it lies on; `t` itself
/// when it has the dtype.
///
/// # Errors
/// For other dtypes, and when device memory runs out.
pub fn cast(t: &Tensor, dtype: DType) -> Result<Tensor> {
    if t.dtype() == dtype {
        return Ok(t.clone());
    }
    let Some(device) = t.cuda_device() else { return t.to_dtype(dtype) };
    let (from, to) = (suffix(NAME, t.dtype())?, suffix(NAME, dtype)?);
    let t = t.contiguous()?;
    let out = Tensor::empty_on(&Device::Cuda(device.clone()), t.shape(), dtype)?;
    let grid = [blocks_for(NAME, t.numel(), THREADS * PER_THREAD)?, 1, 1];
    let arguments = [ptr(NAME, device, &t)?, ptr(NAME, device, &out)?, KernelArg::U64(t.numel() as u64)];
    launch(device, &PTX, &format!("cast_{from}_{to}"), grid, [THREADS as u32, 1, 1], 0, &arguments)?;
    Ok(out)
}

/// A vector (norm weight, bias) as contiguous f32 on its device.
///
/// # Errors
/// As [`cast`].
pub fn to_f32(t: &Tensor) -> Result<Tensor> {
    if !t.dtype().is_float() {
        return Err(Error::dtype("to_f32", "a float dtype", t.dtype()));
    }
    cast(t, DType::F32)?.contiguous()
}
