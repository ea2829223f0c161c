//! f32 and f64 arithmetic: `add sub mul fma div rcp sqrt` in every rounding mode, `min max`, comparison.
//!
//! Round to nearest runs on the host's own instructions, every other mode through [`exact`].
//! NaN results are PTX's canonical NaN (`0x7fffffff`), as on the hardware.

pub use super::exact::Rounding;
use super::exact::{self, F32, F64, Number, unpack};

/// PTX's canonical f32 NaN.
pub const NAN_F32: f32 = f32::from_bits(0x7fff_ffff);
/// The f64 NaN results use.
pub const NAN_F64: f64 = f64::from_bits(0x7fff_ffff_ffff_ffff);

/// The modifiers of an f32 instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct FloatMode {
    /// Rounding of the result.
    pub rounding: Rounding,
    /// `.ftz`: subnormal operands and results become zeros of their sign.
    pub ftz: bool,
    /// `.sat`: the result is clamped to [0, 1], NaN becomes +0.
    pub sat: bool,
}

impl FloatMode {
    /// Round to nearest, subnormals kept, no clamping.
    pub const RN: FloatMode = FloatMode { rounding: Rounding::Nearest, ftz: false, sat: false };
}

/// A subnormal becomes a zero of its sign.
#[inline(always)]
pub fn flush_f32(x: f32) -> f32 {
    let bits = x.to_bits();
    if bits & 0x7f80_0000 == 0 { f32::from_bits(bits & 0x8000_0000) } else { x }
}

/// Clamps to [0, 1]; NaN becomes +0, and so does -0 (`.sat`).
#[inline(always)]
pub fn saturate_f32(x: f32) -> f32 {
    if x > 0.0 { if x > 1.0 { 1.0 } else { x } } else { 0.0 }
}

/// Clamps to [0, 1]; NaN becomes +0 (`.sat` of f64 conversions).
#[inline(always)]
pub fn saturate_f64(x: f64) -> f64 {
    if x > 0.0 { if x > 1.0 { 1.0 } else { x } } else { 0.0 }
}

/// Makes any NaN the canonical one.
#[inline(always)]
pub fn canonical_f32(x: f32) -> f32 {
    if x.is_nan() { NAN_F32 } else { x }
}

#[inline(always)]
fn operand(x: f32, mode: FloatMode) -> f32 {
    if mode.ftz { flush_f32(x) } else { x }
}

#[inline(always)]
fn finish(x: f32, mode: FloatMode) -> f32 {
    let x = if mode.ftz { flush_f32(x) } else { x };
    if mode.sat { saturate_f32(x) } else { canonical_f32(x) }
}

fn number(x: f32) -> Number {
    unpack(u64::from(x.to_bits()), F32)
}
fn number_f64(x: f64) -> Number {
    unpack(x.to_bits(), F64)
}
fn rounded(x: Number, rounding: Rounding) -> f32 {
    f32::from_bits(exact::round(x, F32, rounding) as u32)
}
fn rounded_f64(x: Number, rounding: Rounding) -> f64 {
    f64::from_bits(exact::round(x, F64, rounding))
}

/// `add.f32`.
#[inline(always)]
pub fn add_f32(a: f32, b: f32, mode: FloatMode) -> f32 {
    let (a, b) = (operand(a, mode), operand(b, mode));
    let sum = match mode.rounding {
        Rounding::Nearest => a + b,
        rounding => rounded(exact::add(number(a), number(b), rounding), rounding),
    };
    finish(sum, mode)
}

/// `sub.f32`.
#[inline(always)]
pub fn sub_f32(a: f32, b: f32, mode: FloatMode) -> f32 {
    add_f32(a, -b, mode)
}

/// `mul.f32`.
#[inline(always)]
pub fn mul_f32(a: f32, b: f32, mode: FloatMode) -> f32 {
    let (a, b) = (operand(a, mode), operand(b, mode));
    let product = match mode.rounding {
        Rounding::Nearest => a * b,
        rounding => rounded(exact::multiply(number(a), number(b)), rounding),
    };
    finish(product, mode)
}

/// `fma.f32` and `mad.f32`: one rounding.
#[inline(always)]
pub fn fma_f32(a: f32, b: f32, c: f32, mode: FloatMode) -> f32 {
    let (a, b, c) = (operand(a, mode), operand(b, mode), operand(c, mode));
    let result = match mode.rounding {
        Rounding::Nearest => a.mul_add(b, c),
        rounding => {
            let product = exact::multiply(number(a), number(b));
            rounded(exact::add(product, number(c), rounding), rounding)
        }
    };
    finish(result, mode)
}

