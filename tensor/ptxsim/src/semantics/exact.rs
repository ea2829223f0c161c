//! Floats taken apart, computed with exactly, and rounded once.
//!
//! The hardware of the host rounds to nearest even only. Directed rounding, round to odd and the
//! narrow formats are therefore done here on integers: a value is `mantissa · 2^exponent` with up to
//! 126 bits of mantissa, bits lost to the right are remembered in the lowest bit ("sticky"), and
//! [`round`] packs the value into any format in any mode.

/// How a result that does not fit is rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Rounding {
    /// `.rn`: to nearest, ties to even.
    #[default]
    Nearest,
    /// `.rz`: towards zero.
    Zero,
    /// `.rm`: towards negative infinity.
    Down,
    /// `.rp`: towards positive infinity.
    Up,
    /// `.rna`: to nearest, ties away from zero.
    NearestAway,
}

/// A binary floating-point format: sizes in bits, and how its largest values are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// Bits of the exponent field.
    pub exponent: u32,
    /// Stored bits of the mantissa (without the hidden one).
    pub mantissa: u32,
    /// False for e4m3, which has no infinity and whose only NaN is all ones.
    pub has_infinity: bool,
}

/// IEEE binary16.
pub const F16: Format = Format { exponent: 5, mantissa: 10, has_infinity: true };
/// bfloat16: the upper half of an f32.
pub const BF16: Format = Format { exponent: 8, mantissa: 7, has_infinity: true };
/// IEEE binary32.
pub const F32: Format = Format { exponent: 8, mantissa: 23, has_infinity: true };
/// IEEE binary64.
pub const F64: Format = Format { exponent: 11, mantissa: 52, has_infinity: true };
/// The tensor cores' 19-bit format; stored in the upper bits of a 32-bit word.
pub const TF32: Format = Format { exponent: 8, mantissa: 10, has_infinity: true };
/// 8-bit float of the OCP specification: no infinity, largest value 448.
pub const E4M3: Format = Format { exponent: 4, mantissa: 3, has_infinity: false };
/// 8-bit float of the OCP specification with infinities, largest value 57344.
pub const E5M2: Format = Format { exponent: 5, mantissa: 2, has_infinity: true };

impl Format {
    fn bias(self) -> i32 {
        (1 << (self.exponent - 1)) - 1
    }
    fn exponent_mask(self) -> u64 {
        (1 << self.exponent) - 1
    }
    /// Bits of a positive infinity (for e4m3: of its NaN, which stands at that place).
    pub fn infinity(self) -> u64 {
        if self.has_infinity { self.exponent_mask() << self.mantissa } else { 0x7f }
    }
    /// Bits of PTX's canonical NaN: all ones below the sign.
    pub fn nan(self) -> u64 {
        (1 << (self.exponent + self.mantissa)) - 1
    }
    /// Bits of the largest finite value.
    pub fn max_finite(self) -> u64 {
        self.infinity() - 1
    }
    fn sign_bit(self) -> u64 {
        1 << (self.exponent + self.mantissa)
    }
}

/// A float taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Number {
    /// Not a number.
    Nan,
    /// An infinity, negative if true.
    Infinity(bool),
    /// `(-1)^negative · mantissa · 2^exponent`; the mantissa may be 0 (a signed zero).
    Finite {
        /// True for values below zero and for -0.
        negative: bool,
        /// Power of two of the mantissa's lowest bit.
        exponent: i32,
        /// Magnitude; at most 126 bits.
        mantissa: u128,
    },
}

/// Takes `bits` of a format apart.
pub fn unpack(bits: u64, format: Format) -> Number {
    let negative = bits & format.sign_bit() != 0;
    let field = (bits >> format.mantissa) & format.exponent_mask();
    let fraction = bits & ((1 << format.mantissa) - 1);
    if format.has_infinity && field == format.exponent_mask() {
        return if fraction == 0 { Number::Infinity(negative) } else { Number::Nan };
    }
    if !format.has_infinity && bits & 0x7f == 0x7f {
        return Number::Nan;
    }
    let (mantissa, biased) =
        if field == 0 { (fraction, 1) } else { (fraction | 1 << format.mantissa, field as i32) };
    Number::Finite {
        negative,
        exponent: biased - format.bias() - format.mantissa as i32,
        mantissa: u128::from(mantissa),
    }
}

