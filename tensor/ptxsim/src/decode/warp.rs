//! Operations across the lanes of a warp.

use super::modifiers::Modifiers;
use super::{Body, Decoded};
use crate::exec::regs::Row;
use crate::parse::ast::Operand;
use crate::parse::types::Type;
use crate::program::{AtomicOp, Collective, Kind, ShuffleMode};

impl Body<'_, '_> {
    pub(super) fn warp(&mut self, name: &str, m: &mut Modifiers, ops: &[Operand]) -> Decoded {
        if name == "activemask" {
            if m.ty()? != Type::B32 {
                return Err("the type is .b32".to_string());
            }
            let [d] = self.operands::<1>(ops)?;
            return Ok(Kind::ActiveMask(self.dst(d, Type::B32)?));
        }
        if !m.take("sync") {
            return Err(format!("only {name}.sync is known"));
        }
        let (members, operation) = match name {
            "shfl" => self.shuffle(m, ops)?,
            "vote" => self.vote(m, ops)?,
            "match" => self.matching(m, ops)?,
            "redux" => self.reduce(m, ops)?,
            _ => {
                let [pair, members] = self.operands::<2>(ops)?;
                let Operand::Pair(d, p) = pair else {
                    return Err("the destinations are d|p".to_string());
                };
                let elect = Collective::Elect { dst: self.dst_reg(d)?, chosen: self.pred_dst(p)? };
                (self.src(members, Type::B32)?, elect)
            }
        };
        let operation = Box::new(operation);
        Ok(Kind::Collective { members: Some(members), operation })
    }

    fn shuffle(&mut self, m: &mut Modifiers, ops: &[Operand]) -> Result<(Row, Collective), String> {
        let mode = match m.one_of(&["up", "down", "bfly", "idx"]) {
            Some("up") => ShuffleMode::Up,
            Some("down") => ShuffleMode::Down,
            Some("bfly") => ShuffleMode::Butterfly,
            Some(_) => ShuffleMode::Index,
            None => return Err("up, down, bfly or idx is missing".to_string()),
        };
        if m.ty()? != Type::B32 {
            return Err("the type is .b32".to_string());
        }
        let [d, value, lane, clamp, members] = self.operands::<5>(ops)?;
        let (dst, valid) = match d {
            Operand::Pair(d, p) => (self.dst_reg(d)?, Some(self.pred_dst(p)?)),
            d => (self.dst_reg(d)?, None),
        };
        let value = self.src(value, Type::B32)?;
        let (lane, clamp) = (self.src(lane, Type::B32)?, self.src(clamp, Type::B32)?);
        let members = self.src(members, Type::B32)?;
        Ok((members, Collective::Shuffle { mode, dst, valid, value, lane, clamp }))
    }

    fn vote(&mut self, m: &mut Modifiers, ops: &[Operand]) -> Result<(Row, Collective), String> {
        let mode = m
            .one_of(&["all", "any", "uni", "ballot"])
            .ok_or("all, any, uni or ballot is missing")?;
        let ty = m.ty()?;
        let [d, input, members] = self.operands::<3>(ops)?;
        let input = self.pred_src(input)?;
        let members = self.src(members, Type::B32)?;
        let collective = match (mode, ty) {
            ("ballot", Type::B32) => {
                Collective::Ballot { dst: self.dst(d, Type::B32)?, input }
            }
            ("all", Type::Pred) => Collective::VoteAll { dst: self.pred_dst(d)?, input },
            ("any", Type::Pred) => Collective::VoteAny { dst: self.pred_dst(d)?, input },
            ("uni", Type::Pred) => Collective::VoteUniform { dst: self.pred_dst(d)?, input },
            _ => return Err(format!("type {ty:?} does not go with {mode}")),
        };
        Ok((members, collective))
    }

    fn matching(&mut self, m: &mut Modifiers, ops: &[Operand]) -> Result<(Row, Collective), String> {
        let any = m.take("any");
        if !any && !m.take("all") {
            return Err("any or all is missing".to_string());
        }
        let ty = m.ty()?;
        let [d, value, members] = self.operands::<3>(ops)?;
        let value = self.source(value, ty)?;
        let members = self.src(members, Type::B32)?;
        let collective = match (any, d) {
            (true, d) => Collective::MatchAny { dst: self.dst(d, Type::B32)?, value },
            (false, Operand::Pair(d, p)) => Collective::MatchAll {
                dst: self.dst(d, Type::B32)?,
                all: Some(self.pred_dst(p)?),
                value,
            },
            (false, d) => {
                Collective::MatchAll { dst: self.dst(d, Type::B32)?, all: None, value }
            }
        };
        Ok((members, collective))
    }

    fn reduce(&mut self, m: &mut Modifiers, ops: &[Operand]) -> Result<(Row, Collective), String> {
        let op = match m.one_of(&["add", "min", "max", "and", "or", "xor"]) {
            Some("add") => AtomicOp::Add,
            Some("min") => AtomicOp::Min,
            Some("max") => AtomicOp::Max,
            Some("and") => AtomicOp::And,
            Some("or") => AtomicOp::Or,
            Some(_) => AtomicOp::Xor,
            None => return Err("an operation such as .add is missing".to_string()),
        };
        let ty = m.ty()?;
        if !matches!(ty, Type::U32 | Type::S32 | Type::B32) {
            return Err(format!("type {ty:?} is not known here"));
        }
        let [d, value, members] = self.operands::<3>(ops)?;
        let (dst, value) = (self.dst(d, ty)?, self.src(value, ty)?);
        Ok((self.src(members, Type::B32)?, Collective::Reduce { op, ty, dst, value }))
    }
}