/// `div.rn/.rz/.rm/.rp.f32` (IEEE division; `.approx` and `.full` are in [`super::approx`]).
pub fn div_f32(a: f32, b: f32, mode: FloatMode) -> f32 {
    let (a, b) = (operand(a, mode), operand(b, mode));
    let quotient = match mode.rounding {
        Rounding::Nearest => a / b,
        rounding => rounded(exact::divide(number(a), number(b)), rounding),
    };
    finish(quotient, mode)
}

/// `rcp.rn/.rz/.rm/.rp.f32`.
pub fn rcp_f32(a: f32, mode: FloatMode) -> f32 {
    div_f32(1.0, a, mode)
}

/// `sqrt.rn/.rz/.rm/.rp.f32`.
pub fn sqrt_f32(a: f32, mode: FloatMode) -> f32 {
    let a = operand(a, mode);
    let root = match mode.rounding {
        Rounding::Nearest => a.sqrt(),
        rounding => rounded(exact::square_root(number(a)), rounding),
    };
    finish(root, mode)
}

/// `add.f64`.
pub fn add_f64(a: f64, b: f64, rounding: Rounding) -> f64 {
    match rounding {
        Rounding::Nearest => a + b,
        _ => rounded_f64(exact::add(number_f64(a), number_f64(b), rounding), rounding),
    }
}

/// `sub.f64`.
pub fn sub_f64(a: f64, b: f64, rounding: Rounding) -> f64 {
    add_f64(a, -b, rounding)
}

/// `mul.f64`.
pub fn mul_f64(a: f64, b: f64, rounding: Rounding) -> f64 {
    match rounding {
        Rounding::Nearest => a * b,
        _ => rounded_f64(exact::multiply(number_f64(a), number_f64(b)), rounding),
    }
}

/// `fma.f64` and `mad.f64`.
pub fn fma_f64(a: f64, b: f64, c: f64, rounding: Rounding) -> f64 {
    match rounding {
        Rounding::Nearest => a.mul_add(b, c),
        _ => {
            let product = exact::multiply(number_f64(a), number_f64(b));
            rounded_f64(exact::add(product, number_f64(c), rounding), rounding)
        }
    }
}

/// `div.f64`.
pub fn div_f64(a: f64, b: f64, rounding: Rounding) -> f64 {
    match rounding {
        Rounding::Nearest => a / b,
        _ => rounded_f64(exact::divide(number_f64(a), number_f64(b)), rounding),
    }
}

/// `rcp.f64`.
pub fn rcp_f64(a: f64, rounding: Rounding) -> f64 {
    div_f64(1.0, a, rounding)
}

/// `sqrt.f64`.
pub fn sqrt_f64(a: f64, rounding: Rounding) -> f64 {
    match rounding {
        Rounding::Nearest => a.sqrt(),
        _ => rounded_f64(exact::square_root(number_f64(a)), rounding),
    }
}

/// The modifiers of `min` and `max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct MinMaxMode {
    /// `.ftz`.
    pub ftz: bool,
    /// `.NaN`: the result is NaN if either operand is; otherwise a NaN operand loses.
    pub nan: bool,
    /// `.xorsign.abs`: magnitudes are compared, the sign is the exclusive or of both.
    pub xorsign_abs: bool,
}

/// `min.f32`: -0 is below +0; NaN by `mode`.
#[inline(always)]
pub fn min_f32(a: f32, b: f32, mode: MinMaxMode) -> f32 {
    pick_f32(a, b, mode, false)
}

/// `max.f32`.
#[inline(always)]
pub fn max_f32(a: f32, b: f32, mode: MinMaxMode) -> f32 {
    pick_f32(a, b, mode, true)
}

#[inline(always)]
fn pick_f32(a: f32, b: f32, mode: MinMaxMode, largest: bool) -> f32 {
    let (a, b) = if mode.ftz { (flush_f32(a), flush_f32(b)) } else { (a, b) };
    let sign = (a.to_bits() ^ b.to_bits()) & 0x8000_0000;
    let (a, b) = if mode.xorsign_abs { (a.abs(), b.abs()) } else { (a, b) };
    if a.is_nan() || b.is_nan() {
        return if mode.nan || a.is_nan() && b.is_nan() {
            NAN_F32
        } else if a.is_nan() {
            b
        } else {
            a
        };
    }
    let a_first = a < b || a == b && a.is_sign_negative();
    let result = if a_first != largest { a } else { b };
    if mode.xorsign_abs { f32::from_bits(result.to_bits() | sign) } else { result }
}

