//! Operations in which lanes of a warp exchange values: they run once all lanes they name are there.

use super::context::{Context, Step, Trouble};
use super::regs::{FULL, Row};
use super::warp::{Wait, Warp};
use crate::error::FaultKind;
use crate::program::{AtomicOp, Collective, Kind, ShuffleMode};
use crate::semantics::warp::{Reduction, VoteMode, match_all, match_any, redux, shuffle_source, vote};

impl Warp {
    /// Runs `operation` for the `active` lanes. False if lanes named in a member mask are missing.
    pub(super) fn collective(
        &mut self,
        members: Option<Row>,
        operation: &Collective,
        active: u32,
        context: &Context,
    ) -> Step<bool> {
        let masks = match members {
            Some(row) => *self.regs.row32(row),
            None => [FULL; 32],
        };
        // Lanes with one mask work together; different masks are different groups.
        let mut groups: Vec<u32> = Vec::new();
        let mut left = active;
        while left != 0 {
            let lane = left.trailing_zeros();
            let mask = masks[lane as usize];
            let same = (0..32).fold(0, |m, l| m | u32::from(masks[l] == mask) << l) & left;
            left &= !same;
            if mask & same != same {
                return Err(Trouble::new(
                    FaultKind::InactiveLane,
                    (same & !mask).trailing_zeros(),
                    format!("runs with member mask {mask:#010x}, which lacks the lane itself"),
                ));
            }
            let gone = mask & self.exited;
            if gone != 0 && context.checks.barriers {
                return Err(Trouble::new(
                    FaultKind::InactiveLane,
                    lane,
                    format!("member mask {mask:#010x} names lanes {gone:#010x}, which have exited"),
                ));
            }
            if mask & self.live() & !same != 0 {
                return Ok(false);
            }
            groups.push(same);
        }
        for group in groups {
            self.operate(operation, group)?;
        }
        Ok(true)
    }

    fn operate(&mut self, operation: &Collective, group: u32) -> Step<()> {
        let regs = &mut self.regs;
        let input = |regs: &super::regs::Regs, (row, negated): (Row, bool)| {
            let p = regs.pred(row);
            group & if negated { !p } else { p }
        };
        match *operation {
            Collective::Barrier => {}
            Collective::Shuffle { mode, dst, valid, value, lane, clamp } => {
                let (v, b, c) = (*regs.row32(value), *regs.row32(lane), *regs.row32(clamp));
                let (mut out, mut inside) = ([0u64; 32], 0u32);
                if group == FULL {
                    for i in 0..32 {
                        let (source, yes) = shuffle_source(mode, b[i], c[i], i as u32);
                        out[i] = u64::from(v[source as usize & 31]);
                        inside |= u32::from(yes) << i;
                    }
                } else {
                    for i in (0..32).filter(|i| group >> i & 1 != 0) {
                        let (source, yes) = shuffle_source(mode, b[i], c[i], i as u32);
                        if group >> (source & 31) & 1 == 0 {
                            return Err(inactive(mode, i as u32, source));
                        }
                        out[i] = u64::from(v[source as usize & 31]);
                        inside |= u32::from(yes) << i;
                    }
                }
                regs.set(dst, group, &out);
                if let Some(row) = valid {
                    regs.set_pred(row, group, inside);
                }
            }
            Collective::VoteAll { dst, input: i } => {
                let yes = vote(VoteMode::All, input(regs, i), group);
                regs.set_pred(dst, group, if yes { FULL } else { 0 });
            }
            Collective::VoteAny { dst, input: i } => {
                let yes = vote(VoteMode::Any, input(regs, i), group);
                regs.set_pred(dst, group, if yes { FULL } else { 0 });
            }
            Collective::VoteUniform { dst, input: i } => {
                let yes = vote(VoteMode::Uniform, input(regs, i), group);
                regs.set_pred(dst, group, if yes { FULL } else { 0 });
            }
            Collective::Ballot { dst, input: i } => {
                let bits = input(regs, i);
                regs.set32(dst, group, &[bits; 32]);
            }
            Collective::MatchAny { dst, value } => {
                let found = match_any(&regs.get(value), group);
                regs.set32(dst, group, &found);
            }
            Collective::MatchAll { dst, all, value } => {
                let (mask, same) = match_all(&regs.get(value), group);
                regs.set32(dst, group, &[mask; 32]);
                if let Some(row) = all {
                    regs.set_pred(row, group, if same { FULL } else { 0 });
                }
            }
            Collective::Reduce { op, ty, dst, value } => {
                let reduction = match (op, ty.signed()) {
                    (AtomicOp::Min, false) => Reduction::MinU32,
                    (AtomicOp::Min, true) => Reduction::MinS32,
                    (AtomicOp::Max, false) => Reduction::MaxU32,
                    (AtomicOp::Max, true) => Reduction::MaxS32,
                    (AtomicOp::And, _) => Reduction::And,
                    (AtomicOp::Or, _) => Reduction::Or,
                    (AtomicOp::Xor, _) => Reduction::Xor,
                    _ => Reduction::Add,
                };
                let result = redux(reduction, regs.row32(value), group);
                regs.set32(dst, group, &[result; 32]);
            }
            Collective::Elect { dst, chosen } => {
                let leader = group.trailing_zeros();
                regs.set(dst, group, &[u64::from(leader); 32]);
                regs.set_pred(chosen, group, 1 << leader);
            }
        }
        Ok(())
    }

