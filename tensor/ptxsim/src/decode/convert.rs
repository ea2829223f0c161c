//! `cvt`, `mov`, `cvta`, `isspacep`.

use super::modifiers::Modifiers;
use super::operands::is_clock;
use super::scopes::Symbol;
use super::{Body, Decoded};
use crate::exec::regs::{Alu, Reg, Regs, map1, map2};
use crate::memory::{LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW, in_window};
use crate::parse::ast::{Operand, Space};
use crate::parse::types::Type;
use crate::program::{Constant, Kind};
use crate::semantics::convert::{
    Conversion, ScalarType, convert, convert_packed, convert_pair, pack_integers,
};
use crate::semantics::exact::Rounding;
use crate::semantics::float::canonical_f32;
use crate::semantics::half2::{bf16_to_f32, f16_to_f32, f32_to_bf16, f32_to_f16};

fn scalar(ty: Type) -> Result<ScalarType, String> {
    Ok(match ty {
        Type::U8 | Type::B8 => ScalarType::U8,
        Type::U16 | Type::B16 => ScalarType::U16,
        Type::U32 | Type::B32 => ScalarType::U32,
        Type::U64 | Type::B64 => ScalarType::U64,
        Type::S8 => ScalarType::S8,
        Type::S16 => ScalarType::S16,
        Type::S32 => ScalarType::S32,
        Type::S64 => ScalarType::S64,
        Type::F16 | Type::F16x2 => ScalarType::F16,
        Type::Bf16 | Type::Bf16x2 => ScalarType::Bf16,
        Type::F32 => ScalarType::F32,
        Type::F64 => ScalarType::F64,
        Type::Tf32 => ScalarType::Tf32,
        Type::E4m3x2 => ScalarType::E4m3,
        Type::E5m2x2 => ScalarType::E5m2,
        Type::B128 | Type::Pred => return Err(format!("type {ty:?} cannot be converted")),
    })
}

fn is_packed(ty: Type) -> bool {
    matches!(ty, Type::F16x2 | Type::Bf16x2 | Type::E4m3x2 | Type::E5m2x2)
}

