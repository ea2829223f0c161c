//! DoRA's magnitudes on the CPU.

use super::{Dora, Saved};
use crate::ops::linear::cpu::column_sums;
use medley_tensor::{Error, Op, Result, Tensor, alloc};
use rayon::prelude::*;

/// Elements that one task scales, in whole rows, and columns that one task sums.
const ELEMENTS: usize = 1 << 14;
const COLUMNS: usize = 256;

/// `z ∘ factor (+ bias)` by columns.
fn scaled(z: &Tensor, factor: &[f32], bias: Option<&[f32]>) -> Result<Tensor> {
    let n = factor.len();
    let from: &[f32] = z.as_slice()?;
    let mut y = alloc::take(from.len());
    if n > 0 {
        let chunk = ELEMENTS.div_ceil(n) * n;
        y.par_chunks_mut(chunk).zip(from.par_chunks(chunk)).for_each(|(y, z)| {
            for (y, z) in y.chunks_exact_mut(n).zip(z.chunks_exact(n)) {
                match bias {
                    None => y.iter_mut().zip(z).zip(factor).for_each(|((y, z), g)| *y = z * g),
                    Some(bias) => {
                        y.iter_mut().zip(z).zip(factor).zip(bias).for_each(|(((y, z), g), b)| *y = z * g + b);
                    }
                }
            }
        });
    }
    Tensor::from_vec(y, z.shape())
}

/// `(y, m / norm)`.
pub(super) fn forward(z: &Tensor, m: &Tensor, norm: &Tensor, bias: Option<&Tensor>) -> Result<(Tensor, Tensor)> {
    if z.dtype() != medley_tensor::DType::F32 {
        return Err(Error::dtype(Dora::NAME, "f32 activations", z.dtype()));
    }
    let (m, norm): (&[f32], &[f32]) = (m.as_slice()?, norm.as_slice()?);
    let factor: Vec<f32> = m.iter().zip(norm).map(|(m, norm)| m / norm).collect();
    let bias = bias.map(Tensor::to_vec_f32).transpose()?;
    let y = scaled(z, &factor, bias.as_deref())?;
    let n = factor.len();
    Ok((y, Tensor::from_vec(factor, &[n])?))
}

/// `[dz, dm, dbias]`, the last where `bias` asks for it. Each column is summed from the first row to the last.
pub(super) fn backward(saved: &Saved, dy: &Tensor, bias: bool) -> Result<[Option<Tensor>; 3]> {
    let dz = match &saved.factor {
        Some(factor) => Some(scaled(dy, factor.as_slice()?, None)?),
        None => None,
    };
    let dm = match &saved.magnitude {
        Some((z, norm)) => {
            let (dy, z, norm): (&[f32], &[f32], &[f32]) = (dy.as_slice()?, z.as_slice()?, norm.as_slice()?);
            let n = norm.len();
            let mut dm = vec![0.0; n];
            dm.par_chunks_mut(COLUMNS).enumerate().for_each(|(chunk, sums)| {
                let start = chunk * COLUMNS;
                for (dy, z) in dy.chunks_exact(n).zip(z.chunks_exact(n)) {
                    let columns = sums.iter_mut().zip(&dy[start..]).zip(&z[start..]);
                    columns.for_each(|((sum, dy), z)| *sum += dy * z);
                }
                sums.iter_mut().zip(&norm[start..]).for_each(|(sum, norm)| *sum /= norm);
            });
            Some(Tensor::from_vec(dm, &[n])?)
        }
        None => None,
    };
    let n = dy.shape().last().copied().unwrap_or(0);
    let db = if bias { Some(Tensor::from_vec(column_sums(dy.as_slice()?, n), &[n])?) } else { None };
    Ok([dz, dm, db])
}
