//! Language-model head and loss in one op: `Σ_j weights[j] · −log softmax(h_rows[j] · Wᵀ)[targets[j]]`.
//!
//! ```text
//! hidden [T, H] ──gather labelled rows──► chunk [C, H] ──·Wᵀ──► logits [C, V] ──in place──► dlogits [C, V]
//!                                            dHidden rows ◄──────·W─────────────────────────────┤
//!                                            dW          += ◄────dlogitsᵀ·chunk─────────────────┘
//! ```
//! Rows without a label cost nothing. Logits exist for one chunk of rows at a time and are gone before the
//! op returns: both gradients are formed while they are there, for the upstream gradient that is expected, and
//! the backward pass only scales them (the idea of Liger Kernel's fused linear cross-entropy, arXiv 2410.10989).
//!
//! On a GPU the logits of a chunk are f32, or of the compute dtype where fewer than 128 f32 rows fit in 80 MiB
//! (vocabularies above 163,840), and become dlogits of the compute dtype in place; a weight of another dtype
//! (f32, NF4) is cast to the compute dtype once.
//!
//! Floor: compute-bound, 2·R·V·H operations for the logits and as many for each gradient wanted.

pub(crate) mod cpu;
mod cuda;
#[cfg(test)]
pub(crate) mod tests;

use super::linear::{matrix, product, rows_of};
use medley_tensor::ledger::{Category, Charge};
use medley_tensor::{Cost, DType, Error, Op, Result, Tensor, alloc};
use std::ops::RangeInclusive;
use std::sync::Arc;

/// Most rows whose logits exist at the same time.
const CHUNK_ROWS: usize = 256;
/// Most logits that exist at the same time, unless [`MIN_CHUNK_ROWS`] have more: 64 MiB.
const CHUNK_ELEMENTS: usize = 16 << 20;
/// Fewer rows than this would leave the products bound by reading the weight.
const MIN_CHUNK_ROWS: usize = 64;

/// `(hidden [.., H], weight [V, H] any float dtype) → (loss [] f32, nll [R] f32)`. `hidden` is f32 on the CPU and
/// f32, bf16 or f16 on a GPU; its gradient has its dtype, the weight's is f32.
///
/// `nll[j]` is the negative log-likelihood, in nats, of `targets[j]` at row `rows[j]` of `hidden` (leading
/// dimensions flattened); `loss = Σ_j weights[j]·nll[j]`, summed in f64. Only `loss` is differentiable:
/// `nll` is there to be reported. A non-finite logit makes both non-finite.
#[derive(Debug, Clone)]
pub struct LinearCrossEntropy {
    /// The labelled rows, R of them.
    pub rows: Arc<[u32]>,
    /// The token each is to predict.
    pub targets: Arc<[u32]>,
    /// What each counts in the loss.
    pub weights: Arc<[f32]>,
    /// The gradient that the backward pass is expected to start from: 1, or the loss scale of f16 training.
    /// Gradients are formed for it when the logits are there, so that in f16 they do not vanish before the
    /// scale reaches them; another upstream gradient than the expected one only costs a multiplication.
    pub expected_upstream: f32,
}

/// The gradients for an upstream gradient of [`LinearCrossEntropy::expected_upstream`].
pub struct Saved {
    /// Of the labelled rows alone, `[R, H]`.
    d_rows: Option<Tensor>,
    d_weight: Option<Tensor>,
    hidden_shape: Vec<usize>,
}

impl LinearCrossEntropy {
    fn check(&self, tokens: usize, vocab: usize) -> Result<()> {
        let refuse = |message| Err(Error::value(Self::NAME, message));
        let (r, t, w) = (self.rows.len(), self.targets.len(), self.weights.len());
        if r != t || r != w {
            return refuse(format!("{r} rows, {t} targets and {w} weights given; there must be one of each"));
        }
        if !self.expected_upstream.is_finite() || self.expected_upstream <= 0.0 {
            let expected = self.expected_upstream;
            return refuse(format!("expected_upstream is {expected}; it must be a positive number, 1 without loss scaling"));
        }
        for (j, (row, target)) in self.rows.iter().zip(&*self.targets).enumerate() {
            if *row as usize >= tokens {
                return refuse(format!("labelled row {j} is row {row} of hidden, which has {tokens} rows"));
            }
            if *target as usize >= vocab {
                return refuse(format!(
                    "the target of row {row} is token {target}, but the weight has a vocabulary of {vocab}"
                ));
            }
        }
        Ok(())
    }
}

impl Op for LinearCrossEntropy {
    const NAME: &'static str = "linear_cross_entropy";
    const ARITY: RangeInclusive<usize> = 2..=2;
    const OUTPUTS: usize = 2;
    const COST: Cost = Cost::Compute;
    type Saved = Saved;

