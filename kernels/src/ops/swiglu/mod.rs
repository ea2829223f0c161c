//! SwiGLU (Shazeer, arXiv 2002.05202) without its projections: `silu(gate) · up`.
//!
//! Floor: memory-bound, 12 bytes an element forward and 20 backward. The sigmoid is computed again in
//! the backward pass rather than kept.

#[cfg(test)]
pub(crate) mod tests;

use crate::cpu::activation::silu;
use crate::cpu::elementwise::{Kernel, map};
use medley_tensor::{Cost, Error, Op, Result, Tensor};
use std::ops::RangeInclusive;

/// `(gate [..] f32, up [..] f32) → silu(gate) · up`, shapes equal.
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

/// Runs a gated activation forward, after checking that the shapes are equal. `Saved` of both gated
/// ops is `[gate, up]`.
pub(crate) fn gated_forward(
    name: &'static str,
    inputs: &[&Tensor],
    needs: &[bool],
    kernel: &impl Kernel<2, 1>,
) -> Result<(Vec<Tensor>, Option<[Tensor; 2]>)> {
    let (gate, up) = (inputs[0], inputs[1]);
    if gate.shape() != up.shape() {
        return Err(Error::shape(name, format!("an up of gate's shape {:?}", gate.shape()), up.shape()));
    }
    let [y] = map(gate.shape(), [gate, up], kernel)?;
    let saved = needs.contains(&true).then(|| [gate.clone(), up.clone()]);
    Ok((vec![Tensor::from_vec(y, gate.shape())?], saved))
}

/// Runs a gated activation's backward: `kernel` maps (dy, gate, up) to (dgate, dup).
pub(crate) fn gated_backward(
    saved: Option<[Tensor; 2]>,
    grads: &[Option<Tensor>],
    needs: &[bool],
    kernel: &impl Kernel<3, 2>,
) -> Result<Vec<Option<Tensor>>> {
    let (Some([gate, up]), Some(dy)) = (saved, &grads[0]) else { return Ok(vec![None, None]) };
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
        gated_forward(Self::NAME, inputs, needs, &Forward)
    }

    fn backward(
        &self,
        saved: Self::Saved,
        grads: &[Option<Tensor>],
        needs: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        gated_backward(saved, grads, needs, &Backward)
    }
}
