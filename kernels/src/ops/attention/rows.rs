//! Row operations between the products: online softmax forward, its gradient backward.

use super::block::{BK, Shape};
use super::tile::{MR, NR};
use crate::cpu::Isa;
use crate::cpu::activation::exp;

/// Calls `$body` compiled for 8-wide vectors where the machine has them.
macro_rules! dispatch {
    ($(#[$doc:meta])* $name:ident = $body:ident($($arg:ident: $type:ty),*)) => {
        $(#[$doc])*
        pub(super) fn $name(isa: Isa, $($arg: $type),*) {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2($($arg: $type),*) {
                $body($($arg),*)
            }
            match isa {
                #[cfg(target_arch = "x86_64")]
                // SAFETY: `Isa::Avx2` is handed out only on a machine that has AVX2 and FMA.
                Isa::Avx2 => unsafe { avx2($($arg),*) },
                _ => $body($($arg),*),
            }
        }
    };
}

dispatch! {
    /// One step of the online softmax (Milakov & Gimelshein 2018) over the scores of a block of queries
    /// against keys `kb ..`: scores become `exp(s − m)`, `o` and `l` are brought to the new maximum `m`.
    online_softmax = online_softmax_body(
        shape: &Shape, kb: usize, s: &mut [f32], o: &mut [f32], m: &mut [f32], l: &mut [f32])
}
dispatch! {
    /// Scores become probabilities `exp(s − lse)`, `dp` becomes `p · (dp − delta)`; both are 0 wherever a
    /// query does not see a key.
    softmax_backward = softmax_backward_body(
        shape: &Shape, kb: usize, s: &mut [f32], dp: &mut [f32], lse: &[f32], delta: &[f32])
}

#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

/// Puts `−∞` where the row sees no key: left of `seen.0` and from `seen.1` on.
#[inline(always)]
fn mask(row: &mut [f32], seen: (usize, usize)) {
    row[..seen.0].fill(f32::NEG_INFINITY);
    row[seen.1..].fill(f32::NEG_INFINITY);
}

#[inline(always)]
fn online_softmax_body(
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
            let max = lanes.into_iter().fold(m[i], larger);
            let mut lanes = [0.0f32; NR];
            for chunk in row.chunks_exact_mut(NR) {
                for (lane, x) in lanes.iter_mut().zip(chunk) {
                    *x = exp(*x - max);
                    *lane += *x;
                }
            }
            let old = exp(m[i] - max);
            l[i] = l[i] * old + lanes.iter().sum::<f32>();
            m[i] = max;
            if old != 1.0 {
                o[i * shape.dp..(i + 1) * shape.dp].iter_mut().for_each(|o| *o *= old);
            }
        }
    }
}

#[inline(always)]
fn softmax_backward_body(
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
                    let p = exp(*s - lse[i]);
                    *s = p;
                    *dp = p * (*dp - delta[i]);
                }
            }
        }
    }
}
