//! Floating-point arithmetic and functions.

use super::modifiers::Modifiers;
use super::{Body, Decoded};
use crate::exec::regs::{Alu, map1, map2, map3};
use crate::parse::ast::Operand;
use crate::parse::types::Type;
use crate::program::Kind;
use crate::semantics::approx;
use crate::semantics::exact::Rounding;
use crate::semantics::float::{self as f, FloatClass, FloatMode, MinMaxMode};
use crate::semantics::half2::{self as h, HalfKind, HalfMode};

fn half_kind(ty: Type) -> HalfKind {
    if matches!(ty, Type::F16 | Type::F16x2) { HalfKind::F16 } else { HalfKind::Bf16 }
}

fn packed(ty: Type) -> bool {
    matches!(ty, Type::F16x2 | Type::Bf16x2)
}

impl Body<'_, '_> {
    pub(super) fn float_arithmetic(
        &mut self,
        name: &str,
        ty: Type,
        rounding: Option<Rounding>,
        approximate: Option<&str>,
        m: &mut Modifiers,
        ops: &[Operand],
    ) -> Decoded {
        if approximate.is_some() && (name, ty) != ("div", Type::F32) {
            return Err("approx and full are for div.f32".to_string());
        }
        if rounding.is_some() && matches!(name, "min" | "max" | "abs" | "neg") {
            return Err("this instruction does not round".to_string());
        }
        let alu = match ty {
            Type::F32 => self.f32_arithmetic(name, rounding, approximate, m, ops)?,
            Type::F64 => self.f64_arithmetic(name, rounding, ops)?,
            Type::F16 | Type::Bf16 | Type::F16x2 | Type::Bf16x2 => {
                if rounding.is_some_and(|r| r != Rounding::Nearest) {
                    return Err("16-bit floats only round to nearest".to_string());
                }
                self.half_arithmetic(name, ty, m, ops)?
            }
            _ => return Err(format!("type {ty:?} has no arithmetic")),
        };
        Ok(Kind::Alu(alu))
    }

    fn f32_arithmetic(
        &mut self,
        name: &str,
        rounding: Option<Rounding>,
        approximate: Option<&str>,
        m: &mut Modifiers,
        ops: &[Operand],
    ) -> Result<Alu, String> {
        let ty = Type::F32;
        let ftz = m.take("ftz");
        if matches!(name, "min" | "max") {
            let xorsign_abs = m.take("xorsign");
            if xorsign_abs && !m.take("abs") {
                return Err("xorsign goes with abs".to_string());
            }
            let mode = MinMaxMode { ftz, nan: m.take("NaN"), xorsign_abs };
            let largest = name == "max";
            if ops.len() == 4 {
                let (d, s) = self.three(ops, ty)?;
                return Ok(map3(d, s, move |a, b, c| {
                    if largest {
                        f::max_f32(f::max_f32(a, b, mode), c, mode)
                    } else {
                        f::min_f32(f::min_f32(a, b, mode), c, mode)
                    }
                }));
            }
            let (d, s) = self.two(ops, ty)?;
            return Ok(match (name, mode == MinMaxMode::default()) {
                ("max", true) => map2(d, s, |a, b| f::max_f32(a, b, MinMaxMode::default())),
                (_, true) => map2(d, s, |a, b| f::min_f32(a, b, MinMaxMode::default())),
                ("max", false) => map2(d, s, move |a, b| f::max_f32(a, b, mode)),
                _ => map2(d, s, move |a, b| f::min_f32(a, b, mode)),
            });
        }
        if matches!(name, "abs" | "neg") {
            let [d, a] = self.operands::<2>(ops)?;
            let (d, a) = (self.dst(d, ty)?, self.src(a, ty)?);
            let flush = move |x: f32| if ftz { f::flush_f32(x) } else { x };
            return Ok(match name {
                "abs" => map1(d, a, move |x| flush(x).abs()),
                _ => map1(d, a, move |x: f32| -flush(x)),
            });
        }
        let mode = FloatMode { rounding: rounding.unwrap_or_default(), ftz, sat: m.take("sat") };
        match name {
            "fma" | "mad" => {
                if rounding.is_none() {
                    return Err("a rounding such as .rn is missing".to_string());
                }
                let (d, s) = self.three(ops, ty)?;
                if mode == FloatMode::RN {
                    return Ok(Box::new(move |regs, mask| {
                        let [a, b, c] = s.map(|row| *regs.row32(row));
                        let out = crate::exec::fma::fma_rows(&a, &b, &c);
                        regs.set32(d, mask, &out);
                    }));
                }
                Ok(map3(d, s, move |a, b, c| f::fma_f32(a, b, c, mode)))
            }
            "div" => {
                let (d, s) = self.two(ops, ty)?;
                if mode.sat {
                    return Err("div does not saturate".to_string());
                }
                Ok(match approximate {
                    Some("approx") => map2(d, s, move |a, b| approx::div_approx_f32(a, b, ftz)),
                    Some(_) => map2(d, s, move |a, b| approx::div_full_f32(a, b, ftz)),
                    None if rounding.is_none() => {
                        return Err("approx, full or a rounding is missing".to_string());
                    }
                    None => map2(d, s, move |a, b| f::div_f32(a, b, mode)),
                })
            }
            "add" | "sub" | "mul" => {
                let (d, s) = self.two(ops, ty)?;
                let plain = mode == FloatMode::RN;
                Ok(match (name, plain) {
                    ("add", true) => map2(d, s, |a, b| f::add_f32(a, b, FloatMode::RN)),
                    ("sub", true) => map2(d, s, |a, b| f::sub_f32(a, b, FloatMode::RN)),
                    (_, true) => map2(d, s, |a, b| f::mul_f32(a, b, FloatMode::RN)),
                    ("add", _) => map2(d, s, move |a, b| f::add_f32(a, b, mode)),
                    ("sub", _) => map2(d, s, move |a, b| f::sub_f32(a, b, mode)),
                    _ => map2(d, s, move |a, b| f::mul_f32(a, b, mode)),
                })
            }
            _ => Err("no such instruction on f32".to_string()),
        }
    }