/// Shifts right, keeping in the lowest bit whether anything was lost.
fn shift_right_sticky(value: u128, by: u32) -> u128 {
    if by == 0 {
        value
    } else if by >= 128 {
        u128::from(value != 0)
    } else {
        (value >> by) | u128::from(value & ((1 << by) - 1) != 0)
    }
}

/// Whether a truncated magnitude must grow by one unit.
fn rounds_up(rounding: Rounding, negative: bool, odd: bool, half: bool, rest: bool) -> bool {
    match rounding {
        Rounding::Nearest => half && (rest || odd),
        Rounding::NearestAway => half,
        Rounding::Zero => false,
        Rounding::Down => negative && (half || rest),
        Rounding::Up => !negative && (half || rest),
    }
}

/// Packs `number` into `format`. Overflow gives infinity or the largest finite value as the mode
/// demands (e4m3, which has no infinity: NaN).
pub fn round(number: Number, format: Format, rounding: Rounding) -> u64 {
    let (negative, exponent, mantissa) = match number {
        Number::Nan => return format.nan(),
        Number::Infinity(negative) => {
            return format.infinity() | if negative { format.sign_bit() } else { 0 };
        }
        Number::Finite { negative, exponent, mantissa } => (negative, exponent, mantissa),
    };
    let sign = if negative { format.sign_bit() } else { 0 };
    if mantissa == 0 {
        return sign;
    }
    // Exponent of the lowest bit kept: that of the format's precision, or of its subnormals.
    let top = exponent + 127 - mantissa.leading_zeros() as i32;
    let lowest = (top - format.mantissa as i32).max(1 - format.bias() - format.mantissa as i32);
    let kept = if lowest >= exponent {
        let by = (lowest - exponent) as u32;
        let bit = |n: u32| n < 128 && mantissa >> n & 1 != 0;
        let below = |n: u32| if n >= 128 { mantissa } else { mantissa & ((1 << n) - 1) };
        let (half, rest) = if by == 0 { (false, false) } else { (bit(by - 1), below(by - 1) != 0) };
        let kept = if by >= 128 { 0 } else { mantissa >> by };
        kept + u128::from(rounds_up(rounding, negative, kept & 1 != 0, half, rest))
    } else {
        mantissa << (exponent - lowest) as u32
    };
    // A carry out of the mantissa moves into the exponent field by itself.
    let field = lowest + format.bias() + format.mantissa as i32;
    let hidden = 1u128 << format.mantissa;
    let packed = if kept < hidden {
        kept as u64
    } else {
        (((field as u128) << format.mantissa) + (kept - hidden)) as u64
    };
    let packed = if packed > format.max_finite() {
        let to_infinity = match rounding {
            Rounding::Nearest | Rounding::NearestAway => true,
            Rounding::Zero => false,
            Rounding::Down => negative,
            Rounding::Up => !negative,
        };
        if to_infinity { format.infinity() } else { format.max_finite() }
    } else {
        packed
    };
    sign | packed
}

/// The exact product.
pub fn multiply(a: Number, b: Number) -> Number {
    use Number::{Finite, Infinity, Nan};
    match (a, b) {
        (Nan, _) | (_, Nan) => Nan,
        (Infinity(x), Infinity(y)) => Infinity(x ^ y),
        (Infinity(x), Finite { negative, mantissa, .. })
        | (Finite { negative, mantissa, .. }, Infinity(x)) => {
            if mantissa == 0 {
                Nan
            } else {
                Infinity(x ^ negative)
            }
        }
        (
            Finite { negative: x, exponent: ex, mantissa: mx },
            Finite { negative: y, exponent: ey, mantissa: my },
        ) => Finite { negative: x ^ y, exponent: ex + ey, mantissa: mx * my },
    }
}

