//! The dropout mask on the CPU.

use super::Dropout;
use medley_tensor::rng::{Philox, to_unit};
use rayon::prelude::*;

/// Elements of one task; a multiple of the four words of a Philox block.
const CHUNK: usize = 1 << 14;

/// `y = x · mask / (1 − p)`: word `i % 4` of block `i / 4` decides over element `i`.
pub(crate) fn mask(op: &Dropout, x: &[f32], y: &mut [f32]) {
    let rng = Philox::new(op.seed, op.stream);
    let scale = 1.0 / (1.0 - op.p);
    (x.par_chunks(CHUNK), y.par_chunks_mut(CHUNK)).into_par_iter().enumerate().for_each(|(c, (x, y))| {
        for (b, (x, y)) in x.chunks(4).zip(y.chunks_mut(4)).enumerate() {
            let words = rng.block_at((c * (CHUNK / 4) + b) as u64);
            for ((y, x), word) in y.iter_mut().zip(x).zip(words) {
                // A select, not a product: dropping must not turn an infinity into NaN.
                *y = if to_unit(word) >= op.p { x * scale } else { 0.0 };
            }
        }
    });
}
