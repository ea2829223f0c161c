//! Video instructions.

use super::modifiers::Modifiers;
use super::{Body, Decoded};
use crate::exec::regs::map3;
use crate::parse::ast::Operand;
use crate::parse::types::Type;
use crate::program::Kind;
use crate::semantics::video::{Comparison, Video, VideoOperation};

impl Body<'_, '_> {
    pub(super) fn video(&mut self, name: &str, m: &mut Modifiers, ops: &[Operand]) -> Decoded {
        let (stem, lanes) = match name.as_bytes().last() {
            Some(b'2') => (&name[..name.len() - 1], 2),
            Some(b'4') => (&name[..name.len() - 1], 4),
            _ => (name, 1),
        };
        let operation = match stem {
            "vadd" => VideoOperation::Add,
            "vsub" => VideoOperation::Sub,
            "vabsdiff" => VideoOperation::AbsoluteDifference,
            "vmin" => VideoOperation::Min,
            "vmax" => VideoOperation::Max,
            "vavrg" if lanes > 1 => VideoOperation::Average,
            "vset" => VideoOperation::Set(
                match m.one_of(&["eq", "ne", "lt", "le", "gt", "ge"]).ok_or("a comparison is missing")? {
                    "eq" => Comparison::Eq,
                    "ne" => Comparison::Ne,
                    "lt" => Comparison::Lt,
                    "le" => Comparison::Le,
                    "gt" => Comparison::Gt,
                    _ => Comparison::Ge,
                },
            ),
            _ => return Err("this instruction is not known".to_string()),
        };
        let first = m.ty()?;
        let second = m.ty()?;
        // `vset` has no type for its result.
        let (d, a, b) = match m.try_ty() {
            Some(third) => (first, second, third),
            None => (Type::U32, first, second),
        };
        if ![d, a, b].iter().all(|t| matches!(t, Type::U32 | Type::S32)) {
            return Err("the types are .u32 or .s32".to_string());
        }
        let video = Video {
            operation,
            lanes,
            a_signed: a == Type::S32,
            b_signed: b == Type::S32,
            d_signed: d == Type::S32,
            saturate: m.take("sat"),
            accumulate: m.take("add"),
        };
        let (d, s) = match ops {
            [d, a, b] => {
                let d = self.dst(d, Type::U32)?;
                let b = self.src(b, Type::U32)?;
                (d, [self.src(a, Type::U32)?, b, b])
            }
            _ => self.three(ops, Type::U32)?,
        };
        Ok(Kind::Alu(map3(d, s, move |a: u32, b: u32, c: u32| video.run(a, b, c))))
    }
}
