//! Sums of gradients: `acc ← acc + g`. Floor: memory-bound, 12 bytes an element.

#[cfg(test)]
mod tests;

use super::{CHUNK, same_length};
use medley_tensor::Result;
use rayon::prelude::*;

/// Adds `g` to `acc`, element by element.
///
/// # Errors
/// When the lengths differ.
pub fn accumulate(acc: &mut [f32], g: &[f32]) -> Result<()> {
    same_length("accumulate", acc.len(), "the gradient", g.len())?;
    acc.par_chunks_mut(CHUNK).zip(g.par_chunks(CHUNK)).for_each(|(acc, g)| {
        for (a, g) in acc.iter_mut().zip(g) {
            *a += g;
        }
    });
    Ok(())
}
