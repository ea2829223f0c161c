//! Bitwise instructions, shifts, permutes and bit fields.

use super::arithmetic::by_integer;
use super::modifiers::Modifiers;
use super::{Body, Decoded};
use crate::exec::regs::{Alu, Row, map1, map2, map3};
use crate::parse::ast::{Literal, Operand};
use crate::parse::types::Type;
use crate::program::Kind;
use crate::semantics::integer::{self as int, PermuteMode};

impl Body<'_, '_> {
    pub(super) fn bits(&mut self, name: &str, m: &mut Modifiers, ops: &[Operand]) -> Decoded {
        let alu = match name {
            "and" | "or" | "xor" | "not" | "cnot" => self.logical(name, m, ops)?,
            "shl" | "shr" => self.shift(name, m, ops)?,
            "shf" => self.funnel_shift(m, ops)?,
            "lop3" => self.lop3(m, ops)?,
            "prmt" => self.prmt(m, ops)?,
            "bfe" | "bfi" => self.bit_field(name, m, ops)?,
            _ => self.bit_count(name, m, ops)?,
        };
        Ok(Kind::Alu(alu))
    }

    fn logical(&mut self, name: &str, m: &mut Modifiers, ops: &[Operand]) -> Result<Alu, String> {
        let ty = m.ty()?;
        if ty == Type::Pred {
            return self.logical_predicate(name, ops);
        }
        if !matches!(ty, Type::B16 | Type::B32 | Type::B64) {
            return Err(format!("type {ty:?} is not known here: .b16, .b32, .b64 or .pred"));
        }
        if matches!(name, "not" | "cnot") {
            let [d, a] = self.operands::<2>(ops)?;
            let (d, a) = (self.dst(d, ty)?, self.src(a, ty)?);
            return Ok(if name == "not" {
                by_integer!(ty, T => map1(d, a, |x: T| !x))
            } else {
                by_integer!(ty, T => map1(d, a, |x: T| T::from(x == 0)))
            });
        }
        let (d, s) = self.two(ops, ty)?;
        Ok(match (name, ty) {
            ("and", Type::B64) => map2(d, s, |a: u64, b: u64| a & b),
            ("or", Type::B64) => map2(d, s, |a: u64, b: u64| a | b),
            (_, Type::B64) => map2(d, s, |a: u64, b: u64| a ^ b),
            ("and", _) => map2(d, s, |a: u32, b: u32| a & b),
            ("or", _) => map2(d, s, |a: u32, b: u32| a | b),
            _ => map2(d, s, |a: u32, b: u32| a ^ b),
        })
    }

    fn logical_predicate(&mut self, name: &str, ops: &[Operand]) -> Result<Alu, String> {
        let d = self.pred_dst(ops.first().ok_or("operands are missing")?)?;
        let mut sources = Vec::new();
        for operand in &ops[1..] {
            sources.push(self.pred_src(operand)?);
        }
        let read = |regs: &crate::exec::regs::Regs, (row, negated): (Row, bool)| {
            let p = regs.pred(row);
            if negated { !p } else { p }
        };
        Ok(match (name, &sources[..]) {
            ("not", &[a]) => Box::new(move |regs, mask| {
                let v = !read(regs, a);
                regs.set_pred(d, mask, v);
            }),
            ("and", &[a, b]) => Box::new(move |regs, mask| {
                let v = read(regs, a) & read(regs, b);
                regs.set_pred(d, mask, v);
            }),
            ("or", &[a, b]) => Box::new(move |regs, mask| {
                let v = read(regs, a) | read(regs, b);
                regs.set_pred(d, mask, v);
            }),
            ("xor", &[a, b]) => Box::new(move |regs, mask| {
                let v = read(regs, a) ^ read(regs, b);
                regs.set_pred(d, mask, v);
            }),
            _ => return Err("wrong operands for predicates".to_string()),
        })
    }

