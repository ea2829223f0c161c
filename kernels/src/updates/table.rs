//! The table of parameters that a launch over all of them reads. The layout is `cuda/parameters.cuh`'s.

use crate::cuda;
use medley_tensor::device::{CudaDevice, DeviceBuffer};
use medley_tensor::{Error, Result};

/// One parameter: device addresses (0 where a kernel reads none), length, constants of its own.
#[derive(Debug, Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub(super) struct Entry {
    pub(super) p: u64,
    pub(super) g: u64,
    pub(super) m: u64,
    pub(super) v: u64,
    pub(super) m_absmax: u64,
    pub(super) v_absmax: u64,
    pub(super) n: u64,
    pub(super) first_chunk: u32,
    pub(super) decay: f32,
    pub(super) lr_scale: f32,
    pub(super) unused: u32,
}

/// Numbers the chunks of `entries` from 0 and returns how many there are.
///
/// # Errors
/// When a launch cannot count them.
pub(super) fn number_chunks(op: &'static str, entries: &mut [Entry]) -> Result<u32> {
    let mut next = 0u64;
    for entry in entries {
        entry.first_chunk = next as u32;
        next += entry.n.div_ceil(super::CHUNK as u64);
        if next > i32::MAX as u64 {
            return Err(Error::value(
                op,
                format!("{next} chunks of {} elements are more than a grid", super::CHUNK),
            ));
        }
    }
    Ok(next as u32)
}

/// The table in device memory.
///
/// # Errors
/// When device memory runs out.
pub(super) fn upload(device: &CudaDevice, entries: &[Entry]) -> Result<DeviceBuffer> {
    cuda::upload(device, entries)
}
