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
/// What such a wait takes from the instruction budget: it costs more time than its instructions do.
const SPIN_COST: u64 = 2000;
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
pub(super) struct Frame {
    /// Where the call stands.
    pub pc: u32,
    pub function: u32,
    pub base: Base,
}

/// Lanes that share a program counter.
#[derive(Clone, Debug)]
pub(crate) struct Fragment {
    pub pc: u32,
    pub mask: u32,
    pub wait: Wait,
    pub(super) function: u32,
    pub(super) base: Base,
    pub(super) stack: Vec<Frame>,
    /// Backward branches until others get a turn.
    pub(super) left: u32,
    /// Turns of loops with an atomic or strong load in them.
    pub(super) turns: u32,
    /// Whether one ran since the last backward branch.
    pub(super) strong: bool,
    /// Lanes that had exited when the fragment began to wait for others.
    pub(super) gone: u32,
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
                ConstantRow::Special(s) => {
                    std::array::from_fn(|lane| context.special(s, block, self.index, lane as u32) as u32)
                }
            });
        }
        for row in &context.constants64 {
            regs.r64.push(match *row {
                ConstantRow::Same(v) => [v; 32],
                ConstantRow::Special(s) => {
                    std::array::from_fn(|lane| context.special(s, block, self.index, lane as u32))
                }
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
            gone: 0,
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
        // Lanes that were waited for have exited: the operation decides what that means.
        let mut again = false;
        for f in &mut self.fragments {
            if f.wait == Wait::Lanes && f.gone != self.exited {
                f.wait = Wait::No;
                again = true;
            }
        }
        if again {
            return Ok(None);
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
                worker.counts.instruction(pc, active);
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
                                worker.unreported += if f.left == 0 { 0 } else { SPIN_COST };
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
                            worker.counts.divergent_branch(pc);
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
                            worker.unreported += if taken.turns > SPIN_TURNS { SPIN_COST } else { 0 };
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
                Kind::Fence => {
                    if active != 0 {
                        shared.fence(self.index);
                    }
                }
                Kind::Mbarrier(m) => {
                    self.fragments[index].strong = true;
                    self.mbarrier(m, active, shared)?;
                }
                Kind::Multiply(_)
                | Kind::LoadMatrix(_)
                | Kind::StoreMatrix(_)
                | Kind::LoadFragment(_)
                | Kind::StoreFragment(_) => {
                    if active != 0 {
                        if !self.whole_warp(active)? {
                            self.fragments[index].pc = pc;
                            self.wait_for_lanes(index, active);
                            return Ok(Stop::Reschedule);
                        }
                        match &inst.kind {
                            Kind::Multiply(m) => self.multiply(m),
                            Kind::LoadFragment(f) => {
                                self.load_fragment(f, context, shared, worker)?;
                            }
                            Kind::StoreFragment(f) => {
                                self.store_fragment(f, context, shared, worker)?;
                            }
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
                Kind::CallIndirect(call) => {
                    if active != 0 {
                        self.call_indirect(index, pc, function, call, active, context)?;
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
    pub(super) fn split(&mut self, index: usize, active: u32, rest: u32) -> usize {
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
        self.fragments[i].gone = self.exited;
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
}
