//! `cvt`: between all scalar types in every rounding mode, and the packed forms.

use super::exact::{self, BF16, E4M3, E5M2, F16, F32, F64, Format, Number, Rounding, TF32, unpack};
use super::float::{NAN_F32, flush_f32, saturate_f64};
use super::half2::{bf16_to_f32, f16_to_f32, f32_to_bf16, f32_to_f16};

/// A scalar type of `cvt`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum ScalarType {
    U8,
    U16,
    U32,
    U64,
    S8,
    S16,
    S32,
    S64,
    F16,
    Bf16,
    F32,
    F64,
    Tf32,
    E4m3,
    E5m2,
}

impl ScalarType {
    /// The float format, or `None` for an integer.
    pub fn format(self) -> Option<Format> {
        Some(match self {
            ScalarType::F16 => F16,
            ScalarType::Bf16 => BF16,
            ScalarType::F32 => F32,
            ScalarType::F64 => F64,
            ScalarType::Tf32 => TF32,
            ScalarType::E4m3 => E4M3,
            ScalarType::E5m2 => E5M2,
            _ => return None,
        })
    }

    /// Size in bits (tf32 lives in a 32-bit register).
    pub fn bits(self) -> u32 {
        match self {
            ScalarType::U8 | ScalarType::S8 | ScalarType::E4m3 | ScalarType::E5m2 => 8,
            ScalarType::U16 | ScalarType::S16 | ScalarType::F16 | ScalarType::Bf16 => 16,
            ScalarType::U32 | ScalarType::S32 | ScalarType::F32 | ScalarType::Tf32 => 32,
            ScalarType::U64 | ScalarType::S64 | ScalarType::F64 => 64,
        }
    }

    /// True for s8…s64.
    pub fn is_signed(self) -> bool {
        matches!(self, ScalarType::S8 | ScalarType::S16 | ScalarType::S32 | ScalarType::S64)
    }

    /// True for a float type.
    pub fn is_float(self) -> bool {
        self.format().is_some()
    }
}

/// A `cvt` instruction's types and modifiers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Conversion {
    /// Type of the result.
    pub to: ScalarType,
    /// Type of the operand.
    pub from: ScalarType,
    /// `.rn .rz .rm .rp .rna`, and the same of `.rni .rzi .rmi .rpi`.
    pub rounding: Rounding,
    /// `.rni .rzi .rmi .rpi`: a float result is rounded to an integral value (float to integer always is).
    pub integral: bool,
    /// `.sat`: integers clamp to the type's range, floats to [0, 1].
    pub sat: bool,
    /// `.satfinite`: what would overflow becomes the largest finite value.
    pub satfinite: bool,
    /// `.ftz`: f32 subnormals become zeros.
    pub ftz: bool,
    /// `.relu`: negative results become 0.
    pub relu: bool,
}

impl Conversion {
    /// The conversion without modifiers: to nearest (float to integer: towards zero is `rounding`'s business).
    pub fn new(to: ScalarType, from: ScalarType) -> Conversion {
        Conversion {
            to,
            from,
            rounding: Rounding::Nearest,
            integral: false,
            sat: false,
            satfinite: false,
            ftz: false,
            relu: false,
        }
    }
}

/// An 8-bit float to f32, exactly.
pub fn f8_to_f32(bits: u8, format: Format) -> f32 {
    f32::from_bits(exact::round(unpack(u64::from(bits), format), F32, Rounding::Nearest) as u32)
}

/// The value of an integer operand; `bits` may have anything above the type's width.
fn integer_value(bits: u64, from: ScalarType) -> i128 {
    let shift = 64 - from.bits();
    if from.is_signed() {
        i128::from((bits << shift) as i64 >> shift)
    } else {
        i128::from(bits << shift >> shift)
    }
}

fn integer_range(to: ScalarType) -> (i128, i128) {
    let bits = to.bits();
    if to.is_signed() { (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) } else { (0, (1 << bits) - 1) }
}

