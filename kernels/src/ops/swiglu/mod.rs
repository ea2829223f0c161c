//! SwiGLU (Shazeer, arXiv 2002.05202) without its projections: `silu(gate) · up`.
//!
//! Floor: memory-bound, 12 bytes an element forward and 20 backward (half in 16 bits). The sigmoid is computed again in
//! the backward pass rather than kept.

pub(crate) mod cuda;
#[cfg(test)]
pub(crate) mod tests;

use crate::cpu::activation::silu;
use crate::cpu::elementwise::{Kernel, map};
use crate::cuda::{pointwise, pointwise_pair};
use medley_tensor::device::KernelArg;
use medley_tensor::{Cost, Error, Op, Result, Tensor};
use std::ops::RangeInclusive;

/// `(gate [..] f32, up [..] f32) → silu(gate) · up`, shapes equal; on a GPU f32, bf16 or f16.
#[derive(Debug, Clone, Copy)]
pub struct Swiglu {}

struct Forward;
impl Kernel<2, 1> for Forward {
    #[inline(always)]
    fn apply(&self, [gate, up]: [f32; 2]) -> [f32; 1] {
        [silu(gate).0 * up]
    }
}

struct Backward;
impl Kernel<3, 2> for Backward {
    #[inline(always)]
    fn apply(&self, [dy, gate, up]: [f32; 3]) -> [f32; 2] {
        let (value, slope) = silu(gate);
        [dy * up * slope, dy * value]
    }
}

/// The kernels of a gated activation on a GPU, and what they take besides the operands.
pub(crate) struct Gated {
    pub(crate) forward: crate::cuda::Kernel,
    pub(crate) backward: crate::cuda::Kernel,
    pub(crate) argument: Option<KernelArg>,
}

/// Runs a gated activation forward, after checking that the shapes are equal. `Saved` of both gated
/// ops is `[gate, up]`.
pub(crate) fn gated_forward(
    name: &'static str,
    inputs: &[&Tensor],
    needs: &[bool],
    kernel: &impl Kernel<2, 1>,
    on_gpu: &Gated,
) -> Result<(Vec<Tensor>, Option<[Tensor; 2]>)> {
    let (gate, up) = (inputs[0], inputs[1]);
    if gate.shape() != up.shape() {
        return Err(Error::shape(name, format!("an up of gate's shape {:?}", gate.shape()), up.shape()));
    }
    let y = if let Some(device) = gate.cuda_device() {
        pointwise(device, &on_gpu.forward, gate.shape(), &[gate, up], on_gpu.argument.as_slice())?
    } else {
        let [y] = map(gate.shape(), [gate, up], kernel)?;
        Tensor::from_vec(y, gate.shape())?
    };
    let saved = needs.contains(&true).then(|| [gate.clone(), up.clone()]);
    Ok((vec![y], saved))
}

/// Runs a gated activation's backward: `kernel` maps (dy, gate, up) to (dgate, dup).
pub(crate) fn gated_backward(
    saved: Option<[Tensor; 2]>,
    grads: &[Option<Tensor>],
    needs: &[bool],
    kernel: &impl Kernel<3, 2>,
    on_gpu: &Gated,
) -> Result<Vec<Option<Tensor>>> {
    let (Some([gate, up]), Some(dy)) = (saved, &grads[0]) else { return Ok(vec![None, None]) };
    if let Some(device) = gate.cuda_device() {
        let (operands, argument) = ([dy, &gate, &up], on_gpu.argument.as_slice());
        return Ok(pointwise_pair(device, &on_gpu.backward, gate.shape(), &operands, needs, argument)?.into());
    }
    let gradients = map(gate.shape(), [dy, &gate, &up], kernel)?;
    let wanted = gradients.into_iter().zip(needs);
    wanted.map(|(g, need)| need.then(|| Tensor::from_vec(g, gate.shape())).transpose()).collect()
}

impl Op for Swiglu {
    const NAME: &'static str = "swiglu";
    const ARITY: RangeInclusive<usize> = 2..=2;
    const OUTPUTS: usize = 1;
    const COST: Cost = Cost::Memory;
    type Saved = Option<[Tensor; 2]>;

    fn forward(&self, inputs: &[&Tensor], needs: &[bool]) -> Result<(Vec<Tensor>, Self::Saved)> {
        gated_forward(Self::NAME, inputs, needs, &Forward, &cuda::GATED)
    }

    fn backward(
        &self,
        saved: Self::Saved,
        grads: &[Option<Tensor>],
        needs: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        gated_backward(saved, grads, needs, &Backward, &cuda::GATED)
    }
}
