//! `setp set selp slct`.

use super::arithmetic::by_integer;
use super::modifiers::Modifiers;
use super::{Body, Decoded};
use crate::exec::regs::{Alu, Lane, Regs, Row, lanes_where};
use crate::parse::ast::Operand;
use crate::parse::types::Type;
use crate::program::Kind;
use crate::semantics::float::{FloatCompare, compare_f32, compare_f64};
use crate::semantics::half2::{HalfKind, compare_half};

/// Lanes where a comparison holds.
type Test = Box<dyn Fn(&Regs) -> u32 + Send + Sync>;

const COMPARISONS: [&str; 18] = [
    "eq", "ne", "lt", "le", "gt", "ge", "lo", "ls", "hi", "hs", "equ", "neu", "ltu", "leu", "gtu",
    "geu", "num", "nan",
];

#[derive(Clone, Copy)]
enum Combine {
    And,
    Or,
    Xor,
}

fn test<T: Lane>(
    [a, b]: [Row; 2],
    f: impl Fn(T, T) -> bool + Send + Sync + 'static,
) -> Test {
    Box::new(move |regs| lanes_where(&T::get(regs, a), &T::get(regs, b), &f))
}

fn float_compare(name: &str) -> Option<FloatCompare> {
    Some(match name {
        "eq" => FloatCompare::Eq,
        "ne" => FloatCompare::Ne,
        "lt" => FloatCompare::Lt,
        "le" => FloatCompare::Le,
        "gt" => FloatCompare::Gt,
        "ge" => FloatCompare::Ge,
        "equ" => FloatCompare::Equ,
        "neu" => FloatCompare::Neu,
        "ltu" => FloatCompare::Ltu,
        "leu" => FloatCompare::Leu,
        "gtu" => FloatCompare::Gtu,
        "geu" => FloatCompare::Geu,
        "num" => FloatCompare::Num,
        "nan" => FloatCompare::Nan,
        _ => return None,
    })
}

fn integer_test(name: &str, ty: Type, s: [Row; 2]) -> Result<Test, String> {
    // lo, ls, hi and hs are the unsigned names.
    let name = match name {
        "lo" | "ls" | "hi" | "hs" if ty.signed() => {
            return Err(format!("{name} compares unsigned integers"));
        }
        "lo" => "lt",
        "ls" => "le",
        "hi" => "gt",
        "hs" => "ge",
        other => other,
    };
    Ok(by_integer!(ty, T => match name {
        "eq" => test(s, |a: T, b: T| a == b),
        "ne" => test(s, |a: T, b: T| a != b),
        "lt" => test(s, |a: T, b: T| a < b),
        "le" => test(s, |a: T, b: T| a <= b),
        "gt" => test(s, |a: T, b: T| a > b),
        "ge" => test(s, |a: T, b: T| a >= b),
        _ => return Err(format!("{name} compares floats")),
    }))
}

impl Body<'_, '_> {
    pub(super) fn compare(&mut self, name: &str, m: &mut Modifiers, ops: &[Operand]) -> Decoded {
        let alu = match name {
            "setp" => self.setp(m, ops)?,
            "set" => self.set(m, ops)?,
            "selp" => self.selp(m, ops)?,
            _ => self.slct(m, ops)?,
        };
        Ok(Kind::Alu(alu))
    }

    fn comparison(
        &mut self,
        m: &mut Modifiers,
    ) -> Result<(&'static str, Option<Combine>), String> {
        let name = m.one_of(&COMPARISONS).ok_or("a comparison such as .lt is missing")?;
        let combine = m.one_of(&["and", "or", "xor"]).map(|c| match c {
            "and" => Combine::And,
            "or" => Combine::Or,
            _ => Combine::Xor,
        });
        Ok((name, combine))
    }

