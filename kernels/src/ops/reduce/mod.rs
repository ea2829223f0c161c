//! Sums, means and maxima over dimensions.
//!
//! Floor: memory-bound, 4 bytes an element of the input each way.

pub(crate) mod cpu;
pub(crate) mod cuda;
#[cfg(test)]
pub(crate) mod tests;

use super::affine::{self, Affine};
use crate::cpu::elementwise::{Kernel, dense, map};
use medley_tensor::{Cost, DType, Error, Op, Result, Tensor};
use std::ops::RangeInclusive;

/// What a [`Reduce`] computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReduceKind {
    /// The sum; 0 over nothing.
    Sum,
    /// The mean; NaN over nothing.
    Mean,
    /// The largest element (NaN if there is one); an error over nothing. Equal largest elements
    /// share the gradient evenly.
    Max,
}

/// `x [..] any plain float dtype → f32` (on a GPU in x's dtype), reduced over `dims`.
#[derive(Debug, Clone)]
pub struct Reduce {
    /// What to compute.
    pub kind: ReduceKind,
    /// The dimensions to reduce, in any order; none means all.
    pub dims: Vec<usize>,
    /// Keep the reduced dimensions with extent 1 instead of dropping them.
    pub keepdim: bool,
}

/// What the backward pass reads.
pub struct Saved {
    shape: Vec<usize>,
    /// Input, and result with its reduced dimensions kept; of a maximum only.
    extremes: Option<(Tensor, Tensor)>,
}

struct Equal;
impl Kernel<2, 1> for Equal {
    #[inline(always)]
    fn apply(&self, [x, y]: [f32; 2]) -> [f32; 1] {
        [if x == y { 1.0 } else { 0.0 }]
    }
}

/// The gradient goes, divided by the number of equals, to the elements equal to the maximum.
struct Share;
impl Kernel<4, 1> for Share {
    #[inline(always)]
    fn apply(&self, [x, y, dy, count]: [f32; 4]) -> [f32; 1] {
        [if x == y { dy / count } else { 0.0 }]
    }
}

struct Scale(f32);
impl Kernel<1, 1> for Scale {
    #[inline(always)]
    fn apply(&self, [x]: [f32; 1]) -> [f32; 1] {
        [x * self.0]
    }
}

/// A fold of adjacent dimensions.
struct Run {
    /// The tensor as `[outer, mid, inner]`, `mid` being what is folded.
    extents: [usize; 3],
    /// The shape after it.
    shape: Vec<usize>,
}

/// The folds that bring every dimension of `dims` (ascending) to extent 1: one a run of adjacent dimensions,
/// the last first.
fn runs(shape: &[usize], dims: &[usize]) -> Vec<Run> {
    let (mut shape, mut left, mut runs) = (shape.to_vec(), dims, vec![]);
    while let Some((&last, mut before)) = left.split_last() {
        let mut first = last;
        while let Some((&dim, rest)) = before.split_last().filter(|(dim, _)| **dim + 1 == first) {
            (first, before) = (dim, rest);
        }
        let extents =
            [&shape[..first], &shape[first..=last], &shape[last + 1..]].map(|part| part.iter().product());
        shape[first..=last].fill(1);
        runs.push(Run { extents, shape: shape.clone() });
        left = before;
    }
    runs
}

/// `x` with every dimension of `dims` summed to extent 1.
pub(crate) fn sum_keeping(x: &Tensor, dims: &[usize]) -> Result<Tensor> {
    match x.cuda_device() {
        Some(device) => cuda::over_dims(device, x, dims, ReduceKind::Sum),
        None => cpu::over_dims(x, dims, 0.0, |a, b| a + b),
    }
}

/// The gradient of an operand of `shape` that was broadcast to `grad`'s shape: the sum over what was
/// repeated.
pub(crate) fn sum_to(grad: &Tensor, shape: &[usize]) -> Result<Tensor> {
    if grad.shape() == shape {
        return Ok(grad.clone());
    }
    let lead = grad.rank() - shape.len();
    let repeated = |d: &usize| *d < lead || (shape[d - lead] == 1 && grad.shape()[*d] != 1);
    let dims: Vec<usize> = (0..grad.rank()).filter(repeated).collect();
    sum_keeping(grad, &dims)?.reshape(shape)
}

