//! The `.approx` and `.full` functions.
//!
//! PTX states a maximal error and leaves the bits to the hardware. These are computed in f64 with
//! operations the host rounds correctly (no call into its mathematical library), then rounded to f32:
//! well within every stated error, and the same on every machine. Special values follow the tables of
//! the PTX ISA; `.ftz` flushes subnormal operands and results.

use super::float::{canonical_f32, flush_f32};
use super::half2::{HalfKind, narrow, widen};

#[inline(always)]
fn finish(x: f32, ftz: bool) -> f32 {
    let x = if ftz { flush_f32(x) } else { x };
    canonical_f32(x)
}

#[inline(always)]
fn operand(x: f32, ftz: bool) -> f32 {
    if ftz { flush_f32(x) } else { x }
}

/// ln(2)^k / k! for k = 0…10: the series of 2^f.
const EXP2_SERIES: [f64; 11] = [
    1.0,
    std::f64::consts::LN_2,
    0.240_226_506_959_100_7,
    0.055_504_108_664_821_58,
    0.009_618_129_107_628_477,
    0.001_333_355_814_642_844_3,
    0.000_154_035_303_933_816_1,
    0.000_015_252_733_804_059_84,
    0.000_001_321_548_679_014_431,
    1.017_808_600_923_969_9e-7,
    7.054_911_620_801_123e-9,
];

/// 2^x for |x| ≤ 1000, relative error below 1e-13.
#[inline(always)]
fn exp2_f64(x: f64) -> f64 {
    // Adding 1.5·2^52 rounds to an integer, which then sits in the low bits.
    let shifted = x + 6_755_399_441_055_744.0;
    let whole = shifted - 6_755_399_441_055_744.0;
    let f = x - whole;
    let mut sum = EXP2_SERIES[10];
    for k in (0..10).rev() {
        sum = sum * f + EXP2_SERIES[k];
    }
    sum * f64::from_bits(((whole as i64 + 1023) as u64) << 52)
}

/// `ex2.approx.f32`: 2^a.
#[inline(always)]
pub fn ex2_f32(a: f32, ftz: bool) -> f32 {
    let a = operand(a, ftz);
    if a.is_nan() {
        return canonical_f32(a);
    }
    // Beyond these 2^a is 0 or infinite in f32 whatever the exact value.
    let x = f64::from(a.clamp(-400.0, 400.0));
    finish(exp2_f64(x) as f32, ftz)
}

/// log2 of a positive finite f64.
fn log2_f64(x: f64) -> f64 {
    let bits = x.to_bits();
    let mut exponent = (bits >> 52) as i32 - 1023;
    let mut m = f64::from_bits(bits & 0x000f_ffff_ffff_ffff | 0x3ff0_0000_0000_0000);
    if m > std::f64::consts::SQRT_2 {
        m /= 2.0;
        exponent += 1;
    }
    // log m = 2 artanh s, s = (m − 1) / (m + 1), |s| < 0.172.
    let s = (m - 1.0) / (m + 1.0);
    let square = s * s;
    let mut sum = 0.0;
    for k in (0..11).rev() {
        sum = sum * square + 1.0 / f64::from(2 * k + 1);
    }
    f64::from(exponent) + 2.0 * s * sum * std::f64::consts::LOG2_E
}

/// `lg2.approx.f32`: log2(a); of a negative number NaN, of ±0 −∞.
#[inline(always)]
pub fn lg2_f32(a: f32, ftz: bool) -> f32 {
    let a = operand(a, ftz);
    if a == 0.0 {
        return f32::NEG_INFINITY;
    }
    if a.is_nan() || a < 0.0 {
        return canonical_f32(f32::NAN);
    }
    if a.is_infinite() {
        return a;
    }
    finish(log2_f64(f64::from(a)) as f32, ftz)
}

/// `rcp.approx.f32`.
#[inline(always)]
pub fn rcp_f32(a: f32, ftz: bool) -> f32 {
    finish(1.0 / operand(a, ftz), ftz)
}

/// `rsqrt.approx.f32`: ±0 gives ±∞, a negative number NaN.
#[inline(always)]
pub fn rsqrt_f32(a: f32, ftz: bool) -> f32 {
    let a = operand(a, ftz);
    finish((1.0 / f64::from(a).sqrt()) as f32, ftz)
}

/// `sqrt.approx.f32`.
#[inline(always)]
pub fn sqrt_f32(a: f32, ftz: bool) -> f32 {
    finish(operand(a, ftz).sqrt(), ftz)
}

