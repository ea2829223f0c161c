//! Inverted dropout (Srivastava et al., JMLR 2014): an element is zeroed with probability `p`, the others
//! are scaled by `1 / (1 − p)`.
//!
//! The mask is a function of (seed, stream, element index) by Philox, so the backward pass computes it
//! again instead of keeping it, a re-run under activation checkpointing sees the same one, and neither
//! depends on the number of threads.
//!
//! Floor: 8 bytes an element each way; ten Philox rounds for four elements weigh about as much.

pub(crate) mod cpu;
pub(crate) mod cuda;
#[cfg(test)]
pub(crate) mod tests;

use medley_tensor::{Cost, Error, Op, Result, Tensor, alloc};
use std::ops::RangeInclusive;

/// `x [..] f32 → x · mask / (1 − p)`; on a GPU f32, bf16 or f16, with the same mask.
#[derive(Debug, Clone, Copy)]
pub struct Dropout {
    /// Probability of zeroing an element, in `[0, 1)`. At 0 the input is returned as it is.
    pub p: f32,
    /// Seed of the run.
    pub seed: u64,
    /// Which mask of the run: a different number for each call site and step.
    pub stream: u64,
}

impl Dropout {
    /// `x · mask / (1 − p)`, the mask being decided by element index in row-major order.
    pub(crate) fn masked(&self, x: &Tensor) -> Result<Tensor> {
        if !(0.0..1.0).contains(&self.p) {
            let message = format!("p is {}; give a probability from 0 up to, not including, 1", self.p);
            return Err(Error::value(Self::NAME, message));
        }
        if self.p == 0.0 {
            return Ok(x.clone());
        }
        if let Some(device) = x.cuda_device() {
            return cuda::mask(device, self, x);
        }
        let x = x.contiguous()?;
        let mut y = alloc::take(x.numel());
        cpu::mask(self, x.as_slice()?, &mut y);
        Tensor::from_vec(y, x.shape())
    }
}

impl Op for Dropout {
    const NAME: &'static str = "dropout";
    const ARITY: RangeInclusive<usize> = 1..=1;
    const OUTPUTS: usize = 1;
    const COST: Cost = Cost::Memory;
    /// Nothing: the mask is recomputed.
    type Saved = ();

    fn forward(&self, inputs: &[&Tensor], _needs: &[bool]) -> Result<(Vec<Tensor>, Self::Saved)> {
        Ok((vec![self.masked(inputs[0])?], ()))
    }

    fn backward(&self, (): (), grads: &[Option<Tensor>], needs: &[bool]) -> Result<Vec<Option<Tensor>>> {
        match &grads[0] {
            Some(dy) if needs[0] => Ok(vec![Some(self.masked(dy)?)]),
            _ => Ok(vec![None]),
        }
    }
}
