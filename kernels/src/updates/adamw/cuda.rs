//! Launches of `adamw.cu`: norm, control and updates, one after the other without the host in between.

use super::step::{Moments, Step};
use crate::cuda::{launch, ptx};
use crate::updates::blockwise::BLOCK;
use crate::updates::control::{self, Corrections, address_mut};
use crate::updates::grad_norm::cuda::address;
use crate::updates::step::{Clip, Parameter};
use crate::updates::table::{self, Entry};
use medley_tensor::device::{CudaDevice, KernelArg, Ptx};
use medley_tensor::{DType, Result, Tensor};

static PTX: Ptx = ptx!("adamw.ptx");
const NAME: &str = "adamw";

/// Launches `step` over `parameters` on `device`.
pub(super) fn step(
    step: &Step,
    device: &CudaDevice,
    parameters: &mut [Parameter<Moments>],
    clip: Clip,
    state: &control::State,
) -> Result<()> {
    let grads = parameters.iter().map(|p| p.grad.contiguous()).collect::<Result<Vec<Tensor>>>()?;
    let (mut entries, mut quantised) = (vec![], vec![]);
    for (p, g) in parameters.iter_mut().zip(&grads).filter(|(_, g)| g.numel() > 0) {
        let entry = Entry {
            g: address(device, g)?,
            p: address_mut(NAME, device, p.value, DType::F32, g.numel())?,
            n: g.numel() as u64,
            decay: p.decay(step.lr),
            lr_scale: p.lr_scale as f32,
            ..Entry::default()
        };
        match &mut *p.state {
            Moments::Full { m, v } => entries.push(Entry {
                m: address_mut(NAME, device, m, DType::F32, g.numel())?,
                v: address_mut(NAME, device, v, DType::F32, g.numel())?,
                ..entry
            }),
            Moments::Blockwise { m, v, m_absmax, v_absmax } => quantised.push(Entry {
                m: address_mut(NAME, device, m, DType::U8, g.numel())?,
                v: address_mut(NAME, device, v, DType::U8, g.numel())?,
                m_absmax: address_mut(NAME, device, m_absmax, DType::F32, g.numel().div_ceil(BLOCK))?,
                v_absmax: address_mut(NAME, device, v_absmax, DType::F32, g.numel().div_ceil(BLOCK))?,
                ..entry
            }),
        }
    }
    // Those with f32 moments first: each of the two update kernels takes a run of the table.
    let full = entries.len();
    entries.append(&mut quantised);
    let chunks = table::number_chunks(NAME, &mut entries)?;
    let table = table::upload(device, &entries)?;
    let corrections = Corrections { lr: step.lr, beta1: step.beta1, beta2: step.beta2 };
    state.decide(&table, entries.len(), chunks, clip, corrections)?;
    let control = state.control();

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
        let maps = [state.tables()];
        let arguments = [&run(full, entries.len(), quantised_from)[..], &maps, &constants].concat();
        let grid = [chunks - quantised_from, 1, 1];
        launch(device, &PTX, "adamw_8bit_f32", grid, [256, 1, 1], 0, &arguments)?;
    }
    Ok(())
}
