//! `add sub mul mad fma div rem min max abs neg sad`, carries and integer dot products. Floats are in
//! [`floats`](super::floats).

use super::modifiers::Modifiers;
use super::{Body, Decoded};
use crate::exec::regs::{Alu, Row, map1, map2, map3};
use crate::parse::ast::Operand;
use crate::parse::types::Type;
use crate::program::Kind;
use crate::semantics::integer as int;

/// Runs an expression with `$t` bound to the Rust type of integer type `$ty`.
macro_rules! by_integer {
    ($ty:expr, $t:ident => $e:expr) => {
        match $ty {
            Type::U16 | Type::B16 => {
                type $t = u16;
                $e
            }
            Type::S16 => {
                type $t = i16;
                $e
            }
            Type::U32 | Type::B32 => {
                type $t = u32;
                $e
            }
            Type::S32 => {
                type $t = i32;
                $e
            }
            Type::U64 | Type::B64 => {
                type $t = u64;
                $e
            }
            Type::S64 => {
                type $t = i64;
                $e
            }
            other => return Err(format!("type {other:?} is not an integer type it takes")),
        }
    };
}
pub(super) use by_integer;

#[derive(Clone, Copy, PartialEq)]
enum Part {
    Low,
    High,
    Wide,
}

/// `mad` with its product part.
trait Product: Sized {
    type Wide;
    fn low(self, b: Self) -> Self;
    fn high(self, b: Self) -> Self;
    fn wide(self, b: Self) -> Self::Wide;
}

macro_rules! product {
    ($($t:ty, $wide:ty, $high:path;)*) => {$(
        impl Product for $t {
            type Wide = $wide;
            #[inline(always)]
            fn low(self, b: Self) -> Self {
                self.wrapping_mul(b)
            }
            #[inline(always)]
            fn high(self, b: Self) -> Self {
                $high(self, b)
            }
            #[inline(always)]
            fn wide(self, b: Self) -> $wide {
                (self as $wide).wrapping_mul(b as $wide)
            }
        }
    )*};
}

product! {
    u16, u32, int::mul_hi_u16;
    i16, i32, int::mul_hi_s16;
    u32, u64, int::mul_hi_u32;
    i32, i64, int::mul_hi_s32;
    // There is no wide product of 64-bit operands: the decoder refuses it.
    u64, u64, int::mul_hi_u64;
    i64, i64, int::mul_hi_s64;
}

fn widened(ty: Type) -> Result<Type, String> {
    Ok(match ty {
        Type::U16 => Type::U32,
        Type::S16 => Type::S32,
        Type::U32 => Type::U64,
        Type::S32 => Type::S64,
        _ => return Err(format!("a wide product of {ty:?} does not exist")),
    })
}

impl Body<'_, '_> {
    pub(super) fn arithmetic(&mut self, name: &str, m: &mut Modifiers, ops: &[Operand]) -> Decoded {
        if matches!(name, "dp4a" | "dp2a") {
            return self.dot_product(name, m, ops);
        }
        if matches!(name, "mad24" | "mul24") {
            return self.product24(name, m, ops);
        }
        let carry = m.take("cc");
        if carry || matches!(name, "addc" | "subc" | "madc") {
            return self.with_carry(name, carry, m, ops);
        }
        let part = match m.one_of(&["lo", "hi", "wide"]) {
            Some("lo") => Some(Part::Low),
            Some("hi") => Some(Part::High),
            Some(_) => Some(Part::Wide),
            None => None,
        };
        let approximate = m.one_of(&["approx", "full"]);
        let rounding = m.rounding();
        let ty = m.ty()?;
        if ty.float() {
            if part.is_some() {
                return Err("lo, hi and wide are for integers".to_string());
            }
            return self.float_arithmetic(name, ty, rounding, approximate, m, ops);
        }
        if rounding.is_some() || approximate.is_some() {
            return Err("rounding is for floats".to_string());
        }
        if part.is_some() != matches!(name, "mul" | "mad") {
            return Err("mul and mad of integers take one of lo, hi and wide".to_string());
        }
        let sat = m.take("sat");
        if sat && !(ty == Type::S32 && matches!(name, "add" | "sub" | "mad")) {
            return Err("sat is for s32 additions".to_string());
        }
        let alu = match (name, part) {
            ("abs" | "neg", _) => self.integer_unary(name, ty, ops)?,
            ("mul", Some(part)) => self.integer_product(part, ty, ops)?,
            ("mad", Some(part)) => self.integer_mad(part, ty, sat, ops)?,
            ("sad", _) => self.sad(ty, ops)?,
            _ => self.integer_binary(name, ty, sat, ops)?,
        };
        Ok(Kind::Alu(alu))
    }