/// The sum, exact but for a sticky lowest bit. An exact zero is `-0` when rounding down or when both
/// are `-0`, as IEEE 754 asks; operands have at most 106 bits.
pub fn add(a: Number, b: Number, rounding: Rounding) -> Number {
    use Number::{Finite, Infinity, Nan};
    let (x, ex, mx, y, ey, my) = match (a, b) {
        (Nan, _) | (_, Nan) => return Nan,
        (Infinity(x), Infinity(y)) => return if x == y { a } else { Nan },
        (Infinity(_), _) => return a,
        (_, Infinity(_)) => return b,
        (
            Finite { negative: x, exponent: ex, mantissa: mx },
            Finite { negative: y, exponent: ey, mantissa: my },
        ) => (x, ex, mx, y, ey, my),
    };
    if mx == 0 && my == 0 {
        let negative = if x == y { x } else { rounding == Rounding::Down };
        return Finite { negative, exponent: 0, mantissa: 0 };
    }
    if mx == 0 {
        return b;
    }
    if my == 0 {
        return a;
    }
    // Both with their top bit at bit 125; the smaller one moves right.
    let (lx, ly) = (mx.leading_zeros() - 2, my.leading_zeros() - 2);
    let (mx, ex) = (mx << lx, ex - lx as i32);
    let (my, ey) = (my << ly, ey - ly as i32);
    let (exponent, mx, my) = if ex >= ey {
        (ex, mx, shift_right_sticky(my, (ex - ey) as u32))
    } else {
        (ey, shift_right_sticky(mx, (ey - ex) as u32), my)
    };
    let (negative, mantissa) = if x == y {
        (x, mx + my)
    } else if mx > my {
        (x, mx - my)
    } else if my > mx {
        (y, my - mx)
    } else {
        (rounding == Rounding::Down, 0)
    };
    Finite { negative, exponent, mantissa }
}

/// The quotient, exact but for a sticky lowest bit; operands have at most 53 bits.
pub fn divide(a: Number, b: Number) -> Number {
    use Number::{Finite, Infinity, Nan};
    match (a, b) {
        (Nan, _) | (_, Nan) | (Infinity(_), Infinity(_)) => Nan,
        (Infinity(x), Finite { negative, .. }) => Infinity(x ^ negative),
        (Finite { negative, .. }, Infinity(y)) => Finite { negative: negative ^ y, exponent: 0, mantissa: 0 },
        (
            Finite { negative: x, exponent: ex, mantissa: mx },
            Finite { negative: y, exponent: ey, mantissa: my },
        ) => {
            if my == 0 {
                return if mx == 0 { Nan } else { Infinity(x ^ y) };
            }
            let shift = if mx == 0 { 0 } else { mx.leading_zeros() - 2 };
            let numerator = mx << shift;
            let quotient = numerator / my;
            Finite {
                negative: x ^ y,
                exponent: ex - ey - shift as i32 - 1,
                mantissa: quotient << 1 | u128::from(quotient * my != numerator),
            }
        }
    }
}