    fn f64_arithmetic(
        &mut self,
        name: &str,
        rounding: Option<Rounding>,
        ops: &[Operand],
    ) -> Result<Alu, String> {
        let ty = Type::F64;
        let r = rounding.unwrap_or_default();
        Ok(match name {
            "abs" | "neg" => {
                let [d, a] = self.operands::<2>(ops)?;
                let (d, a) = (self.dst(d, ty)?, self.src(a, ty)?);
                if name == "abs" { map1(d, a, f64::abs) } else { map1(d, a, |x: f64| -x) }
            }
            "fma" | "mad" => {
                if rounding.is_none() {
                    return Err("a rounding such as .rn is missing".to_string());
                }
                let (d, s) = self.three(ops, ty)?;
                map3(d, s, move |a, b, c| f::fma_f64(a, b, c, r))
            }
            _ => {
                let (d, s) = self.two(ops, ty)?;
                match name {
                    "add" => map2(d, s, move |a, b| f::add_f64(a, b, r)),
                    "sub" => map2(d, s, move |a, b| f::sub_f64(a, b, r)),
                    "mul" => map2(d, s, move |a, b| f::mul_f64(a, b, r)),
                    "div" if rounding.is_some() => map2(d, s, move |a, b| f::div_f64(a, b, r)),
                    "min" => map2(d, s, f::min_f64),
                    "max" => map2(d, s, f::max_f64),
                    _ => return Err("no such instruction on f64".to_string()),
                }
            }
        })
    }

    fn half_arithmetic(
        &mut self,
        name: &str,
        ty: Type,
        m: &mut Modifiers,
        ops: &[Operand],
    ) -> Result<Alu, String> {
        let kind = half_kind(ty);
        let two = packed(ty);
        let ftz = m.take("ftz");
        match name {
            "abs" | "neg" => {
                let [d, a] = self.operands::<2>(ops)?;
                let (d, a) = (self.dst(d, ty)?, self.src(a, ty)?);
                let mask = if two { 0x8000_8000u32 } else { 0x8000 };
                Ok(if name == "abs" {
                    map1(d, a, move |x: u32| x & !mask)
                } else {
                    map1(d, a, move |x: u32| x ^ mask)
                })
            }
            "min" | "max" => {
                let xorsign_abs = m.take("xorsign");
                if xorsign_abs && !m.take("abs") {
                    return Err("xorsign goes with abs".to_string());
                }
                let mode = MinMaxMode { ftz, nan: m.take("NaN"), xorsign_abs };
                let (d, s) = self.two(ops, ty)?;
                Ok(match (name, two) {
                    ("min", false) => map2(d, s, move |a, b| h::min_half(kind, a, b, mode)),
                    ("min", true) => map2(d, s, move |a, b| h::min_half2(kind, a, b, mode)),
                    (_, false) => map2(d, s, move |a, b| h::max_half(kind, a, b, mode)),
                    (_, true) => map2(d, s, move |a, b| h::max_half2(kind, a, b, mode)),
                })
            }
            "fma" => {
                let mode = HalfMode { ftz, sat: m.take("sat"), relu: m.take("relu") };
                let (d, s) = self.three(ops, ty)?;
                Ok(if two {
                    map3(d, s, move |a, b, c| h::fma_half2(kind, a, b, c, mode))
                } else {
                    map3(d, s, move |a, b, c| h::fma_half(kind, a, b, c, mode))
                })
            }
            "add" | "sub" | "mul" => {
                let mode = HalfMode { ftz, sat: m.take("sat"), relu: false };
                let (d, s) = self.two(ops, ty)?;
                Ok(match (name, two) {
                    ("add", false) => map2(d, s, move |a, b| h::add_half(kind, a, b, mode)),
                    ("add", true) => map2(d, s, move |a, b| h::add_half2(kind, a, b, mode)),
                    ("sub", false) => map2(d, s, move |a, b| h::sub_half(kind, a, b, mode)),
                    ("sub", true) => map2(d, s, move |a, b| h::sub_half2(kind, a, b, mode)),
                    (_, false) => map2(d, s, move |a, b| h::mul_half(kind, a, b, mode)),
                    (_, true) => map2(d, s, move |a, b| h::mul_half2(kind, a, b, mode)),
                })
            }
            _ => Err("no such instruction on 16-bit floats".to_string()),
        }
    }

