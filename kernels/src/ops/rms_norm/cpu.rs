//! RMSNorm on the CPU, rows in parallel. Sums run in eight lanes so that they vectorise; the
//! order is fixed, so results do not depend on the number of threads.

use crate::cpu::lanes::dot8;
use rayon::prelude::*;

/// Rows are handed to threads in groups of about this many elements.
const GRAIN: usize = 1 << 15;
/// The weight gradient is summed over blocks of this many rows, then over blocks.
const BLOCK_ROWS: usize = 64;

fn norm_row(x: &[f32], weight: &[f32], eps: f32, y: &mut [f32]) -> f32 {
    let inv = 1.0 / (dot8(x, x) / x.len() as f32 + eps).sqrt();
    for ((y, x), w) in y.iter_mut().zip(x).zip(weight) {
        *y = x * inv * w;
    }
    inv
}

/// Writes `y` and returns `1 / rms` a row.
pub(crate) fn forward(x: &[f32], weight: &[f32], eps: f32, y: &mut [f32]) -> Vec<f32> {
    let h = weight.len();
    let mut inv_rms = vec![0.0; x.len() / h];
    let group = (GRAIN / h).max(1);
    (x.par_chunks(h * group), y.par_chunks_mut(h * group), inv_rms.par_chunks_mut(group))
        .into_par_iter()
        .for_each(|(x, y, inv)| {
            for ((x, y), inv) in x.chunks(h).zip(y.chunks_mut(h)).zip(inv) {
                *inv = norm_row(x, weight, eps, y);
            }
        });
    inv_rms
}

/// Writes `x = residual + delta` and its norm `y` while the row is in cache; returns `1 / rms` a row.
pub(crate) fn add_forward(
    residual: &[f32],
    delta: &[f32],
    weight: &[f32],
    eps: f32,
    y: &mut [f32],
    x: &mut [f32],
) -> Vec<f32> {
    let h = weight.len();
    let mut inv_rms = vec![0.0; x.len() / h];
    let group = (GRAIN / h).max(1);
    (
        residual.par_chunks(h * group),
        delta.par_chunks(h * group),
        y.par_chunks_mut(h * group),
        x.par_chunks_mut(h * group),
        inv_rms.par_chunks_mut(group),
    )
        .into_par_iter()
        .for_each(|(residual, delta, y, x, inv)| {
            let sources = residual.chunks(h).zip(delta.chunks(h));
            for ((((r, d), y), x), inv) in sources.zip(y.chunks_mut(h)).zip(x.chunks_mut(h)).zip(inv) {
                for ((x, r), d) in x.iter_mut().zip(r).zip(d) {
                    *x = r + d;
                }
                *inv = norm_row(x, weight, eps, y);
            }
        });
    inv_rms
}

/// `dx = r·(w·dy) − x·r³/H·Σ(w·dy·x)` with `r = 1 / rms`, plus `extra` (a gradient that reached x
/// by another way) where there is one.
pub(crate) fn backward_x(
    x: &[f32],
    weight: &[f32],
    inv_rms: &[f32],
    dy: &[f32],
    extra: Option<&[f32]>,
    dx: &mut [f32],
) {
    let h = weight.len();
    let group = (GRAIN / h).max(1);
    (
        x.par_chunks(h * group),
        dy.par_chunks(h * group),
        dx.par_chunks_mut(h * group),
        inv_rms.par_chunks(group),
    )
        .into_par_iter()
        .enumerate()
        .for_each(|(i, (x, dy, dx, inv))| {
            for (((x, dy), dx), r) in x.chunks(h).zip(dy.chunks(h)).zip(dx.chunks_mut(h)).zip(inv) {
                for ((g, dy), w) in dx.iter_mut().zip(dy).zip(weight) {
                    *g = dy * w;
                }
                let c = dot8(dx, x) * r * r / h as f32;
                for (g, x) in dx.iter_mut().zip(x) {
                    *g = r * (*g - x * c);
                }
            }
            if let Some(extra) = extra {
                dx.iter_mut().zip(&extra[i * h * group..]).for_each(|(g, e)| *g += e);
            }
        });
}

/// `dw = Σ_rows dy·x·r`.
pub(crate) fn backward_weight(x: &[f32], h: usize, inv_rms: &[f32], dy: &[f32]) -> Vec<f32> {
    let blocks =
        (x.par_chunks(h * BLOCK_ROWS), dy.par_chunks(h * BLOCK_ROWS), inv_rms.par_chunks(BLOCK_ROWS));
    let partial: Vec<Vec<f32>> = blocks
        .into_par_iter()
        .map(|(x, dy, inv)| {
            let mut sum = vec![0.0; h];
            for ((x, dy), r) in x.chunks(h).zip(dy.chunks(h)).zip(inv) {
                for ((s, x), dy) in sum.iter_mut().zip(x).zip(dy) {
                    *s += dy * x * r;
                }
            }
            sum
        })
        .collect();
    let mut total = vec![0.0; h];
    for block in partial {
        for (t, s) in total.iter_mut().zip(block) {
            *t += s;
        }
    }
    total
}