    fn forward(&self, inputs: &[&Tensor], needs: &[bool]) -> Result<(Vec<Tensor>, Saved)> {
        if let Some(device) = inputs[0].cuda_device() {
            return cuda::forward(self, device, inputs[0], inputs[1], needs);
        }
        let (hidden, weight) = (inputs[0], matrix(Self::NAME, inputs[1])?);
        let (vocab, h) = (weight.rows(), weight.cols());
        if hidden.dtype() != DType::F32 {
            return Err(Error::dtype(Self::NAME, "f32 hidden states", hidden.dtype()));
        }
        if hidden.shape().last() != Some(&h) {
            return Err(Error::shape(Self::NAME, format!("hidden [.., {h}]"), hidden.shape()));
        }
        self.check(hidden.shape().iter().rev().skip(1).product(), vocab)?;

        let hidden = hidden.contiguous()?;
        let all = hidden.as_slice::<f32>()?;
        let r = self.rows.len();
        let weights: Vec<f32> = self.weights.iter().map(|w| w * self.expected_upstream).collect();
        let mut nll = vec![0.0; r];
        let mut d_rows = needs[0].then(|| alloc::take(r * h));
        let mut d_weight = needs[1].then(|| alloc::take_zeroed(vocab * h));
        let most = (CHUNK_ELEMENTS / vocab.max(1)).clamp(MIN_CHUNK_ROWS, CHUNK_ROWS);
        // Chunks of one size: a short last one would use the weight badly.
        let size = r.div_ceil(r.div_ceil(most).max(1)).max(1);
        let mut chunk = alloc::take(size.min(r) * h);
        let mut logits = alloc::take(size.min(r) * vocab);
        let _workspace = Charge::to(Category::Workspace, 4 * (chunk.len() + logits.len()));
        for start in (0..r).step_by(size) {
            let end = (start + size).min(r);
            let chunk = &mut chunk[..(end - start) * h];
            for (to, row) in chunk.chunks_exact_mut(h.max(1)).zip(&self.rows[start..end]) {
                to.copy_from_slice(&all[*row as usize * h..][..h]);
            }
            let chunk = rows_of(chunk, end - start, h)?;
            let logits = &mut logits[..(end - start) * vocab];
            product(1.0, chunk, weight.t(), 0.0, logits)?;
            let weights = needs.contains(&true).then_some(&weights[start..end]);
            cpu::cross_entropy(logits, vocab, &self.targets[start..end], weights, &mut nll[start..end]);
            let d_logits = rows_of(logits, end - start, vocab)?;
            if let Some(d_rows) = &mut d_rows {
                product(1.0, d_logits, weight, 0.0, &mut d_rows[start * h..end * h])?;
            }
            if let Some(d_weight) = &mut d_weight {
                product(1.0, d_logits.t(), chunk, 1.0, d_weight)?;
            }
        }
        alloc::recycle(chunk);
        alloc::recycle(logits);

        let loss: f64 = self.weights.iter().zip(&nll).map(|(w, n)| f64::from(*w) * f64::from(*n)).sum();
        let saved = Saved {
            d_rows: d_rows.map(|d| Tensor::from_vec(d, &[r, h])).transpose()?,
            d_weight: d_weight.map(|d| Tensor::from_vec(d, &[vocab, h])).transpose()?,
            hidden_shape: hidden.shape().to_vec(),
        };
        Ok((vec![Tensor::scalar(loss as f32), Tensor::from_vec(nll, &[r])?], saved))
    }

    fn backward(
        &self,
        saved: Saved,
        grads: &[Option<Tensor>],
        _needs: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        if grads[1].is_some() {
            let message = "nll is not differentiable; give its terms weights and differentiate loss";
            return Err(Error::value(Self::NAME, message));
        }
        let Some(upstream) = &grads[0] else { return Ok(vec![None, None]) };
        if let Some(device) = upstream.cuda_device() {
            return cuda::backward(self, device, saved, upstream);
        }
        let upstream = upstream.item()? / self.expected_upstream;
        let d_hidden = match &saved.d_rows {
            Some(d_rows) => {
                let h = saved.hidden_shape.last().copied().unwrap_or(0);
                let mut out = alloc::take_zeroed(saved.hidden_shape.iter().product());
                for (row, d) in self.rows.iter().zip(d_rows.as_slice::<f32>()?.chunks_exact(h.max(1))) {
                    // A sum, since a row may carry several labels.
                    let to = &mut out[*row as usize * h..][..h];
                    to.iter_mut().zip(d).for_each(|(to, d)| *to += upstream * d);
                }
                Some(Tensor::from_vec(out, &saved.hidden_shape)?)
            }
            None => None,
        };
        let mut d_weight = saved.d_weight;
        if let Some(d_weight) = &mut d_weight
            && upstream != 1.0
        {
            d_weight.as_mut_slice::<f32>()?.iter_mut().for_each(|x| *x *= upstream);
        }
        Ok(vec![d_hidden, d_weight])
    }
}