    pub(super) fn two(&mut self, ops: &[Operand], ty: Type) -> Result<(Row, [Row; 2]), String> {
        let [d, a, b] = self.operands::<3>(ops)?;
        Ok((self.dst(d, ty)?, [self.src(a, ty)?, self.src(b, ty)?]))
    }

    pub(super) fn three(&mut self, ops: &[Operand], ty: Type) -> Result<(Row, [Row; 3]), String> {
        let [d, a, b, c] = self.operands::<4>(ops)?;
        Ok((self.dst(d, ty)?, [self.src(a, ty)?, self.src(b, ty)?, self.src(c, ty)?]))
    }

    fn integer_unary(&mut self, name: &str, ty: Type, ops: &[Operand]) -> Result<Alu, String> {
        let [d, a] = self.operands::<2>(ops)?;
        let (d, a) = (self.dst(d, ty)?, self.src(a, ty)?);
        Ok(match (name, ty) {
            ("abs", Type::S16) => map1(d, a, i16::wrapping_abs),
            ("abs", Type::S32) => map1(d, a, i32::wrapping_abs),
            ("abs", Type::S64) => map1(d, a, i64::wrapping_abs),
            ("neg", Type::S16) => map1(d, a, i16::wrapping_neg),
            ("neg", Type::S32) => map1(d, a, i32::wrapping_neg),
            ("neg", Type::S64) => map1(d, a, i64::wrapping_neg),
            _ => return Err(format!("type {ty:?} is not known here")),
        })
    }

    fn integer_binary(&mut self, name: &str, ty: Type, sat: bool, ops: &[Operand]) -> Result<Alu, String> {
        if matches!(ty, Type::B16 | Type::B32 | Type::B64) {
            return Err(format!("type {ty:?} has no arithmetic"));
        }
        let (d, s) = self.two(ops, ty)?;
        Ok(match (name, ty) {
            ("add", _) if sat => map2(d, s, i32::saturating_add),
            ("sub", _) if sat => map2(d, s, i32::saturating_sub),
            ("add", _) => by_integer!(ty, T => map2(d, s, |a: T, b: T| a.wrapping_add(b))),
            ("sub", _) => by_integer!(ty, T => map2(d, s, |a: T, b: T| a.wrapping_sub(b))),
            ("min", _) => by_integer!(ty, T => map2(d, s, |a: T, b: T| a.min(b))),
            ("max", _) => by_integer!(ty, T => map2(d, s, |a: T, b: T| a.max(b))),
            ("div", Type::U32) => map2(d, s, int::div_u32),
            ("div", Type::S32) => map2(d, s, int::div_s32),
            ("div", Type::U64) => map2(d, s, int::div_u64),
            ("div", Type::S64) => map2(d, s, int::div_s64),
            ("div", Type::U16) => {
                map2(d, s, |a: u16, b: u16| int::div_u32(u32::from(a), u32::from(b)) as u16)
            }
            ("div", Type::S16) => {
                map2(d, s, |a: i16, b: i16| int::div_s32(i32::from(a), i32::from(b)) as i16)
            }
            ("rem", Type::U32) => map2(d, s, int::rem_u32),
            ("rem", Type::S32) => map2(d, s, int::rem_s32),
            ("rem", Type::U64) => map2(d, s, int::rem_u64),
            ("rem", Type::S64) => map2(d, s, int::rem_s64),
            ("rem", Type::U16) => {
                map2(d, s, |a: u16, b: u16| int::rem_u32(u32::from(a), u32::from(b)) as u16)
            }
            ("rem", Type::S16) => {
                map2(d, s, |a: i16, b: i16| int::rem_s32(i32::from(a), i32::from(b)) as i16)
            }
            _ => return Err(format!("type {ty:?} is not known here")),
        })
    }