/// `div.approx.f32`: for 2^126 < |b| < 2^128 the result is 0, or NaN if a is infinite (PTX ISA).
#[inline(always)]
pub fn div_approx_f32(a: f32, b: f32, ftz: bool) -> f32 {
    let (a, b) = (operand(a, ftz), operand(b, ftz));
    if b.is_finite() && b.abs() > f32::from_bits(0x7e80_0000) {
        let zero = if a.is_infinite() || a.is_nan() { f32::NAN } else { 0.0 };
        return canonical_f32(zero.copysign(if (a < 0.0) != (b < 0.0) { -1.0 } else { 1.0 }));
    }
    finish(a / b, ftz)
}

/// `div.full.f32`: at most 2 ulp over the whole range.
#[inline(always)]
pub fn div_full_f32(a: f32, b: f32, ftz: bool) -> f32 {
    finish(operand(a, ftz) / operand(b, ftz), ftz)
}

/// sin and cos of `x` (finite).
fn sin_cos(x: f64) -> (f64, f64) {
    // π/2 in two parts; arguments too large for them are first reduced exactly by the rounded 2π,
    // where PTX promises nothing.
    const HALF_PI_HIGH: f64 = std::f64::consts::FRAC_PI_2;
    const HALF_PI_LOW: f64 = 6.123_233_995_736_766e-17;
    let x = if x.abs() > 1e6 { x % std::f64::consts::TAU } else { x };
    let quarter = (x / HALF_PI_HIGH).round_ties_even();
    let r = (x - quarter * HALF_PI_HIGH) - quarter * HALF_PI_LOW;
    let square = r * r;
    let mut sine = 0.0;
    let mut cosine = 0.0;
    for k in (0..9).rev() {
        let k = f64::from(k);
        sine = 1.0 - sine * square / ((2.0 * k + 2.0) * (2.0 * k + 3.0));
        cosine = 1.0 - cosine * square / ((2.0 * k + 1.0) * (2.0 * k + 2.0));
    }
    let (sine, cosine) = (r * sine, cosine);
    match quarter.rem_euclid(4.0) as i32 {
        0 => (sine, cosine),
        1 => (cosine, -sine),
        2 => (-sine, -cosine),
        _ => (-cosine, sine),
    }
}

/// `sin.approx.f32`; of an infinity NaN.
pub fn sin_f32(a: f32, ftz: bool) -> f32 {
    let a = operand(a, ftz);
    if !a.is_finite() {
        return canonical_f32(f32::NAN);
    }
    if a == 0.0 {
        return a;
    }
    finish(sin_cos(f64::from(a)).0 as f32, ftz)
}

/// `cos.approx.f32`; of an infinity NaN.
pub fn cos_f32(a: f32, ftz: bool) -> f32 {
    let a = operand(a, ftz);
    if !a.is_finite() {
        return canonical_f32(f32::NAN);
    }
    finish(sin_cos(f64::from(a)).1 as f32, ftz)
}

/// `tanh.approx.f32`.
pub fn tanh_f32(a: f32) -> f32 {
    if a.is_nan() {
        return canonical_f32(a);
    }
    if a.abs() < 1e-3 {
        // a − a³/3, exact to f32 here.
        let x = f64::from(a);
        return (x - x * x * x / 3.0) as f32;
    }
    let x = f64::from(a.clamp(-30.0, 30.0));
    let e = exp2_f64(2.0 * x * std::f64::consts::LOG2_E);
    ((e - 1.0) / (e + 1.0)) as f32
}

/// `ex2.approx.f16` and `ex2.approx.ftz.bf16`.
pub fn ex2_half(kind: HalfKind, a: u16, ftz: bool) -> u16 {
    narrow(kind, ex2_f32(widen(kind, a), ftz))
}

/// `tanh.approx.f16` and `.bf16`.
pub fn tanh_half(kind: HalfKind, a: u16) -> u16 {
    narrow(kind, tanh_f32(widen(kind, a)))
}

/// `rcp.approx.ftz.f64`: the upper 20 mantissa bits of the reciprocal, the rest zero.
pub fn rcp_approx_f64(a: f64) -> f64 {
    let a = if a.is_subnormal() { 0.0f64.copysign(a) } else { a };
    truncate_f64(1.0 / a)
}

/// `rsqrt.approx{.ftz}.f64`.
pub fn rsqrt_approx_f64(a: f64, ftz: bool) -> f64 {
    let a = if ftz && a.is_subnormal() { 0.0f64.copysign(a) } else { a };
    let root = 1.0 / a.sqrt();
    if ftz { truncate_f64(root) } else { root }
}