impl Body<'_, '_> {
    pub(super) fn cvt(&mut self, m: &mut Modifiers, ops: &[Operand]) -> Decoded {
        if m.take("pack") {
            return self.cvt_pack(m, ops);
        }
        let (mut rounding, mut integral) = (m.rounding(), false);
        if rounding.is_none()
            && let Some(name) = m.one_of(&["rni", "rzi", "rmi", "rpi", "rna"])
        {
            integral = name != "rna";
            rounding = Some(match name {
                "rni" => Rounding::Nearest,
                "rzi" => Rounding::Zero,
                "rmi" => Rounding::Down,
                "rpi" => Rounding::Up,
                _ => Rounding::NearestAway,
            });
        }
        let (satfinite, relu) = (m.take("satfinite"), m.take("relu"));
        let (ftz, sat) = (m.take("ftz"), m.take("sat"));
        let (to, from) = (m.ty()?, m.ty()?);
        let conversion = Conversion {
            rounding: rounding.unwrap_or_default(),
            integral,
            sat,
            satfinite,
            ftz,
            relu,
            ..Conversion::new(scalar(to)?, scalar(from)?)
        };
        if from.float() && !to.float() && !integral {
            return Err("float to integer needs .rni, .rzi, .rmi or .rpi".to_string());
        }
        if is_packed(to) && from == Type::F32 {
            let [d, a, b] = self.operands::<3>(ops)?;
            let (d, s) = (self.dst(d, to)?, [self.src(a, from)?, self.src(b, from)?]);
            let plain = conversion
                == Conversion {
                    rounding: Rounding::Nearest,
                    ..Conversion::new(scalar(to)?, ScalarType::F32)
                };
            let alu = match (to, plain) {
                (Type::Bf16x2, true) => {
                    map2(d, s, |a: f32, b: f32| u32::from(f32_to_bf16(a)) << 16 | u32::from(f32_to_bf16(b)))
                }
                (Type::F16x2, true) => {
                    map2(d, s, |a: f32, b: f32| u32::from(f32_to_f16(a)) << 16 | u32::from(f32_to_f16(b)))
                }
                _ => map2(d, s, move |a, b| convert_pair(a, b, &conversion)),
            };
            return Ok(Kind::Alu(alu));
        }
        let [d, a] = self.operands::<2>(ops)?;
        if is_packed(to) {
            if !is_packed(from) {
                return Err(format!("{from:?} to {to:?} is not known"));
            }
            let (d, a) = (self.dst(d, to)?, self.src(a, from)?);
            let alu = map1(d, a, move |x| convert_packed(x, &conversion));
            return Ok(Kind::Alu(alu));
        }
        // Registers may be wider than the types.
        let (d, a) = (self.dst_reg(d)?, self.source(a, from)?);
        let alu: Alu = match (from, to, d, a) {
            (Type::Bf16, Type::F32, Reg::W32(d), Reg::W32(a)) if !sat && !relu => {
                map1(d, a, |x: u16| canonical_f32(bf16_to_f32(x)))
            }
            (Type::F16, Type::F32, Reg::W32(d), Reg::W32(a)) if !sat && !ftz => {
                map1(d, a, |x: u16| canonical_f32(f16_to_f32(x)))
            }
            (Type::F32, Type::Bf16, Reg::W32(d), Reg::W32(a))
                if !relu && !satfinite && conversion.rounding == Rounding::Nearest =>
            {
                map1(d, a, f32_to_bf16)
            }
            (Type::F32, Type::F16, Reg::W32(d), Reg::W32(a))
                if !relu && !sat && !ftz && !satfinite && conversion.rounding == Rounding::Nearest =>
            {
                map1(d, a, f32_to_f16)
            }
            (Type::U32, Type::U64 | Type::S64, Reg::W64(d), Reg::W32(a)) if !sat => {
                map1(d, a, |x: u32| u64::from(x))
            }
            (Type::S32, Type::U64 | Type::S64, Reg::W64(d), Reg::W32(a)) if !sat => {
                map1(d, a, |x: i32| i64::from(x))
            }
            (Type::U64 | Type::S64, Type::U32 | Type::S32, Reg::W32(d), Reg::W64(a)) if !sat => {
                map1(d, a, |x: u64| x as u32)
            }
            (Type::S32, Type::F32, Reg::W32(d), Reg::W32(a))
                if conversion.rounding == Rounding::Nearest && !integral && !sat =>
            {
                map1(d, a, |x: i32| x as f32)
            }
            (Type::U32, Type::F32, Reg::W32(d), Reg::W32(a))
                if conversion.rounding == Rounding::Nearest && !integral && !sat =>
            {
                map1(d, a, |x: u32| x as f32)
            }
            _ => Box::new(move |regs, mask| {
                let x = regs.get(a);
                let mut out = [0; 32];
                for i in 0..32 {
                    out[i] = convert(x[i], &conversion);
                }
                regs.set(d, mask, &narrow(&out, d, to));
            }),
        };
        if matches!(d, Reg::Pred(_)) || matches!(a, Reg::Pred(_)) {
            return Err("a predicate cannot be converted".to_string());
        }
        Ok(Kind::Alu(alu))
    }