    fn integer_product(&mut self, part: Part, ty: Type, ops: &[Operand]) -> Result<Alu, String> {
        if part == Part::Wide {
            let [d, a, b] = self.operands::<3>(ops)?;
            let d = self.dst(d, widened(ty)?)?;
            let s = [self.src(a, ty)?, self.src(b, ty)?];
            return Ok(by_integer!(ty, T => map2(d, s, |a: T, b: T| a.wide(b))));
        }
        let (d, s) = self.two(ops, ty)?;
        Ok(match part {
            Part::High => by_integer!(ty, T => map2(d, s, |a: T, b: T| a.high(b))),
            _ => by_integer!(ty, T => map2(d, s, |a: T, b: T| a.low(b))),
        })
    }

    fn integer_mad(&mut self, part: Part, ty: Type, sat: bool, ops: &[Operand]) -> Result<Alu, String> {
        if part == Part::Wide {
            let [d, a, b, c] = self.operands::<4>(ops)?;
            let wide = widened(ty)?;
            let d = self.dst(d, wide)?;
            let s = [self.src(a, ty)?, self.src(b, ty)?, self.src(c, wide)?];
            return Ok(by_integer!(ty, T => map3(d, s, |a: T, b: T, c: <T as Product>::Wide| {
                a.wide(b).wrapping_add(c)
            })));
        }
        let (d, s) = self.three(ops, ty)?;
        Ok(match part {
            _ if sat => {
                if part != Part::High {
                    return Err("sat goes with hi".to_string());
                }
                map3(d, s, int::mad_hi_sat_s32)
            }
            Part::High => {
                by_integer!(ty, T => map3(d, s, |a: T, b: T, c: T| a.high(b).wrapping_add(c)))
            }
            _ => by_integer!(ty, T => map3(d, s, |a: T, b: T, c: T| a.low(b).wrapping_add(c))),
        })
    }

    fn sad(&mut self, ty: Type, ops: &[Operand]) -> Result<Alu, String> {
        let (d, s) = self.three(ops, ty)?;
        Ok(match ty {
            Type::U16 => map3(d, s, |a: u16, b: u16, c: u16| c.wrapping_add(a.abs_diff(b))),
            Type::S16 => map3(d, s, |a: i16, b: i16, c: i16| c.wrapping_add(a.abs_diff(b) as i16)),
            Type::U32 => map3(d, s, int::sad_u32),
            Type::S32 => map3(d, s, int::sad_s32),
            Type::U64 => map3(d, s, int::sad_u64),
            Type::S64 => map3(d, s, int::sad_s64),
            _ => return Err(format!("type {ty:?} is not known here")),
        })
    }

    fn dot_product(&mut self, name: &str, m: &mut Modifiers, ops: &[Operand]) -> Decoded {
        let high = m.take("hi");
        if name == "dp2a" && !high && !m.take("lo") {
            return Err("dp2a takes lo or hi".to_string());
        }
        let (a, b) = (m.ty()?, m.ty()?);
        let known = |t| matches!(t, Type::U32 | Type::S32);
        if !known(a) || !known(b) {
            return Err("the types are u32 or s32".to_string());
        }
        let (x, y) = (a.signed(), b.signed());
        let (d, s) = self.three(ops, Type::B32)?;
        let alu = if name == "dp4a" {
            map3(d, s, move |a, b, c| int::dp4a(a, b, c, x, y))
        } else {
            map3(d, s, move |a, b, c| int::dp2a(a, b, c, x, y, high))
        };
        Ok(Kind::Alu(alu))
    }