    fn test(&mut self, name: &str, ty: Type, ftz: bool, s: &[Operand; 2]) -> Result<Test, String> {
        let s = [self.src(&s[0], ty)?, self.src(&s[1], ty)?];
        if !ty.float() {
            return integer_test(name, ty, s);
        }
        let compare = float_compare(name).ok_or_else(|| format!("{name} compares integers"))?;
        Ok(match ty {
            Type::F32 if !ftz => match compare {
                FloatCompare::Lt => test(s, |a: f32, b: f32| a < b),
                FloatCompare::Gt => test(s, |a: f32, b: f32| a > b),
                FloatCompare::Le => test(s, |a: f32, b: f32| a <= b),
                FloatCompare::Ge => test(s, |a: f32, b: f32| a >= b),
                FloatCompare::Eq => test(s, |a: f32, b: f32| a == b),
                FloatCompare::Neu => test(s, |a: f32, b: f32| a != b),
                compare => test(s, move |a, b| compare_f32(compare, a, b, false)),
            },
            Type::F32 => test(s, move |a, b| compare_f32(compare, a, b, ftz)),
            Type::F64 => test(s, move |a, b| compare_f64(compare, a, b)),
            Type::F16 => test(s, move |a, b| compare_half(HalfKind::F16, compare, a, b, ftz)),
            Type::Bf16 => test(s, move |a, b| compare_half(HalfKind::Bf16, compare, a, b, ftz)),
            _ => return Err(format!("type {ty:?} is not known here")),
        })
    }

    /// The halves of an `f16x2` comparison.
    fn packed_test(
        &mut self,
        name: &str,
        ty: Type,
        ftz: bool,
        s: &[Operand; 2],
    ) -> Result<[Test; 2], String> {
        let rows = [self.src(&s[0], ty)?, self.src(&s[1], ty)?];
        let compare = float_compare(name).ok_or_else(|| format!("{name} compares integers"))?;
        let kind = if ty == Type::F16x2 { HalfKind::F16 } else { HalfKind::Bf16 };
        let low = test(rows, move |a: u32, b: u32| {
            compare_half(kind, compare, a as u16, b as u16, ftz)
        });
        let high = test(rows, move |a: u32, b: u32| {
            compare_half(kind, compare, (a >> 16) as u16, (b >> 16) as u16, ftz)
        });
        Ok([low, high])
    }

    fn setp(&mut self, m: &mut Modifiers, ops: &[Operand]) -> Result<Alu, String> {
        let (name, combine) = self.comparison(m)?;
        let ftz = m.take("ftz");
        let ty = m.ty()?;
        let expected = 3 + usize::from(combine.is_some());
        if ops.len() != expected {
            return Err(format!("{expected} operands are expected, not {}", ops.len()));
        }
        let (p, q) = match &ops[0] {
            Operand::Pair(p, q) => (self.pred_dst(p)?, Some(self.pred_dst(q)?)),
            p => (self.pred_dst(p)?, None),
        };
        let c = ops.get(3).map(|c| self.pred_src(c)).transpose()?;
        let sources = [ops[1].clone(), ops[2].clone()];
        let combined = move |regs: &Regs, value: u32| match (combine, c) {
            (Some(combine), Some((row, negated))) => {
                let c = regs.pred(row);
                let c = if negated { !c } else { c };
                match combine {
                    Combine::And => value & c,
                    Combine::Or => value | c,
                    Combine::Xor => value ^ c,
                }
            }
            _ => value,
        };
        if matches!(ty, Type::F16x2 | Type::Bf16x2) {
            let [low, high] = self.packed_test(name, ty, ftz, &sources)?;
            let Some(q) = q else {
                return Err("a packed comparison has two destinations, p|q".to_string());
            };
            return Ok(Box::new(move |regs, mask| {
                let (x, y) = (combined(regs, low(regs)), combined(regs, high(regs)));
                regs.set_pred(p, mask, x);
                regs.set_pred(q, mask, y);
            }));
        }
        let test = self.test(name, ty, ftz, &sources)?;
        Ok(match (q, combine) {
            (None, None) => Box::new(move |regs, mask| {
                let value = test(regs);
                regs.set_pred(p, mask, value);
            }),
            _ => Box::new(move |regs, mask| {
                let value = test(regs);
                // q is the combination with the comparison's negation.
                let (x, y) = (combined(regs, value), combined(regs, !value));
                regs.set_pred(p, mask, x);
                if let Some(q) = q {
                    regs.set_pred(q, mask, y);
                }
            }),
        })
    }