/// Converts `bits` as `conversion` says.
///
/// An integer result is sign- or zero-extended to 64 bits, so that any destination register, which may
/// be wider than the type, takes its low bits; a float result is zero-extended.
pub fn convert(bits: u64, conversion: &Conversion) -> u64 {
    use ScalarType::{Bf16, F16, F32, F64, S32, U32};
    let c = conversion;
    let plain = !(c.sat || c.satfinite || c.ftz || c.relu || c.integral);
    if plain && c.rounding == Rounding::Nearest {
        // The conversions inner loops are made of.
        match (c.from, c.to) {
            (F32, F16) => return u64::from(f32_to_f16(f32::from_bits(bits as u32))),
            (F32, Bf16) => return u64::from(f32_to_bf16(f32::from_bits(bits as u32))),
            (F16, F32) => return u64::from(f16_to_f32(bits as u16).to_bits()),
            (Bf16, F32) => return u64::from(bf16_to_f32(bits as u16).to_bits()),
            (S32, F32) => return u64::from((bits as i32 as f32).to_bits()),
            (U32, F32) => return u64::from((bits as u32 as f32).to_bits()),
            (F32, F64) => {
                let x = f32::from_bits(bits as u32);
                return if x.is_nan() { F64_NAN } else { f64::from(x).to_bits() };
            }
            (F64, F32) => {
                let x = f64::from_bits(bits) as f32;
                return u64::from(if x.is_nan() { NAN_F32 } else { x }.to_bits());
            }
            _ => {}
        }
    }
    match (c.from.format(), c.to.format()) {
        (None, None) => integer_to_integer(bits, c),
        (None, Some(format)) => integer_to_float(bits, c, format),
        (Some(_), None) => float_to_integer(bits, c),
        (Some(from), Some(to)) => float_to_float(bits, c, from, to),
    }
}

const F64_NAN: u64 = 0x7fff_ffff_ffff_ffff;

fn integer_to_integer(bits: u64, c: &Conversion) -> u64 {
    let value = integer_value(bits, c.from);
    if c.sat {
        let (low, high) = integer_range(c.to);
        return value.clamp(low, high) as u64;
    }
    // Cut to the type, then extended again.
    integer_value(value as u64, c.to) as u64
}

fn integer_to_float(bits: u64, c: &Conversion, format: Format) -> u64 {
    let value = integer_value(bits, c.from);
    let number = Number::Finite { negative: value < 0, exponent: 0, mantissa: value.unsigned_abs() };
    let packed = exact::round(number, format, c.rounding);
    if c.sat { saturate(packed, format) } else { packed }
}

fn saturate(bits: u64, format: Format) -> u64 {
    let value = f64::from_bits(exact::round(unpack(bits, format), F64, Rounding::Nearest));
    exact::round(unpack(saturate_f64(value).to_bits(), F64), format, Rounding::Nearest)
}

/// The operand as f64: every format here fits exactly.
fn float_value(bits: u64, c: &Conversion) -> f64 {
    match c.from {
        ScalarType::F64 => f64::from_bits(bits),
        ScalarType::F32 => {
            let x = f32::from_bits(bits as u32);
            f64::from(if c.ftz { flush_f32(x) } else { x })
        }
        ScalarType::F16 => f64::from(f16_to_f32(bits as u16)),
        ScalarType::Bf16 => f64::from(bf16_to_f32(bits as u16)),
        ScalarType::Tf32 => f64::from(f32::from_bits(bits as u32 & 0xffff_e000)),
        ScalarType::E4m3 => f64::from(f8_to_f32(bits as u8, E4M3)),
        ScalarType::E5m2 => f64::from(f8_to_f32(bits as u8, E5M2)),
        _ => integer_value(bits, c.from) as f64,
    }
}

fn to_integral(x: f64, rounding: Rounding) -> f64 {
    match rounding {
        Rounding::Nearest => x.round_ties_even(),
        Rounding::NearestAway => x.round(),
        Rounding::Zero => x.trunc(),
        Rounding::Down => x.floor(),
        Rounding::Up => x.ceil(),
    }
}

