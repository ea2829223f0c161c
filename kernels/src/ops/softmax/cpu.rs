//! Softmax on the CPU, rows in parallel.

use crate::cpu::activation::exp;
use crate::cpu::lanes::{dot8, fold8};
use rayon::prelude::*;

/// Rows are handed to threads in groups of about this many elements.
const GRAIN: usize = 1 << 14;

/// `y = softmax(x)` for rows of `n`.
pub(crate) fn forward(x: &[f32], n: usize, y: &mut [f32]) {
    if n == 0 {
        return;
    }
    let group = n * (GRAIN / n).max(1);
    x.par_chunks(group).zip(y.par_chunks_mut(group)).for_each(|(x, y)| {
        for (x, y) in x.chunks(n).zip(y.chunks_mut(n)) {
            // NaN must not be lost: it reaches the sum through e^(NaN − max).
            let max = fold8(x, f32::NEG_INFINITY, |a, b| if b > a { b } else { a });
            y.iter_mut().zip(x).for_each(|(y, x)| *y = exp(x - max));
            let scale = 1.0 / fold8(y, 0.0, |a, b| a + b);
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
            let dot = dot8(y, dy);
            dx.iter_mut().zip(y).zip(dy).for_each(|((dx, y), dy)| *dx = y * (dy - dot));
        }
    });
}
