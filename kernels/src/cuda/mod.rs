//! What the CUDA paths of the ops share: PTX that ships, launches, casts, small uploads.
//!
//! A launcher (`ops/<op>/cuda.rs`) reads its tensors' addresses, allocates the outputs, and launches
//! kernels named `<op>_<fwd|bwd>[_variant]_<dtype>`. Everything is asynchronous in the device's one
//! stream, so scratch may be dropped right after the launch that uses it.

mod cast;
pub mod gemm;
mod pointwise;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod traffic;

pub use cast::{cast, to_f32};
pub(crate) use pointwise::{Kernel, pointwise, pointwise_pair};

use medley_tensor::device::{CudaDevice, DeviceBuffer, KernelArg, LaunchConfig, Ptx};
use medley_tensor::{DType, Error, Result, Tensor};

/// The PTX beside the source file that names it, embedded.
macro_rules! ptx {
    ($file:literal) => {
        medley_tensor::device::Ptx { name: $file, source: include_str!($file) }
    };
}
pub(crate) use ptx;

/// Suffix of the kernels for activations of a dtype.
///
/// # Errors
/// For dtypes that activations cannot have.
pub(crate) fn suffix(op: &'static str, dtype: DType) -> Result<&'static str> {
    match dtype {
        DType::F32 | DType::F16 | DType::BF16 => Ok(dtype.name()),
        _ => Err(Error::dtype(op, "f32, bf16 or f16 activations", dtype)),
    }
}

/// Starts `entry` of `ptx`. A grid with a zero is no work. Errors as [`CudaDevice::launch`].
pub(crate) fn launch(
    device: &CudaDevice,
    ptx: &'static Ptx,
    entry: &str,
    grid: [u32; 3],
    block: [u32; 3],
    shared_bytes: u32,
    arguments: &[KernelArg],
) -> Result<()> {
    device.launch(ptx, entry, LaunchConfig { grid, block, shared_bytes }, arguments)
}

/// `n` as a 32-bit kernel argument.
///
/// # Errors
/// When it does not fit.
pub(crate) fn u32_arg(op: &'static str, what: &str, n: usize) -> Result<KernelArg> {
    match u32::try_from(n) {
        Ok(n) => Ok(KernelArg::U32(n)),
        Err(_) => Err(Error::value(op, format!("{what} is {n}, and the kernel counts to {}", u32::MAX))),
    }
}

/// Blocks of `per_block` items for `n` items, as a grid extent.
///
/// # Errors
/// When there are 2³¹ blocks or more.
pub(crate) fn blocks_for(op: &'static str, n: usize, per_block: usize) -> Result<u32> {
    let blocks = n.div_ceil(per_block);
    match i32::try_from(blocks) {
        Ok(blocks) => Ok(blocks as u32),
        Err(_) => {
            Err(Error::value(op, format!("{n} items make {blocks} blocks, and a grid has at most 2^31 - 1")))
        }
    }
}

/// Refuses a tensor that does not lie on `device`: its address would mean nothing there.
///
/// # Errors
/// [`Error::DeviceMismatch`].
pub(crate) fn on_device(op: &'static str, device: &CudaDevice, t: &Tensor) -> Result<()> {
    if t.cuda_device() == Some(device) {
        return Ok(());
    }
    let (expected, got) = (device.name().to_string(), t.device().to_string());
    Err(Error::DeviceMismatch { op, expected, got })
}

/// The address of a contiguous tensor on `device`, as a kernel argument.
///
/// # Errors
/// When it lies elsewhere or is a strided view.
pub(crate) fn ptr(op: &'static str, device: &CudaDevice, t: &Tensor) -> Result<KernelArg> {
    on_device(op, device, t)?;
    if !t.is_contiguous() {
        let (shape, strides) = (t.shape().to_vec(), t.strides().to_vec());
        return Err(Error::NotContiguous { op, shape, strides });
    }
    Ok(KernelArg::Ptr(t.device_ptr()?))
}

/// Copies a small array (positions, row numbers, rotary tables) to the device.
///
/// # Errors
/// When device memory runs out.
pub(crate) fn upload<T: bytemuck::Pod>(device: &CudaDevice, values: &[T]) -> Result<DeviceBuffer> {
    device.upload(bytemuck::cast_slice(values))
}

/// True when all addresses are multiples of 16 bytes.
pub(crate) fn on_16_bytes(addresses: &[u64]) -> bool {
    addresses.iter().all(|a| a.is_multiple_of(16))
}
