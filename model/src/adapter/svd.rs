//! The leading singular triplets of a weight.
//!
//! Randomised (Halko, Martinsson & Tropp, arXiv 0909.4061, algorithm 4.4): the range of W is sampled with a random
//! matrix and sharpened by power iterations, each re-orthogonalised; what is left is a small matrix that one-sided
//! Jacobi rotations decompose. Factors are kept as rows, so that every inner loop runs along memory; products are
//! the engine's, in f32, inner products of vectors are summed in f64. Every step is a fixed sequence of sums: the
//! same bits for a seed whatever the number of threads.

use medley_kernels::cpu::gemm::{MatData, MatMut, MatRef, gemm};
use medley_tensor::rng::Philox;
use medley_tensor::{Result, Tensor};
use rayon::prelude::*;

/// Directions sampled beyond the rank: they take up the error of the last ones that count.
const OVERSAMPLING: usize = 8;
/// A row that loses all but this share of its length to the rows before it depends on them.
const DEPENDENT: f64 = 1e-6;
/// Rows are orthogonal when the cosine between them is below this.
const ORTHOGONAL: f64 = 1e-11;
/// Jacobi converges quadratically; this many sweeps are never needed.
const SWEEPS: usize = 40;

/// The r largest singular values of a matrix `[out, in]`, descending, with their directions.
#[derive(Debug)]
pub(super) struct Svd {
    /// Left directions as rows `[r, out]`.
    pub(super) ut: Vec<f32>,
    /// Singular values `[r]`.
    pub(super) s: Vec<f32>,
    /// Right directions as rows `[r, in]`.
    pub(super) vt: Vec<f32>,
}

impl Svd {
    /// `A = √(S/scale)·Vᵀ` `[r, in]` and `B = U·√(S/scale)` `[out, r]`.
    pub(super) fn factors(&self, scale: f32) -> Result<[Tensor; 2]> {
        let r = self.s.len();
        let (out, input) = (self.ut.len() / r.max(1), self.vt.len() / r.max(1));
        let roots: Vec<f32> = self.s.iter().map(|s| (s / scale).sqrt()).collect();
        let a = self
            .vt
            .chunks_exact(input.max(1))
            .zip(&roots)
            .flat_map(|(row, root)| row.iter().map(move |v| v * root));
        let a: Vec<f32> = a.collect();
        let b = (0..out * r).map(|at| self.ut[at % r * out + at / r] * roots[at % r]).collect::<Vec<f32>>();
        Ok([Tensor::from_vec(a, &[r, input])?, Tensor::from_vec(b, &[out, r])?])
    }
}

/// By sampling, with `iterations` power iterations; w is row-major.
pub(super) fn randomized(
    w: &[f32],
    [out, input]: [usize; 2],
    rank: usize,
    iterations: usize,
    mut rng: Philox,
) -> Result<Svd> {
    let l = (rank + OVERSAMPLING).min(out).min(input);
    let w = MatRef::row_major(MatData::F32(w), out, input)?;
    let omega: Vec<f32> = (0..l * input).map(|_| rng.normal_f32()).collect();
    let times = |rows: &[f32], matrix: MatRef| -> Result<Vec<f32>> {
        let rows = MatRef::row_major(MatData::F32(rows), l, matrix.rows())?;
        let mut product = vec![0.0; l * matrix.cols()];
        gemm(1.0, rows, matrix, 0.0, &mut MatMut::row_major(&mut product, l, matrix.cols())?)?;
        Ok(product)
    };
    let mut range = times(&omega, w.t())?;
    orthonormalize(&mut range, out);
    for _ in 0..iterations {
        let mut domain = times(&range, w)?;
        orthonormalize(&mut domain, input);
        range = times(&domain, w.t())?;
        orthonormalize(&mut range, out);
    }
    // W ≈ Q·(Qᵀ·W), and rotations J make the rows of Qᵀ·W orthogonal: J·Qᵀ·W = S·Vᵀ, U = Q·Jᵀ.
    let small = times(&range, w)?;
    let Jacobi { rotations, s, vt } = Jacobi::of(&small, input, rank);
    let mut ut = vec![0.0; rank * out];
    let (j, q) = (
        MatRef::row_major(MatData::F32(&rotations), rank, l)?,
        MatRef::row_major(MatData::F32(&range), l, out)?,
    );
    gemm(1.0, j, q, 0.0, &mut MatMut::row_major(&mut ut, rank, out)?)?;
    Ok(Svd { ut, s, vt })
}

/// By rotations of all rows (or columns, where there are fewer) of the matrix: exact to f64 rounding of its f32
/// values, and slow: about 30·min²·max operations.
pub(super) fn exact(w: &[f32], [out, input]: [usize; 2], rank: usize) -> Result<Svd> {
    if out <= input {
        let Jacobi { rotations, s, vt } = Jacobi::of(w, input, rank);
        return Ok(Svd { ut: rotations, s, vt });
    }
    let columns: Vec<f32> = (0..w.len()).map(|at| w[at % out * input + at / out]).collect();
    let Jacobi { rotations, s, vt } = Jacobi::of(&columns, out, rank);
    Ok(Svd { ut: vt, s, vt: rotations })
}

