//! Scaling and shifting by numbers. Floor: memory-bound, 8 bytes an element each way.

pub(crate) mod cuda;
#[cfg(test)]
pub(crate) mod tests;

use crate::cpu::elementwise::{Kernel, map};
use medley_tensor::{Cost, DType, Op, Result, Tensor};
use std::ops::RangeInclusive;

/// `x [..] any plain float dtype → mul · x + add`, f32; on a GPU in x's dtype.
#[derive(Debug, Clone, Copy)]
pub struct Affine {
    /// The factor.
    pub mul: f32,
    /// The summand.
    pub add: f32,
}

impl Kernel<1, 1> for Affine {
    #[inline(always)]
    fn apply(&self, [x]: [f32; 1]) -> [f32; 1] {
        [self.mul * x + self.add]
    }
}

impl Op for Affine {
    const NAME: &'static str = "affine";
    const ARITY: RangeInclusive<usize> = 1..=1;
    const OUTPUTS: usize = 1;
    const COST: Cost = Cost::Memory;
    type Saved = ();

    fn forward(&self, inputs: &[&Tensor], _needs: &[bool]) -> Result<(Vec<Tensor>, Self::Saved)> {
        if let Some(device) = inputs[0].cuda_device() {
            return Ok((vec![cuda::forward(device, *self, inputs[0], inputs[0].shape())?], ()));
        }
        let x = inputs[0].to_dtype(DType::F32)?;
        let [y] = map(x.shape(), [&x], self)?;
        Ok((vec![Tensor::from_vec(y, x.shape())?], ()))
    }

    fn backward(&self, (): (), grads: &[Option<Tensor>], needs: &[bool]) -> Result<Vec<Option<Tensor>>> {
        let Some(dy) = grads[0].as_ref().filter(|_| needs[0]) else { return Ok(vec![None]) };
        let op = Affine { mul: self.mul, add: 0.0 };
        if let Some(device) = dy.cuda_device() {
            return Ok(vec![Some(cuda::forward(device, op, dy, dy.shape())?)]);
        }
        let [dx] = map(dy.shape(), [dy], &op)?;
        Ok(vec![Some(Tensor::from_vec(dx, dy.shape())?)])
    }
}
