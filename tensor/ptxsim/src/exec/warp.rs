//! A warp: 32 lanes, split into fragments that share a program counter.
//!
//! The deepest call runs first and, at one depth, the fragment with the smallest program counter:
//! compilers lay code out so that the fragments of a divergent branch meet again where it ends. An
//! operation that names other lanes waits until those have come to it, so a result never depends on
//! how the fragments are scheduled. A fragment that spins yields to the others after a while, as
//! threads do since Volta.

use std::sync::atomic::Ordering::Relaxed;

use super::async_copy::PendingCopy;
use super::barrier::Arrival;
use super::context::{ConstantRow, Context, Step, Trouble, Worker};
use super::regs::{Base, FULL, Regs, Row32};
use crate::error::FaultKind;
use crate::memory::shared::Shared;
use crate::program::{Inst, Kind};

/// Instructions a fragment or warp runs before others get a turn.
const SLICE: u32 = 1 << 16;
/// Turns of a loop with an atomic or strong load in it before others get a turn.
const SPIN_TURNS: u32 = 32;
/// Calls that may be open at once.
const MAX_DEPTH: usize = 512;

/// Why a fragment does not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    No,
    /// Others get a turn first.
    Yielded,
    /// At an operation that needs lanes which have not come yet.
    Lanes,
    /// At block barrier `n`.
    Barrier(u32),
}

/// An open call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Frame {
    /// Where the call stands.
    pc: u32,
    function: u32,
    base: Base,
}

/// Lanes that share a program counter.
#[derive(Clone, Debug)]
pub(crate) struct Fragment {
    pub pc: u32,
    pub mask: u32,
    pub wait: Wait,
    function: u32,
    base: Base,
    stack: Vec<Frame>,
    /// Backward branches until others get a turn.
    left: u32,
    /// Turns of loops with an atomic or strong load in them.
    turns: u32,
    /// Whether one ran since the last backward branch.
    strong: bool,
}

impl Fragment {
    /// Where the fragment's function keeps its registers.
    pub(super) fn base(&self) -> Base {
        self.base
    }
}

/// Why a warp stopped running.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Every lane has exited.
    Done,
    /// All that is left waits at block barriers.
    Blocked,
    /// A time slice is over.
    Yielded,
    /// Something arrived at a barrier: the block decides.
    Arrived(Arrival),
}

/// Why a fragment stopped.
enum Stop {
    Reschedule,
    Yield,
    Arrived(Arrival),
}

/// One warp of a block.
pub(crate) struct Warp {
    pub index: u32,
    pub regs: Regs,
    pub fragments: Vec<Fragment>,
    /// Lanes that exist: the last warp of a block may lack some.
    pub present: u32,
    pub exited: u32,
    /// Local memory by 4-byte word.
    pub local: Vec<Row32>,
    pub copies: Vec<PendingCopy>,
    /// Groups committed, by lane.
    pub committed: Row32,
    /// Program counter of the instruction at fault.
    pub pc: u32,
}

impl Warp {
    pub(crate) fn new(index: u32) -> Self {
        Self {
            index,
            regs: Regs::default(),
            fragments: Vec::new(),
            present: 0,
            exited: 0,
            local: Vec::new(),
            copies: Vec::new(),
            committed: [0; 32],
            pc: 0,
        }
    }

