//! Linear layer with a low-rank adapter (LoRA, Hu et al., arXiv 2106.09685):
//! `y = x · Wᵀ + b + scale · (dropout(x) · Aᵀ) · Bᵀ`, as PEFT computes it.
//!
//! ```text
//! x [T, K] ──────────·Wᵀ──────────► y [T, N]
//!    └─dropout─·Aᵀ─► h [T, r] ─·Bᵀ───► += scale
//! ```
//! One op, because its parts share what they read: dx is formed in one buffer (the low-rank part first,
//! masked, then `dy·W` added by the product itself), and only x and the thin h are kept for the backward
//! pass. The dropout mask is recomputed, never kept.
//!
//! Floor: compute-bound, 2·T·N·K operations for y and for dx, and 2·T·r·(N + K) for each of the two and for
//! the adapter's gradients.

mod cuda;
#[cfg(test)]
pub(crate) mod tests;

use super::linear::{self, cpu, matrix, product, rows_of, with_last};
use medley_tensor::{Cost, Error, Op, Result, Tensor, alloc};
use std::ops::RangeInclusive;

pub use super::dropout::Dropout;

/// `(x [.., K], weight [N, K] f32|bf16|f16|nf4, A [r, K], B [N, r], bias [N]?) → y [.., N]`; x f32, on a GPU f32, bf16 or
/// f16. y and dx have x's dtype.
///
/// Gradients of weights and bias are f32 whatever their dtype.
#[derive(Debug, Clone, Copy)]
pub struct LoraLinear {
    /// Factor of the low-rank part: `lora_alpha / r`, or `lora_alpha / √r` with rank stabilisation.
    pub scale: f32,
    /// Dropout on the input of A alone.
    pub dropout: Option<Dropout>,
}

/// What the backward pass reads; each part is kept only if a wanted gradient reads it.
#[derive(Default)]
pub struct Saved {
    /// For the gradients of A and the weight.
    x: Option<Tensor>,
    /// `dropout(x) · Aᵀ` `[T, r]`, on a GPU times the scale, for the gradient of B.
    h: Option<Tensor>,
    /// For the gradient of x.
    weight: Option<Tensor>,
    /// For the gradient of x.
    a: Option<Tensor>,
    /// For the gradients of x and A.
    b: Option<Tensor>,
}

impl LoraLinear {
    fn dropped(&self, x: &Tensor) -> Result<Tensor> {
        self.dropout.map_or(Ok(x.clone()), |dropout| dropout.masked(x))
    }
}

impl Op for LoraLinear {
    const NAME: &'static str = "lora_linear";
    const ARITY: RangeInclusive<usize> = 4..=5;
    const OUTPUTS: usize = 1;
    const COST: Cost = Cost::Compute;
    type Saved = Saved;

    fn forward(&self, inputs: &[&Tensor], needs: &[bool]) -> Result<(Vec<Tensor>, Saved)> {
        let (weight, a, b, bias) = (inputs[1], inputs[2], inputs[3], inputs.get(4).copied());
        let size = linear::sizes(Self::NAME, inputs[0], weight, bias)?;
        let rank = match (a.shape(), b.shape()) {
            ([r, k], [n, r2]) if r == r2 && *k == size.k && *n == size.n => *r,
            _ => {
                let rule = format!("A [r, {}] and B [{}, r], A being {:?}", size.k, size.n, a.shape());
                return Err(Error::shape(Self::NAME, rule, b.shape()));
            }
        };
        let x = inputs[0].contiguous()?;
        let (y, h) = if let Some(device) = x.cuda_device() {
            self.forward_on(device, size, &x, [weight, a, b], bias, None)?
        } else {
            let mut y = linear::forward(Self::NAME, size, x.as_slice()?, weight, bias)?;
            let mut h = alloc::take(size.rows * rank);
            let dropped = self.dropped(&x)?;
            let dropped = rows_of(dropped.as_slice()?, size.rows, size.k)?;
            product(1.0, dropped, matrix(Self::NAME, a)?.t(), 0.0, &mut h)?;
            product(self.scale, rows_of(&h, size.rows, rank)?, matrix(Self::NAME, b)?.t(), 1.0, &mut y)?;
            let y = Tensor::from_vec(y, &with_last(x.shape(), size.n))?;
            (y, Tensor::from_vec(h, &[size.rows, rank])?)
        };
        let saved = Saved {
            x: (needs[1] || needs[2]).then_some(x),
            h: needs[3].then_some(h),
            weight: needs[0].then(|| weight.clone()),
            a: needs[0].then(|| a.clone()),
            b: (needs[0] || needs[2]).then(|| b.clone()),
        };
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
            return self.backward_on(device, &saved, &dy, needs, None);
        }
        let n = dy.shape().last().copied().unwrap_or(0);
        let rows = dy.shape().iter().rev().skip(1).product();
        let dy_rows = rows_of(dy.as_slice()?, rows, n)?;

        // dh = scale · dy · B
        let dh = match &saved.b {
            Some(b) => {
                let b = matrix(Self::NAME, b)?;
                let mut dh = alloc::take(rows * b.cols());
                product(self.scale, dy_rows, b, 0.0, &mut dh)?;
                Some(Tensor::from_vec(dh, &[rows, b.cols()])?)
            }
            None => None,
        };
        if let (Some(weight), Some(a), Some(dh)) = (&saved.weight, &saved.a, &dh) {
            let (w, a) = (matrix(Self::NAME, weight)?, matrix(Self::NAME, a)?);
            let mut low_rank = alloc::take(rows * w.cols());
            product(1.0, rows_of(dh.as_slice()?, rows, a.rows())?, a, 0.0, &mut low_rank)?;
            let low_rank = Tensor::from_vec(low_rank, &with_last(dy.shape(), w.cols()))?;
            let mut dx = match self.dropout {
                Some(dropout) => dropout.masked(&low_rank)?,
                None => low_rank,
            };
            product(1.0, dy_rows, w, 1.0, dx.as_mut_slice()?)?;
            out[0] = Some(dx);
        }
        if let Some(x) = &saved.x {
            let k = x.shape().last().copied().unwrap_or(0);
            if needs[1] {
                let mut dw = alloc::take(n * k);
                product(1.0, dy_rows.t(), rows_of(x.as_slice()?, rows, k)?, 0.0, &mut dw)?;
                out[1] = Some(Tensor::from_vec(dw, &[n, k])?);
            }
            if let (true, Some(dh)) = (needs[2], &dh) {
                let rank = dh.shape()[1];
                let mut da = alloc::take(rank * k);
                let (dh, dropped) = (rows_of(dh.as_slice()?, rows, rank)?, self.dropped(x)?);
                product(1.0, dh.t(), rows_of(dropped.as_slice()?, rows, k)?, 0.0, &mut da)?;
                out[2] = Some(Tensor::from_vec(da, &[rank, k])?);
            }
        }
        if let Some(h) = &saved.h {
            let rank = h.shape()[1];
            let mut db = alloc::take(n * rank);
            product(self.scale, dy_rows.t(), rows_of(h.as_slice()?, rows, rank)?, 0.0, &mut db)?;
            out[3] = Some(Tensor::from_vec(db, &[n, rank])?);
        }
        if needs.get(4) == Some(&true) {
            out[4] = Some(Tensor::from_vec(cpu::column_sums(dy.as_slice()?, n), &[n])?);
        }
        Ok(out)
    }
}
