//! Row operations between the products: online softmax forward, its gradient backward.
//!
//! Scores are in units of ln 2 (the queries carry the factor log₂ e), so that a power of two is all that
//! the exponential takes.

use super::block::{BK, Shape};
use super::tile::{MR, NR};
use crate::cpu::Isa;

/// Calls `$body` compiled for 8-wide vectors with fused multiply-adds where the machine has them.
macro_rules! dispatch {
    ($(#[$doc:meta])* $name:ident = $body:ident($($arg:ident: $type:ty),*)) => {
        $(#[$doc])*
        pub(super) fn $name(isa: Isa, $($arg: $type),*) {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2($($arg: $type),*) {
                $body::<true>($($arg),*)
            }
            match isa {
                #[cfg(target_arch = "x86_64")]
                // SAFETY: `Isa::Avx2` is handed out only on a machine that has AVX2 and FMA.
                Isa::Avx2 => unsafe { avx2($($arg),*) },
                _ => $body::<false>($($arg),*),
            }
        }
    };
}
pub(super) use dispatch;

dispatch! {
    /// One step of the online softmax (Milakov & Gimelshein 2018) over the scores of a block of queries
    /// against keys `kb ..`: scores become `2^(s − m)`, `o` and `l` are brought to the new maximum `m`.
    online_softmax = online_softmax_body(
        shape: &Shape, kb: usize, s: &mut [f32], o: &mut [f32], m: &mut [f32], l: &mut [f32])
}
dispatch! {
    /// Scores become probabilities `2^(s − lse)`, `dp` becomes `p · (dp − delta)`; both are 0 wherever a
    /// query does not see a key.
    softmax_backward = softmax_backward_body(
        shape: &Shape, kb: usize, s: &mut [f32], dp: &mut [f32], lse: &[f32], delta: &[f32])
}

#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

/// `f` over all lanes, by halves: a tree instead of a chain of operations.
#[inline(always)]
fn reduce(mut lanes: [f32; NR], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut half = NR / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] = f(lanes[i], lanes[i + half]);
        }
        half /= 2;
    }
    lanes[0]
}

/// Not inlined, as [`total`]: seen together with the loop that fills the lanes, the tree misleads the
/// compiler into vectors of two lanes for both.
#[inline(never)]
fn maximum(lanes: &[f32; NR]) -> f32 {
    reduce(*lanes, larger)
}

#[inline(never)]
fn total(lanes: &[f32; NR]) -> f32 {
    reduce(*lanes, |a, b| a + b)
}

#[inline(always)]
pub(super) fn multiply_add<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// `2^r ≈ 1 + r·(c₀ + c₁·r + … + c₅·r⁵)` on [−½, ½] to 5e-9: `(2^r − 1)/r` interpolated at the Chebyshev
/// nodes.
const COEFFICIENTS: [f32; 6] =
    [std::f32::consts::LN_2, 0.240_226_5, 0.055_503_57, 0.009_618_083, 0.001_339_086_3, 0.000_154_531_63];

/// `2^x` to about 1 ulp for `x ≤ 127`, 0 for `x ≤ −127`; NaN stays NaN. The general exponential of
/// [`crate::cpu::activation`] takes twice the operations, which would be a fifth of the forward pass.
#[inline(always)]
pub(super) fn exp2<const FMA: bool>(x: f32) -> f32 {
    /// Adding and subtracting 1.5·2²³ rounds to the nearest integer, which is left in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let x = if x < -127.0 { -127.0 } else { x };
    let t = x + ROUND;
    let r = x - (t - ROUND);
    let mut p = COEFFICIENTS[5];
    for c in COEFFICIENTS[..5].iter().rev() {
        p = multiply_add::<FMA>(p, r, *c);
    }
    p = multiply_add::<FMA>(p, r, 1.0);
    p * f32::from_bits((t.to_bits() << 23).wrapping_add(1.0f32.to_bits()))
}