/// Out-of-range values clamp; NaN gives 0, or the top bit alone where f64 or a 64-bit integer is
/// involved (PTX ISA, `cvt`, "In float-to-integer conversions, NaN …").
fn float_to_integer(bits: u64, c: &Conversion) -> u64 {
    let value = float_value(bits, c);
    if value.is_nan() {
        let wide = c.from == ScalarType::F64 || c.to.bits() == 64;
        return if wide { integer_value(1 << (c.to.bits() - 1), c.to) as u64 } else { 0 };
    }
    let value = to_integral(value, c.rounding);
    let (low, high) = integer_range(c.to);
    // `as` clamps to i128; the largest f64 is far above, which the second clamp takes care of.
    (value as i128).clamp(low, high) as u64
}

fn float_to_float(bits: u64, c: &Conversion, from: Format, to: Format) -> u64 {
    let masked = match c.from {
        ScalarType::F32 if c.ftz => u64::from(flush_f32(f32::from_bits(bits as u32)).to_bits()),
        ScalarType::Tf32 => (bits & 0xffff_ffff) >> 13,
        other if other.bits() == 64 => bits,
        other => bits & ((1 << other.bits()) - 1),
    };
    let number = unpack(masked, from);
    let number = match number {
        Number::Finite { .. } if c.integral => {
            let x = to_integral(float_value(bits, c), c.rounding);
            // A zero keeps the operand's sign, which `trunc` and its kin do as well.
            unpack(x.to_bits(), F64)
        }
        other => other,
    };
    let rounding = if c.integral { Rounding::Nearest } else { c.rounding };
    let mut packed = exact::round(number, to, rounding);
    let sign = 1u64 << (to.exponent + to.mantissa);
    let nan = matches!(number, Number::Nan);
    if c.satfinite && !nan && packed & (sign - 1) >= to.infinity() {
        packed = packed & sign | to.max_finite();
    }
    if c.relu && !nan && packed & sign != 0 {
        packed = 0;
    }
    if c.sat {
        packed = saturate(packed, to);
    }
    match c.to {
        ScalarType::F32 if c.ftz => u64::from(flush_f32(f32::from_bits(packed as u32)).to_bits()),
        // A tf32 result is an f32 with an empty tail; a NaN's tail is filled as for f32.
        ScalarType::Tf32 if nan => 0x7fff_ffff,
        ScalarType::Tf32 => packed << 13,
        _ => packed,
    }
}

/// `cvt.rn.f16x2/.bf16x2.f32 d, a, b` and `…e4m3x2/.e5m2x2.f32`: `a` goes to the upper half.
pub fn convert_pair(a: u32, b: u32, conversion: &Conversion) -> u32 {
    let high = convert(u64::from(a), conversion) as u32;
    let low = convert(u64::from(b), conversion) as u32;
    high << conversion.to.bits() | low
}

/// A packed pair to another packed pair (`cvt.rn.f16x2.e4m3x2`, `cvt.rn.satfinite.e4m3x2.f16x2`): low
/// to low, high to high.
pub fn convert_packed(bits: u32, conversion: &Conversion) -> u32 {
    let width = conversion.from.bits();
    let mask = (1u32 << width) - 1;
    convert_pair(bits >> width & mask, bits & mask, conversion)
}

/// `cvt.pack.sat.u16/.s16/.u8/.s8.s32 d, a, b{, c}`: `a` and `b` clamped to `to` and packed, `a` above
/// `b`; for the 8-bit types the low half of `c` becomes the upper half of the result.
pub fn pack_integers(to: ScalarType, a: i32, b: i32, c: u32) -> u32 {
    let (low, high) = integer_range(to);
    let bits = to.bits();
    let mask = ((1u64 << bits) - 1) as u32;
    let clamped = |x: i32| i128::from(x).clamp(low, high) as u32 & mask;
    let pair = clamped(a) << bits | clamped(b);
    if bits == 8 { c << 16 | pair } else { pair }
}

#[cfg(test)]
mod tests {
    use super::ScalarType::{Bf16, E4m3, F16, F32, F64, S8, S16, S32, S64, Tf32, U8, U32, U64};
    use super::{Conversion, E4M3, E5M2, Rounding, ScalarType};
    use super::{convert, convert_packed, convert_pair, f8_to_f32, pack_integers};

