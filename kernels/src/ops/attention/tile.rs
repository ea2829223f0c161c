//! The register tile attention is made of: `C[6, 16] (+)= A[6, kc] · B[kc, 16]`.
//!
//! B is 16 adjacent columns of a row-major matrix. A is read either a row at a time ([`Side::Rows`]) or
//! transposed ([`Side::Columns`]: row k holds the six values of column k), so that `P·V` and `Pᵀ·dO` both
//! read the scores where they lie.

use crate::cpu::Isa;
use crate::cpu::lanes::dot8;

/// Rows of a tile.
pub(super) const MR: usize = 6;
/// Columns of a tile.
pub(super) const NR: usize = 16;

/// How A lies in its slice.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// Element (i, k) at `i·stride + k`.
    Rows,
    /// Element (i, k) at `k·stride + i`.
    Columns,
}

/// Operand A: its elements, the distance of its rows (or columns), and how it lies.
pub(super) type Left<'a> = (&'a [f32], usize, Side);
/// Operand B or C: its elements and the distance of its rows.
pub(super) type Right<'a> = (&'a [f32], usize);

/// `c ← a · b`, or `c ← c + a · b` when `add`. `kc` is at least 1.
#[inline]
pub(super) fn tile(isa: Isa, kc: usize, a: Left, b: Right, c: (&mut [f32], usize), add: bool) {
    // Slicing is the bounds check of everything below.
    let a_len = match a.2 {
        Side::Rows => (MR - 1) * a.1 + kc,
        Side::Columns => (kc - 1) * a.1 + MR,
    };
    let a = (&a.0[..a_len], a.1, a.2);
    let b = (&b.0[..(kc - 1) * b.1 + NR], b.1);
    let c = (&mut c.0[..(MR - 1) * c.1 + NR], c.1);
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => {
            let a_start = a.0.as_ptr();
            // SAFETY: `Isa::Avx2` is handed out only on a machine with AVX2 and FMA; the slices above hold
            // every element that kc and the strides name.
            unsafe {
                match a.2 {
                    Side::Rows => avx2::<false>(kc, a_start, a.1, b.0.as_ptr(), b.1, c.0.as_mut_ptr(), c.1, add),
                    Side::Columns => avx2::<true>(kc, a_start, a.1, b.0.as_ptr(), b.1, c.0.as_mut_ptr(), c.1, add),
                }
            }
        }
        _ => portable(kc, a, b, c, add),
    }
}

fn portable(kc: usize, a: Left, b: Right, c: (&mut [f32], usize), add: bool) {
    let (row, col) = if a.2 == Side::Rows { (a.1, 1) } else { (1, a.1) };
    let mut acc = [[0.0f32; NR]; MR];
    for k in 0..kc {
        let b = &b.0[k * b.1..][..NR];
        for (i, acc) in acc.iter_mut().enumerate() {
            let x = a.0[i * row + k * col];
            for (sum, b) in acc.iter_mut().zip(b) {
                *sum += x * b;
            }
        }
    }
    for (acc, c) in acc.iter().zip(c.0.chunks_mut(c.1)) {
        for (c, sum) in c.iter_mut().zip(acc) {
            *c = if add { *c + sum } else { *sum };
        }
    }
}

/// 12 accumulators, two registers of B and one broadcast of A: 15 of the 16 registers. Two loads, six
/// broadcasts and twelve multiply-adds a step keep both FMA pipes busy.
///
/// # Safety
/// The machine has AVX2 and FMA. `a`, `b` and `c` hold the elements that `kc` and the strides name: see
/// [`tile`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2<const COLUMNS: bool>(
    kc: usize,
    a: *const f32,
    a_stride: usize,
    b: *const f32,
    b_stride: usize,
    c: *mut f32,
    c_stride: usize,
    add: bool,
) {
    use std::arch::x86_64::*;
    let (row, col) = if COLUMNS { (1, a_stride) } else { (a_stride, 1) };
    let mut acc = [[_mm256_setzero_ps(); 2]; MR];
    // SAFETY: the caller's contract: i < MR, k < kc.
    unsafe {
        for k in 0..kc {
            let b0 = _mm256_loadu_ps(b.add(k * b_stride));
            let b1 = _mm256_loadu_ps(b.add(k * b_stride + 8));
            for (i, acc) in acc.iter_mut().enumerate() {
                let x = _mm256_broadcast_ss(&*a.add(i * row + k * col));
                acc[0] = _mm256_fmadd_ps(x, b0, acc[0]);
                acc[1] = _mm256_fmadd_ps(x, b1, acc[1]);
            }
        }
        for (i, acc) in acc.iter().enumerate() {
            for (half, &sum) in acc.iter().enumerate() {
                let c = c.add(i * c_stride + 8 * half);
                let value = if add { _mm256_add_ps(_mm256_loadu_ps(c), sum) } else { sum };
                _mm256_storeu_ps(c, value);
            }
        }
    }
}

