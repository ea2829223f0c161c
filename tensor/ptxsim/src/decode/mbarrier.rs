//! `mbarrier` and `cp.async.mbarrier`.

use super::memory::{is_scope, take_space};
use super::modifiers::Modifiers;
use super::{Body, Decoded};
use crate::exec::regs::{Alu, Reg};
use crate::parse::ast::{Operand, Space};
use crate::parse::types::Type;
use crate::program::{Kind, Mbarrier, MbarrierOp};

impl Body<'_, '_> {
    pub(super) fn mbarrier(&mut self, m: &mut Modifiers, ops: &[Operand]) -> Decoded {
        let names = ["init", "inval", "arrive", "arrive_drop", "test_wait", "try_wait", "pending_count"];
        let name = m.one_of(&names).ok_or("init, arrive, test_wait or the like is missing")?;
        if name == "pending_count" {
            m.ty()?;
            let [d, state] = self.operands::<2>(ops)?;
            let (d, state) = (self.dst(d, Type::U32)?, self.src(state, Type::B64)?);
            let alu: Alu = Box::new(move |regs, mask| {
                let pending = regs.row64(state).map(|s| (s & 0xf_ffff) as u32);
                regs.set32(d, mask, &pending);
            });
            return Ok(Kind::Alu(alu));
        }
        let parity = m.take("parity");
        m.take("noComplete");
        m.one_of(&["acquire", "release", "relaxed"]);
        m.take_where(is_scope);
        let space = take_space(m);
        m.ty()?;
        let wrong = || format!("{name}: wrong number of operands");
        let (op, dst, at, operand) = match (name, ops) {
            ("init", [at, count]) => (MbarrierOp::Init, None, at, Some((count, Type::U32))),
            ("inval", [at]) => (MbarrierOp::Invalidate, None, at, None),
            ("arrive" | "arrive_drop", [state, at, rest @ ..]) if rest.len() < 2 => {
                let op = MbarrierOp::Arrive { drop: name == "arrive_drop" };
                (op, Some(state), at, rest.first().map(|count| (count, Type::U32)))
            }
            // `try_wait` may carry a time limit, which only says how long it may sleep.
            ("test_wait", [done, at, state]) | ("try_wait", [done, at, state] | [done, at, state, _]) => {
                let ty = if parity { Type::U32 } else { Type::B64 };
                (MbarrierOp::Wait { parity }, Some(done), at, Some((state, ty)))
            }
            _ => return Err(wrong()),
        };
        let operand = operand.map(|(operand, ty)| self.source(operand, ty)).transpose()?;
        let dst = dst.map_or(Ok(Reg::Sink), |d| self.dst_reg(d))?;
        self.mbarrier_at(op, dst, at, space, operand)
    }

    /// `cp.async.mbarrier.arrive{.noinc}`.
    pub(super) fn copies_arrive(&mut self, m: &mut Modifiers, ops: &[Operand]) -> Decoded {
        if !m.take("arrive") {
            return Err("arrive is missing".to_string());
        }
        let expected = m.take("noinc");
        let space = take_space(m);
        m.ty()?;
        let [at] = self.operands::<1>(ops)?;
        self.mbarrier_at(MbarrierOp::CopiesArrive { expected }, Reg::Sink, at, space, None)
    }

    fn mbarrier_at(
        &mut self,
        op: MbarrierOp,
        dst: Reg,
        at: &Operand,
        space: Option<Space>,
        operand: Option<Reg>,
    ) -> Decoded {
        let located = self.address(at)?;
        let place = self.place(space, &located)?;
        let address = located.address;
        Ok(Kind::Mbarrier(Box::new(Mbarrier { op, place, address, dst, operand })))
    }
}
