//! A range of one dimension: a view forward, a zero-padded copy backward.

pub(crate) mod cuda;
#[cfg(test)]
pub(crate) mod tests;

use super::concat::cpu::{Span, write};
use medley_tensor::{Cost, Op, Result, Tensor, alloc};
use std::ops::RangeInclusive;

/// `x → elements start..start + len of dimension dim`. Any dtype.
#[derive(Debug, Clone, Copy)]
pub struct Slice {
    /// The dimension to cut.
    pub dim: usize,
    /// The first index to keep.
    pub start: usize,
    /// How many to keep.
    pub len: usize,
}

impl Op for Slice {
    const NAME: &'static str = "slice";
    const ARITY: RangeInclusive<usize> = 1..=1;
    const OUTPUTS: usize = 1;
    const COST: Cost = Cost::Memory;
    /// The shape of the input.
    type Saved = Vec<usize>;

    fn forward(&self, inputs: &[&Tensor], _needs: &[bool]) -> Result<(Vec<Tensor>, Self::Saved)> {
        let x = inputs[0];
        Ok((vec![x.narrow(self.dim, self.start, self.len)?], x.shape().to_vec()))
    }

    fn backward(
        &self,
        shape: Self::Saved,
        grads: &[Option<Tensor>],
        needs: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let Some(dy) = grads[0].as_ref().filter(|_| needs[0]) else { return Ok(vec![None]) };
        if let Some(device) = dy.cuda_device() {
            return Ok(vec![Some(cuda::backward(device, self, dy, &shape)?)]);
        }
        let mut dx = alloc::take_zeroed(shape.iter().product());
        write(&mut dx, &Span::new(&shape, self.dim, self.start, self.len), dy)?;
        Ok(vec![Some(Tensor::from_vec(dx, &shape)?)])
    }
}