    fn shift(&mut self, name: &str, m: &mut Modifiers, ops: &[Operand]) -> Result<Alu, String> {
        let ty = m.ty()?;
        let [d, a, by] = self.operands::<3>(ops)?;
        let (d, a, by) = (self.dst(d, ty)?, self.src(a, ty)?, self.src(by, Type::U32)?);
        let s = [a, by];
        Ok(match (name, ty) {
            ("shl", Type::B16) => map2(d, s, int::shl_b16),
            ("shl", Type::B32) => map2(d, s, int::shl_b32),
            ("shl", Type::B64) => map2(d, s, int::shl_b64),
            ("shr", Type::B16 | Type::U16) => map2(d, s, int::shr_u16),
            ("shr", Type::B32 | Type::U32) => map2(d, s, int::shr_u32),
            ("shr", Type::B64 | Type::U64) => map2(d, s, int::shr_u64),
            ("shr", Type::S16) => map2(d, s, int::shr_s16),
            ("shr", Type::S32) => map2(d, s, int::shr_s32),
            ("shr", Type::S64) => map2(d, s, int::shr_s64),
            _ => return Err(format!("type {ty:?} is not known here")),
        })
    }

    fn funnel_shift(&mut self, m: &mut Modifiers, ops: &[Operand]) -> Result<Alu, String> {
        let left = m.take("l");
        if !left && !m.take("r") {
            return Err("l or r is missing".to_string());
        }
        let wrap = m.take("wrap");
        if !wrap && !m.take("clamp") {
            return Err("wrap or clamp is missing".to_string());
        }
        if m.ty()? != Type::B32 {
            return Err("the type is .b32".to_string());
        }
        let (d, s) = self.three(ops, Type::B32)?;
        Ok(if left {
            map3(d, s, move |a, b, c| int::shf_left(a, b, c, wrap))
        } else {
            map3(d, s, move |a, b, c| int::shf_right(a, b, c, wrap))
        })
    }

    fn lop3(&mut self, m: &mut Modifiers, ops: &[Operand]) -> Result<Alu, String> {
        if m.ty()? != Type::B32 {
            return Err("the type is .b32".to_string());
        }
        let [d, a, b, c, table] = self.operands::<5>(ops)?;
        let Operand::Literal(Literal::Int(table @ 0..=255)) = *table else {
            return Err("the table is a literal from 0 to 255".to_string());
        };
        let d = self.dst(d, Type::B32)?;
        let s = [self.src(a, Type::B32)?, self.src(b, Type::B32)?, self.src(c, Type::B32)?];
        // The tables compilers use most get their own loops.
        Ok(match table as u8 {
            0xea => map3(d, s, |a: u32, b: u32, c: u32| a & b | c),
            0xf8 => map3(d, s, |a: u32, b: u32, c: u32| a | b & c),
            0xfe => map3(d, s, |a: u32, b: u32, c: u32| a | b | c),
            0x96 => map3(d, s, |a: u32, b: u32, c: u32| a ^ b ^ c),
            0x80 => map3(d, s, |a: u32, b: u32, c: u32| a & b & c),
            table => map3(d, s, move |a, b, c| int::lop3(a, b, c, table)),
        })
    }

    fn prmt(&mut self, m: &mut Modifiers, ops: &[Operand]) -> Result<Alu, String> {
        if m.ty()? != Type::B32 {
            return Err("the type is .b32".to_string());
        }
        let mode = match m.one_of(&["f4e", "b4e", "rc8", "ecl", "ecr", "rc16"]) {
            None => PermuteMode::Default,
            Some("f4e") => PermuteMode::Forward4Extract,
            Some("b4e") => PermuteMode::Backward4Extract,
            Some("rc8") => PermuteMode::Replicate8,
            Some("ecl") => PermuteMode::EdgeClampLeft,
            Some("ecr") => PermuteMode::EdgeClampRight,
            Some(_) => PermuteMode::Replicate16,
        };
        let (d, s) = self.three(ops, Type::B32)?;
        Ok(match mode {
            PermuteMode::Default => {
                map3(d, s, |a, b, c| int::prmt(PermuteMode::Default, a, b, c))
            }
            mode => map3(d, s, move |a, b, c| int::prmt(mode, a, b, c)),
        })
    }

