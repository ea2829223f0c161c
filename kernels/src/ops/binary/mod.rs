//! Addition, subtraction, multiplication and division with NumPy's broadcasting.
//!
//! Floor: memory-bound, 12 bytes an element where nothing is broadcast.

pub(crate) mod cuda;
#[cfg(test)]
pub(crate) mod tests;

use super::affine::{self, Affine};
use super::reduce::sum_to;
use crate::cpu::elementwise::{Kernel, map};
use crate::cuda::cast;
use medley_tensor::device::CudaDevice;
use medley_tensor::layout::broadcast_shape;
use medley_tensor::{Cost, DType, Op, Result, Tensor};
use std::ops::RangeInclusive;

/// What a [`Binary`] computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BinaryKind {
    /// `a + b`
    Add,
    /// `a − b`
    Sub,
    /// `a · b`
    Mul,
    /// `a / b`
    Div,
}

/// `(a [..], b [..]) any plain float dtype → f32` of the shape both broadcast to; on a GPU in the operands'
/// dtype where it is the same. The gradient of a broadcast operand is summed over what was repeated.
#[derive(Debug, Clone, Copy)]
pub struct Binary {
    /// What to compute.
    pub kind: BinaryKind,
}

/// What the backward pass reads: both shapes, and the operands that a gradient needs.
pub struct Saved {
    shapes: [Vec<usize>; 2],
    dtypes: [DType; 2],
    a: Option<Tensor>,
    b: Option<Tensor>,
}

macro_rules! kernels {
    ($($name:ident: |$($arg:ident),*| $value:expr;)*) => {
        $(
            struct $name;
            impl Kernel<{ [$(stringify!($arg)),*].len() }, 1> for $name {
                #[inline(always)]
                fn apply(&self, [$($arg),*]: [f32; [$(stringify!($arg)),*].len()]) -> [f32; 1] {
                    [$value]
                }
            }
        )*
    };
}
kernels! {
    Add: |a, b| a + b;
    Sub: |a, b| a - b;
    Mul: |a, b| a * b;
    Div: |a, b| a / b;
    Negate: |a| -a;
    DivisorGradient: |dy, a, b| -dy * a / (b * b);
}

fn run<const N: usize>(shape: &[usize], inputs: [&Tensor; N], kernel: &impl Kernel<N, 1>) -> Result<Tensor> {
    let [y] = map(shape, inputs, kernel)?;
    Tensor::from_vec(y, shape)
}

impl Binary {
    /// The gradients on a GPU, each in its operand's dtype.
    fn backward_on(
        &self,
        device: &CudaDevice,
        Saved { shapes, dtypes, a, b }: Saved,
        dy: &Tensor,
        needs: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        use BinaryKind::*;
        let [da, db] = match (self.kind, &a, &b) {
            (Mul | Div, Some(a), Some(b)) => cuda::backward(device, self.kind, dy, a, b, needs)?,
            (Mul, Some(a), None) => [None, Some(cuda::forward(device, Mul, dy.shape(), dy, a)?)],
            (Mul | Div, None, Some(b)) => {
                [Some(cuda::forward(device, self.kind, dy.shape(), dy, b)?), None]
            }
            (Sub, ..) if needs[1] => {
                let minus = Affine { mul: -1.0, add: 0.0 };
                let db = affine::cuda::forward(device, minus, dy, dy.shape())?;
                [needs[0].then(|| dy.clone()), Some(db)]
            }
            _ => [needs[0].then(|| dy.clone()), needs[1].then(|| dy.clone())],
        };
        let finish = |(d, (shape, dtype)): (Option<Tensor>, (Vec<usize>, DType))| {
            d.map(|d| cast(&sum_to(&d, &shape)?, dtype)).transpose()
        };
        [da, db].into_iter().zip(shapes.into_iter().zip(dtypes)).map(finish).collect()
    }
}

impl Op for Binary {
    const NAME: &'static str = "binary";
    const ARITY: RangeInclusive<usize> = 2..=2;
    const OUTPUTS: usize = 1;
    const COST: Cost = Cost::Memory;
    type Saved = Saved;

    fn forward(&self, inputs: &[&Tensor], needs: &[bool]) -> Result<(Vec<Tensor>, Self::Saved)> {
        use BinaryKind::*;
        let name = match self.kind {
            Add => "add",
            Sub => "sub",
            Mul => "mul",
            Div => "div",
        };
        let shape = broadcast_shape(name, inputs[0].shape(), inputs[1].shape())?;
        let dtypes = [inputs[0].dtype(), inputs[1].dtype()];
        let device = inputs[0].cuda_device();
        let [a, b] = match device {
            Some(_) => cuda::promoted(inputs[0], inputs[1])?,
            None => [inputs[0].to_dtype(DType::F32)?, inputs[1].to_dtype(DType::F32)?],
        };
        let y = match (device, self.kind) {
            (Some(device), kind) => cuda::forward(device, kind, &shape, &a, &b)?,
            (None, Add) => run(&shape, [&a, &b], &self::Add)?,
            (None, Sub) => run(&shape, [&a, &b], &self::Sub)?,
            (None, Mul) => run(&shape, [&a, &b], &self::Mul)?,
            (None, Div) => run(&shape, [&a, &b], &self::Div)?,
        };
        let keep_a = matches!(self.kind, Mul | Div) && needs[1];
        let keep_b = matches!(self.kind, Mul | Div) && needs[0] || self.kind == Div && needs[1];
        let shapes = [a.shape().to_vec(), b.shape().to_vec()];
        Ok((vec![y], Saved { shapes, dtypes, a: keep_a.then_some(a), b: keep_b.then_some(b) }))
    }

    fn backward(
        &self,
        saved: Self::Saved,
        grads: &[Option<Tensor>],
        needs: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let Some(dy) = &grads[0] else { return Ok(vec![None, None]) };
        let shape = dy.shape();
        if let Some(device) = dy.cuda_device() {
            return self.backward_on(device, saved, dy, needs);
        }
        let Saved { shapes, a, b, .. } = saved;
        let da = match (self.kind, &b) {
            (BinaryKind::Mul, Some(b)) => run(shape, [dy, b], &Mul)?,
            (BinaryKind::Div, Some(b)) => run(shape, [dy, b], &Div)?,
            _ => dy.clone(),
        };
        let da = needs[0].then(|| sum_to(&da, &shapes[0])).transpose()?;
        if !needs[1] {
            return Ok(vec![da, None]);
        }
        let db = match (self.kind, &a, &b) {
            (BinaryKind::Mul, Some(a), _) => run(shape, [dy, a], &Mul)?,
            (BinaryKind::Div, Some(a), Some(b)) => run(shape, [dy, a, b], &DivisorGradient)?,
            (BinaryKind::Sub, ..) => run(shape, [dy], &Negate)?,
            _ => dy.clone(),
        };
        Ok(vec![da, Some(sum_to(&db, &shapes[1])?)])
    }
}
