//! Tensors joined along one dimension. Floor: memory-bound, 8 bytes an element; backward hands out
//! views of the gradient, free.

pub(crate) mod cpu;
pub(crate) mod cuda;
#[cfg(test)]
pub(crate) mod tests;

use cpu::{Span, write};
use medley_tensor::{Cost, Error, Op, Result, Tensor, alloc};
use std::ops::RangeInclusive;

/// `(x₁, x₂, …) f32 (on a GPU also bf16, f16) → y`, the inputs one after another along `dim`; their other extents must be equal.
#[derive(Debug, Clone, Copy)]
pub struct Concat {
    /// The dimension to join along.
    pub dim: usize,
}

impl Op for Concat {
    const NAME: &'static str = "concat";
    const ARITY: RangeInclusive<usize> = 1..=usize::MAX;
    const OUTPUTS: usize = 1;
    const COST: Cost = Cost::Memory;
    /// Extent of each input along `dim`.
    type Saved = Vec<usize>;

    fn forward(&self, inputs: &[&Tensor], _needs: &[bool]) -> Result<(Vec<Tensor>, Self::Saved)> {
        let first = inputs[0].shape();
        if self.dim >= first.len() {
            return Err(Error::shape(Self::NAME, format!("dimension {} to exist", self.dim), first));
        }
        let mut shape = first.to_vec();
        for x in &inputs[1..] {
            let fits = x.rank() == first.len()
                && x.shape().iter().zip(first).enumerate().all(|(d, (a, b))| d == self.dim || a == b);
            if !fits {
                let expected = format!("{first:?} but for dimension {}", self.dim);
                return Err(Error::shape(Self::NAME, expected, x.shape()));
            }
            shape[self.dim] += x.shape()[self.dim];
        }
        let lengths: Vec<usize> = inputs.iter().map(|x| x.shape()[self.dim]).collect();
        if let Some(device) = inputs[0].cuda_device() {
            return Ok((vec![cuda::forward(device, self.dim, inputs, &shape)?], lengths));
        }
        let mut y = alloc::take(shape.iter().product());
        let mut start = 0;
        for (x, len) in inputs.iter().zip(&lengths) {
            write(&mut y, &Span::new(&shape, self.dim, start, *len), x)?;
            start += len;
        }
        Ok((vec![Tensor::from_vec(y, &shape)?], lengths))
    }

    fn backward(
        &self,
        lengths: Self::Saved,
        grads: &[Option<Tensor>],
        needs: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let Some(dy) = &grads[0] else { return Ok(vec![None; needs.len()]) };
        let mut start = 0;
        let part = |(len, need): (&usize, &bool)| {
            start += len;
            need.then(|| dy.narrow(self.dim, start - len, *len)).transpose()
        };
        lengths.iter().zip(needs).map(part).collect()
    }
}
