//! Launches of `adamw.cu`: norm, control and updates, one after the other without the host in between.

use super::blockwise::{BLOCK, tables};
use super::step::{Moments, Parameter, Step, StepReport};
use crate::cuda::{launch, ptr, ptx, upload};
use crate::updates::grad_norm::cuda::{address, sum_of_squares};
use crate::updates::table::{self, Entry};
use medley_tensor::device::{CudaDevice, DeviceBuffer, KernelArg, Ptx};
use medley_tensor::{DType, Error, Result, Tensor};

static PTX: Ptx = ptx!("adamw.ptx");
const NAME: &str = "adamw";

/// What every step shares on the device, by `adamw.cu`'s layout.
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

impl State {
    fn new(device: &CudaDevice, made: u64) -> Result<Self> {
        let mut control: Control = bytemuck::Zeroable::zeroed();
        control.step = made;
        Ok(State { control: upload(device, &[control])?, tables: upload(device, tables())? })
    }
}

/// Runs `step` over `parameters` on `device` after `made` updates; the new state, the number of updates made
/// now, and the report.
pub(super) fn step(
    step: &Step,
    device: &CudaDevice,
    parameters: &mut [Parameter],
    made: u64,
    state: Option<State>,
) -> Result<(State, u64, StepReport)> {
    let state = match state {
        Some(state) if state.control.device() == device => state,
        _ => State::new(device, made)?,
    };
    let grads = parameters.iter().map(|p| p.grad.contiguous()).collect::<Result<Vec<Tensor>>>()?;
    let (mut entries, mut quantised) = (vec![], vec![]);
    for (p, g) in parameters.iter_mut().zip(&grads).filter(|(_, g)| g.numel() > 0) {
        let entry = Entry {
            g: address(device, g)?,
            p: address_mut(device, p.value, DType::F32, g.numel())?,
            n: g.numel() as u64,
            decay: (1.0 - step.lr * p.weight_decay) as f32,
            ..Entry::default()
        };
        match &mut *p.moments {
            Moments::Full { m, v } => entries.push(Entry {
                m: address_mut(device, m, DType::F32, g.numel())?,
                v: address_mut(device, v, DType::F32, g.numel())?,
                ..entry
            }),
            Moments::Blockwise { m, v, m_absmax, v_absmax } => quantised.push(Entry {
                m: address_mut(device, m, DType::U8, g.numel())?,
                v: address_mut(device, v, DType::U8, g.numel())?,
                m_absmax: address_mut(device, m_absmax, DType::F32, g.numel().div_ceil(BLOCK))?,
                v_absmax: address_mut(device, v_absmax, DType::F32, g.numel().div_ceil(BLOCK))?,
                ..entry
            }),
        }
    }
    // Those with f32 moments first: each of the two update kernels takes a run of the table.
    let full = entries.len();
    entries.append(&mut quantised);
    let chunks = table::number_chunks(NAME, &mut entries)?;
    let table = table::upload(device, &entries)?;
    let total = if chunks > 0 {
        sum_of_squares(device, &table, entries.len(), chunks)?
    } else {
        device.upload(&0f64.to_le_bytes())?
    };
    let control = KernelArg::Ptr(state.control.ptr());
    let arguments = [
        control,
        KernelArg::Ptr(total.ptr()),
        KernelArg::F64(1.0 / step.loss_scale),
        KernelArg::F64(step.max_norm),
        KernelArg::F64(step.lr),
        KernelArg::F64(step.beta1),
        KernelArg::F64(step.beta2),
    ];
    launch(device, &PTX, "adamw_control_f32", [1, 1, 1], [1, 1, 1], 0, &arguments)?;

    let quantised_from = entries.get(full).map_or(chunks, |e| e.first_chunk);
    let constants = [
        KernelArg::F32(step.beta2 as f32),
        KernelArg::F32((1.0 - step.beta1) as f32),
        KernelArg::F32((1.0 - step.beta2) as f32),
        KernelArg::F32(step.eps as f32),
    ];
    let run = |from: usize, to: usize, first_chunk: u32| {
        [
            KernelArg::Ptr(table.ptr() + (from * size_of::<Entry>()) as u64),
            KernelArg::U32((to - from) as u32),
            KernelArg::U32(first_chunk),
            control,
        ]
    };
    if full > 0 {
        let arguments = [&run(0, full, 0)[..], &constants].concat();
        launch(device, &PTX, "adamw_f32", [quantised_from, 1, 1], [256, 1, 1], 0, &arguments)?;
    }
    if full < entries.len() {
        let maps = [KernelArg::Ptr(state.tables.ptr())];
        let arguments = [&run(full, entries.len(), quantised_from)[..], &maps, &constants].concat();
        let grid = [chunks - quantised_from, 1, 1];
        launch(device, &PTX, "adamw_8bit_f32", grid, [256, 1, 1], 0, &arguments)?;
    }

    let mut control: Control = bytemuck::Zeroable::zeroed();
    device.download(&state.control, 0, bytemuck::bytes_of_mut(&mut control))?;
    let report = StepReport { grad_norm: control.norm, skipped: control.found_inf != 0 };
    Ok((state, control.step, report))
}

/// The address of `n` elements on `device` that the kernel writes.
fn address_mut(device: &CudaDevice, t: &mut Tensor, dtype: DType, n: usize) -> Result<u64> {
    if t.dtype() != dtype {
        return Err(Error::dtype(NAME, dtype.name(), t.dtype()));
    }
    if t.numel() != n {
        return Err(Error::shape(NAME, format!("{n} elements"), t.shape()));
    }
    ptr(NAME, device, &t.contiguous()?)?;
    t.device_ptr_mut()
}