/// `min.f64`.
pub fn min_f64(a: f64, b: f64) -> f64 {
    pick_f64(a, b, false)
}

/// `max.f64`.
pub fn max_f64(a: f64, b: f64) -> f64 {
    pick_f64(a, b, true)
}

fn pick_f64(a: f64, b: f64, largest: bool) -> f64 {
    match (a.is_nan(), b.is_nan()) {
        (true, true) => NAN_F64,
        (true, false) => b,
        (false, true) => a,
        (false, false) => {
            let a_first = a < b || a == b && a.is_sign_negative();
            if a_first != largest { a } else { b }
        }
    }
}

/// The comparison of `set`, `setp` and `slct` on floats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FloatCompare {
    /// Equal, false with a NaN.
    Eq,
    /// Not equal, false with a NaN.
    Ne,
    /// Less.
    Lt,
    /// Less or equal.
    Le,
    /// Greater.
    Gt,
    /// Greater or equal.
    Ge,
    /// Equal or unordered.
    Equ,
    /// Not equal or unordered.
    Neu,
    /// Less or unordered.
    Ltu,
    /// Less, equal or unordered.
    Leu,
    /// Greater or unordered.
    Gtu,
    /// Greater, equal or unordered.
    Geu,
    /// Neither is NaN.
    Num,
    /// At least one is NaN.
    Nan,
}

/// Compares two f64 (f32, f16 and bf16 widen without change).
#[inline(always)]
pub fn compare_f64(compare: FloatCompare, a: f64, b: f64) -> bool {
    let unordered = a.is_nan() || b.is_nan();
    match compare {
        FloatCompare::Eq => a == b,
        FloatCompare::Ne => !unordered && a != b,
        FloatCompare::Lt => a < b,
        FloatCompare::Le => a <= b,
        FloatCompare::Gt => a > b,
        FloatCompare::Ge => a >= b,
        FloatCompare::Equ => unordered || a == b,
        FloatCompare::Neu => a != b,
        FloatCompare::Ltu => unordered || a < b,
        FloatCompare::Leu => unordered || a <= b,
        FloatCompare::Gtu => unordered || a > b,
        FloatCompare::Geu => unordered || a >= b,
        FloatCompare::Num => !unordered,
        FloatCompare::Nan => unordered,
    }
}

/// Compares two f32, with `.ftz` if asked.
#[inline(always)]
pub fn compare_f32(compare: FloatCompare, a: f32, b: f32, ftz: bool) -> bool {
    let (a, b) = if ftz { (flush_f32(a), flush_f32(b)) } else { (a, b) };
    compare_f64(compare, f64::from(a), f64::from(b))
}

/// The classes of `testp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FloatClass {
    /// Neither infinite nor NaN.
    Finite,
    /// An infinity.
    Infinite,
    /// Not a NaN.
    Number,
    /// A NaN.
    NotANumber,
    /// Neither zero, subnormal, infinite nor NaN.
    Normal,
    /// A subnormal; zero counts as one (PTX ISA, `testp`: "subnormal" excludes zero on f32, and so here).
    Subnormal,
}

/// `testp` on an f64 (an f32 must be classified by [`test_f32`]: widening makes subnormals normal).
pub fn test_f64(class: FloatClass, a: f64) -> bool {
    match class {
        FloatClass::Finite => a.is_finite(),
        FloatClass::Infinite => a.is_infinite(),
        FloatClass::Number => !a.is_nan(),
        FloatClass::NotANumber => a.is_nan(),
        FloatClass::Normal => a.is_normal(),
        FloatClass::Subnormal => a.is_subnormal(),
    }
}