    fn bit_field(&mut self, name: &str, m: &mut Modifiers, ops: &[Operand]) -> Result<Alu, String> {
        let ty = m.ty()?;
        if name == "bfe" {
            let [d, a, start, length] = self.operands::<4>(ops)?;
            let (d, a) = (self.dst(d, ty)?, self.src(a, ty)?);
            let s = [a, self.src(start, Type::U32)?, self.src(length, Type::U32)?];
            return Ok(match ty {
                Type::U32 => map3(d, s, int::bfe_u32),
                Type::S32 => map3(d, s, int::bfe_s32),
                Type::U64 => map3(d, s, int::bfe_u64),
                Type::S64 => map3(d, s, int::bfe_s64),
                _ => return Err(format!("type {ty:?} is not known here")),
            });
        }
        let [d, a, b, start, length] = self.operands::<5>(ops)?;
        let (d, a, b) = (self.dst(d, ty)?, self.src(a, ty)?, self.src(b, ty)?);
        let (start, length) = (self.src(start, Type::U32)?, self.src(length, Type::U32)?);
        Ok(match ty {
            Type::B32 => Box::new(move |regs, mask| {
                let (a, b) = (*regs.row32(a), *regs.row32(b));
                let (p, n) = (*regs.row32(start), *regs.row32(length));
                let out = std::array::from_fn(|i| int::bfi_b32(a[i], b[i], p[i], n[i]));
                regs.set32(d, mask, &out);
            }),
            Type::B64 => Box::new(move |regs, mask| {
                let (a, b) = (*regs.row64(a), *regs.row64(b));
                let (p, n) = (*regs.row32(start), *regs.row32(length));
                let out = std::array::from_fn(|i| int::bfi_b64(a[i], b[i], p[i], n[i]));
                regs.set64(d, mask, &out);
            }),
            _ => return Err(format!("type {ty:?} is not known here")),
        })
    }

    fn bit_count(&mut self, name: &str, m: &mut Modifiers, ops: &[Operand]) -> Result<Alu, String> {
        if matches!(name, "fns" | "bmsk" | "szext") {
            return self.bit_masks(name, m, ops);
        }
        let amount = name == "bfind" && m.take("shiftamt");
        let ty = m.ty()?;
        let [d, a] = self.operands::<2>(ops)?;
        let a = self.src(a, ty)?;
        let d = self.dst(d, if name == "brev" { ty } else { Type::U32 })?;
        Ok(match (name, ty) {
            ("brev", Type::B32) => map1(d, a, u32::reverse_bits),
            ("brev", Type::B64) => map1(d, a, u64::reverse_bits),
            ("clz", Type::B32) => map1(d, a, u32::leading_zeros),
            ("clz", Type::B64) => map1(d, a, u64::leading_zeros),
            ("popc", Type::B32) => map1(d, a, u32::count_ones),
            ("popc", Type::B64) => map1(d, a, u64::count_ones),
            ("bfind", Type::U32) => map1(d, a, move |x| int::bfind_u32(x, amount)),
            ("bfind", Type::S32) => map1(d, a, move |x| int::bfind_s32(x, amount)),
            ("bfind", Type::U64) => map1(d, a, move |x| int::bfind_u64(x, amount)),
            ("bfind", Type::S64) => map1(d, a, move |x| int::bfind_s64(x, amount)),
            _ => return Err(format!("type {ty:?} is not known here")),
        })
    }

    fn bit_masks(&mut self, name: &str, m: &mut Modifiers, ops: &[Operand]) -> Result<Alu, String> {
        if name == "fns" {
            m.take("b32");
            let (d, s) = self.three(ops, Type::B32)?;
            return Ok(map3(d, s, int::fns));
        }
        let wrap = m.take("wrap");
        if !wrap && !m.take("clamp") {
            return Err("wrap or clamp is missing".to_string());
        }
        let ty = m.ty()?;
        if ty.bytes() != 4 {
            return Err(format!("type {ty:?} is not known here"));
        }
        let (d, s) = self.two(ops, ty)?;
        let signed = ty.signed();
        Ok(if name == "bmsk" {
            map2(d, s, move |a, b| int::bmsk(a, b, wrap))
        } else {
            map2(d, s, move |a, b| int::szext(a, b, signed, wrap))
        })
    }
}
