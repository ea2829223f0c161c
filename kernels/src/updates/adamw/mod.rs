//! The AdamW update (Loshchilov & Hutter, arXiv 1711.05101), fused with unscaling and clipping.
//!
//! Floor: memory-bound, 28 bytes a parameter: reads parameter, gradient and both moments, writes all
//! but the gradient, once each.

mod blockwise;
mod cuda;
mod step;
#[cfg(test)]
mod tests;

pub use step::{Moments, Step};

use super::{CHUNK, same_length};
use medley_tensor::{Error, Result};
use rayon::prelude::*;

/// One step's constants.
///
/// They are f64, as Python's are, and are combined in f64 before they are rounded to f32 for the
/// loop: `1 − 0.9f32` would differ from PyTorch's `1 − 0.9` in the seventh digit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    /// Learning rate of this step.
    pub lr: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the bias-corrected second moment.
    pub eps: f64,
    /// Decoupled weight decay: the parameter is multiplied by `1 − lr · weight_decay`.
    pub weight_decay: f64,
    /// Number of this update, counted from 1: the exponent of the bias corrections.
    pub step: u64,
    /// Multiplies the gradient first: loss unscaling and clipping in one factor.
    pub grad_scale: f32,
    /// Multiplies the learning rate.
    pub lr_scale: f64,
}

impl AdamW {
    /// Updates `param`, `m` and `v` in place, in the order of operations of PyTorch's
    /// `torch.optim.AdamW` (`_single_tensor_adam` with decoupled decay):
    ///
    /// ```text
    /// p ← p·(1 − lr·wd)         m ← m + (1 − β₁)·(g − m)        v ← v·β₂ + (1 − β₂)·g²
    /// p ← p − lr/(1 − β₁ᵗ) · m / (√v / √(1 − β₂ᵗ) + ε)
    /// ```
    ///
    /// # Errors
    /// When the slices have different lengths, or `step` is 0.
    pub fn update(&self, param: &mut [f32], grad: &[f32], m: &mut [f32], v: &mut [f32]) -> Result<()> {
        for (what, len) in [("the gradient", grad.len()), ("m", m.len()), ("v", v.len())] {
            same_length("adamw", param.len(), what, len)?;
        }
        if self.step == 0 {
            return Err(Error::value("adamw", "step is 0; updates are counted from 1"));
        }
        let constants = self.constants();
        (
            param.par_chunks_mut(CHUNK),
            grad.par_chunks(CHUNK),
            m.par_chunks_mut(CHUNK),
            v.par_chunks_mut(CHUNK),
        )
            .into_par_iter()
            .for_each(|(param, grad, m, v)| {
                for (((p, g), m), v) in param.iter_mut().zip(grad).zip(m).zip(v) {
                    constants.element(p, *g, m, v);
                }
            });
        Ok(())
    }

    fn constants(&self) -> Constants {
        let step = self.step.min(i32::MAX as u64) as i32;
        Constants {
            decay: self.decay(),
            beta2: self.beta2 as f32,
            rest1: (1.0 - self.beta1) as f32,
            rest2: (1.0 - self.beta2) as f32,
            step_size: (self.lr / (1.0 - self.beta1.powi(step))) as f32 * self.lr_scale as f32,
            root_correction2: (1.0 - self.beta2.powi(step)).sqrt() as f32,
            eps: self.eps as f32,
            scale: self.grad_scale,
        }
    }

    /// What weight decay leaves of the parameter.
    fn decay(&self) -> f32 {
        (1.0 - self.lr * self.lr_scale * self.weight_decay) as f32
    }
}

/// A step's constants as the loop uses them.
#[derive(Clone, Copy)]
struct Constants {
    decay: f32,
    beta2: f32,
    rest1: f32,
    rest2: f32,
    step_size: f32,
    root_correction2: f32,
    eps: f32,
    scale: f32,
}

impl Constants {
    #[inline(always)]
    fn element(&self, p: &mut f32, g: f32, m: &mut f32, v: &mut f32) {
        let g = g * self.scale;
        *m += self.rest1 * (g - *m);
        *v = *v * self.beta2 + self.rest2 * g * g;
        *p = *p * self.decay - self.step_size * *m / (v.sqrt() / self.root_correction2 + self.eps);
    }
}