    fn cvt_pack(&mut self, m: &mut Modifiers, ops: &[Operand]) -> Decoded {
        if !m.take("sat") {
            return Err("pack goes with sat".to_string());
        }
        let (to, from) = (m.ty()?, m.ty()?);
        let extra = m.try_ty();
        if from != Type::S32 || !matches!(to, Type::U16 | Type::S16 | Type::U8 | Type::S8) {
            return Err(format!("{from:?} to {to:?} is not known"));
        }
        let to = scalar(to)?;
        let (d, a, b) = match ops {
            [d, a, b] | [d, a, b, _] => (self.dst(d, Type::B32)?, self.src(a, from)?, self.src(b, from)?),
            _ => return Err("3 or 4 operands are expected".to_string()),
        };
        let alu = match (ops.get(3), extra) {
            (Some(c), Some(Type::B32)) => {
                let c = self.src(c, Type::B32)?;
                crate::exec::regs::map3(d, [a, b, c], move |a, b, c| pack_integers(to, a, b, c))
            }
            (None, None) => map2(d, [a, b], move |a, b| pack_integers(to, a, b, 0)),
            _ => return Err("a fourth operand goes with a third type .b32".to_string()),
        };
        Ok(Kind::Alu(alu))
    }

    pub(super) fn moves(&mut self, name: &str, m: &mut Modifiers, ops: &[Operand]) -> Decoded {
        match name {
            "mov" => self.mov(m, ops),
            "cvta" => self.cvta(m, ops),
            "isspacep" => self.isspacep(m, ops),
            _ => Err("clusters are not known".to_string()),
        }
    }

    fn mov(&mut self, m: &mut Modifiers, ops: &[Operand]) -> Decoded {
        let ty = m.ty()?;
        let [d, a] = self.operands::<2>(ops)?;
        let alu: Alu = match (d, a) {
            (Operand::Vector(parts), a) => self.unpack_vector(parts, a, ty)?,
            (d, Operand::Vector(parts)) => self.pack_vector(d, parts, ty)?,
            _ if ty == Type::Pred => {
                let d = self.pred_dst(d)?;
                let (row, negated) = self.pred_src(a)?;
                Box::new(move |regs: &mut Regs, mask| {
                    let p = regs.pred(row);
                    regs.set_pred(d, mask, if negated { !p } else { p });
                })
            }
            (d, Operand::Name { name, negated: false, offset }) => {
                if is_clock(name) {
                    return Ok(Kind::Clock(self.dst_reg(d)?));
                }
                let symbol = self.scopes.find(name);
                if matches!(symbol, Some(Symbol::Variable { space: Space::Local, .. })) {
                    let (constant, _) = self.symbol(name, *offset)?;
                    let (at, base) = (self.constant64(constant), self.local_base);
                    // 32-bit where pointers into small spaces are compiled short (`--nvptx-short-ptr`).
                    let d = self.dst_reg(d)?;
                    Box::new(move |regs: &mut Regs, mask| {
                        let (x, y) = (*regs.row64(base), *regs.row64(at));
                        regs.set(d, mask, &std::array::from_fn(|i| x[i].wrapping_add(y[i])));
                    })
                } else {
                    self.copy(d, a, ty)?
                }
            }
            (d, a) => self.copy(d, a, ty)?,
        };
        Ok(Kind::Alu(alu))
    }

    fn copy(&mut self, d: &Operand, a: &Operand, ty: Type) -> Result<Alu, String> {
        let (d, a) = (self.dst(d, ty)?, self.src(a, ty)?);
        Ok(if ty.wide() { map1(d, a, |x: u64| x) } else { map1(d, a, |x: u32| x) })
    }

    /// `mov.b64 {%r1, %r2}, %rd1`.
    fn unpack_vector(&mut self, parts: &[Operand], a: &Operand, ty: Type) -> Result<Alu, String> {
        let each = self.part_bits(parts, ty)?;
        let a = self.source(a, ty)?;
        let mut targets = Vec::new();
        for part in parts {
            targets.push(self.dst_reg(part)?);
        }
        let keep = if each == 32 { u64::from(u32::MAX) } else { (1 << each) - 1 };
        Ok(Box::new(move |regs, mask| {
            let x = regs.get(a);
            for (i, &target) in targets.iter().enumerate() {
                let part = x.map(|v| v >> (each * i as u32) & keep);
                regs.set(target, mask, &part);
            }
        }))
    }

