//! Launches of `grad_norm.cu`.

use crate::cuda::{launch, ptr, ptx};
use crate::updates::table::{self, Entry};
use medley_tensor::device::{CudaDevice, DeviceBuffer, KernelArg, Ptx};
use medley_tensor::{DType, Error, Result, Tensor};

static PTX: Ptx = ptx!("grad_norm.ptx");
const NAME: &str = "grad_norm";
const BLOCK: [u32; 3] = [256, 1, 1];

pub(super) fn grad_norm(device: &CudaDevice, grads: &[&Tensor]) -> Result<f64> {
    let grads = grads.iter().map(|g| g.contiguous()).collect::<Result<Vec<_>>>()?;
    let mut entries = vec![];
    for g in grads.iter().filter(|g| g.numel() > 0) {
        entries.push(Entry { g: address(device, g)?, n: g.numel() as u64, ..Entry::default() });
    }
    let chunks = table::number_chunks(NAME, &mut entries)?;
    if chunks == 0 {
        return Ok(0.0);
    }
    let table = table::upload(device, &entries)?;
    let total = sum_of_squares(device, &table, entries.len(), chunks)?;
    let mut bytes = [0u8; 8];
    device.download(&total, 0, &mut bytes)?;
    Ok(f64::from_le_bytes(bytes).sqrt())
}

/// The address of a contiguous f32 gradient on `device`.
pub(in crate::updates) fn address(device: &CudaDevice, g: &Tensor) -> Result<u64> {
    if g.dtype() != DType::F32 {
        return Err(Error::dtype(NAME, "f32 gradients", g.dtype()));
    }
    ptr(NAME, device, g)?;
    g.device_ptr()
}

/// `Σ g²` (one f64 in device memory) over the gradients of a table of `entries` with `chunks` chunks, one or
/// more.
pub(in crate::updates) fn sum_of_squares(
    device: &CudaDevice,
    table: &DeviceBuffer,
    entries: usize,
    chunks: u32,
) -> Result<DeviceBuffer> {
    let (partial, total) = (device.alloc(8 * chunks as usize)?, device.alloc(8)?);
    let partial_at = KernelArg::Ptr(partial.ptr());
    let arguments = [KernelArg::Ptr(table.ptr()), KernelArg::U32(entries as u32), partial_at];
    launch(device, &PTX, "grad_norm_f32", [chunks, 1, 1], BLOCK, 0, &arguments)?;
    let arguments = [KernelArg::Ptr(total.ptr()), partial_at, KernelArg::U32(chunks)];
    launch(device, &PTX, "grad_norm_total_f32", [1, 1, 1], BLOCK, 0, &arguments)?;
    Ok(total)
}