    /// All fragments wait for lanes. `bar.warp.sync` may be met at different places; anything else
    /// can never go on.
    pub(super) fn join_warp_barrier(&mut self, context: &Context) -> Step<()> {
        let code = &context.program.code;
        let at_barrier = |pc: u32| match &code[pc as usize].kind {
            Kind::Collective { operation, members } => match **operation {
                Collective::Barrier => Some(*members),
                _ => None,
            },
            _ => None,
        };
        let mut there = 0;
        let mut wanted = Vec::new();
        for i in 0..self.fragments.len() {
            let f = &self.fragments[i];
            if let (Wait::Lanes, Some(members)) = (f.wait, at_barrier(f.pc)) {
                there |= f.mask;
                self.regs.base = f.base;
                let lane = f.mask.trailing_zeros() as usize;
                wanted.push((i, members.map_or(FULL, |row| self.regs.row32(row)[lane])));
            }
        }
        let mut released = false;
        for (i, members) in wanted {
            if members & self.live() & !there == 0 {
                self.fragments[i].wait = Wait::No;
                self.fragments[i].pc += 1;
                released = true;
            }
        }
        if released {
            return Ok(());
        }
        let at_block_barrier =
            self.fragments.iter().any(|f| matches!(code[f.pc as usize].kind, Kind::Barrier(_)));
        let mut parts = Vec::new();
        for f in &self.fragments {
            let line = code[f.pc as usize].line;
            parts.push(format!("lanes {:#010x} at line {line}", f.mask));
        }
        if let Some(f) = self.fragments.first() {
            self.pc = f.pc;
        }
        let lane = self.fragments.first().map(|f| f.mask.trailing_zeros());
        Err(Box::new(Trouble {
            kind: if at_block_barrier { FaultKind::BarrierDivergence } else { FaultKind::Deadlock },
            message: format!(
                "lanes of warp {} wait for one another at different instructions: {}",
                self.index,
                parts.join(", ")
            ),
            lane,
        }))
    }
}

#[cold]
fn inactive(mode: ShuffleMode, lane: u32, source: u32) -> Box<Trouble> {
    Trouble::new(
        FaultKind::InactiveLane,
        lane,
        format!("shuffle ({mode:?}) reads lane {source}, which does not take part: its value is undefined"),
    )
}
