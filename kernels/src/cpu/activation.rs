//! The exponential and the functions made of it, as branch-free plain arithmetic that the compiler
//! vectorises where it is inlined into a loop.

/// Adding and subtracting 1.5·2²³ rounds an f32 of magnitude below 2²² to the nearest integer.
const ROUND: f32 = 12_582_912.0;

/// `2^n` for `-126 <= n <= 127`.
#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits(((n + 127) << 23) as u32)
}

/// `e^x` to about 1 ulp over the whole range, subnormal results and overflow to infinity included;
/// NaN stays NaN. Range reduction and polynomial of Cephes `expf` (Moshier, netlib.org/cephes).
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    let x = x.clamp(-105.0, 89.0);
    let t = x * std::f32::consts::LOG2_E + ROUND;
    let n = t - ROUND;
    let r = x - n * 0.693_359_4 - n * -2.121_944_4e-4;
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_2e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 0.5;
    p = p * r * r + r + 1.0;
    // In two factors, since 2^n alone leaves the normal range at both ends.
    let n = t.to_bits().wrapping_sub(ROUND.to_bits()) as i32;
    let half = n >> 1;
    p * power_of_two(half) * power_of_two(n.wrapping_sub(half))
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// `x·σ(x)` and its derivative `σ·(1 + x·(1 − σ))`.
#[inline(always)]
pub(crate) fn silu(x: f32) -> (f32, f32) {
    let s = sigmoid(x);
    (x * s, s * (1.0 + x * (1.0 - s)))
}

/// GELU by its tanh formula, `x/2·(1 + tanh(√(2/π)·(x + 0.044715·x³)))`, and its derivative
/// (Hendrycks & Gimpel 2016; `gelu_pytorch_tanh`). `(1 + tanh u)/2 = σ(2u)` saves the tanh.
#[inline(always)]
pub(crate) fn gelu_tanh(x: f32) -> (f32, f32) {
    const TWO_SQRT_2_PI: f32 = 1.595_769;
    const CUBIC: f32 = 0.044_715;
    let s = sigmoid(TWO_SQRT_2_PI * x * (1.0 + CUBIC * x * x));
    let slope = TWO_SQRT_2_PI * (1.0 + 3.0 * CUBIC * x * x);
    // Far out 1 − σ is 0 while x·slope may overflow to infinity: the product must stay 0.
    (x * s, s + (x * slope).clamp(f32::MIN, f32::MAX) * s * (1.0 - s))
}

/// GELU with the error function, `x·Φ(x)`, and its derivative `Φ(x) + x·φ(x)`.
#[inline(always)]
pub(crate) fn gelu_erf(x: f32) -> (f32, f32) {
    const INV_SQRT_TAU: f32 = 0.398_942_3;
    let cdf = 0.5 * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2));
    let density = INV_SQRT_TAU * exp(-0.5 * x * x);
    (x * cdf, cdf + x * density)
}

/// The error function to about 3e-7, as a rational function on (-4, 4) with the coefficients of
/// Eigen's `generic_fast_erf_float`, and ±1 (its value rounded to f32) outside.
#[inline(always)]
fn erf(x: f32) -> f32 {
    let z = x * x;
    let mut p = -2.726_142_3e-10;
    p = p * z + 2.770_681_4e-8;
    p = p * z + -2.101_024e-6;
    p = p * z + -5.692_506_4e-5;
    p = p * z + -7.349_906_3e-4;
    p = p * z + -2.954_6e-3;
    p = p * z + -1.609_603_3e-2;
    let mut q = -1.456_607_2e-5;
    q = q * z + -2.133_740_6e-4;
    q = q * z + -1.682_827e-3;
    q = q * z + -7.373_329_2e-3;
    q = q * z + -1.426_473_9e-2;
    if x.abs() < 4.0 { x * p / q } else { 1.0f32.copysign(x) }
}

/// The same functions in f64, for the references of tests.
#[cfg(test)]
pub(crate) mod exact {
    pub(crate) fn sigmoid(x: f64) -> f64 {
        1.0 / (1.0 + (-x).exp())
    }

    pub(crate) fn gelu_tanh(x: f64) -> f64 {
        0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3))).tanh())
    }

    pub(crate) fn gelu_erf(x: f64) -> f64 {
        0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2))
    }

    /// `erf(x) = 2/√π · e^(−x²) · Σ 2ⁿ x^(2n+1) / (2n+1)!!`: all terms of one sign.
    pub(crate) fn erf(x: f64) -> f64 {
        let (mut term, mut sum) = (x, x);
        for n in 1..300 {
            term *= 2.0 * x * x / f64::from(2 * n + 1);
            sum += term;
        }
        2.0 / std::f64::consts::PI.sqrt() * (-x * x).exp() * sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_over_the_whole_range() {
        let mut x = -104.0f32;
        while x < 88.7 {
            let want = f64::from(x).exp();
            let error = (f64::from(exp(x)) - want).abs();
            assert!(error <= 2.0f64.powi(-149) + want * 2.0e-7, "exp({x}) = {} for {want}", exp(x));
            x += 0.0137;
        }
        assert_eq!((exp(0.0), exp(-200.0), exp(f32::NEG_INFINITY)), (1.0, 0.0, 0.0));
        assert_eq!((exp(88.9), exp(f32::INFINITY)), (f32::INFINITY, f32::INFINITY));
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn activations_against_f64() {
        for i in -1200..=1200 {
            let x = i as f32 * 0.01;
            let close = |name: &str, got: (f32, f32), f: fn(f64) -> f64| {
                let (a, h) = (f64::from(x), 1e-4);
                let slope = (f(a + h) - f(a - h)) / (2.0 * h);
                assert!(
                    (f64::from(got.0) - f(a)).abs() < 1e-6 * (1.0 + a.abs()),
                    "{name}({x}): {got:?} for {}",
                    f(a)
                );
                assert!((f64::from(got.1) - slope).abs() < 4e-6, "{name}'({x}): {got:?} for {slope}");
            };
            close("silu", silu(x), |x| x * exact::sigmoid(x));
            close("gelu_tanh", gelu_tanh(x), exact::gelu_tanh);
            close("gelu_erf", gelu_erf(x), exact::gelu_erf);
        }
        for far in [1e4f32, 1e18, 1e30, f32::MAX] {
            assert_eq!((silu(far), silu(-far).0), ((far, 1.0), 0.0));
            assert_eq!((gelu_erf(far), gelu_erf(-far).0), ((far, 1.0), 0.0));
            assert_eq!((gelu_tanh(far), gelu_tanh(-far).0), ((far, 1.0), 0.0));
        }
    }
}
