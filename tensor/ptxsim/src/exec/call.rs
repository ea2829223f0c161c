//! Calls, returns and indexed branches.

use super::context::{Context, Step, Trouble};
use super::regs::{Base, Row};
use super::warp::{Fragment, Frame, Warp};
use crate::error::FaultKind;
use crate::program::{IndirectCall, Kind};

/// Calls that may be open at once.
const MAX_DEPTH: usize = 512;

impl Warp {
    pub(super) fn call(
        &mut self,
        index: usize,
        pc: u32,
        caller: u32,
        callee: u32,
        arguments: &[(u32, u32)],
        context: &Context,
    ) -> Step<()> {
        let functions = &context.program.functions;
        let (from, to) = (&functions[caller as usize], &functions[callee as usize]);
        let f = &mut self.fragments[index];
        if f.stack.len() >= MAX_DEPTH {
            return Err(Trouble::warp(
                FaultKind::OutOfBounds,
                format!("call of {} more than {MAX_DEPTH} deep: the stack overflows", to.name),
            ));
        }
        let old = f.base;
        let base = Base {
            r32: old.r32 + from.rows32,
            r64: old.r64 + from.rows64,
            pred: old.pred + from.preds,
            param: old.param + from.param_words,
            local: (old.local + from.local_bytes).next_multiple_of(16),
        };
        f.stack.push(Frame { pc, function: caller, base: old });
        f.base = base;
        f.function = callee;
        f.pc = to.start;
        let mask = f.mask;
        fn grow<T: Clone>(v: &mut Vec<T>, needed: u32, fill: T) {
            if v.len() < needed as usize {
                v.resize(needed as usize, fill);
            }
        }
        grow(&mut self.regs.r32, base.r32 + to.rows32, [0; 32]);
        grow(&mut self.regs.r64, base.r64 + to.rows64, [0; 32]);
        grow(&mut self.regs.pred, base.pred + to.preds, 0);
        grow(&mut self.regs.param, base.param + to.param_words, [0; 32]);
        grow(&mut self.local, (base.local + to.local_bytes).div_ceil(4), [0; 32]);
        for &(a, b) in arguments {
            self.copy_param((old.param + a) as usize, (base.param + b) as usize, mask);
        }
        Ok(())
    }

    fn copy_param(&mut self, from: usize, to: usize, mask: u32) {
        let value = self.regs.param[from];
        for (lane, word) in self.regs.param[to].iter_mut().enumerate() {
            if mask >> lane & 1 != 0 {
                *word = value[lane];
            }
        }
    }

    /// Returns from the function, or exits from the entry.
    pub(super) fn ret(&mut self, index: usize, context: &Context) {
        let f = &mut self.fragments[index];
        let Some(frame) = f.stack.pop() else {
            self.exited |= f.mask;
            self.fragments.swap_remove(index);
            return;
        };
        let (callee, mask) = (f.base, f.mask);
        f.base = frame.base;
        f.function = frame.function;
        f.pc = frame.pc + 1;
        let results = match &context.program.code[frame.pc as usize].kind {
            Kind::Call { results, .. } => results,
            Kind::CallIndirect(call) => &call.results,
            _ => return,
        };
        for &(a, b) in results {
            let from = (callee.param + a) as usize;
            self.copy_param(from, (frame.base.param + b) as usize, mask);
        }
    }

    /// Calls the function each lane's register points to; lanes with one target go together.
    pub(super) fn call_indirect(
        &mut self,
        index: usize,
        pc: u32,
        caller: u32,
        call: &IndirectCall,
        active: u32,
        context: &Context,
    ) -> Step<()> {
        let targets = *self.regs.row64(call.target);
        let mut left = active;
        let i = self.split(index, active, pc + 1);
        let model = self.fragments.swap_remove(i);
        while left != 0 {
            let lane = left.trailing_zeros();
            let target = targets[lane as usize];
            let Some(&(_, callee)) = call.candidates.iter().find(|(at, _)| *at == target) else {
                return Err(Trouble::new(
                    FaultKind::OutOfBounds,
                    lane,
                    format!("calls 0x{target:x}, which is no function with such parameters"),
                ));
            };
            let same = (0..32).fold(0, |m, l| m | u32::from(targets[l] == target) << l) & left;
            left &= !same;
            self.fragments.push(Fragment { mask: same, ..model.clone() });
            let last = self.fragments.len() - 1;
            self.call(last, pc, caller, callee, &call.arguments, context)?;
        }
        Ok(())
    }

    pub(super) fn branch_indexed(
        &mut self,
        index: usize,
        row: Row,
        targets: &[u32],
        active: u32,
        pc: u32,
    ) -> Step<()> {
        let choice = *self.regs.row32(row);
        let mut left = active;
        let i = self.split(index, active, pc + 1);
        let model = self.fragments.swap_remove(i);
        while left != 0 {
            let lane = left.trailing_zeros();
            let pick = choice[lane as usize];
            let Some(&target) = targets.get(pick as usize) else {
                return Err(Trouble::new(
                    FaultKind::OutOfBounds,
                    lane,
                    format!("brx.idx with index {pick}, but there are {} targets", targets.len()),
                ));
            };
            let same = (0..32).fold(0, |m, l| m | u32::from(choice[l] == pick) << l) & left;
            left &= !same;
            self.fragments.push(Fragment { pc: target, mask: same, ..model.clone() });
        }
        Ok(())
    }
}
