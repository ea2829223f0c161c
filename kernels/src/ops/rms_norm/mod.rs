//! RMSNorm (Zhang & Sennrich 2019): `y = x · w / sqrt(mean(x²) + eps)` over the last dimension.
//!
//! Floor: memory-bound. Forward reads x and writes y (8 bytes an element), backward reads x and
//! dy and writes dx (12 bytes an element); half of that in 16 bits.

pub(crate) mod cpu;
pub(crate) mod cuda;
#[cfg(test)]
pub(crate) mod tests;

use medley_tensor::{Cost, DType, Error, Op, Result, Tensor, alloc};
use std::ops::RangeInclusive;

const NAME: &str = "rms_norm";

/// `(x [.., H], weight [H] any float dtype) → y [.., H]`; x f32, on a GPU f32, bf16 or f16. y and dx have
/// x's dtype, dw is f32.
#[derive(Debug, Clone, Copy)]
pub struct RmsNorm {
    /// Added to the mean square.
    pub eps: f32,
}

/// What the backward pass reads.
pub struct Saved {
    pub(crate) x: Tensor,
    /// `[H]` f32.
    pub(crate) weight: Tensor,
    /// `[rows]` f32: `1 / sqrt(mean(x²) + eps)`.
    pub(crate) inv_rms: Tensor,
}

/// Checks that the weight fits the rows of `x`.
pub(crate) fn check_weight(op: &'static str, x: &Tensor, weight: &Tensor) -> Result<()> {
    match (x.shape().last(), weight.shape()) {
        (Some(h), [w]) if h == w && *h > 0 => Ok(()),
        _ => Err(Error::shape(op, format!("a weight [H] for x {:?}", x.shape()), weight.shape())),
    }
}

impl Op for RmsNorm {
    const NAME: &'static str = NAME;
    const ARITY: RangeInclusive<usize> = 2..=2;
    const OUTPUTS: usize = 1;
    const COST: Cost = Cost::Memory;
    type Saved = Option<Saved>;

    fn forward(&self, inputs: &[&Tensor], needs: &[bool]) -> Result<(Vec<Tensor>, Self::Saved)> {
        check_weight(NAME, inputs[0], inputs[1])?;
        let x = inputs[0].contiguous()?;
        let (y, saved) = if let Some(device) = x.cuda_device() {
            let (y, _, saved) = cuda::forward(device, &x, None, inputs[1], self.eps)?;
            (y, saved)
        } else {
            let weight = inputs[1].to_dtype(DType::F32)?.contiguous()?;
            let mut y = alloc::take(x.numel());
            let inv_rms = cpu::forward(x.as_slice()?, weight.as_slice()?, self.eps, &mut y);
            let y = Tensor::from_vec(y, x.shape())?;
            let rows = [inv_rms.len()];
            (y, Saved { x, weight, inv_rms: Tensor::from_vec(inv_rms, &rows)? })
        };
        Ok((vec![y], needs.contains(&true).then_some(saved)))
    }

    fn backward(
        &self,
        saved: Self::Saved,
        grads: &[Option<Tensor>],
        needs: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let (Some(saved), Some(dy)) = (saved, &grads[0]) else { return Ok(vec![None, None]) };
        Ok(backward(&saved, dy, None, needs[0], needs[1])?.into())
    }
}

/// `[dx, dw]`, shared with the op that adds a residual first; `extra` is added to `dx`.
pub(crate) fn backward(
    saved: &Saved,
    dy: &Tensor,
    extra: Option<&Tensor>,
    dx: bool,
    dw: bool,
) -> Result<[Option<Tensor>; 2]> {
    let dy = dy.contiguous()?;
    let extra = extra.map(Tensor::contiguous).transpose()?;
    if let Some(device) = saved.x.cuda_device() {
        return cuda::backward(device, saved, &dy, extra.as_ref(), dx, dw);
    }
    let (x, dy): (&[f32], &[f32]) = (saved.x.as_slice()?, dy.as_slice()?);
    let (weight, inv_rms): (&[f32], &[f32]) = (saved.weight.as_slice()?, saved.inv_rms.as_slice()?);
    let dx = if dx {
        let mut out = alloc::take(x.len());
        let extra = extra.as_ref().map(Tensor::as_slice).transpose()?;
        cpu::backward_x(x, weight, inv_rms, dy, extra, &mut out);
        Some(Tensor::from_vec(out, saved.x.shape())?)
    } else {
        None
    };
    let dw = if dw {
        let out = cpu::backward_weight(x, weight.len(), inv_rms, dy);
        Some(Tensor::from_vec(out, &[weight.len()])?)
    } else {
        None
    };
    Ok([dx, dw])
}
