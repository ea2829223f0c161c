//! `bar` and `barrier`: a warp's side of a block barrier, and the block's.

use super::context::{Context, Step, Trouble};
use super::warp::{Wait, Warp};
use crate::error::FaultKind;
use crate::program::{Barrier, BarrierKind, Kind};

/// Lanes of a warp that have come to a barrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Arrival {
    pub id: u32,
    /// Threads that arrive; a warp that lacks lanes counts as 32, as on the hardware.
    pub threads: u32,
    /// Threads the barrier waits for; `None`: all of the block.
    pub expected: Option<u32>,
    pub kind: BarrierKind,
    /// Lanes whose predicate is true.
    pub votes: u32,
    pub lanes: u32,
}

/// One of a block's sixteen barriers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct BarrierState {
    pub arrived: u32,
    pub expected: Option<u32>,
    /// Warps that wait.
    pub waiting: u32,
    /// Warps that only arrived.
    pub passing: u32,
    popc: u32,
    all: bool,
    any: bool,
}

impl BarrierState {
    /// Adds an arrival; true when the barrier is complete.
    pub(crate) fn add(&mut self, warp: u32, arrival: &Arrival, threads: u32) -> Step<bool> {
        if self.arrived == 0 {
            *self = Self { expected: arrival.expected, all: true, ..Self::default() };
        } else if self.expected != arrival.expected {
            return Err(Trouble::warp(
                FaultKind::BarrierDivergence,
                format!(
                    "barrier {} is used with different thread counts at the same time: {} and {}",
                    arrival.id,
                    self.expected.unwrap_or(threads),
                    arrival.expected.unwrap_or(threads)
                ),
            ));
        }
        match arrival.kind {
            BarrierKind::Arrive => self.passing |= 1 << warp,
            _ => self.waiting |= 1 << warp,
        }
        self.popc += arrival.votes.count_ones();
        self.all &= arrival.votes == arrival.lanes;
        self.any |= arrival.votes != 0;
        self.arrived += arrival.threads;
        let expected = self.expected.unwrap_or(threads);
        if self.arrived > expected {
            return Err(Trouble::warp(
                FaultKind::BarrierDivergence,
                format!(
                    "{} threads arrive at barrier {}, which waits for {expected}",
                    self.arrived, arrival.id
                ),
            ));
        }
        Ok(self.arrived == expected)
    }
}

impl Warp {
    /// Brings `active` lanes of a fragment to a barrier; `None` if they wait for the rest of the warp.
    pub(super) fn arrive(
        &mut self,
        barrier: &Barrier,
        index: usize,
        active: u32,
        context: &Context,
    ) -> Step<Option<Arrival>> {
        if barrier.aligned && active != self.present {
            if self.live() & !active != 0 {
                self.wait_for_lanes(index, active);
                return Ok(None);
            }
            if context.checks.barriers {
                let gone = self.exited & self.present;
                return Err(Trouble::new(
                    FaultKind::BarrierDivergence,
                    gone.trailing_zeros(),
                    format!(
                        "waits at a barrier of the whole block that lanes {gone:#010x} of warp {} never reach: they have exited",
                        self.index
                    ),
                ));
            }
        }
        let lane = active.trailing_zeros() as usize;
        let id = self.regs.row32(barrier.id)[lane];
        if id >= 16 {
            return Err(Trouble::new(
                FaultKind::IllegalInstruction,
                lane as u32,
                format!("barrier {id} does not exist: a block has barriers 0 to 15"),
            ));
        }
        let expected = barrier.count.map(|row| self.regs.row32(row)[lane]);
        if let Some(count) = expected
            && (count == 0 || count % 32 != 0)
        {
            return Err(Trouble::new(
                FaultKind::IllegalInstruction,
                lane as u32,
                format!("a barrier's thread count must be a positive multiple of 32, not {count}"),
            ));
        }
        let votes = barrier.input.map_or(0, |(row, negated)| {
            let p = self.regs.pred(row);
            active & if negated { !p } else { p }
        });
        // Lanes that do not exist arrive with the first one that does; exited ones with it too.
        let first = 1 << self.live().trailing_zeros();
        let ghosts = if active & first != 0 { !self.live() } else { 0 };
        let i = self.arrive_fragment(index, active);
        let fragment = &mut self.fragments[i];
        let pc = fragment.pc;
        if barrier.kind == BarrierKind::Arrive {
            fragment.pc = pc + 1;
        } else {
            fragment.wait = Wait::Barrier(id);
        }
        let threads = active.count_ones() + ghosts.count_ones();
        let kind = barrier.kind;
        Ok(Some(Arrival { id, threads, expected, kind, votes, lanes: active }))
    }

    /// The barrier is complete: those that wait at it go on.
    pub(super) fn release(&mut self, id: u32, state: &BarrierState, context: &Context) {
        for i in 0..self.fragments.len() {
            if self.fragments[i].wait != Wait::Barrier(id) {
                continue;
            }
            let (pc, mask) = (self.fragments[i].pc, self.fragments[i].mask);
            self.regs.base = self.fragments[i].base;
            if let Kind::Barrier(barrier) = &context.program.code[pc as usize].kind {
                let value = match barrier.kind {
                    BarrierKind::Popc => u64::from(state.popc),
                    BarrierKind::And => u64::from(state.all),
                    BarrierKind::Or => u64::from(state.any),
                    BarrierKind::Sync | BarrierKind::Arrive => 0,
                };
                self.regs.set(barrier.dst, mask, &[value; 32]);
            }
            self.fragments[i].wait = Wait::No;
            self.fragments[i].pc = pc + 1;
        }
    }
}