    fn product24(&mut self, name: &str, m: &mut Modifiers, ops: &[Operand]) -> Decoded {
        let high = m.take("hi");
        if !high && !m.take("lo") {
            return Err("lo or hi is missing".to_string());
        }
        let sat = m.take("sat");
        let ty = m.ty()?;
        if sat && !(high && ty == Type::S32 && name == "mad24") {
            return Err("sat goes with mad24.hi.s32".to_string());
        }
        let alu = match (name, ty) {
            ("mul24", Type::U32) => {
                let (d, s) = self.two(ops, ty)?;
                map2(d, s, move |a, b| int::mul24_u32(a, b, high))
            }
            ("mul24", Type::S32) => {
                let (d, s) = self.two(ops, ty)?;
                map2(d, s, move |a, b| int::mul24_s32(a, b, high))
            }
            ("mad24", Type::U32) => {
                let (d, s) = self.three(ops, ty)?;
                map3(d, s, move |a, b, c: u32| int::mul24_u32(a, b, high).wrapping_add(c))
            }
            ("mad24", Type::S32) => {
                let (d, s) = self.three(ops, ty)?;
                map3(d, s, move |a, b, c: i32| {
                    let p = int::mul24_s32(a, b, high);
                    if sat { p.saturating_add(c) } else { p.wrapping_add(c) }
                })
            }
            _ => return Err(format!("type {ty:?} is not known here")),
        };
        Ok(Kind::Alu(alu))
    }

    /// `add.cc addc{.cc} sub.cc subc{.cc} mad.cc madc{.cc}` of 32 and 64 bits.
    fn with_carry(&mut self, name: &str, write: bool, m: &mut Modifiers, ops: &[Operand]) -> Decoded {
        let read = name.ends_with('c');
        let subtract = name.starts_with("sub");
        let part = m.one_of(&["lo", "hi"]);
        let ty = m.ty()?;
        if !matches!(ty, Type::U32 | Type::S32 | Type::U64 | Type::S64 | Type::B32 | Type::B64) {
            return Err(format!("type {ty:?} is not known here"));
        }
        let flag = self.carry;
        let multiply = name.starts_with("mad");
        if multiply != part.is_some() {
            return Err("mad and madc take lo or hi, the others do not".to_string());
        }
        let signed = ty.signed();
        let high = part == Some("hi");
        let (d, s): (Row, Vec<Row>) = if multiply {
            let (d, s) = self.three(ops, ty)?;
            (d, s.to_vec())
        } else {
            let (d, s) = self.two(ops, ty)?;
            (d, s.to_vec())
        };
        macro_rules! carry {
            ($t:ty, $row:ident, $set:ident, $signed:ty, $add:path, $sub:path) => {{
                let alu: Alu = Box::new(move |regs, mask| {
                    let start = if subtract { u32::MAX } else { 0 };
                    let cc = if read { regs.pred(flag) } else { start };
                    let (a, b) = (*regs.$row(s[0]), *regs.$row(s[1]));
                    let c = if multiply { *regs.$row(s[2]) } else { [0; 32] };
                    let (mut out, mut carries) = ([0; 32], 0u32);
                    for i in 0..32 {
                        let (x, y) = if multiply {
                            let p = match (high, signed) {
                                (false, _) => a[i].low(b[i]),
                                (true, false) => a[i].high(b[i]),
                                (true, true) => (a[i] as $signed).high(b[i] as $signed) as $t,
                            };
                            (p, c[i])
                        } else {
                            (a[i], b[i])
                        };
                        let carry = cc >> i & 1 != 0;
                        let (v, over) = if subtract { $sub(x, y, carry) } else { $add(x, y, carry) };
                        out[i] = v;
                        carries |= u32::from(over) << i;
                    }
                    regs.$set(d, mask, &out);
                    if write {
                        regs.set_pred(flag, mask, carries);
                    }
                });
                alu
            }};
        }
        let alu = if ty.wide() {
            carry!(u64, row64, set64, i64, int::add_carry_u64, int::sub_carry_u64)
        } else {
            carry!(u32, row32, set32, i32, int::add_carry_u32, int::sub_carry_u32)
        };
        Ok(Kind::Alu(alu))
    }
}
