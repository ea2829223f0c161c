//! Token embedding: row `ids[t]` of the weight becomes row `t` of the output.
//!
//! Floor: memory-bound. Forward reads one weight row and writes one row a token; backward writes
//! the whole f32 gradient `[V, H]` once and reads each output gradient once.

pub(crate) mod cpu;
pub(crate) mod cuda;
#[cfg(test)]
pub(crate) mod tests;

use medley_tensor::{Cost, DType, Error, Op, Result, Tensor, alloc};
use std::ops::RangeInclusive;
use std::sync::Arc;

/// `weight [V, H] any float dtype → [T, H]`, `T` being the number of `ids`. The gradient of the weight is
/// f32 `[V, H]`.
#[derive(Debug, Clone)]
pub struct Embedding {
    /// The row to take for each token, all below V.
    pub ids: Arc<[u32]>,
    /// The dtype of the output, f32 when `None`. On a GPU it may be bf16 or f16: the compute dtype that the
    /// layers after it take over.
    pub output: Option<DType>,
}

impl Op for Embedding {
    const NAME: &'static str = "embedding";
    const ARITY: RangeInclusive<usize> = 1..=1;
    const OUTPUTS: usize = 1;
    const COST: Cost = Cost::Memory;
    /// `[V, H]`.
    type Saved = [usize; 2];

    fn forward(&self, inputs: &[&Tensor], _needs: &[bool]) -> Result<(Vec<Tensor>, Self::Saved)> {
        let weight = inputs[0];
        let &[v, h] = weight.shape() else {
            return Err(Error::shape(Self::NAME, "a weight [V, H]", weight.shape()));
        };
        if let Some(at) = self.ids.iter().position(|&id| id as usize >= v) {
            let message = format!(
                "id {} at position {at} is outside the vocabulary of {v} rows (weight {:?}); use the tokenizer the model came with, or resize the embedding",
                self.ids[at],
                weight.shape()
            );
            return Err(Error::value(Self::NAME, message));
        }
        if let Some(device) = weight.cuda_device() {
            let out = cuda::gather(device, weight, &self.ids, self.output.unwrap_or(DType::F32))?;
            return Ok((vec![out], [v, h]));
        }
        if let Some(output) = self.output.filter(|d| *d != DType::F32) {
            return Err(Error::dtype(Self::NAME, "f32 as the output on the CPU", output));
        }
        let mut out = alloc::take(self.ids.len() * h);
        let rows = cpu::Rows { ids: &self.ids, h, layout: weight.layout() };
        match weight.dtype() {
            DType::F32 => rows.gather(&mut out, weight.storage_slice::<f32>()?, |x| x),
            DType::F16 => rows.gather(&mut out, weight.storage_slice()?, half::f16::to_f32),
            DType::BF16 => rows.gather(&mut out, weight.storage_slice()?, half::bf16::to_f32),
            dtype => match weight.nf4() {
                Some(matrix) if h <= 1 || weight.strides()[1] == 1 => rows.gather_nf4(&mut out, matrix.as_ref()),
                Some(_) => {
                    let expected = "an NF4 weight by rows, not a transposed view";
                    return Err(Error::dtype(Self::NAME, expected, dtype));
                }
                None => return Err(Error::dtype(Self::NAME, "a float dtype", dtype)),
            },
        }
        Ok((vec![Tensor::from_vec(out, &[self.ids.len(), h])?], [v, h]))
    }

    fn backward(
        &self,
        [v, h]: Self::Saved,
        grads: &[Option<Tensor>],
        needs: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let Some(dy) = grads[0].as_ref().filter(|_| needs[0]) else { return Ok(vec![None]) };
        if let Some(device) = dy.cuda_device() {
            return Ok(vec![Some(cuda::scatter(device, dy, &self.ids, v, DType::F32, None)?)]);
        }
        let mut dw = alloc::take(v * h);
        cpu::scatter_add(&self.ids, dy.contiguous()?.as_slice()?, h, &mut dw);
        Ok(vec![Some(Tensor::from_vec(dw, &[v, h])?)])
    }
}