/// Clears the lower word, as the table look-up of the hardware leaves it; subnormals become zeros.
fn truncate_f64(x: f64) -> f64 {
    if x.is_nan() {
        f64::from_bits(0x7fff_ffff_ffff_ffff)
    } else if x.is_subnormal() {
        0.0f64.copysign(x)
    } else {
        f64::from_bits(x.to_bits() & 0xffff_ffff_0000_0000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid(low: f32, high: f32) -> impl Iterator<Item = f32> {
        (0..=4000).map(move |i| low + (high - low) * (i as f32 / 4000.0))
    }

    fn within(ours: f32, want: f64, relative: f64) -> bool {
        (f64::from(ours) - want).abs() <= relative * want.abs() + 1e-45
    }

    #[test]
    fn exponential_and_logarithm_are_within_the_stated_error() {
        let bound = 2.0f64.powi(-22);
        for x in grid(-149.0, 127.9) {
            let want = f64::from(x).exp2();
            let subnormal = want < f64::from(f32::MIN_POSITIVE);
            assert!(within(ex2_f32(x, false), want, if subnormal { 1.0 } else { bound }), "2^{x}");
        }
        for x in grid(1e-6, 3.0).chain(grid(3.0, 3e38)).chain([1e-40, f32::MIN_POSITIVE]) {
            let want = f64::from(x).log2();
            assert!((f64::from(lg2_f32(x, false)) - want).abs() <= bound * want.abs().max(0.01), "log2 {x}");
        }
        assert_eq!(ex2_f32(3.0, true), 8.0);
        assert_eq!(lg2_f32(8.0, true), 3.0);
        assert_eq!(lg2_f32(1.0, true), 0.0);
    }

    #[test]
    fn trigonometry_and_tanh_are_within_the_stated_error() {
        for x in grid(-314.0, 314.0) {
            assert!((f64::from(sin_f32(x, false)) - f64::from(x).sin()).abs() < 1e-7, "sin {x}");
            assert!((f64::from(cos_f32(x, false)) - f64::from(x).cos()).abs() < 1e-7, "cos {x}");
        }
        for x in grid(-12.0, 12.0).chain(grid(-1e-3, 1e-3)) {
            assert!(within(tanh_f32(x), f64::from(x).tanh(), 1e-6), "tanh {x}");
        }
        assert!(sin_f32(1e30, false).abs() <= 1.0);
    }

    #[test]
    fn special_values() {
        let inf = f32::INFINITY;
        assert_eq!((ex2_f32(inf, false), ex2_f32(-inf, false)), (inf, 0.0));
        assert_eq!((ex2_f32(129.0, false), ex2_f32(-200.0, false)), (inf, 0.0));
        assert_eq!(ex2_f32(-130.0, true), 0.0);
        assert!(ex2_f32(-130.0, false) > 0.0);
        assert_eq!((lg2_f32(-0.0, false), lg2_f32(inf, false)), (-inf, inf));
        assert_eq!(lg2_f32(-1.0, false).to_bits(), 0x7fff_ffff);
        assert_eq!(lg2_f32(1e-40, true), -inf);
        assert_eq!((rcp_f32(-0.0, false), rcp_f32(inf, false)), (-inf, 0.0));
        assert_eq!((rsqrt_f32(0.0, false), rsqrt_f32(-0.0, false)), (inf, -inf));
        assert_eq!((rsqrt_f32(inf, false), rsqrt_f32(4.0, false)), (0.0, 0.5));
        assert!(rsqrt_f32(-1.0, false).is_nan() && sqrt_f32(-1.0, false).is_nan());
        assert_eq!(div_approx_f32(1.0, 3e38, false), 0.0);
        assert!(div_approx_f32(inf, 3e38, false).is_nan());
        assert_eq!(div_full_f32(3e38, 3e38, false), 1.0);
        assert_eq!(div_approx_f32(6.0, 3.0, true), 2.0);
        assert_eq!((tanh_f32(inf), tanh_f32(-inf)), (1.0, -1.0));
        assert!(sin_f32(inf, false).is_nan() && cos_f32(f32::NAN, false).is_nan());
        assert_eq!(cos_f32(0.0, false), 1.0);
        assert_eq!(sin_f32(-0.0, false).to_bits(), 0x8000_0000);
    }

    #[test]
    fn halves_and_doubles() {
        assert_eq!(ex2_half(HalfKind::F16, 0x3c00, false), 0x4000);
        assert_eq!(ex2_half(HalfKind::Bf16, 0x4040, true), 0x4100);
        assert_eq!(tanh_half(HalfKind::F16, 0x7c00), 0x3c00);
        assert!((rcp_approx_f64(3.0) - 1.0 / 3.0).abs() < 1e-6);
        assert_eq!(rcp_approx_f64(3.0).to_bits() & 0xffff_ffff, 0);
        assert_eq!(rcp_approx_f64(0.0), f64::INFINITY);
        assert!((rsqrt_approx_f64(2.0, false) - 0.5f64.sqrt()).abs() < 1e-15);
    }
}
