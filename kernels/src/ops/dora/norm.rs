//! Row norms of an updated weight, without forming it.

use super::{Dora, cuda};
use crate::ops::linear::{matrix, product};
use medley_tensor::{DType, Error, Op, Result, Tensor, alloc};

const NAME: &str = Dora::NAME;

/// `‖W_n‖²` of each row of a weight `[N, K]` of any storage, summed in f64: f32 `[N]`, where the weight lies.
///
/// # Errors
/// When it is not a matrix of floats.
pub fn squared_rows(weight: &Tensor) -> Result<Tensor> {
    let [n, k] = weight.shape() else { return Err(Error::shape(NAME, "a weight [N, K]", weight.shape())) };
    let values = weight.to_vec_f32()?;
    let squares: Vec<f32> = match *k {
        0 => vec![0.0; *n],
        k => values.chunks_exact(k).map(|row| squares(row) as f32).collect(),
    };
    Tensor::from_vec(squares, &[*n])?.to_device(&weight.device())
}

fn squares(row: &[f32]) -> f64 {
    row.iter().map(|v| f64::from(*v) * f64::from(*v)).sum()
}

/// `‖W_n + scale·(B·A)_n‖` of each row, f32 `[N]`, from a weight `[N, K]` f32, bf16, f16 or NF4, A `[r, K]` and B
/// `[N, r]` f32, and the [`squared_rows`] of W:
///
/// `‖W_n‖² + 2s·Σ_i (W·Aᵀ)_ni B_ni + s²·Σ_i (B·(A·Aᵀ))_ni B_ni`.
///
/// On a GPU A meets W in `compute`, the dtype of the layer's activations; everything else is f32.
///
/// # Errors
/// When the shapes do not fit, A, B or the squares are not f32, or device memory runs out.
pub fn row_norms(
    weight: &Tensor,
    a: &Tensor,
    b: &Tensor,
    scale: f32,
    squares: &Tensor,
    compute: DType,
) -> Result<Tensor> {
    let (n, rank) = match (weight.shape(), a.shape(), b.shape(), squares.shape()) {
        ([n, k], [r, k2], [n2, r2], [n3]) if k == k2 && r == r2 && n == n2 && n == n3 => (*n, *r),
        _ => {
            let rule = format!("A [r, K], B [N, r] and squares [N] of a weight {:?}, A being {:?}", weight.shape(), a.shape());
            return Err(Error::shape(NAME, rule, b.shape()));
        }
    };
    for t in [a, b, squares] {
        if t.dtype() != DType::F32 {
            return Err(Error::dtype(NAME, "A, B and the squared norms in f32", t.dtype()));
        }
    }
    let (a, b, squares) = (a.contiguous()?, b.contiguous()?, squares.contiguous()?);
    if let Some(device) = weight.cuda_device() {
        return cuda::row_norms(device, weight, [&a, &b], scale, &squares, compute);
    }
    let (low, up) = (matrix(NAME, &a)?, matrix(NAME, &b)?);
    let mut gram = alloc::take(rank * rank);
    product(1.0, low, low.t(), 0.0, &mut gram)?;
    let gram = Tensor::from_vec(gram, &[rank, rank])?;
    // 2·W·Aᵀ + s·B·(A·Aᵀ)
    let mut mixed = alloc::take(n * rank);
    product(2.0, matrix(NAME, weight)?, low.t(), 0.0, &mut mixed)?;
    product(scale, up, matrix(NAME, &gram)?, 1.0, &mut mixed)?;
    let (squares, rows): (&[f32], &[f32]) = (squares.as_slice()?, b.as_slice()?);
    let norms: Vec<f32> = squares
        .iter()
        .enumerate()
        .map(|(i, square)| {
            let range = i * rank..(i + 1) * rank;
            let pairs = rows[range.clone()].iter().zip(&mixed[range]);
            let cross: f64 = pairs.map(|(b, m)| f64::from(*b) * f64::from(*m)).sum();
            (f64::from(*square) + f64::from(scale) * cross).max(0.0).sqrt() as f32
        })
        .collect();
    Tensor::from_vec(norms, &[n])
}
