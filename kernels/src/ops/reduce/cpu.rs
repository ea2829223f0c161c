//! Reduction of the middle of `[outer, mid, inner]`, blockwise: blocks of [`BLOCK`] of the middle are
//! folded in parallel, then the partial results the same way, until one is left. The tree depends on
//! the shape alone, so results do not depend on the number of threads, and sums of many elements keep
//! their accuracy.

use crate::cpu::elementwise::dense;
use crate::cpu::lanes::fold8;
use medley_tensor::{Result, Tensor, alloc};
use rayon::prelude::*;

/// Elements of the middle that are folded one after another.
const BLOCK: usize = 256;
/// Columns one task folds.
const COLUMNS: usize = 4096;
/// Small outputs are handed to threads in groups that read about this many elements.
const GRAIN: usize = 1 << 14;

/// Folds every dimension of `dims` (ascending) to extent 1 with the associative `combine`, whose
/// neutral element is `start`.
///
/// # Errors
/// When `x` is not f32.
pub(crate) fn over_dims(
    x: &Tensor,
    dims: &[usize],
    start: f32,
    combine: impl Fn(f32, f32) -> f32 + Sync + Copy,
) -> Result<Tensor> {
    let mut x = dense(x)?;
    for run in super::runs(x.shape(), dims) {
        x = Tensor::from_vec(fold(x.as_slice()?, run.extents, start, combine), &run.shape)?;
    }
    Ok(x)
}

fn fold(x: &[f32], [outer, mid, inner]: [usize; 3], start: f32, combine: impl Fn(f32, f32) -> f32 + Sync + Copy) -> Vec<f32> {
    if mid == 0 || outer * inner == 0 {
        return vec![start; outer * inner];
    }
    let blocks = mid.div_ceil(BLOCK);
    let mut partial = alloc::take(outer * blocks * inner);
    let grain = GRAIN / (mid.min(BLOCK) * inner) + 1;
    partial.par_chunks_mut(inner).with_min_len(grain).enumerate().for_each(|(i, out)| {
        let (o, first) = (i / blocks, i % blocks * BLOCK);
        let rows = BLOCK.min(mid - first);
        let block = &x[(o * mid + first) * inner..][..rows * inner];
        if inner == 1 {
            out[0] = fold8(block, start, combine);
            return;
        }
        out.par_chunks_mut(COLUMNS).enumerate().for_each(|(c, out)| {
            out.fill(start);
            for row in block.chunks_exact(inner) {
                out.iter_mut().zip(&row[c * COLUMNS..]).for_each(|(o, v)| *o = combine(*o, *v));
            }
        });
    });
    if blocks == 1 { partial } else { fold(&partial, [outer, blocks, inner], start, combine) }
}
