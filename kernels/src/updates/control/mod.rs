//! The first launches of a step on a GPU, whatever the optimizer: norm of the gradients, clipping factor, skipping,
//! the count of updates. See `control.cu`.

use super::blockwise::tables;
use super::grad_norm::cuda::sum_of_squares;
use super::step::{Clip, StepReport};
use crate::cuda::{launch, ptr, ptx, upload};
use medley_tensor::device::{CudaDevice, DeviceBuffer, KernelArg, Ptx};
use medley_tensor::{DType, Error, Result, Tensor};

static PTX: Ptx = ptx!("control.ptx");

/// What every step shares on the device, by `parameters.cuh`'s layout.
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Control {
    norm: f64,
    grad_scale: f32,
    found_inf: u32,
    step_size: f32,
    root_correction2: f32,
    step: u64,
}

/// What stays on the device between steps.
#[derive(Debug)]
pub(super) struct State {
    control: DeviceBuffer,
    /// The 8-bit code books.
    tables: DeviceBuffer,
}

/// The constants of AdamW's bias corrections; 0 where there are none.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Corrections {
    pub(super) lr: f64,
    pub(super) beta1: f64,
    pub(super) beta2: f64,
}

impl State {
    /// After `made` updates.
    pub(super) fn new(device: &CudaDevice, made: u64) -> Result<Self> {
        let mut control: Control = bytemuck::Zeroable::zeroed();
        control.step = made;
        Ok(State { control: upload(device, &[control])?, tables: upload(device, tables())? })
    }

    pub(super) fn device(&self) -> &CudaDevice {
        self.control.device()
    }

    /// The address of the control block.
    pub(super) fn control(&self) -> KernelArg {
        KernelArg::Ptr(self.control.ptr())
    }

    /// The address of the 8-bit code books.
    pub(super) fn tables(&self) -> KernelArg {
        KernelArg::Ptr(self.tables.ptr())
    }

    /// Launches the norm over a table of `entries` gradients in `chunks` chunks, and the decisions.
    pub(super) fn decide(
        &self,
        table: &DeviceBuffer,
        entries: usize,
        chunks: u32,
        clip: Clip,
        corrections: Corrections,
    ) -> Result<()> {
        let device = self.device();
        let total = if chunks > 0 {
            sum_of_squares(device, table, entries, chunks)?
        } else {
            device.upload(&0f64.to_le_bytes())?
        };
        let arguments = [
            self.control(),
            KernelArg::Ptr(total.ptr()),
            KernelArg::F64(1.0 / clip.loss_scale),
            KernelArg::F64(clip.max_norm),
            KernelArg::F64(corrections.lr),
            KernelArg::F64(corrections.beta1),
            KernelArg::F64(corrections.beta2),
        ];
        launch(device, &PTX, "step_control_f32", [1, 1, 1], [1, 1, 1], 0, &arguments)
    }

    /// Waits for the step: updates made by now, and what it did.
    pub(super) fn report(&self) -> Result<(u64, StepReport)> {
        let mut control: Control = bytemuck::Zeroable::zeroed();
        self.device().download(&self.control, 0, bytemuck::bytes_of_mut(&mut control))?;
        Ok((control.step, StepReport { grad_norm: control.norm, skipped: control.found_inf != 0 }))
    }
}

/// The address of `n` elements on `device` that a kernel of `op` writes.
pub(super) fn address_mut(
    op: &'static str,
    device: &CudaDevice,
    t: &mut Tensor,
    dtype: DType,
    n: usize,
) -> Result<u64> {
    if t.dtype() != dtype {
        return Err(Error::dtype(op, dtype.name(), t.dtype()));
    }
    if t.numel() != n {
        return Err(Error::shape(op, format!("{n} elements"), t.shape()));
    }
    ptr(op, device, &t.contiguous()?)?;
    t.device_ptr_mut()
}