/// The square root, exact but for a sticky lowest bit; the operand has at most 53 bits.
pub fn square_root(a: Number) -> Number {
    use Number::{Finite, Infinity, Nan};
    match a {
        Finite { mantissa: 0, .. } | Infinity(false) => a,
        Nan | Infinity(true) | Finite { negative: true, .. } => Nan,
        Finite { exponent, mantissa, .. } => {
            let mut shift = mantissa.leading_zeros() as i32 - 2;
            if (exponent - shift) % 2 != 0 {
                shift -= 1;
            }
            let radicand = mantissa << shift;
            let root = radicand.isqrt();
            Finite {
                negative: false,
                exponent: (exponent - shift) / 2 - 1,
                mantissa: root << 1 | u128::from(root * root != radicand),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn f32_of(number: Number, rounding: Rounding) -> f32 {
        f32::from_bits(round(number, F32, rounding) as u32)
    }
    fn number(x: f32) -> Number {
        unpack(u64::from(x.to_bits()), F32)
    }

    /// A spread of f32 patterns: specials, subnormals, neighbours of powers of two, pseudo-random.
    fn samples() -> Vec<f32> {
        let mut all = vec![
            0.0,
            -0.0,
            1.0,
            -1.0,
            1.5,
            f32::MAX,
            f32::MIN,
            f32::MIN_POSITIVE,
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::NAN,
            f32::from_bits(1),
            f32::from_bits(0x007f_ffff),
            f32::from_bits(0x8000_0001),
            3.0,
            1.0 + f32::EPSILON,
            0.1,
        ];
        let mut state = 12345u32;
        for _ in 0..60 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            all.push(f32::from_bits(state));
        }
        all
    }

    fn same(a: f32, b: f32) -> bool {
        a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan()
    }

    #[test]
    fn nearest_agrees_with_the_host_on_every_operation() {
        let n = Rounding::Nearest;
        for &a in &samples() {
            assert!(same(f32_of(square_root(number(a)), n), a.sqrt()), "sqrt {a:e}");
            for &b in &samples() {
                let (x, y) = (number(a), number(b));
                assert!(same(f32_of(add(x, y, n), n), a + b), "{a:e} + {b:e}");
                assert!(same(f32_of(multiply(x, y), n), a * b), "{a:e} * {b:e}");
                assert!(same(f32_of(divide(x, y), n), a / b), "{a:e} / {b:e}");
                let fused = f32_of(add(multiply(x, y), number(0.1), n), n);
                assert!(same(fused, a.mul_add(b, 0.1)), "fma {a:e} {b:e}");
            }
        }
    }

    #[test]
    fn f64_agrees_with_the_host() {
        let pack = |x: f64| unpack(x.to_bits(), F64);
        let n = Rounding::Nearest;
        for (a, b) in [(1.0, 3.0), (1e308, 10.0), (5e-324, 0.5), (2.0, 1e-310), (-7.25, 1e-17)] {
            for (ours, host) in [
                (round(add(pack(a), pack(b), n), F64, n), a + b),
                (round(multiply(pack(a), pack(b)), F64, n), a * b),
                (round(divide(pack(a), pack(b)), F64, n), a / b),
            ] {
                assert_eq!(ours, host.to_bits(), "{a:e} {b:e}");
            }
        }
    }

    #[test]
    fn directed_modes_bracket_the_exact_value() {
        for &a in &samples() {
            for &b in &samples() {
                let sum = a as f64 + b as f64;
                let exact = add(number(a), number(b), Rounding::Nearest);
                let (down, up) = (f32_of(exact, Rounding::Down), f32_of(exact, Rounding::Up));
                if !sum.is_finite() {
                    continue;
                }
                assert!(down as f64 <= sum + sum.abs() * 1e-15 && up as f64 >= sum - sum.abs() * 1e-15);
                let nearest = a + b;
                assert!(nearest == down || nearest == up, "{a:e} {b:e}");
                let zero = f32_of(exact, Rounding::Zero);
                assert!(zero == if sum < 0.0 { up } else { down });
                assert!(down == up || down.to_bits().abs_diff(up.to_bits()) == 1 || down == 0.0 || up == 0.0);
            }
        }
    }

    #[test]
    fn overflow_follows_the_mode() {
        let big = multiply(number(f32::MAX), number(2.0));
        assert_eq!(f32_of(big, Rounding::Zero), f32::MAX);
        assert_eq!(f32_of(big, Rounding::Up), f32::INFINITY);
        assert_eq!(f32_of(big, Rounding::Down), f32::MAX);
        assert_eq!(round(number(1e6), E4M3, Rounding::Nearest), 0x7f);
        assert_eq!(round(number(448.0), E4M3, Rounding::Nearest), 0x7e);
        assert_eq!(round(number(1e6), E5M2, Rounding::Nearest), 0x7c);
    }

    #[test]
    fn f16_agrees_with_the_half_crate() {
        for &a in &samples() {
            let ours = round(number(a), F16, Rounding::Nearest) as u16;
            let theirs = half::f16::from_f32(a);
            assert!(ours == theirs.to_bits() || a.is_nan(), "{a:e}: {ours:x}");
            let ours = round(number(a), BF16, Rounding::Nearest) as u16;
            assert!(ours == half::bf16::from_f32(a).to_bits() || a.is_nan(), "{a:e}");
        }
        assert_eq!(round(number(1.0 + 0.5 / 1024.0), F16, Rounding::NearestAway), 0x3c01);
        assert_eq!(round(number(1.0 + 0.5 / 1024.0), F16, Rounding::Nearest), 0x3c00);
    }
}