    fn with(to: ScalarType, from: ScalarType, rounding: Rounding) -> Conversion {
        Conversion { rounding, ..Conversion::new(to, from) }
    }
    fn f32_bits(x: f32) -> u64 {
        u64::from(x.to_bits())
    }

    #[test]
    fn float_to_integer_modes_and_clamps() {
        let go = |x: f32, to, rounding| convert(f32_bits(x), &with(to, F32, rounding)) as i64;
        assert_eq!(go(2.5, S32, Rounding::Nearest), 2);
        assert_eq!(go(-2.5, S32, Rounding::Zero), -2);
        assert_eq!(go(-2.5, S32, Rounding::Down), -3);
        assert_eq!(go(2.1, S32, Rounding::Up), 3);
        assert_eq!(go(1e20, S32, Rounding::Zero), i64::from(i32::MAX));
        assert_eq!(go(-1.0, U32, Rounding::Zero), 0);
        assert_eq!(go(300.0, U8, Rounding::Zero), 255);
        assert_eq!(go(-1e9, S8, Rounding::Zero), -128);
        assert_eq!(go(f32::NAN, S32, Rounding::Zero), 0);
        assert_eq!(go(f32::NAN, S64, Rounding::Zero), i64::MIN);
        assert_eq!(go(f32::INFINITY, U64, Rounding::Zero) as u64, u64::MAX);
        let nan = convert(f64::NAN.to_bits(), &with(U32, F64, Rounding::Zero));
        assert_eq!(nan, 0x8000_0000);
        assert_eq!(convert(f64::MAX.to_bits(), &with(S64, F64, Rounding::Zero)), i64::MAX as u64);
    }

    #[test]
    fn integers_cut_extend_and_clamp() {
        let go = |x: u64, to, from| convert(x, &Conversion::new(to, from));
        assert_eq!(go(0x1_ff80, S32, S8) as i64, -128);
        assert_eq!(go(0x1_ff80, U32, U8), 0x80);
        assert_eq!(go(u64::MAX, U32, S64), 0xffff_ffff);
        assert_eq!(go(0x8000_0000, S64, S32) as i64, i64::from(i32::MIN));
        assert_eq!(go(0x8000_0000, U64, U32), 0x8000_0000);
        let sat =
            |x: i64, to, from| convert(x as u64, &Conversion { sat: true, ..Conversion::new(to, from) });
        assert_eq!(sat(-5, U8, S32), 0);
        assert_eq!(sat(300, U8, S32), 255);
        assert_eq!(sat(-300, S8, S32) as i64, -128);
        assert_eq!(sat(-1, S32, U32), i32::MAX as u64);
    }

    #[test]
    fn integer_to_float_modes() {
        let go = |x: i64, rounding| f32::from_bits(convert(x as u64, &with(F32, S64, rounding)) as u32);
        let x = (1 << 24) + 1;
        assert_eq!(go(x, Rounding::Nearest), 16_777_216.0);
        assert_eq!(go(x, Rounding::Up), 16_777_218.0);
        assert_eq!(go(-x, Rounding::Up), -16_777_216.0);
        assert_eq!(go(-x, Rounding::Down), -16_777_218.0);
        assert_eq!(convert(u64::MAX, &Conversion::new(F64, U64)), (u64::MAX as f64).to_bits());
        assert_eq!(convert(100_000, &Conversion::new(F16, U32)), 0x7c00);
        assert_eq!(convert(3, &Conversion::new(Bf16, U8)), 0x4040);
    }