/// `testp` on an f32.
pub fn test_f32(class: FloatClass, a: f32) -> bool {
    match class {
        FloatClass::Normal => a.is_normal(),
        FloatClass::Subnormal => a.is_subnormal(),
        class => test_f64(class, f64::from(a)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(rounding: Rounding) -> FloatMode {
        FloatMode { rounding, ..FloatMode::RN }
    }

    #[test]
    fn directed_rounding_is_exact() {
        let third = 1.0f32 / 3.0; // rounds up: 0x3eaaaaab
        assert_eq!(third.to_bits(), 0x3eaa_aaab);
        assert_eq!(div_f32(1.0, 3.0, mode(Rounding::Zero)).to_bits(), 0x3eaa_aaaa);
        assert_eq!(div_f32(1.0, 3.0, mode(Rounding::Up)).to_bits(), 0x3eaa_aaab);
        assert_eq!(div_f32(-1.0, 3.0, mode(Rounding::Down)).to_bits(), 0xbeaa_aaab);
        assert_eq!(add_f32(1.0, 1e-30, mode(Rounding::Up)), 1.0 + f32::EPSILON);
        assert_eq!(add_f32(1.0, -1e-30, mode(Rounding::Zero)), 1.0 - f32::EPSILON / 2.0);
        assert_eq!(fma_f32(1.0, 1.0, -1e-38, mode(Rounding::Down)), 1.0 - f32::EPSILON / 2.0);
        assert_eq!(sqrt_f32(2.0, mode(Rounding::Up)).to_bits(), 0x3fb5_04f4);
        assert_eq!(sqrt_f32(2.0, mode(Rounding::Zero)).to_bits(), 0x3fb5_04f3);
        assert_eq!(mul_f32(f32::MAX, 2.0, mode(Rounding::Zero)), f32::MAX);
        assert_eq!(add_f64(1.0, 1e-300, Rounding::Up), 1.0 + f64::EPSILON);
        assert_eq!(fma_f64(3.0, 7.0, -1e-290, Rounding::Zero).to_bits(), 21.0f64.to_bits() - 1);
        assert_eq!(sqrt_f64(2.0, Rounding::Down).to_bits(), 2.0f64.sqrt().to_bits() - 1);
        assert_eq!(div_f64(1.0, 3.0, Rounding::Up).to_bits(), (1.0f64 / 3.0).to_bits() + 1);
        assert_eq!(sub_f64(0.0, 0.0, Rounding::Down).to_bits(), (-0.0f64).to_bits());
    }

    #[test]
    fn flushing_and_saturation() {
        let ftz = FloatMode { ftz: true, ..FloatMode::RN };
        let tiny = f32::from_bits(0x8000_0100);
        assert_eq!(add_f32(tiny, 0.0, ftz).to_bits(), 0); // -0 + 0
        assert_eq!(mul_f32(1e-20, -1e-20, ftz).to_bits(), 0x8000_0000);
        assert_ne!(mul_f32(1e-20, -1e-20, FloatMode::RN), 0.0);
        let sat = FloatMode { sat: true, ..FloatMode::RN };
        assert_eq!(add_f32(0.7, 0.7, sat), 1.0);
        assert_eq!(sub_f32(0.0, 2.0, sat).to_bits(), 0);
        assert_eq!(add_f32(f32::NAN, 1.0, sat).to_bits(), 0);
        assert_eq!(add_f32(f32::INFINITY, f32::NEG_INFINITY, FloatMode::RN).to_bits(), 0x7fff_ffff);
    }

    #[test]
    fn minimum_and_maximum_of_zeros_and_nans() {
        let plain = MinMaxMode::default();
        let strict = MinMaxMode { nan: true, ..plain };
        assert_eq!(min_f32(0.0, -0.0, plain).to_bits(), 0x8000_0000);
        assert_eq!(max_f32(-0.0, 0.0, plain).to_bits(), 0);
        assert_eq!(max_f32(f32::NAN, 2.0, plain), 2.0);
        assert_eq!(max_f32(f32::NAN, 2.0, strict).to_bits(), 0x7fff_ffff);
        assert_eq!(min_f32(f32::NAN, f32::NAN, plain).to_bits(), 0x7fff_ffff);
        let xorsign = MinMaxMode { xorsign_abs: true, ..plain };
        assert_eq!(max_f32(-3.0, 2.0, xorsign), -3.0);
        assert_eq!(max_f32(-3.0, -2.0, xorsign), 3.0);
        assert_eq!(min_f64(f64::NAN, 1.0), 1.0);
        assert_eq!(max_f64(-0.0, 0.0).to_bits(), 0);
    }

    #[test]
    fn comparisons_with_nan() {
        use FloatCompare::*;
        let nan = f32::NAN;
        for compare in [Eq, Ne, Lt, Le, Gt, Ge, Num] {
            assert!(!compare_f32(compare, nan, 1.0, false), "{compare:?}");
        }
        for compare in [Equ, Neu, Ltu, Leu, Gtu, Geu, Nan] {
            assert!(compare_f32(compare, 1.0, nan, false), "{compare:?}");
        }
        assert!(compare_f32(Ltu, 1.0, 2.0, false) && !compare_f32(Ltu, 2.0, 1.0, false));
        assert!(compare_f32(Eq, 0.0, f32::from_bits(5), true));
        assert!(!compare_f32(Eq, 0.0, f32::from_bits(5), false));
        assert!(test_f32(FloatClass::Subnormal, f32::from_bits(5)));
        assert!(!test_f32(FloatClass::Normal, f32::from_bits(5)));
    }
}
