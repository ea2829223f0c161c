//! The residual connection and the norm after it, in one pass: `x = residual + delta`, `y = rms_norm(x)`.
//!
//! Floor: memory-bound. Forward reads residual and delta and writes x and y (16 bytes an element, 20
//! as two ops); backward reads x and both gradients and writes one gradient for both inputs.

#[cfg(test)]
pub(crate) mod tests;

use super::rms_norm::{self, Saved, check_weight, cpu, cuda};
use medley_tensor::{Cost, DType, Error, Op, Result, Tensor, alloc};
use std::ops::RangeInclusive;

/// `(residual [.., H], delta [.., H], weight [H] any float dtype) → (y [.., H], x [.., H])` with
/// `x = residual + delta` and `y` its [`RmsNorm`](super::RmsNorm). Residual and delta are f32, on a GPU both
/// f32, bf16 or f16; outputs and their gradients have that dtype, dw is f32.
#[derive(Debug, Clone, Copy)]
pub struct AddRmsNorm {
    /// Added to the mean square.
    pub eps: f32,
}

impl Op for AddRmsNorm {
    const NAME: &'static str = "add_rms_norm";
    const ARITY: RangeInclusive<usize> = 3..=3;
    const OUTPUTS: usize = 2;
    const COST: Cost = Cost::Memory;
    type Saved = Option<Saved>;

    fn forward(&self, inputs: &[&Tensor], needs: &[bool]) -> Result<(Vec<Tensor>, Self::Saved)> {
        let (residual, delta) = (inputs[0], inputs[1]);
        if residual.shape() != delta.shape() {
            let expected = format!("a delta of the residual's shape {:?}", residual.shape());
            return Err(Error::shape(Self::NAME, expected, delta.shape()));
        }
        check_weight(Self::NAME, residual, inputs[2])?;
        let (residual, delta) = (residual.contiguous()?, delta.contiguous()?);
        if let Some(device) = residual.cuda_device() {
            let (y, x, saved) = cuda::forward(device, &residual, Some(&delta), inputs[2], self.eps)?;
            return Ok((vec![y, x], needs.contains(&true).then_some(saved)));
        }
        let weight = inputs[2].to_dtype(DType::F32)?.contiguous()?;
        let (mut y, mut x) = (alloc::take(residual.numel()), alloc::take(residual.numel()));
        let (a, b) = (residual.as_slice()?, delta.as_slice()?);
        let inv_rms = cpu::add_forward(a, b, weight.as_slice()?, self.eps, &mut y, &mut x);
        let rows = [inv_rms.len()];
        let inv_rms = Tensor::from_vec(inv_rms, &rows)?;
        let (y, x) = (Tensor::from_vec(y, residual.shape())?, Tensor::from_vec(x, residual.shape())?);
        let saved = needs.contains(&true).then(|| Saved { x: x.clone(), weight, inv_rms });
        Ok((vec![y, x], saved))
    }

    fn backward(
        &self,
        saved: Self::Saved,
        grads: &[Option<Tensor>],
        needs: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let (dx, dw) = match (saved, &grads[0]) {
            (Some(saved), Some(dy)) => {
                let [dx, dw] =
                    rms_norm::backward(&saved, dy, grads[1].as_ref(), needs[0] || needs[1], needs[2])?;
                (dx, dw)
            }
            // Nothing read y: the gradient of x passes through the sum.
            _ => (grads[1].clone(), None),
        };
        Ok(vec![dx.clone().filter(|_| needs[0]), dx.filter(|_| needs[1]), dw])
    }
}