impl Reduce {
    /// The dimensions to reduce, ascending, and the shape with them at extent 1.
    fn resolve(&self, shape: &[usize]) -> Result<(Vec<usize>, Vec<usize>)> {
        let mut dims = self.dims.clone();
        if dims.is_empty() {
            dims = (0..shape.len()).collect();
        }
        dims.sort_unstable();
        if dims.windows(2).any(|w| w[0] == w[1]) || dims.last().is_some_and(|d| *d >= shape.len()) {
            let expected = format!("dimensions {:?} to exist, each named once", self.dims);
            return Err(Error::shape(Self::NAME, expected, shape));
        }
        let mut kept = shape.to_vec();
        dims.iter().for_each(|d| kept[*d] = 1);
        Ok((dims, kept))
    }
}

impl Op for Reduce {
    const NAME: &'static str = "reduce";
    const ARITY: RangeInclusive<usize> = 1..=1;
    const OUTPUTS: usize = 1;
    const COST: Cost = Cost::Memory;
    type Saved = Saved;

    fn forward(&self, inputs: &[&Tensor], needs: &[bool]) -> Result<(Vec<Tensor>, Self::Saved)> {
        let device = inputs[0].cuda_device();
        let x = if device.is_some() { inputs[0].clone() } else { inputs[0].to_dtype(DType::F32)? };
        let shape = x.shape().to_vec();
        let (dims, _) = self.resolve(&shape)?;
        let count: usize = dims.iter().map(|d| shape[*d]).product();
        let y = match (self.kind, device) {
            (ReduceKind::Max, _) if count == 0 => {
                let expected = format!("an element to take the maximum of over dimensions {dims:?}");
                return Err(Error::shape(Self::NAME, expected, &shape));
            }
            (kind, Some(device)) => cuda::over_dims(device, &x, &dims, kind)?,
            (ReduceKind::Sum, None) => sum_keeping(&x, &dims)?,
            (ReduceKind::Mean, None) => {
                let sum = sum_keeping(&x, &dims)?;
                let [mean] = map(sum.shape(), [&sum], &Scale(1.0 / count as f32))?;
                Tensor::from_vec(mean, sum.shape())?
            }
            (ReduceKind::Max, None) => {
                let larger = |a: f32, b: f32| if b > a || b.is_nan() { b } else { a };
                cpu::over_dims(&x, &dims, f32::NEG_INFINITY, larger)?
            }
        };
        let extremes = (needs[0] && self.kind == ReduceKind::Max).then(|| (x, y.clone()));
        let out: Vec<usize> = if self.keepdim {
            y.shape().to_vec()
        } else {
            (0..shape.len()).filter(|d| !dims.contains(d)).map(|d| shape[d]).collect()
        };
        Ok((vec![y.reshape(&out)?], Saved { shape, extremes }))
    }

    fn backward(
        &self,
        saved: Self::Saved,
        grads: &[Option<Tensor>],
        needs: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let Some(dy) = grads[0].as_ref().filter(|_| needs[0]) else { return Ok(vec![None]) };
        let shape = &saved.shape;
        let (dims, kept) = self.resolve(shape)?;
        let dy = dy.reshape(&kept)?;
        let dx = match (dy.cuda_device(), saved.extremes) {
            (Some(device), Some((x, y))) => cuda::maximum_gradient(device, &x, &y, &dy, &dims)?,
            (Some(device), None) => {
                let count: usize = dims.iter().map(|d| shape[*d]).product();
                let mean = self.kind == ReduceKind::Mean;
                let mul = if mean { 1.0 / count as f32 } else { 1.0 };
                affine::cuda::forward(device, Affine { mul, add: 0.0 }, &dy, shape)?
            }
            (None, Some((x, y))) => {
                let [equal] = map(shape, [&x, &y], &Equal)?;
                let count = sum_keeping(&Tensor::from_vec(equal, shape)?, &dims)?;
                let [dx] = map(shape, [&x, &y, &dy, &count], &Share)?;
                Tensor::from_vec(dx, shape)?
            }
            (None, None) if self.kind == ReduceKind::Mean => {
                let count: usize = dims.iter().map(|d| shape[*d]).product();
                let [dx] = map(shape, [&dy], &Scale(1.0 / count as f32))?;
                Tensor::from_vec(dx, shape)?
            }
            (None, None) => dense(&dy.broadcast_to(shape)?)?,
        };
        Ok(vec![Some(dx)])
    }
}