/// `Σ aᵢ·bᵢ` over the shorter of the two. With `FMA` it must be called from code compiled for AVX2 and FMA.
#[inline(always)]
pub(super) fn dot<const FMA: bool>(a: &[f32], b: &[f32]) -> f32 {
    #[cfg(target_arch = "x86_64")]
    if FMA {
        // SAFETY: `FMA` is set only in bodies compiled for, and called on, machines with AVX2 and FMA
        // (`rows::dispatch`).
        return unsafe { dot_avx2(a, b) };
    }
    dot8(a, b)
}

/// Written out, because the compiler turns the sum over the lanes into a chain of scalars.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2,fma")]
fn dot_avx2(a: &[f32], b: &[f32]) -> f32 {
    use std::arch::x86_64::*;
    let (ca, cb) = (a.chunks_exact(8), b.chunks_exact(8));
    let tail: f32 = ca.remainder().iter().zip(cb.remainder()).map(|(x, y)| x * y).sum();
    let mut sums = [_mm256_setzero_ps(); 2];
    for (c, (a, b)) in ca.zip(cb).enumerate() {
        // SAFETY: both chunks hold eight elements.
        let (a, b) = unsafe { (_mm256_loadu_ps(a.as_ptr()), _mm256_loadu_ps(b.as_ptr())) };
        sums[c % 2] = _mm256_fmadd_ps(a, b, sums[c % 2]);
    }
    let eight = _mm256_add_ps(sums[0], sums[1]);
    let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two))) + tail
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::random;

    #[test]
    fn dot_over_every_length() {
        for n in [0usize, 1, 7, 8, 9, 16, 31, 64] {
            let a: Vec<f32> = (1..=n).map(|i| i as f32).collect();
            let want = (n * (n + 1) * (2 * n + 1) / 6) as f32;
            for isa in Isa::available() {
                let mut got = 0.0;
                dot_on(isa, &a, &a, &mut got);
                assert_eq!(got, want, "{n} on {isa:?}");
            }
        }
    }

    use super::super::rows::dispatch;
    dispatch! { dot_on = dot_into(a: &[f32], b: &[f32], to: &mut f32) }
    #[inline(always)]
    fn dot_into<const FMA: bool>(a: &[f32], b: &[f32], to: &mut f32) {
        *to = dot::<FMA>(a, b);
    }

    #[test]
    fn every_layout_on_every_instruction_set() {
        let data = random(&[4000], 1, 1.0).to_vec_f32().unwrap();
        for isa in Isa::available() {
            for kc in [1, 2, 7, 40] {
                for side in [Side::Rows, Side::Columns] {
                    for add in [false, true] {
                        let (a, b) = (&data[..2000], &data[2000..]);
                        let (lda, ldb, ldc) = (45, 19, 21);
                        let mut c = vec![0.5f32; 6 * ldc];
                        tile(isa, kc, (a, lda, side), (b, ldb), (&mut c, ldc), add);
                        for i in 0..MR {
                            for j in 0..ldc {
                                let at = |k| if side == Side::Rows { i * lda + k } else { k * lda + i };
                                let dot = |j| -> f32 { (0..kc).map(|k| a[at(k)] * b[k * ldb + j]).sum() };
                                let want = match (j < NR, add) {
                                    (false, _) => 0.5,
                                    (true, true) => 0.5 + dot(j),
                                    (true, false) => dot(j),
                                };
                                assert!((c[i * ldc + j] - want).abs() < 2e-5, "{i} {j} {kc}");
                            }
                        }
                    }
                }
            }
        }
    }
}
