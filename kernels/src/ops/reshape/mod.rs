//! The same elements under another shape. Free for contiguous tensors, a copy for others.

#[cfg(test)]
pub(crate) mod tests;

use super::permute::cuda::dense;
use medley_tensor::{Cost, Op, Result, Tensor};
use std::ops::RangeInclusive;

/// `x → x` with `shape`.
#[derive(Debug, Clone)]
pub struct Reshape {
    /// The new shape, of as many elements.
    pub shape: Vec<usize>,
}

/// As [`Tensor::reshape`], with the transposing copy on a GPU.
fn reshaped(x: &Tensor, shape: &[usize]) -> Result<Tensor> {
    if x.cuda_device().is_some() { dense(x)?.reshape(shape) } else { x.reshape(shape) }
}

impl Op for Reshape {
    const NAME: &'static str = "reshape";
    const ARITY: RangeInclusive<usize> = 1..=1;
    const OUTPUTS: usize = 1;
    const COST: Cost = Cost::Memory;
    /// The shape of the input.
    type Saved = Vec<usize>;

    fn forward(&self, inputs: &[&Tensor], _needs: &[bool]) -> Result<(Vec<Tensor>, Self::Saved)> {
        Ok((vec![reshaped(inputs[0], &self.shape)?], inputs[0].shape().to_vec()))
    }

    fn backward(
        &self,
        saved: Self::Saved,
        grads: &[Option<Tensor>],
        _needs: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![grads[0].as_ref().map(|g| reshaped(g, &saved)).transpose()?])
    }
}