    /// Starts the warp on block `block`.
    pub(crate) fn reset(&mut self, context: &Context, block: [u32; 3]) {
        let first = self.index * 32;
        let lanes = (context.threads - first).min(32);
        self.present = if lanes == 32 { FULL } else { (1 << lanes) - 1 };
        self.exited = 0;
        let frame = &context.program.functions[0];
        let (c32, c64) = (context.constants32.len(), context.constants64.len());
        let regs = &mut self.regs;
        regs.base = Base { r32: c32 as u32, r64: c64 as u32, pred: 1, param: 0, local: 0 };
        regs.r32.clear();
        regs.r64.clear();
        for row in &context.constants32 {
            regs.r32.push(match *row {
                ConstantRow::Same(v) => [v; 32],
                ConstantRow::Special(s) => std::array::from_fn(|lane| {
                    context.special(s, block, self.index, lane as u32) as u32
                }),
            });
        }
        for row in &context.constants64 {
            regs.r64.push(match *row {
                ConstantRow::Same(v) => [v; 32],
                ConstantRow::Special(s) => std::array::from_fn(|lane| {
                    context.special(s, block, self.index, lane as u32)
                }),
            });
        }
        regs.r32.resize(c32 + frame.rows32 as usize, [0; 32]);
        regs.r64.resize(c64 + frame.rows64 as usize, [0; 32]);
        regs.pred.clear();
        // Absolute predicate 0 is always true.
        regs.pred.push(FULL);
        regs.pred.resize(1 + frame.preds as usize, 0);
        regs.param.clear();
        regs.param.resize(frame.param_words as usize, [0; 32]);
        self.local.clear();
        self.local.resize(frame.local_bytes.div_ceil(4) as usize, [0; 32]);
        self.copies.clear();
        self.committed = [0; 32];
        self.fragments.clear();
        self.fragments.push(Fragment {
            pc: 0,
            mask: self.present,
            wait: Wait::No,
            function: 0,
            base: regs.base,
            stack: Vec::new(),
            left: SLICE,
            turns: 0,
            strong: false,
        });
    }

    /// Lanes that exist and have not exited.
    pub(crate) fn live(&self) -> u32 {
        self.present & !self.exited
    }

    /// Runs until the warp is done, blocked, at a barrier, or its slice is over.
    pub(crate) fn run(
        &mut self,
        context: &Context,
        shared: &mut Shared,
        worker: &mut Worker,
    ) -> Step<Outcome> {
        loop {
            if self.fragments.is_empty() {
                return Ok(Outcome::Done);
            }
            self.merge();
            let Some(index) = self.choose() else {
                match self.stalled(context)? {
                    Some(outcome) => return Ok(outcome),
                    None => continue,
                }
            };
            match self.run_fragment(index, context, shared, worker)? {
                Stop::Reschedule => {}
                Stop::Arrived(arrival) => return Ok(Outcome::Arrived(arrival)),
                Stop::Yield => {
                    if context.stop.load(Relaxed) {
                        return Ok(Outcome::Yielded);
                    }
                    self.fragments[index].wait = Wait::Yielded;
                }
            }
        }
    }

    /// Joins fragments that stand at the same place.
    fn merge(&mut self) {
        let mut i = 0;
        while i + 1 < self.fragments.len() {
            let mut j = i + 1;
            while j < self.fragments.len() {
                let (a, b) = (&self.fragments[i], &self.fragments[j]);
                let barrier = |w| matches!(w, Wait::Barrier(_));
                if a.pc == b.pc && a.stack == b.stack && !barrier(a.wait) && !barrier(b.wait) {
                    let gone = self.fragments.swap_remove(j);
                    let a = &mut self.fragments[i];
                    a.mask |= gone.mask;
                    a.turns = a.turns.max(gone.turns);
                    a.left = a.left.min(gone.left);
                    a.strong |= gone.strong;
                    a.wait = Wait::No;
                } else {
                    j += 1;
                }
            }
            i += 1;
        }
    }

    fn choose(&self) -> Option<usize> {
        (0..self.fragments.len())
            .filter(|&i| self.fragments[i].wait == Wait::No)
            .min_by_key(|&i| (usize::MAX - self.fragments[i].stack.len(), self.fragments[i].pc))
    }

    /// No fragment can run: yields end, or lanes wait for others that never come.
    /// `None` when some can run after all.
    fn stalled(&mut self, context: &Context) -> Step<Option<Outcome>> {
        let mut yielded = false;
        for f in &mut self.fragments {
            if f.wait == Wait::Yielded {
                f.wait = Wait::No;
                yielded = true;
            }
        }
        if yielded {
            return Ok(Some(Outcome::Yielded));
        }
        if self.fragments.iter().any(|f| matches!(f.wait, Wait::Barrier(_))) {
            return Ok(Some(Outcome::Blocked));
        }
        self.join_warp_barrier(context)?;
        Ok(None)
    }

