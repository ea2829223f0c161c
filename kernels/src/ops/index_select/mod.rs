//! Rows of the first dimension picked by index; the gradient is a deterministic scatter-add.
//!
//! Floor: memory-bound, 8 bytes an element forward; backward writes the whole gradient.

pub(crate) mod cuda;
#[cfg(test)]
pub(crate) mod tests;

use super::embedding::cpu::{Rows, scatter_add};
use crate::cpu::elementwise::dense;
use medley_tensor::{Cost, Error, Op, Result, Tensor, alloc};
use std::ops::RangeInclusive;
use std::sync::Arc;

/// `x [N, ..] f32 (on a GPU also bf16, f16) → [T, ..]`, `T` being the number of `indices`. For a weight in any dtype use
/// [`Embedding`](super::Embedding).
#[derive(Debug, Clone)]
pub struct IndexSelect {
    /// The rows to take, all below N; repeats are allowed.
    pub indices: Arc<[u32]>,
}

impl Op for IndexSelect {
    const NAME: &'static str = "index_select";
    const ARITY: RangeInclusive<usize> = 1..=1;
    const OUTPUTS: usize = 1;
    const COST: Cost = Cost::Memory;
    /// The shape of the input.
    type Saved = Vec<usize>;

    fn forward(&self, inputs: &[&Tensor], _needs: &[bool]) -> Result<(Vec<Tensor>, Self::Saved)> {
        let shape = inputs[0].shape();
        let Some((&n, row)) = shape.split_first() else {
            return Err(Error::shape(Self::NAME, "x [N, ..]", shape));
        };
        if let Some(at) = self.indices.iter().position(|&i| i as usize >= n) {
            let message = format!("index {} at position {at} is outside the {n} rows of {shape:?}", self.indices[at]);
            return Err(Error::value(Self::NAME, message));
        }
        let out: Vec<usize> = std::iter::once(self.indices.len()).chain(row.iter().copied()).collect();
        if let Some(device) = inputs[0].cuda_device() {
            let y = cuda::forward(device, inputs[0], &self.indices, &out)?;
            return Ok((vec![y], shape.to_vec()));
        }
        let h = row.iter().product();
        let x = dense(inputs[0])?.reshape(&[n, h])?;
        let mut y = alloc::take(self.indices.len() * h);
        let rows = Rows { ids: &self.indices, h, layout: x.layout() };
        rows.gather(&mut y, x.storage_slice::<f32>()?, |v| v);
        Ok((vec![Tensor::from_vec(y, &out)?], shape.to_vec()))
    }

    fn backward(
        &self,
        shape: Self::Saved,
        grads: &[Option<Tensor>],
        needs: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let Some(dy) = grads[0].as_ref().filter(|_| needs[0]) else { return Ok(vec![None]) };
        if let Some(device) = dy.cuda_device() {
            return Ok(vec![Some(cuda::backward(device, dy, &self.indices, &shape)?)]);
        }
        let mut dx = alloc::take(shape.iter().product());
        scatter_add(&self.indices, dense(dy)?.as_slice()?, shape[1..].iter().product(), &mut dx);
        Ok(vec![Some(Tensor::from_vec(dx, &shape)?)])
    }
}
