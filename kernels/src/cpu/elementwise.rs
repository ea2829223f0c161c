//! One engine for every element-by-element kernel: N strided or broadcast operands in, M row-major
//! results out, in parallel, at the widest vectors the machine has.
//!
//! ```text
//! results, flat    |---- CHUNK ----|---- CHUNK ----|---- CHUNK ----|…   one task each
//! a chunk          |TILE|TILE|TILE|…  never across the end of a row of the collapsed shape
//! a tile           operands with stride 1 are read in place; others are gathered into a stack tile
//!                  first, so that the inner loop always runs over plain slices and vectorises
//! ```
//!
//! The inner loop is compiled twice, for the baseline and for AVX2. Rust never contracts `a·b + c`
//! by itself, so both give the same bits.

use super::{Isa, isa};
use medley_tensor::{Result, Tensor, alloc};
use rayon::prelude::*;

/// Elements of a result that one task computes.
const CHUNK: usize = 1 << 14;
/// Elements gathered at a time from an operand whose elements are not adjacent.
const TILE: usize = 256;

/// An operand and its strides over the collapsed shape.
struct Operand<'a> {
    data: &'a [f32],
    offset: usize,
    strides: Vec<usize>,
}

/// The function applied to each element. A trait instead of a closure so that implementations can
/// demand `#[inline(always)]`: a call left in the inner loop would stop it from vectorising.
pub(crate) trait Kernel<const N: usize, const M: usize>: Sync {
    /// Results of one element.
    fn apply(&self, inputs: [f32; N]) -> [f32; M];
}

/// Applies `kernel` to every element of `shape`, to which each operand (f32, any layout) is broadcast.
/// The results are row-major.
///
/// # Errors
/// When an operand is not f32 or does not broadcast to `shape`.
pub(crate) fn map<const N: usize, const M: usize>(
    shape: &[usize],
    inputs: [&Tensor; N],
    kernel: &impl Kernel<N, M>,
) -> Result<[Vec<f32>; M]> {
    let numel = shape.iter().product();
    let mut results: [Vec<f32>; M] = std::array::from_fn(|_| alloc::take(numel));
    let mut operands = Vec::with_capacity(N);
    for input in inputs {
        let layout = input.layout().broadcast_to(shape)?;
        operands.push(Operand {
            data: input.storage_slice()?,
            offset: layout.offset(),
            strides: layout.strides().to_vec(),
        });
    }
    if numel == 0 {
        return Ok(results);
    }
    let dims = collapse(shape, &mut operands);
    let mut chunks: [_; M] = results.each_mut().map(|r| r.chunks_mut(CHUNK));
    let mut tasks: Vec<(usize, [&mut [f32]; M])> = Vec::with_capacity(numel.div_ceil(CHUNK));
    for start in (0..numel).step_by(CHUNK) {
        tasks.push((start, std::array::from_fn(|m| chunks[m].next().unwrap_or_default())));
    }
    let isa = isa();
    tasks.into_par_iter().for_each(|(start, out)| run(isa, kernel, &dims, &operands, start, out));
    Ok(results)
}

struct Copy;
impl Kernel<1, 1> for Copy {
    #[inline(always)]
    fn apply(&self, x: [f32; 1]) -> [f32; 1] {
        x
    }
}

/// An f32 tensor with its elements in row-major order: itself, or a copy made in parallel.
///
/// # Errors
/// When it is not f32.
pub(crate) fn dense(t: &Tensor) -> Result<Tensor> {
    if t.is_contiguous() {
        t.storage_slice::<f32>()?;
        return Ok(t.clone());
    }
    let [data] = map(t.shape(), [t], &Copy)?;
    Tensor::from_vec(data, t.shape())
}

/// Drops dimensions of extent 1 and merges neighbours that every operand walks as one. What remains
/// has at least one dimension.
fn collapse(shape: &[usize], operands: &mut [Operand]) -> Vec<usize> {
    let mut dims: Vec<usize> = vec![];
    let mut kept: Vec<Vec<usize>> = vec![vec![]; operands.len()];
    for (d, &n) in shape.iter().enumerate().filter(|(_, n)| **n != 1) {
        let merges = !dims.is_empty()
            && operands.iter().zip(&kept).all(|(o, k)| k.last().is_some_and(|s| *s == o.strides[d] * n));
        if merges {
            if let Some(last) = dims.last_mut() {
                *last *= n;
            }
            kept.iter_mut().zip(&*operands).for_each(|(k, o)| {
                k.pop();
                k.push(o.strides[d]);
            });
        } else {
            dims.push(n);
            kept.iter_mut().zip(&*operands).for_each(|(k, o)| k.push(o.strides[d]));
        }
    }
    if dims.is_empty() {
        dims.push(1);
        kept.iter_mut().for_each(|k| k.push(1));
    }
    operands.iter_mut().zip(kept).for_each(|(o, k)| o.strides = k);
    dims
}