    #[test]
    fn float_to_float_modes() {
        let go = |x: f32, to, rounding| convert(f32_bits(x), &with(to, F32, rounding));
        let x = 1.0 + 0.75 / 1024.0;
        assert_eq!(go(x, F16, Rounding::Zero), 0x3c00);
        assert_eq!(go(x, F16, Rounding::Nearest), 0x3c01);
        assert_eq!(go(-x, F16, Rounding::Down), 0xbc01);
        assert_eq!(go(1e6, F16, Rounding::Zero), 0x7bff);
        assert_eq!(go(1.0 + 1.0 / 256.0, Bf16, Rounding::Nearest), 0x3f80);
        assert_eq!(go(1.0 + 1.0 / 256.0, Bf16, Rounding::NearestAway), 0x3f81);
        assert_eq!(go(f32::NAN, F16, Rounding::Zero), 0x7fff);
        assert_eq!(go(-0.0, F64, Rounding::Nearest), (-0.0f64).to_bits());
        let tie = f32::from_bits(0x3f80_1000);
        assert_eq!(go(tie, Tf32, Rounding::NearestAway), 0x3f80_2000);
        assert_eq!(go(tie, Tf32, Rounding::Nearest), 0x3f80_0000);
        assert_eq!(go(f32::NAN, Tf32, Rounding::NearestAway), 0x7fff_ffff);
        let third = 1.0f64 / 3.0;
        let down = convert(third.to_bits(), &with(F32, F64, Rounding::Down));
        assert_eq!(down, 0x3eaa_aaaa);
    }

    #[test]
    fn integral_rounding_keeps_the_type() {
        let go = |x: f32, rounding| {
            let c = Conversion { integral: true, ..with(F32, F32, rounding) };
            f32::from_bits(convert(f32_bits(x), &c) as u32)
        };
        assert_eq!(go(2.5, Rounding::Nearest), 2.0);
        assert_eq!(go(-2.5, Rounding::Down), -3.0);
        assert_eq!(go(-0.5, Rounding::Up).to_bits(), (-0.0f32).to_bits());
        assert_eq!(go(1e30, Rounding::Zero), 1e30);
        assert!(go(f32::NAN, Rounding::Zero).is_nan());
    }

    #[test]
    fn modifiers() {
        let base = Conversion::new(F32, F32);
        let go = |x: f32, c: Conversion| f32::from_bits(convert(f32_bits(x), &c) as u32);
        assert_eq!(go(1.5, Conversion { sat: true, ..base }), 1.0);
        assert_eq!(go(f32::NAN, Conversion { sat: true, ..base }), 0.0);
        assert_eq!(go(1e-40, Conversion { ftz: true, ..base }), 0.0);
        let relu = Conversion { relu: true, ..Conversion::new(F16, F32) };
        assert_eq!(convert(f32_bits(-3.0), &relu), 0);
        assert_eq!(convert(f32_bits(3.0), &relu), 0x4200);
        assert_eq!(convert(f32_bits(f32::NAN), &relu), 0x7fff);
    }

    #[test]
    fn packed_forms() {
        let bf16 = Conversion::new(Bf16, F32);
        assert_eq!(convert_pair(1.0f32.to_bits(), 2.0f32.to_bits(), &bf16), 0x3f80_4000);
        let e4m3 = Conversion { satfinite: true, ..Conversion::new(E4m3, F32) };
        assert_eq!(convert_pair(1e9f32.to_bits(), (-1.0f32).to_bits(), &e4m3), 0x7eb8);
        assert_eq!(convert_pair(f32::INFINITY.to_bits(), f32::NAN.to_bits(), &e4m3), 0x7e7f);
        let back = Conversion::new(F16, E4m3);
        assert_eq!(convert_packed(0x7eb8, &back), 0x5f00_bc00);
        assert_eq!(pack_integers(U8, 300, -4, 0xabcd_1234), 0x1234_ff00);
        assert_eq!(pack_integers(S16, -40000, 7, 9), 0x8000_0007);
    }

    #[test]
    fn f8_values() {
        assert_eq!(f8_to_f32(0x7e, E4M3), 448.0);
        assert_eq!(f8_to_f32(0x01, E4M3), 2.0f32.powi(-9));
        assert!(f8_to_f32(0xff, E4M3).is_nan());
        assert_eq!(f8_to_f32(0x7b, E5M2), 57344.0);
        assert_eq!(f8_to_f32(0xfc, E5M2), f32::NEG_INFINITY);
    }
}