/// Puts `−∞` where the row sees no key: left of `seen.0` and from `seen.1` on.
#[inline(always)]
fn mask(row: &mut [f32], seen: (usize, usize)) {
    row[..seen.0].fill(f32::NEG_INFINITY);
    row[seen.1..].fill(f32::NEG_INFINITY);
}

#[inline(always)]
fn online_softmax_body<const FMA: bool>(
    shape: &Shape,
    kb: usize,
    s: &mut [f32],
    o: &mut [f32],
    m: &mut [f32],
    l: &mut [f32],
) {
    for group in 0..shape.groups() {
        let (first, last) = shape.panels(group, kb);
        let width = first * NR..last * NR;
        if width.is_empty() {
            continue;
        }
        for i in group * MR..(group + 1) * MR {
            let row = &mut s[i * BK..(i + 1) * BK][width.clone()];
            let (from, to) = shape.seen(i, kb);
            if from >= to {
                row.fill(0.0);
                continue;
            }
            mask(row, (from - width.start, to - width.start));
            let mut lanes = [f32::NEG_INFINITY; NR];
            for chunk in row.chunks_exact(NR) {
                for (lane, x) in lanes.iter_mut().zip(chunk) {
                    *lane = larger(*x, *lane);
                }
            }
            let max = larger(maximum(&lanes), m[i]);
            let mut lanes = [0.0f32; NR];
            for chunk in row.chunks_exact_mut(NR) {
                for (lane, x) in lanes.iter_mut().zip(chunk) {
                    *x = exp2::<FMA>(*x - max);
                    *lane += *x;
                }
            }
            let old = exp2::<FMA>(m[i] - max);
            l[i] = l[i] * old + total(&lanes);
            m[i] = max;
            if old != 1.0 {
                o[i * shape.dp..(i + 1) * shape.dp].iter_mut().for_each(|o| *o *= old);
            }
        }
    }
}

#[inline(always)]
fn softmax_backward_body<const FMA: bool>(
    shape: &Shape,
    kb: usize,
    s: &mut [f32],
    dp: &mut [f32],
    lse: &[f32],
    delta: &[f32],
) {
    for group in 0..shape.groups() {
        let (first, last) = shape.panels(group, kb);
        let width = first * NR..last * NR;
        for i in group * MR..(group + 1) * MR {
            let (s, dp) = (&mut s[i * BK..(i + 1) * BK], &mut dp[i * BK..(i + 1) * BK]);
            let (from, to) = shape.seen(i, kb);
            if from >= to {
                s.fill(0.0);
                dp.fill(0.0);
                continue;
            }
            // The products with Pᵀ read past the panels that this group of rows computed.
            for row in [&mut *s, &mut *dp] {
                row[..width.start].fill(0.0);
                row[width.end..].fill(0.0);
            }
            let (s, dp) = (&mut s[width.clone()], &mut dp[width.clone()]);
            mask(s, (from - width.start, to - width.start));
            for (s, dp) in s.chunks_exact_mut(NR).zip(dp.chunks_exact_mut(NR)) {
                for (s, dp) in s.iter_mut().zip(dp) {
                    let p = exp2::<FMA>(*s - lse[i]);
                    *s = p;
                    *dp = p * (*dp - delta[i]);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp2_over_its_range() {
        let mut x = -125.9f32;
        while x < 100.0 {
            let want = f64::from(x).exp2();
            for got in [exp2::<true>(x), exp2::<false>(x)] {
                assert!((f64::from(got) - want).abs() <= 2e-7 * want, "2^{x} = {got} for {want}");
            }
            x += 0.0137;
        }
        for got in [exp2::<true>, exp2::<false>] {
            assert_eq!((got(0.0), got(-127.0), got(-1e9), got(f32::NEG_INFINITY)), (1.0, 0.0, 0.0, 0.0));
            let nearly = got(-126.7);
            assert!((0.0..2e-38).contains(&nearly), "{nearly}");
            assert!(got(f32::NAN).is_nan() && got(f32::from_bits(0x7fc0_01ff)).is_nan());
        }
    }
}