    fn set(&mut self, m: &mut Modifiers, ops: &[Operand]) -> Result<Alu, String> {
        let (name, combine) = self.comparison(m)?;
        if combine.is_some() {
            return Err("set with a combined predicate is not known".to_string());
        }
        let ftz = m.take("ftz");
        let (to, from) = (m.ty()?, m.ty()?);
        let [d, a, b] = self.operands::<3>(ops)?;
        let d = self.dst(d, to)?;
        let sources = [a.clone(), b.clone()];
        if matches!(from, Type::F16x2 | Type::Bf16x2) {
            let [low, high] = self.packed_test(name, from, ftz, &sources)?;
            let one = match to {
                Type::F16x2 => 0x3c00,
                Type::Bf16x2 => 0x3f80,
                Type::U32 | Type::S32 | Type::B32 => 0xffff,
                _ => return Err(format!("type {to:?} is not known here")),
            };
            return Ok(Box::new(move |regs, mask| {
                let (x, y) = (low(regs), high(regs));
                let out =
                    std::array::from_fn(|i| (x >> i & 1) * one | (y >> i & 1) * one << 16);
                regs.set32(d, mask, &out);
            }));
        }
        let test = self.test(name, from, ftz, &sources)?;
        let one = match to {
            Type::F32 => 0x3f80_0000,
            Type::F16 => 0x3c00,
            Type::Bf16 => 0x3f80,
            Type::U16 | Type::S16 => 0xffff,
            Type::U32 | Type::S32 => u32::MAX,
            _ => return Err(format!("type {to:?} is not known here")),
        };
        Ok(Box::new(move |regs, mask| {
            let value = test(regs);
            let out = std::array::from_fn(|i| (value >> i & 1) * one);
            regs.set32(d, mask, &out);
        }))
    }

    fn selp(&mut self, m: &mut Modifiers, ops: &[Operand]) -> Result<Alu, String> {
        let ty = m.ty()?;
        let [d, a, b, p] = self.operands::<4>(ops)?;
        let (d, a, b) = (self.dst(d, ty)?, self.src(a, ty)?, self.src(b, ty)?);
        let (p, negated) = self.pred_src(p)?;
        Ok(if ty.wide() {
            Box::new(move |regs, mask| {
                let chosen = regs.pred(p) ^ if negated { u32::MAX } else { 0 };
                let (x, mut out) = (*regs.row64(a), *regs.row64(b));
                for i in 0..32 {
                    out[i] = if chosen >> i & 1 != 0 { x[i] } else { out[i] };
                }
                regs.set64(d, mask, &out);
            })
        } else {
            Box::new(move |regs, mask| {
                let chosen = regs.pred(p) ^ if negated { u32::MAX } else { 0 };
                let (x, mut out) = (*regs.row32(a), *regs.row32(b));
                for i in 0..32 {
                    out[i] = if chosen >> i & 1 != 0 { x[i] } else { out[i] };
                }
                regs.set32(d, mask, &out);
            })
        })
    }

    fn slct(&mut self, m: &mut Modifiers, ops: &[Operand]) -> Result<Alu, String> {
        let ftz = m.take("ftz");
        let (ty, by) = (m.ty()?, m.ty()?);
        let [d, a, b, c] = self.operands::<4>(ops)?;
        let (d, a, b) = (self.dst(d, ty)?, self.src(a, ty)?, self.src(b, ty)?);
        let c = self.src(c, by)?;
        let first: Test = match by {
            Type::S32 => Box::new(move |regs| {
                lanes_where(&i32::get(regs, c), &[0; 32], |x, zero| x >= zero)
            }),
            // A subnormal is flushed to a zero, which is not negative, whatever its sign.
            Type::F32 => Box::new(move |regs| {
                lanes_where(&f32::get(regs, c), &[0.0; 32], move |x, zero| {
                    x >= zero || ftz && x.is_subnormal()
                })
            }),
            _ => return Err(format!("type {by:?} is not known here")),
        };
        Ok(Box::new(move |regs, mask| {
            let chosen = first(regs);
            if ty.wide() {
                let (x, y) = (*regs.row64(a), *regs.row64(b));
                let out = std::array::from_fn(|i| if chosen >> i & 1 != 0 { x[i] } else { y[i] });
                regs.set64(d, mask, &out);
            } else {
                let (x, y) = (*regs.row32(a), *regs.row32(b));
                let out = std::array::from_fn(|i| if chosen >> i & 1 != 0 { x[i] } else { y[i] });
                regs.set32(d, mask, &out);
            }
        }))
    }
}
