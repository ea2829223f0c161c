//! Sums of gradients: `acc ← acc + g`. Floor: memory-bound, 12 bytes an element (f32).

mod cuda;
#[cfg(test)]
mod tests;

use super::{CHUNK, same_length};
use medley_tensor::{DType, Error, Result, Tensor};
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

/// `acc ← acc + g` on the device both lie on, computed in f32. `acc` is f32, and then `g` may be f32, bf16
/// or f16; or, on a GPU, both are of one 16-bit dtype (activation gradients that meet at a fan-in), the sum
/// being rounded to it. A shared `acc` is copied first.
///
/// # Errors
/// When shapes, dtypes or devices do not fit, and when device memory runs out.
pub fn add_into(acc: &mut Tensor, g: &Tensor) -> Result<()> {
    if acc.shape() != g.shape() {
        return Err(Error::shape("accumulate", format!("{:?}", acc.shape()), g.shape()));
    }
    let g = g.contiguous()?;
    if let Some(device) = acc.cuda_device().or(g.cuda_device()).cloned() {
        return cuda::add_into(&device, acc, &g);
    }
    match g.dtype() {
        DType::F32 => accumulate(acc.as_mut_slice()?, g.as_slice()?),
        _ => accumulate(acc.as_mut_slice()?, &g.to_vec_f32()?),
    }
}
