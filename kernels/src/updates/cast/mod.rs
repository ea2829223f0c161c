//! Casts between f32 and the 16-bit floats, rounding to nearest even. Floor: memory-bound, 6 bytes an
//! element.

#[cfg(test)]
mod tests;

use super::{CHUNK, same_length};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use medley_tensor::Result;
use rayon::prelude::*;

fn convert<A: Sync, B: Send>(from: &[A], to: &mut [B], kernel: impl Fn(&[A], &mut [B]) + Sync) -> Result<()> {
    same_length("cast", from.len(), "the output", to.len())?;
    from.par_chunks(CHUNK).zip(to.par_chunks_mut(CHUNK)).for_each(|(from, to)| kernel(from, to));
    Ok(())
}

/// f32 to bfloat16; NaN stays NaN.
///
/// # Errors
/// When the lengths differ.
pub fn f32_to_bf16(from: &[f32], to: &mut [bf16]) -> Result<()> {
    convert(from, to, |from, to| to.convert_from_f32_slice(from))
}

/// bfloat16 to f32, exact.
///
/// # Errors
/// When the lengths differ.
pub fn bf16_to_f32(from: &[bf16], to: &mut [f32]) -> Result<()> {
    convert(from, to, |from, to| from.convert_to_f32_slice(to))
}

/// f32 to IEEE half; beyond 65,504 it becomes infinite.
///
/// # Errors
/// When the lengths differ.
pub fn f32_to_f16(from: &[f32], to: &mut [f16]) -> Result<()> {
    convert(from, to, |from, to| to.convert_from_f32_slice(from))
}

/// IEEE half to f32, exact.
///
/// # Errors
/// When the lengths differ.
pub fn f16_to_f32(from: &[f16], to: &mut [f32]) -> Result<()> {
    convert(from, to, |from, to| from.convert_to_f32_slice(to))
}