fn run<const N: usize, const M: usize>(
    isa: Isa,
    kernel: &impl Kernel<N, M>,
    dims: &[usize],
    operands: &[Operand],
    start: usize,
    mut out: [&mut [f32]; M],
) {
    let row_len = dims[dims.len() - 1];
    let len = out[0].len();
    let mut tiles = [[0.0f32; TILE]; N];
    let mut done = 0;
    while done < len {
        let (row, col) = ((start + done) / row_len, (start + done) % row_len);
        // Operands read in place are not bound to the tile's size.
        let in_place = operands.iter().all(|o| o.strides[dims.len() - 1] == 1);
        let most = if in_place { len } else { TILE };
        let take = (row_len - col).min(len - done).min(most);
        let mut at = [0; N];
        for ((at, tile), o) in at.iter_mut().zip(&mut tiles).zip(operands) {
            let stride = o.strides[dims.len() - 1];
            *at = o.offset + col * stride;
            let mut rest = row;
            for d in (0..dims.len() - 1).rev() {
                *at += rest % dims[d] * o.strides[d];
                rest /= dims[d];
            }
            match stride {
                1 => {}
                0 => tile[..take].fill(o.data[*at]),
                _ => tile[..take]
                    .iter_mut()
                    .zip(o.data[*at..].iter().step_by(stride))
                    .for_each(|(t, v)| *t = *v),
            }
        }
        let sources: [&[f32]; N] = std::array::from_fn(|k| {
            let o = &operands[k];
            if o.strides[dims.len() - 1] == 1 { &o.data[at[k]..at[k] + take] } else { &tiles[k][..take] }
        });
        let results = out.each_mut().map(|r| &mut r[done..done + take]);
        match isa {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `Isa::Avx2` is only ever returned by `isa` on a machine that has AVX2 and FMA.
            Isa::Avx2 => unsafe { inner_avx2(kernel, sources, results) },
            _ => inner(kernel, sources, results),
        }
        done += take;
    }
}

#[inline(always)]
fn inner<const N: usize, const M: usize>(
    kernel: &impl Kernel<N, M>,
    sources: [&[f32]; N],
    results: [&mut [f32]; M],
) {
    let n = results[0].len();
    // Equal lengths, said in a way the optimiser sees: no bounds checks remain below.
    let sources = sources.map(|s| &s[..n]);
    let results = results.map(|r| &mut r[..n]);
    for i in 0..n {
        let values = kernel.apply(std::array::from_fn(|k| sources[k][i]));
        for m in 0..M {
            results[m][i] = values[m];
        }
    }
}

/// [`inner`] compiled for 8-wide vectors.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn inner_avx2<const N: usize, const M: usize>(
    kernel: &impl Kernel<N, M>,
    sources: [&[f32]; N],
    results: [&mut [f32]; M],
) {
    inner(kernel, sources, results);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::random;

    struct Fma;
    impl Kernel<3, 2> for Fma {
        #[inline(always)]
        fn apply(&self, [a, b, c]: [f32; 3]) -> [f32; 2] {
            [a * b + c, a - b]
        }
    }

    /// Every mixture of strides against plain indexing, and both code paths against each other.
    #[test]
    fn strides_and_broadcasts() {
        let shape = [3, 5, 300];
        let operands = [
            random(&[3, 5, 300], 1, 1.0),
            random(&[300, 5, 3], 2, 1.0).permute(&[2, 1, 0]).unwrap(),
            random(&[300], 3, 1.0),
            random(&[3, 1, 1], 4, 1.0),
            random(&[5, 1], 5, 1.0),
            random(&[9, 5, 700], 6, 1.0).narrow(0, 4, 3).unwrap().narrow(2, 11, 300).unwrap(),
            Tensor::scalar(2.5),
        ];
        for a in &operands {
            for b in &operands {
                for c in &operands {
                    let [x, y] = map(&shape, [a, b, c], &Fma).unwrap();
                    let [a, b, c] = [a, b, c].map(|t| t.broadcast_to(&shape).unwrap().to_vec_f32().unwrap());
                    for i in 0..x.len() {
                        assert_eq!((x[i], y[i]), (a[i] * b[i] + c[i], a[i] - b[i]));
                    }
                }
            }
        }
    }

    #[test]
    fn every_chunk_is_written() {
        let n = 3 * CHUNK + 7;
        let a = random(&[n], 1, 1.0);
        let [x, y] = map(&[n], [&a, &a, &a], &Fma).unwrap();
        let a = a.as_slice::<f32>().unwrap();
        assert!(a.iter().zip(&x).all(|(a, x)| *x == a * a + a));
        assert!(y.iter().all(|y| *y == 0.0));
        assert!(map(&[2, 0], [&Tensor::scalar(1.0); 3], &Fma).unwrap()[0].is_empty());
        let e = map(&[4], [&random(&[3], 1, 1.0); 3], &Fma).unwrap_err().to_string();
        assert!(e.contains("[3]") && e.contains("[4]"), "{e}");
    }
}
