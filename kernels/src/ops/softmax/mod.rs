//! Softmax over the last dimension: `y = e^(x − max) / Σ e^(x − max)`.
//!
//! Floor: memory-bound, 8 bytes an element forward and 12 backward. Attention does not use it: there
//! the softmax is part of the op.

pub(crate) mod cpu;
pub(crate) mod cuda;
#[cfg(test)]
pub(crate) mod tests;

use super::permute;
use crate::cpu::elementwise::dense;
use medley_tensor::{Cost, DType, Error, Op, Result, Tensor, alloc};
use std::ops::RangeInclusive;

/// `x [.., N] any plain float dtype → f32 [.., N]` (on a GPU in x's dtype), every row summing to 1. A row of −∞ alone gives
/// NaN, as in PyTorch.
#[derive(Debug, Clone, Copy)]
pub struct Softmax {}

impl Op for Softmax {
    const NAME: &'static str = "softmax";
    const ARITY: RangeInclusive<usize> = 1..=1;
    const OUTPUTS: usize = 1;
    const COST: Cost = Cost::Memory;
    /// The output.
    type Saved = Option<Tensor>;

    fn forward(&self, inputs: &[&Tensor], needs: &[bool]) -> Result<(Vec<Tensor>, Self::Saved)> {
        let Some(&n) = inputs[0].shape().last() else {
            return Err(Error::shape(Self::NAME, "at least one dimension", inputs[0].shape()));
        };
        if let Some(device) = inputs[0].cuda_device() {
            let y = cuda::forward(device, &permute::cuda::dense(inputs[0])?, n)?;
            return Ok((vec![y.clone()], needs[0].then_some(y)));
        }
        let x = dense(&inputs[0].to_dtype(DType::F32)?)?;
        let mut y = alloc::take(x.numel());
        cpu::forward(x.as_slice()?, n, &mut y);
        let y = Tensor::from_vec(y, x.shape())?;
        let saved = needs[0].then(|| y.clone());
        Ok((vec![y], saved))
    }

    fn backward(
        &self,
        saved: Self::Saved,
        grads: &[Option<Tensor>],
        _needs: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let (Some(y), Some(dy)) = (saved, &grads[0]) else { return Ok(vec![None]) };
        let n = y.shape()[y.rank() - 1];
        if let Some(device) = y.cuda_device() {
            return Ok(vec![Some(cuda::backward(device, &y, &permute::cuda::dense(dy)?, n)?)]);
        }
        let mut dx = alloc::take(y.numel());
        cpu::backward(y.as_slice()?, dense(dy)?.as_slice()?, n, &mut dx);
        Ok(vec![Some(Tensor::from_vec(dx, y.shape())?)])
    }
}
