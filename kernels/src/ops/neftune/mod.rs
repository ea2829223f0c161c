//! NEFTune (Jain et al., "NEFTune: Noisy Embeddings Improve Instruction Finetuning", arXiv 2310.05914): uniform noise
//! on the embeddings while training, of size `α / √(L·H)` for a sequence of L tokens of H numbers.
//!
//! L is each sequence's own length, as in the paper; Hugging Face's implementation takes the padded length of the
//! batch. A sequence's noise is a function of (seed, stream, position in the sequence, column) by Philox: it does not
//! depend on the micro-batch the sequence is in, on the number of threads, or on the device.
//!
//! Floor: memory-bound, two elements' bytes.

pub(crate) mod cuda;
#[cfg(test)]
pub(crate) mod tests;

use crate::cpu::elementwise::dense;
use medley_tensor::rng::{Philox, to_unit};
use medley_tensor::{Cost, Error, Op, Result, Tensor, alloc};
use rayon::prelude::*;
use std::ops::RangeInclusive;
use std::sync::Arc;

/// Elements of one task, a multiple of 4.
const CHUNK: usize = 1 << 14;

/// `x [T, H] f32 → x + noise`; on a GPU f32, bf16 or f16, the sum rounded once. The gradient passes unchanged.
#[derive(Debug, Clone)]
pub struct Neftune {
    /// α of the paper: 5 to 15.
    pub alpha: f32,
    /// Seed of the run.
    pub seed: u64,
    /// Number of the first sequence's noise; the others follow it.
    pub stream: u64,
    /// Where each sequence starts, and T at the end.
    pub cu_seqlens: Arc<[u32]>,
}

/// First row of a sequence, its rows, and the size of its noise.
pub(crate) type Stretch = (usize, usize, f32);

impl Neftune {
    /// The columns of `x`, and each sequence.
    ///
    /// # Errors
    /// When x is no `[T, H]` matrix, or `cu_seqlens` does not cut T rows.
    fn sequences(&self, shape: &[usize]) -> Result<(usize, Vec<Stretch>)> {
        let &[tokens, h] = shape else { return Err(Error::shape(Self::NAME, "x [T, H]", shape)) };
        let ends = (self.cu_seqlens.first(), self.cu_seqlens.last());
        let ascending = self.cu_seqlens.windows(2).all(|w| w[0] <= w[1]);
        if ends != (Some(&0), Some(&(tokens as u32))) || !ascending {
            let message = format!("cu_seqlens must rise from 0 to the {tokens} rows of x, got {ends:?} at its ends");
            return Err(Error::value(Self::NAME, message));
        }
        let size = |rows: usize| (f64::from(self.alpha) / ((rows * h).max(1) as f64).sqrt()) as f32;
        let all = self.cu_seqlens.windows(2).map(|w| {
            let rows = (w[1] - w[0]) as usize;
            (w[0] as usize, rows, size(rows))
        });
        Ok((h, all.collect()))
    }
}

impl Op for Neftune {
    const NAME: &'static str = "neftune";
    const ARITY: RangeInclusive<usize> = 1..=1;
    const OUTPUTS: usize = 1;
    const COST: Cost = Cost::Memory;
    /// Nothing: the noise is a constant.
    type Saved = ();

    fn forward(&self, inputs: &[&Tensor], _needs: &[bool]) -> Result<(Vec<Tensor>, Self::Saved)> {
        let x = inputs[0];
        let (h, sequences) = self.sequences(x.shape())?;
        if let Some(device) = x.cuda_device() {
            return Ok((vec![cuda::forward(device, self, x, h, &sequences)?], ()));
        }
        let x = dense(x)?;
        let from = x.as_slice::<f32>()?;
        let mut y = alloc::take(from.len());
        for ((first, rows, size), stream) in sequences.into_iter().zip(self.stream..) {
            let range = first * h..(first + rows) * h;
            let noise = Philox::new(self.seed, stream);
            (y[range.clone()].par_chunks_mut(CHUNK), from[range].par_chunks(CHUNK))
                .into_par_iter()
                .enumerate()
                .for_each(|(chunk, (y, x))| {
                    let blocks = y.chunks_mut(4).zip(x.chunks(4));
                    for ((y, x), block) in blocks.zip((chunk * (CHUNK / 4)) as u64..) {
                        for ((y, x), word) in y.iter_mut().zip(x).zip(noise.block_at(block)) {
                            *y = x + size * (2.0 * to_unit(word) - 1.0);
                        }
                    }
                });
        }
        Ok((vec![Tensor::from_vec(y, x.shape())?], ()))
    }

    fn backward(&self, (): (), grads: &[Option<Tensor>], needs: &[bool]) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![grads[0].clone().filter(|_| needs[0])])
    }
}
