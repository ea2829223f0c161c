//! RMSNorm (Zhang & Sennrich 2019): `y = x · w / sqrt(mean(x²) + eps)` over the last dimension.
//!
//! Floor: memory-bound. Forward reads x and writes y (8 bytes an element), backward reads x and
//! dy and writes dx (12 bytes an element).

pub(crate) mod cpu;
#[cfg(test)]
pub(crate) mod tests;

use medley_tensor::{Cost, Error, Op, Result, Tensor, alloc};
use std::ops::RangeInclusive;

/// `(x [.., H] f32, weight [H] any float dtype) → y [.., H]`.
#[derive(Debug, Clone, Copy)]
pub struct RmsNorm {
    /// Added to the mean square.
    pub eps: f32,
}

/// What the backward pass reads.
pub struct Saved {
    pub(crate) x: Tensor,
    pub(crate) weight: Vec<f32>,
    /// `1 / sqrt(mean(x²) + eps)`, one a row.
    pub(crate) inv_rms: Vec<f32>,
}

/// The weight as f32, after checking that it fits the rows of `x`.
pub(crate) fn weight_for(op: &'static str, x: &Tensor, weight: &Tensor) -> Result<Vec<f32>> {
    match (x.shape().last(), weight.shape()) {
        (Some(h), [w]) if h == w && *h > 0 => weight.to_vec_f32(),
        _ => Err(Error::shape(op, format!("a weight [H] for x {:?}", x.shape()), weight.shape())),
    }
}

impl Op for RmsNorm {
    const NAME: &'static str = "rms_norm";
    const ARITY: RangeInclusive<usize> = 2..=2;
    const OUTPUTS: usize = 1;
    const COST: Cost = Cost::Memory;
    type Saved = Option<Saved>;

    fn forward(&self, inputs: &[&Tensor], needs: &[bool]) -> Result<(Vec<Tensor>, Self::Saved)> {
        let weight = weight_for(Self::NAME, inputs[0], inputs[1])?;
        let x = inputs[0].contiguous()?;
        let mut y = alloc::take(x.numel());
        let inv_rms = cpu::forward(x.as_slice()?, &weight, self.eps, &mut y);
        let y = Tensor::from_vec(y, x.shape())?;
        Ok((vec![y], needs.contains(&true).then_some(Saved { x, weight, inv_rms })))
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
    let (x, dy) = (saved.x.as_slice()?, dy.contiguous()?);
    let dx = if dx {
        let mut out = alloc::take(x.len());
        let extra = extra.map(Tensor::contiguous).transpose()?;
        let extra = extra.as_ref().map(Tensor::as_slice).transpose()?;
        cpu::backward_x(x, &saved.weight, &saved.inv_rms, dy.as_slice()?, extra, &mut out);
        Some(Tensor::from_vec(out, saved.x.shape())?)
    } else {
        None
    };
    let dw = if dw {
        let out = cpu::backward_weight(x, saved.weight.len(), &saved.inv_rms, dy.as_slice()?);
        Some(Tensor::from_vec(out, &[saved.weight.len()])?)
    } else {
        None
    };
    Ok([dx, dw])
}