    fn run_fragment(
        &mut self,
        index: usize,
        context: &Context,
        shared: &mut Shared,
        worker: &mut Worker,
    ) -> Step<Stop> {
        let mut pc = self.fragments[index].pc;
        let mask = self.fragments[index].mask;
        let function = self.fragments[index].function;
        self.regs.base = self.fragments[index].base;
        let depth = self.fragments[index].stack.len();
        // Another fragment's place is where this one must look up again.
        let limit = self
            .fragments
            .iter()
            .enumerate()
            .filter(|&(i, f)| i != index && f.stack.len() == depth)
            .filter(|(_, f)| !matches!(f.wait, Wait::Barrier(_)) && f.pc > pc)
            .map(|(_, f)| f.pc)
            .min()
            .unwrap_or(u32::MAX);
        let others = self.fragments.len() > 1;
        let code = &context.program.code[..];
        loop {
            self.pc = pc;
            let inst: &Inst = &code[pc as usize];
            let active = match inst.guard {
                None => mask,
                Some((row, negated)) => {
                    let p = self.regs.pred(row);
                    mask & if negated { !p } else { p }
                }
            };
            if context.counts {
                worker.counts.instruction(inst.class, active);
            }
            worker.unreported += 1;
            match &inst.kind {
                Kind::Alu(f) => f(&mut self.regs, active),
                Kind::Branch(target) => {
                    if active == mask {
                        if *target <= pc {
                            let f = &mut self.fragments[index];
                            f.pc = *target;
                            f.left -= 1;
                            f.turns += u32::from(std::mem::take(&mut f.strong));
                            if f.turns > SPIN_TURNS || f.left == 0 {
                                (f.turns, f.left) = (0, SLICE);
                                self.report(context, worker)?;
                                return Ok(Stop::Yield);
                            }
                            if others {
                                return Ok(Stop::Reschedule);
                            }
                        }
                        pc = *target;
                        if pc >= limit {
                            self.fragments[index].pc = pc;
                            return Ok(Stop::Reschedule);
                        }
                        continue;
                    }
                    if active != 0 {
                        if context.counts {
                            worker.counts.divergent_branch();
                        }
                        let mut taken = self.fragments[index].clone();
                        taken.pc = *target;
                        taken.mask = active;
                        let stays = &mut self.fragments[index];
                        stays.pc = pc + 1;
                        stays.mask = mask & !active;
                        if *target <= pc {
                            taken.left -= 1;
                            taken.turns += u32::from(std::mem::take(&mut taken.strong));
                            self.report(context, worker)?;
                            if taken.turns > SPIN_TURNS || taken.left == 0 {
                                (taken.turns, taken.left) = (0, SLICE);
                                taken.wait = Wait::Yielded;
                            }
                        }
                        self.fragments.push(taken);
                        return Ok(Stop::Reschedule);
                    }
                }
                Kind::Load(load) => {
                    if load.strong {
                        self.fragments[index].strong = true;
                    }
                    self.load(load, active, context, shared, worker)?;
                }
                Kind::Store(store) => self.store(store, active, context, shared, worker)?,
                Kind::Nop => {}
                Kind::Mma(_) | Kind::LoadMatrix(_) | Kind::StoreMatrix(_) => {
                    if active != 0 {
                        if !self.whole_warp(active)? {
                            self.fragments[index].pc = pc;
                            self.wait_for_lanes(index, active);
                            return Ok(Stop::Reschedule);
                        }
                        match &inst.kind {
                            Kind::Mma(mma) => self.multiply(mma, context, worker),
                            Kind::LoadMatrix(m) => {
                                self.load_matrix(m, context, shared, worker)?;
                            }
                            Kind::StoreMatrix(m) => {
                                self.store_matrix(m, context, shared, worker)?;
                            }
                            _ => {}
                        }
                    }
                }
                Kind::CopyAsync(copy) => self.copy_async(copy, active, context, shared, worker)?,
                Kind::CommitGroup => self.commit_group(active),
                Kind::WaitGroup(n) => self.wait_group(active, *n, shared),
                Kind::WaitAll => self.wait_all(active, shared),
                Kind::Atomic(atomic) => {
                    self.fragments[index].strong = true;
                    self.atomic(atomic, active, context, shared, worker)?;
                }
                Kind::Collective { members, operation } => {
                    if active != 0 && !self.collective(*members, operation, active, context)? {
                        let f = &mut self.fragments[index];
                        f.pc = pc;
                        self.wait_for_lanes(index, active);
                        return Ok(Stop::Reschedule);
                    }
                }
                Kind::ActiveMask(row) => self.regs.set32(*row, active, &[active; 32]),
                Kind::Clock(reg) => {
                    let now = context.executed.load(Relaxed) + worker.unreported;
                    self.regs.set(*reg, active, &[now; 32]);
                }
                Kind::Barrier(barrier) => {
                    if active != 0 {
                        self.fragments[index].pc = pc;
                        let Some(arrival) = self.arrive(barrier, index, active, context)? else {
                            return Ok(Stop::Reschedule);
                        };
                        return Ok(Stop::Arrived(arrival));
                    }
                }
                Kind::Exit => {
                    self.exited |= active;
                    if active == mask {
                        self.fragments.swap_remove(index);
                        self.report(context, worker)?;
                        return Ok(Stop::Reschedule);
                    }
                    if active != 0 {
                        let f = &mut self.fragments[index];
                        f.mask = mask & !active;
                        f.pc = pc + 1;
                        return Ok(Stop::Reschedule);
                    }
                }
                Kind::Call { function: callee, arguments, .. } => {
                    if active != 0 {
                        let i = self.split(index, active, pc + 1);
                        self.call(i, pc, function, *callee, arguments, context)?;
                        return Ok(Stop::Reschedule);
                    }
                }
                Kind::Return => {
                    if active != 0 {
                        let i = self.split(index, active, pc + 1);
                        self.ret(i, context);
                        self.report(context, worker)?;
                        return Ok(Stop::Reschedule);
                    }
                }
                Kind::BranchIndexed { index: row, targets } => {
                    if active != 0 {
                        self.branch_indexed(index, *row, targets, active, pc)?;
                        return Ok(Stop::Reschedule);
                    }
                }
                Kind::Trap => {
                    if active != 0 {
                        return Err(Trouble::warp(FaultKind::Trap, "the kernel executed trap"));
                    }
                }
                Kind::Illegal(message) => {
                    if active != 0 {
                        return Err(Trouble::warp(FaultKind::IllegalInstruction, message));
                    }
                }
            }
            pc += 1;
            if pc >= limit {
                self.fragments[index].pc = pc;
                return Ok(Stop::Reschedule);
            }
        }
    }