    /// `mov.b64 %rd1, {%r1, %r2}`.
    fn pack_vector(&mut self, d: &Operand, parts: &[Operand], ty: Type) -> Result<Alu, String> {
        let each = self.part_bits(parts, ty)?;
        let part_type = match each {
            8 => Type::B8,
            16 => Type::B16,
            _ => Type::B32,
        };
        let d = self.dst_reg(d)?;
        let mut sources = Vec::new();
        for part in parts {
            sources.push(self.source(part, part_type)?);
        }
        let keep = if each == 32 { u64::from(u32::MAX) } else { (1 << each) - 1 };
        Ok(Box::new(move |regs, mask| {
            let mut out = [0; 32];
            for (i, &source) in sources.iter().enumerate() {
                let x = regs.get(source);
                for lane in 0..32 {
                    out[lane] |= (x[lane] & keep) << (each * i as u32);
                }
            }
            regs.set(d, mask, &out);
        }))
    }

    fn part_bits(&self, parts: &[Operand], ty: Type) -> Result<u32, String> {
        let bits = 8 * ty.bytes();
        let n = parts.len() as u32;
        if !matches!(n, 2 | 4) || !matches!(bits / n, 8 | 16 | 32) {
            return Err(format!("{n} parts of {bits} bits are not known"));
        }
        Ok(bits / n)
    }

    fn cvta(&mut self, m: &mut Modifiers, ops: &[Operand]) -> Decoded {
        let to = m.take("to");
        let space = m.take_where(|p| space_window(p).is_some()).ok_or("a space is missing")?;
        let window = space_window(space).unwrap_or_default();
        let ty = m.ty()?;
        if ty != Type::U64 {
            return Err("only 64-bit addresses are known".to_string());
        }
        let [d, a] = self.operands::<2>(ops)?;
        let d = self.dst(d, ty)?;
        let mut extra = None;
        let a = match a {
            Operand::Name { name, offset, .. }
                if !matches!(self.scopes.find(name), Some(Symbol::Register(..))) =>
            {
                let (constant, base) = self.symbol(name, *offset)?;
                extra = base;
                self.constant64(constant)
            }
            a => self.src(a, ty)?,
        };
        let a = match extra {
            None => [a, self.constant64(Constant::Bits(0))],
            Some(base) => [a, base],
        };
        let alu = if to {
            map2(d, a, move |x: u64, base: u64| x.wrapping_add(base).wrapping_sub(window))
        } else {
            map2(d, a, move |x: u64, base: u64| x.wrapping_add(base).wrapping_add(window))
        };
        Ok(Kind::Alu(alu))
    }

    fn isspacep(&mut self, m: &mut Modifiers, ops: &[Operand]) -> Decoded {
        let space = m.take_where(|p| space_window(p).is_some()).ok_or("a space is missing")?;
        let [p, a] = self.operands::<2>(ops)?;
        let (p, a) = (self.pred_dst(p)?, self.src(a, Type::U64)?);
        let window = space_window(space).unwrap_or_default();
        let alu = match space {
            "global" | "const" => map1(p, a, |x: u64| x < SHARED_WINDOW),
            _ => map1(p, a, move |x: u64| in_window(x, window)),
        };
        Ok(Kind::Alu(alu))
    }
}

/// Where the window of a space begins in generic addresses.
fn space_window(name: &str) -> Option<u64> {
    Some(match name {
        "global" | "const" => 0,
        "shared" | "shared::cta" => SHARED_WINDOW,
        "local" => LOCAL_WINDOW,
        "param" | "param::entry" => PARAM_WINDOW,
        _ => return None,
    })
}

/// Cuts results to what the destination holds: a register as wide as the type keeps its upper bits
/// clear, a wider one gets the sign.
fn narrow(values: &[u64; 32], d: Reg, to: Type) -> [u64; 32] {
    match (d, to.bytes()) {
        (Reg::W32(_), 1) if !to.signed() => values.map(|v| v & 0xff),
        (Reg::W32(_), 2) if !to.signed() => values.map(|v| v & 0xffff),
        _ => *values,
    }
}
