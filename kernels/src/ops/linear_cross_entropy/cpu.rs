//! Softmax and cross-entropy over rows of logits, in place, rows in parallel.

use crate::cpu::activation::exp;
use crate::cpu::{Isa, isa};
use rayon::prelude::*;

/// Independent partial results a row: enough chains to keep the vector units busy, in an order that
/// depends on nothing but the row's length.
const LANES: usize = 32;

/// Writes the negative log-likelihood of each row's target to `nll`. With `weights` the logits become
/// the gradient of `Σ weights[j]·nll[j]`: `weights[j]·(softmax − onehot)`; without, their values are
/// unspecified afterwards.
///
/// `logits` holds a row of `vocab` elements for every target; every target is below `vocab`.
pub(crate) fn cross_entropy(
    logits: &mut [f32],
    vocab: usize,
    targets: &[u32],
    weights: Option<&[f32]>,
    nll: &mut [f32],
) {
    let isa = isa();
    logits.par_chunks_mut(vocab).zip(nll).enumerate().with_max_len(1).for_each(|(j, (row, nll))| {
        let target = targets[j] as usize;
        let weight = weights.map(|w| w[j]);
        *nll = match isa {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `isa` returns `Isa::Avx2` only on a machine that has AVX2 and FMA.
            Isa::Avx2 => unsafe { row_avx2(row, target, weight) },
            _ => row_body(row, target, weight),
        };
    });
}

/// [`row_body`] compiled for 8-wide vectors.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn row_avx2(row: &mut [f32], target: usize, weight: Option<f32>) -> f32 {
    row_body(row, target, weight)
}

#[inline(always)]
fn row_body(row: &mut [f32], target: usize, weight: Option<f32>) -> f32 {
    let at_target = row[target];
    let max = maximum(row);
    let mut lanes = [0.0f32; LANES];
    let mut chunks = row.chunks_exact_mut(LANES);
    for chunk in &mut chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *x = exp(*x - max);
            *lane += *x;
        }
    }
    for (lane, x) in lanes.iter_mut().zip(chunks.into_remainder()) {
        *x = exp(*x - max);
        *lane += *x;
    }
    let sum = lanes.iter().map(|x| f64::from(*x)).sum::<f64>();
    if let Some(weight) = weight {
        let scale = (f64::from(weight) / sum) as f32;
        row.iter_mut().for_each(|x| *x *= scale);
        row[target] -= weight;
    }
    (sum.ln() + f64::from(max) - f64::from(at_target)) as f32
}

/// The largest element. NaN may be passed over here; it reaches the sum of exponentials.
#[inline(always)]
fn maximum(row: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if a > b { a } else { b };
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let mut chunks = row.chunks_exact(LANES);
    for chunk in &mut chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane = larger(*x, *lane);
        }
    }
    for (lane, x) in lanes.iter_mut().zip(chunks.remainder()) {
        *lane = larger(*x, *lane);
    }
    lanes.into_iter().fold(f32::NEG_INFINITY, larger)
}