    fn report(&mut self, context: &Context, worker: &mut Worker) -> Step<()> {
        context.spend(std::mem::take(&mut worker.unreported))
    }

    /// The fragment of exactly `active` lanes; the other lanes of `index` go on at `rest`.
    fn split(&mut self, index: usize, active: u32, rest: u32) -> usize {
        let f = &mut self.fragments[index];
        if f.mask == active {
            return index;
        }
        let mut part = f.clone();
        part.mask = active;
        f.mask &= !active;
        f.pc = rest;
        self.fragments.push(part);
        self.fragments.len() - 1
    }

    /// `active` lanes of fragment `index` wait where they are; those guarded off go on.
    pub(super) fn wait_for_lanes(&mut self, index: usize, active: u32) {
        let pc = self.fragments[index].pc;
        let i = self.split(index, active, pc + 1);
        self.fragments[i].pc = pc;
        self.fragments[i].wait = Wait::Lanes;
    }

    /// Splits off the lanes that arrive at a barrier.
    pub(super) fn arrive_fragment(&mut self, index: usize, active: u32) -> usize {
        let pc = self.fragments[index].pc;
        let i = self.split(index, active, pc + 1);
        self.fragments[i].pc = pc;
        i
    }

    /// Operations on whole matrices want every lane (PTX leaves anything else undefined). False when
    /// the missing ones may still come.
    #[inline(always)]
    fn whole_warp(&self, active: u32) -> Step<bool> {
        if active == FULL {
            return Ok(true);
        }
        if self.live() & !active != 0 {
            return Ok(false);
        }
        Err(Trouble::new(
            FaultKind::InactiveLane,
            (!active).trailing_zeros(),
            format!("needs all 32 lanes of the warp; only {active:#010x} exist or have not exited"),
        ))
    }

    fn call(
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
    fn ret(&mut self, index: usize, context: &Context) {
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
        if let Kind::Call { results, .. } = &context.program.code[frame.pc as usize].kind {
            for &(a, b) in results {
                let from = (callee.param + a) as usize;
                self.copy_param(from, (frame.base.param + b) as usize, mask);
            }
        }
    }

    fn branch_indexed(
        &mut self,
        index: usize,
        row: super::regs::Row,
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
