//! GEGLU (Shazeer, arXiv 2002.05202) without its projections: `gelu(gate) · up`.
//!
//! Floor: memory-bound, 12 bytes an element forward and 20 backward.

pub(crate) mod cuda;
#[cfg(test)]
pub(crate) mod tests;

use super::swiglu::{gated_backward, gated_forward};
use crate::cpu::activation::{gelu_erf, gelu_tanh};
use crate::cpu::elementwise::Kernel;
use medley_tensor::{Cost, Op, Result, Tensor};
use std::ops::RangeInclusive;

/// `(gate [..] f32, up [..] f32) → gelu(gate) · up`, shapes equal; on a GPU f32, bf16 or f16.
#[derive(Debug, Clone, Copy)]
pub struct Geglu {
    /// GELU by its tanh formula (`gelu_pytorch_tanh`, Gemma's) instead of the error function.
    pub tanh: bool,
}

/// Value and derivative of one of the two GELUs; the choice is made at compile time, outside the loop.
#[inline(always)]
fn gelu<const TANH: bool>(x: f32) -> (f32, f32) {
    if TANH { gelu_tanh(x) } else { gelu_erf(x) }
}

struct Forward<const TANH: bool>;
impl<const TANH: bool> Kernel<2, 1> for Forward<TANH> {
    #[inline(always)]
    fn apply(&self, [gate, up]: [f32; 2]) -> [f32; 1] {
        [gelu::<TANH>(gate).0 * up]
    }
}

struct Backward<const TANH: bool>;
impl<const TANH: bool> Kernel<3, 2> for Backward<TANH> {
    #[inline(always)]
    fn apply(&self, [dy, gate, up]: [f32; 3]) -> [f32; 2] {
        let (value, slope) = gelu::<TANH>(gate);
        [dy * up * slope, dy * value]
    }
}

impl Op for Geglu {
    const NAME: &'static str = "geglu";
    const ARITY: RangeInclusive<usize> = 2..=2;
    const OUTPUTS: usize = 1;
    const COST: Cost = Cost::Memory;
    type Saved = Option<[Tensor; 2]>;

    fn forward(&self, inputs: &[&Tensor], needs: &[bool]) -> Result<(Vec<Tensor>, Self::Saved)> {
        if self.tanh {
            gated_forward(Self::NAME, inputs, needs, &Forward::<true>, &cuda::gated(true))
        } else {
            gated_forward(Self::NAME, inputs, needs, &Forward::<false>, &cuda::gated(false))
        }
    }

    fn backward(
        &self,
        saved: Self::Saved,
        grads: &[Option<Tensor>],
        needs: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        if self.tanh {
            gated_backward(saved, grads, needs, &Backward::<true>, &cuda::gated(true))
        } else {
            gated_backward(saved, grads, needs, &Backward::<false>, &cuda::gated(false))
        }
    }
}