/// The inner product, in eight f64 sums.
fn dot<T: Copy + Into<f64>>(a: &[T], b: &[T]) -> f64 {
    let mut sums = [0.0f64; 8];
    let (a, b) = (a.chunks_exact(8), b.chunks_exact(8));
    let tail: f64 = a.remainder().iter().zip(b.remainder()).map(|(a, b)| (*a).into() * (*b).into()).sum();
    for (a, b) in a.zip(b) {
        for (sum, (a, b)) in sums.iter_mut().zip(a.iter().zip(b)) {
            *sum += (*a).into() * (*b).into();
        }
    }
    sums.iter().sum::<f64>() + tail
}

/// Makes rows of `width` orthonormal by Gram-Schmidt, every row twice ("twice is enough"); a row that depends on
/// those before it becomes zero.
fn orthonormalize(rows: &mut [f32], width: usize) {
    for i in 0..rows.len() / width {
        let (before, rest) = rows.split_at_mut(i * width);
        let row = &mut rest[..width];
        let length = dot(row, row).sqrt();
        for _ in 0..2 {
            let shares: Vec<f64> = before.par_chunks_exact(width).map(|other| dot(other, row)).collect();
            row.par_chunks_mut(1024).enumerate().for_each(|(chunk, row)| {
                let start = chunk * 1024;
                for (other, share) in before.chunks_exact(width).zip(&shares) {
                    for (v, o) in row.iter_mut().zip(&other[start..]) {
                        *v = (f64::from(*v) - share * f64::from(*o)) as f32;
                    }
                }
            });
        }
        let left = dot(row, row).sqrt();
        let factor = if left > DEPENDENT * length { 1.0 / left } else { 0.0 };
        row.iter_mut().for_each(|v| *v = (f64::from(*v) * factor) as f32);
    }
}

/// `rotations · M = diag(s) · vt`, cut to the largest values.
struct Jacobi {
    /// `[rank, rows of M]`.
    rotations: Vec<f32>,
    s: Vec<f32>,
    /// `[rank, width]`.
    vt: Vec<f32>,
}

/// A row of the matrix and the same row of the rotations.
type Row = (Vec<f64>, Vec<f64>);

impl Jacobi {
    /// One-sided Jacobi (Hestenes 1958) on the rows of `width` in `m`. Pairs meet as in a round-robin tournament, so
    /// that those of one round share no row and turn at once.
    fn of(m: &[f32], width: usize, rank: usize) -> Jacobi {
        let n = m.len() / width.max(1);
        let unit = |i: usize| (0..n).map(|j| f64::from(u8::from(i == j))).collect();
        let mut rows: Vec<Row> = m
            .chunks_exact(width.max(1))
            .enumerate()
            .map(|(i, row)| (row.iter().map(|v| f64::from(*v)).collect(), unit(i)))
            .collect();
        // An odd number of rows gets a seat that stays empty.
        let mut seats: Vec<Option<usize>> = (0..n).map(Some).collect();
        if n % 2 == 1 {
            seats.push(None);
        }
        for _ in 0..SWEEPS {
            let mut turned = false;
            for _ in 1..seats.len().max(1) {
                let half = seats.len() / 2;
                let pairs = seats[..half].iter().zip(seats[half..].iter().rev());
                let pairs: Vec<(usize, usize)> =
                    pairs.filter_map(|(a, b)| Some(((*a)?.min((*b)?), (*a)?.max((*b)?)))).collect();
                let mut meeting: Vec<(usize, usize, Row, Row)> = pairs
                    .into_iter()
                    .map(|(p, q)| (p, q, std::mem::take(&mut rows[p]), std::mem::take(&mut rows[q])))
                    .collect();
                turned |=
                    meeting.par_iter_mut().map(|(_, _, p, q)| turn(p, q)).reduce(|| false, |a, b| a | b);
                for (p, q, row_p, row_q) in meeting {
                    (rows[p], rows[q]) = (row_p, row_q);
                }
                seats[1..].rotate_right(1);
            }
            if !turned {
                break;
            }
        }
        let mut order: Vec<(f64, usize)> =
            rows.iter().enumerate().map(|(i, (row, _))| (dot(row, row).sqrt(), i)).collect();
        order.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        order.truncate(rank);
        let mut out = Jacobi { rotations: vec![], s: vec![], vt: vec![] };
        for (s, i) in order {
            let (row, rotation) = &rows[i];
            let inverse = if s > 0.0 { 1.0 / s } else { 0.0 };
            out.s.push(s as f32);
            out.vt.extend(row.iter().map(|v| (v * inverse) as f32));
            out.rotations.extend(rotation.iter().map(|v| *v as f32));
        }
        out
    }
}

/// Rotates two rows into orthogonality; false when they are orthogonal.
fn turn(p: &mut Row, q: &mut Row) -> bool {
    let (pp, qq, pq) = (dot(&p.0, &p.0), dot(&q.0, &q.0), dot(&p.0, &q.0));
    if pq.abs() <= ORTHOGONAL * (pp * qq).sqrt() {
        return false;
    }
    let zeta = (qq - pp) / (2.0 * pq);
    let tangent = zeta.signum() / (zeta.abs() + (1.0 + zeta * zeta).sqrt());
    let cosine = 1.0 / (1.0 + tangent * tangent).sqrt();
    let sine = cosine * tangent;
    for (p, q) in [(&mut p.0, &mut q.0), (&mut p.1, &mut q.1)] {
        for (p, q) in p.iter_mut().zip(q.iter_mut()) {
            (*p, *q) = (cosine * *p - sine * *q, sine * *p + cosine * *q);
        }
    }
    true
}