    pub(super) fn float_function(
        &mut self,
        name: &str,
        m: &mut Modifiers,
        ops: &[Operand],
    ) -> Decoded {
        if name == "testp" {
            return self.testp(m, ops);
        }
        if name == "copysign" {
            let ty = m.ty()?;
            let (d, s) = self.two(ops, ty)?;
            // copysign d, a, b: magnitude of b, sign of a.
            let alu = match ty {
                Type::F32 => map2(d, s, |a: f32, b: f32| b.copysign(a)),
                Type::F64 => map2(d, s, |a: f64, b: f64| b.copysign(a)),
                _ => return Err(format!("type {ty:?} is not known here")),
            };
            return Ok(Kind::Alu(alu));
        }
        let approximate = m.take("approx");
        let rounding = m.rounding();
        let ftz = m.take("ftz");
        let ty = m.ty()?;
        let [d, a] = self.operands::<2>(ops)?;
        let (d, a) = (self.dst(d, ty)?, self.src(a, ty)?);
        let mode = FloatMode { rounding: rounding.unwrap_or_default(), ftz, sat: false };
        let r = mode.rounding;
        let rounded = rounding.is_some();
        let alu: Alu = match (name, ty, approximate, rounded) {
            ("rcp", Type::F32, true, false) => map1(d, a, move |x| approx::rcp_f32(x, ftz)),
            ("rcp", Type::F32, false, true) => map1(d, a, move |x| f::rcp_f32(x, mode)),
            ("rcp", Type::F64, false, true) => map1(d, a, move |x| f::rcp_f64(x, r)),
            ("rcp", Type::F64, true, false) if ftz => map1(d, a, approx::rcp_approx_f64),
            ("sqrt", Type::F32, true, false) => map1(d, a, move |x| approx::sqrt_f32(x, ftz)),
            ("sqrt", Type::F32, false, true) => map1(d, a, move |x| f::sqrt_f32(x, mode)),
            ("sqrt", Type::F64, false, true) => map1(d, a, move |x| f::sqrt_f64(x, r)),
            ("rsqrt", Type::F32, true, false) => map1(d, a, move |x| approx::rsqrt_f32(x, ftz)),
            ("rsqrt", Type::F64, true, false) => {
                map1(d, a, move |x| approx::rsqrt_approx_f64(x, ftz))
            }
            ("ex2", Type::F32, true, false) => map1(d, a, move |x| approx::ex2_f32(x, ftz)),
            ("lg2", Type::F32, true, false) => map1(d, a, move |x| approx::lg2_f32(x, ftz)),
            ("sin", Type::F32, true, false) => map1(d, a, move |x| approx::sin_f32(x, ftz)),
            ("cos", Type::F32, true, false) => map1(d, a, move |x| approx::cos_f32(x, ftz)),
            ("tanh", Type::F32, true, false) => map1(d, a, approx::tanh_f32),
            ("ex2" | "tanh", _, true, false)
                if matches!(ty, Type::F16 | Type::Bf16 | Type::F16x2 | Type::Bf16x2) =>
            {
                let kind = half_kind(ty);
                let exponential = name == "ex2";
                let one = move |x: u16| {
                    if exponential {
                        approx::ex2_half(kind, x, ftz)
                    } else {
                        approx::tanh_half(kind, x)
                    }
                };
                if packed(ty) {
                    map1(d, a, move |x: u32| h::map1(x, one))
                } else {
                    map1(d, a, one)
                }
            }
            _ => return Err("this combination of type and rounding is not known".to_string()),
        };
        Ok(Kind::Alu(alu))
    }

    fn testp(&mut self, m: &mut Modifiers, ops: &[Operand]) -> Decoded {
        let class = match m.one_of(&["finite", "infinite", "number", "notanumber", "normal", "subnormal"])
        {
            Some("finite") => FloatClass::Finite,
            Some("infinite") => FloatClass::Infinite,
            Some("number") => FloatClass::Number,
            Some("notanumber") => FloatClass::NotANumber,
            Some("normal") => FloatClass::Normal,
            Some(_) => FloatClass::Subnormal,
            None => return Err("a class such as .finite is missing".to_string()),
        };
        let ty = m.ty()?;
        let [p, a] = self.operands::<2>(ops)?;
        let (p, a) = (self.pred_dst(p)?, self.src(a, ty)?);
        let alu = match ty {
            Type::F32 => map1(p, a, move |x| f::test_f32(class, x)),
            Type::F64 => map1(p, a, move |x| f::test_f64(class, x)),
            _ => return Err(format!("type {ty:?} is not known here")),
        };
        Ok(Kind::Alu(alu))
    }
}
