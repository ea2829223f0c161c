//! Softmax on the CPU, rows in parallel.

use crate::cpu::activation::exp;
use rayon::prelude::*;

/// Rows are handed to threads in groups of about this many elements.
const GRAIN: usize = 1 << 14;

/// Sum in eight lanes, in a fixed order.
fn sum8(values: impl ExactSizeIterator<Item = f32>) -> f32 {
    let mut lanes = [0.0f32; 8];
    values.enumerate().for_each(|(i, v)| lanes[i % 8] += v);
    lanes.iter().sum()
}

/// `y = softmax(x)` for rows of `n`.
pub(crate) fn forward(x: &[f32], n: usize, y: &mut [f32]) {
    if n == 0 {
        return;
    }
    let group = n * (GRAIN / n).max(1);
    x.par_chunks(group).zip(y.par_chunks_mut(group)).for_each(|(x, y)| {
        for (x, y) in x.chunks(n).zip(y.chunks_mut(n)) {
            // NaN must not be lost: it reaches the sum through e^(NaN − max).
            let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            y.iter_mut().zip(x).for_each(|(y, x)| *y = exp(x - max));
            let scale = 1.0 / sum8(y.iter().copied());
            y.iter_mut().for_each(|y| *y *= scale);
        }
    });
}

/// `dx = y·(dy − Σ y·dy)`.
pub(crate) fn backward(y: &[f32], dy: &[f32], n: usize, dx: &mut [f32]) {
    if n == 0 {
        return;
    }
    let group = n * (GRAIN / n).max(1);
    (y.par_chunks(group), dy.par_chunks(group), dx.par_chunks_mut(group)).into_par_iter().for_each(|(y, dy, dx)| {
        for ((y, dy), dx) in y.chunks(n).zip(dy.chunks(n)).zip(dx.chunks_mut(n)) {
            let dot = sum8(y.iter().zip(dy).map(|(y, dy)| y * dy));
            dx.iter_mut().zip(y).zip(dy).for_each(|((dx, y), dy)| *dx = y * (dy - dot));
        }
    });
}
