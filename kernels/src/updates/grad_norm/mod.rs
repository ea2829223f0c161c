//! The squared norm of all gradients, and with it whether they are all finite.
//!
//! Floor: memory-bound, 4 bytes an element.

#[cfg(test)]
mod tests;

use super::CHUNK;
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
