//! The magnitudes of DoRA (Liu et al., arXiv 2402.09353): `y = z ∘ m/‖W + s·B·A‖ + bias`, where z is the output of
//! the layer with its low-rank update, `x·(W + s·B·A)ᵀ`, m a trained magnitude an output feature, and the norm that
//! of the row of the updated weight.
//!
//! ```text
//! z [T, N] ──∘ (m / norm) [N]──► + bias ──► y [T, N]
//!    norm [N] = √(‖W‖² + 2s·rowsum((W·Aᵀ)∘B) + s²·rowsum((B·(A·Aᵀ))∘B))        [`row_norms`]
//! ```
//! The norm is a constant to the gradient, as the paper proposes (section 4.3) and PEFT does. W + s·B·A is never
//! formed: ‖W‖² is made once ([`squared_rows`]), and W·Aᵀ is one product of r columns through the weight as it is
//! stored, needed anew only when A or B moved: once an optimizer step.
//!
//! Floor: memory-bound, 2 elements' bytes forward, 4 backward. The norms cost 2·N·K·r operations.

mod cpu;
mod cuda;
mod norm;
#[cfg(test)]
pub(crate) mod tests;

use medley_tensor::{Cost, DType, Error, Op, Result, Tensor};
use std::ops::RangeInclusive;

pub use norm::{row_norms, squared_rows};

/// `(z [.., N], m [N] f32, norm [N] f32, bias [N]?) → z ∘ m/norm + bias`, z f32, on a GPU f32, bf16 or f16; y and dz
/// have z's dtype, the gradients of m and bias are f32. No gradient flows into the norm.
#[derive(Debug, Clone, Copy, Default)]
pub struct Dora {}

/// What the backward pass reads.
pub struct Saved {
    /// `m / norm`, for dz.
    factor: Option<Tensor>,
    /// z and the norm, for dm.
    magnitude: Option<(Tensor, Tensor)>,
}

impl Op for Dora {
    const NAME: &'static str = "dora";
    const ARITY: RangeInclusive<usize> = 3..=4;
    const OUTPUTS: usize = 1;
    const COST: Cost = Cost::Memory;
    type Saved = Saved;

    fn forward(&self, inputs: &[&Tensor], needs: &[bool]) -> Result<(Vec<Tensor>, Saved)> {
        let (z, m, norm, bias) = (inputs[0].contiguous()?, inputs[1], inputs[2], inputs.get(3).copied());
        let Some(&n) = z.shape().last() else {
            return Err(Error::shape(Self::NAME, "rows of outputs [.., N]", z.shape()));
        };
        for t in [Some(m), Some(norm), bias].into_iter().flatten() {
            if t.shape() != [n] {
                return Err(Error::shape(Self::NAME, format!("a magnitude, a norm and a bias of [{n}]"), t.shape()));
            }
        }
        for t in [m, norm] {
            if t.dtype() != DType::F32 {
                return Err(Error::dtype(Self::NAME, "magnitudes and norms in f32", t.dtype()));
            }
        }
        let (m, norm) = (m.contiguous()?, norm.contiguous()?);
        let (y, factor) = match z.cuda_device() {
            Some(device) => cuda::forward(device, &z, &m, &norm, bias)?,
            None => cpu::forward(&z, &m, &norm, bias)?,
        };
        let saved = Saved {
            factor: needs[0].then_some(factor),
            magnitude: needs[1].then_some((z, norm)),
        };
        Ok((vec![y], saved))
    }

    fn backward(&self, saved: Saved, grads: &[Option<Tensor>], needs: &[bool]) -> Result<Vec<Option<Tensor>>> {
        let mut out = vec![None; needs.len()];
        let Some(dy) = &grads[0] else { return Ok(out) };
        let dy = dy.contiguous()?;
        let bias = needs.get(3) == Some(&true);
        let [dz, dm, db] = match dy.cuda_device() {
            Some(device) => cuda::backward(device, &saved, &dy, bias)?,
            None => cpu::backward(&saved, &dy, bias)?,
        };
        (out[0], out[1]) = (dz, dm);
        if bias {
            out[3] = db;
        }
        Ok(out)
    }
}
