//! Linear layer: `y = x · Wᵀ + b`. The weight is used in the dtype it is stored in; on a GPU, where activations may be
//! bf16 or f16, a weight in another float dtype is cast to theirs first.
//!
//! Floor: compute-bound, 2·T·N·K operations for each of y, dx and dw; with few rows (decoding)
//! memory-bound, one read of the weight.

pub(crate) mod cpu;
pub(crate) mod cuda;
mod matrix;
#[cfg(test)]
pub(crate) mod tests;

use medley_tensor::{Cost, DType, Error, Op, Result, Tensor, alloc};
use std::ops::RangeInclusive;

pub(crate) use matrix::{matrix, product, rows_of};

/// `(x [.., K], weight [N, K] f32|bf16|f16|nf4, bias [N]?) → y [.., N]`; x f32, on a GPU f32, bf16 or f16. y and dx have
/// x's dtype.
///
/// Gradients of weight and bias are f32 whatever the weight's dtype.
#[derive(Debug, Clone, Copy, Default)]
pub struct Linear {}

/// What the backward pass reads.
pub struct Saved {
    /// Kept for the weight's gradient alone.
    x: Option<Tensor>,
    /// Kept for the input's gradient alone.
    weight: Option<Tensor>,
}

/// The sizes of a linear layer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes {
    /// Rows of x, all leading dimensions together.
    pub(crate) rows: usize,
    /// Input features.
    pub(crate) k: usize,
    /// Output features.
    pub(crate) n: usize,
}

/// Checks that x, weight and bias fit together.
pub(crate) fn sizes(op: &'static str, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Sizes> {
    match (x.dtype(), x.cuda_device()) {
        (DType::F32, _) | (DType::BF16 | DType::F16, Some(_)) => {}
        (dtype, None) => return Err(Error::dtype(op, "f32 activations", dtype)),
        (dtype, Some(_)) => return Err(Error::dtype(op, "f32, bf16 or f16 activations", dtype)),
    }
    let (n, k) = match (x.shape().last(), weight.shape()) {
        (Some(last), [n, k]) if last == k => (*n, *k),
        _ => return Err(Error::shape(op, format!("a weight [N, K] for x {:?}", x.shape()), weight.shape())),
    };
    if let Some(bias) = bias
        && bias.shape() != [n]
    {
        return Err(Error::shape(op, format!("a bias [{n}]"), bias.shape()));
    }
    let rows = x.shape().iter().rev().skip(1).product();
    Ok(Sizes { rows, k, n })
}

/// `shape` with its last dimension replaced.
pub(crate) fn with_last(shape: &[usize], last: usize) -> Vec<usize> {
    let mut shape = shape.to_vec();
    if let Some(end) = shape.last_mut() {
        *end = last;
    }
    shape
}

/// `x · Wᵀ + b` as rows.
pub(crate) fn forward(
    op: &'static str,
    size: Sizes,
    x: &[f32],
    weight: &Tensor,
    bias: Option<&Tensor>,
) -> Result<Vec<f32>> {
    let mut y = alloc::take(size.rows * size.n);
    if let Some(bias) = bias {
        cpu::fill_rows(&mut y, &bias.to_vec_f32()?);
    }
    let beta = if bias.is_some() { 1.0 } else { 0.0 };
    product(1.0, rows_of(x, size.rows, size.k)?, matrix(op, weight)?.t(), beta, &mut y)?;
    Ok(y)
}

impl Op for Linear {
    const NAME: &'static str = "linear";
    const ARITY: RangeInclusive<usize> = 2..=3;
    const OUTPUTS: usize = 1;
    const COST: Cost = Cost::Compute;
    type Saved = Saved;

    fn forward(&self, inputs: &[&Tensor], needs: &[bool]) -> Result<(Vec<Tensor>, Saved)> {
        let (weight, bias) = (inputs[1], inputs.get(2).copied());
        let size = sizes(Self::NAME, inputs[0], weight, bias)?;
        let x = inputs[0].contiguous()?;
        let y = if let Some(device) = x.cuda_device() {
            cuda::forward(device, size, &x, weight, bias)?
        } else {
            let y = forward(Self::NAME, size, x.as_slice()?, weight, bias)?;
            Tensor::from_vec(y, &with_last(x.shape(), size.n))?
        };
        let saved = Saved { x: needs[1].then_some(x), weight: needs[0].then(|| weight.clone()) };
        Ok((vec![y], saved))
    }

    fn backward(
        &self,
        saved: Saved,
        grads: &[Option<Tensor>],
        needs: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let mut out = vec![None; needs.len()];
        let Some(dy) = &grads[0] else { return Ok(out) };
        let dy = dy.contiguous()?;
        if let Some(device) = dy.cuda_device() {
            let gradients = cuda::backward(device, &saved, &dy, needs.get(2) == Some(&true))?;
            out.iter_mut().zip(gradients).for_each(|(slot, gradient)| *slot = gradient);
            return Ok(out);
        }
        let n = dy.shape().last().copied().unwrap_or(0);
        let rows = dy.shape().iter().rev().skip(1).product();
        let dy_rows = rows_of(dy.as_slice()?, rows, n)?;
        if let Some(weight) = &saved.weight {
            let w = matrix(Self::NAME, weight)?;
            let mut dx = alloc::take(rows * w.cols());
            product(1.0, dy_rows, w, 0.0, &mut dx)?;
            out[0] = Some(Tensor::from_vec(dx, &with_last(dy.shape(), w.cols()))?);
        }
        if let Some(x) = &saved.x {
            let k = x.shape().last().copied().unwrap_or(0);
            let mut dw = alloc::take(n * k);
            product(1.0, dy_rows.t(), rows_of(x.as_slice()?, rows, k)?, 0.0, &mut dw)?;
            out[1] = Some(Tensor::from_vec(dw, &[n, k])?);
        }
        if needs.get(2) == Some(&true) {
            out[2] = Some(Tensor::from_vec(cpu::column_sums(dy.as_slice()?, n), &[n])?);
        }
        Ok(out)
    }
}
