//! The squared norm of all gradients, and with it whether they are all finite.
//!
//! Floor: memory-bound, 4 bytes an element.

pub(super) mod cuda;
#[cfg(test)]
mod tests;

use super::CHUNK;
use super::accumulate::add_into;
use medley_tensor::{DType, Error, Result, Tensor};
use rayon::prelude::*;

/// `Σ g²` over all elements of all slices, in f64.
///
/// The square of any finite f32 is far inside the range of f64, so the sum is finite exactly when
/// every element is: an overflow check needs no pass of its own. Chunks are summed in a fixed order.
pub fn sum_of_squares(grads: &[&[f32]]) -> f64 {
    let chunks: Vec<&[f32]> = grads.iter().flat_map(|g| g.chunks(CHUNK)).collect();
    let sums: Vec<f64> = chunks.into_par_iter().map(chunk_sum).collect();
    sums.iter().sum()
}

/// The L2 norm of all gradients (f32, all on one device); non-finite exactly when an element is. On a GPU
/// this waits for the result.
///
/// # Errors
/// For other dtypes, gradients on different devices, and when device memory runs out.
pub fn grad_norm(grads: &[&Tensor]) -> Result<f64> {
    if let Some(device) = grads.iter().find_map(|g| g.cuda_device()) {
        return cuda::grad_norm(device, grads);
    }
    let grads = grads.iter().map(|g| g.contiguous()).collect::<Result<Vec<_>>>()?;
    let slices = grads.iter().map(|g| g.as_slice::<f32>()).collect::<Result<Vec<_>>>()?;
    Ok(sum_of_squares(&slices).sqrt())
}

/// `Σ a·b` over all elements of two lists of gradients with the same shapes, in f64 and in a fixed order.
///
/// On a GPU it is `(‖a + b‖² − ‖a‖² − ‖b‖²) / 2`, of kernels that are there already; the sum `a + b` is rounded to
/// f32, which costs about 1e-7 of `‖a‖² + ‖b‖²`, and it needs memory for one more list.
///
/// # Errors
/// When the lists or shapes differ, for other dtypes, gradients on different devices, and when device memory
/// runs out.
pub fn dot(a: &[&Tensor], b: &[&Tensor]) -> Result<f64> {
    if a.len() != b.len() {
        return Err(Error::value("dot", format!("{} gradients against {}", a.len(), b.len())));
    }
    for (a, b) in a.iter().zip(b) {
        if a.shape() != b.shape() {
            return Err(Error::shape("dot", format!("{:?}", a.shape()), b.shape()));
        }
    }
    if a.iter().chain(b).any(|g| g.cuda_device().is_some()) {
        let mut sums = vec![];
        for (a, b) in a.iter().zip(b) {
            let mut sum = Tensor::zeros_on(&a.device(), a.shape(), DType::F32)?;
            add_into(&mut sum, a)?;
            add_into(&mut sum, b)?;
            sums.push(sum);
        }
        let square = |list: &[&Tensor]| grad_norm(list).map(|norm| norm * norm);
        return Ok((square(&sums.iter().collect::<Vec<_>>())? - square(a)? - square(b)?) / 2.0);
    }
    let contiguous = |list: &[&Tensor]| list.iter().map(|g| g.contiguous()).collect::<Result<Vec<_>>>();
    let (a, b) = (contiguous(a)?, contiguous(b)?);
    let mut pairs: Vec<(&[f32], &[f32])> = vec![];
    for (a, b) in a.iter().zip(&b) {
        pairs.extend(a.as_slice::<f32>()?.chunks(CHUNK).zip(b.as_slice::<f32>()?.chunks(CHUNK)));
    }
    let sums: Vec<f64> = pairs.into_par_iter().map(|(a, b)| chunk_dot(a, b)).collect();
    Ok(sums.iter().sum())
}

/// The factor that brings a gradient of L2 norm `norm` down to `max_norm` (PyTorch's
/// `clip_grad_norm_`); 1 when it is smaller, or when `max_norm` is 0 (no clipping).
pub fn clip_scale(norm: f64, max_norm: f64) -> f32 {
    if max_norm <= 0.0 { 1.0 } else { (max_norm / (norm + 1e-6)).min(1.0) as f32 }
}

fn chunk_sum(chunk: &[f32]) -> f64 {
    let mut lanes = [0.0f64; 16];
    let blocks = chunk.chunks_exact(16);
    let tail: f64 = blocks.remainder().iter().map(|v| f64::from(*v) * f64::from(*v)).sum();
    for block in blocks {
        for (lane, v) in lanes.iter_mut().zip(block) {
            *lane += f64::from(*v) * f64::from(*v);
        }
    }
    lanes.iter().sum::<f64>() + tail
}

fn chunk_dot(a: &[f32], b: &[f32]) -> f64 {
    let mut lanes = [0.0f64; 16];
    let (a_blocks, b_blocks) = (a.chunks_exact(16), b.chunks_exact(16));
    let product = |(a, b): (&f32, &f32)| f64::from(*a) * f64::from(*b);
    let tail: f64 = a_blocks.remainder().iter().zip(b_blocks.remainder()).map(product).sum();
    for (a, b) in a_blocks.zip(b_blocks) {
        for (lane, pair) in lanes.iter_mut().zip(a.iter().zip(b)) {
            *lane += product(pair);
        }
    }
    lanes.iter().sum::<f64>() + tail
}
