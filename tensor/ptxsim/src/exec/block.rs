//! A block: its warps, shared memory and barriers.

use super::barrier::{Arrival, BarrierState};
use super::context::{Context, Trouble, Worker};
use super::warp::{Outcome, Wait, Warp};
use crate::error::{Fault, FaultKind};
use crate::memory::shared::{Shared, SharedChecks};

/// Bytes of shared memory a block of sm_80 and later keeps for system software.
const RESERVED_SHARED: u32 = 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Ready,
    Blocked,
    Done,
}

/// How far a block got.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    Done,
    /// Every warp that can run is in a loop that may wait for another block.
    Spinning,
}

/// One block, resident on a worker.
pub(crate) struct Block {
    pub index: [u32; 3],
    warps: Vec<Warp>,
    states: Vec<State>,
    shared: Shared,
    barriers: [BarrierState; 16],
}

impl Block {
    pub(crate) fn new(context: &Context) -> Self {
        let checks = &context.checks;
        Self {
            index: [0; 3],
            warps: (0..context.warps as u32).map(Warp::new).collect(),
            states: Vec::new(),
            shared: Shared::new(SharedChecks {
                uninitialised: checks.uninitialised_shared,
                races: checks.races,
                async_copies: checks.async_copies,
                fill: context.shared_fill,
            }),
            barriers: [BarrierState::default(); 16],
        }
    }

    /// Starts block `index`.
    pub(crate) fn reset(&mut self, context: &Context, index: [u32; 3]) {
        self.index = index;
        for warp in &mut self.warps {
            warp.reset(context, index);
        }
        self.states.clear();
        self.states.resize(self.warps.len(), State::Ready);
        self.shared.reset(context.shared_bytes);
        if context.program.reserved_shared {
            self.shared.reserve(context.reserved_shared(), RESERVED_SHARED);
        }
        self.barriers = [BarrierState::default(); 16];
    }

    /// Runs until the block is done or only spins.
    pub(crate) fn run(&mut self, context: &Context, worker: &mut Worker) -> Result<Progress, Box<Fault>> {
        loop {
            let (mut advanced, mut yielded) = (false, false);
            for w in 0..self.warps.len() {
                while self.states[w] == State::Ready {
                    match self.warps[w].run(context, &mut self.shared, worker) {
                        Err(trouble) => return Err(self.fault(context, w, *trouble)),
                        Ok(Outcome::Done) => {
                            self.states[w] = State::Done;
                            advanced = true;
                        }
                        Ok(Outcome::Blocked) => self.states[w] = State::Blocked,
                        Ok(Outcome::Yielded) => {
                            yielded = true;
                            break;
                        }
                        Ok(Outcome::Arrived(arrival)) => {
                            advanced = true;
                            if let Err(trouble) = self.arrived(context, w, &arrival) {
                                return Err(self.fault(context, w, *trouble));
                            }
                        }
                    }
                }
            }
            if self.states.iter().all(|s| *s == State::Done) {
                return Ok(Progress::Done);
            }
            if !advanced && yielded {
                return Ok(Progress::Spinning);
            }
            if !self.states.contains(&State::Ready) {
                self.stuck(context)?;
            }
        }
    }

    fn arrived(&mut self, context: &Context, warp: usize, arrival: &Arrival) -> Result<(), Box<Trouble>> {
        let threads = 32 * self.warps.len() as u32;
        let complete = self.barriers[arrival.id as usize].add(warp as u32, arrival, threads)?;
        if complete {
            self.complete(context, arrival.id);
        }
        Ok(())
    }

    fn complete(&mut self, context: &Context, id: u32) {
        let state = std::mem::take(&mut self.barriers[id as usize]);
        if state.passing & !state.waiting != 0 {
            self.shared.publish(state.passing & !state.waiting, state.waiting);
        }
        self.shared.synchronise(state.waiting);
        for w in 0..self.warps.len() {
            if state.waiting >> w & 1 != 0 {
                self.warps[w].release(id, &state, context);
                self.states[w] = State::Ready;
            }
        }
    }

    /// No warp can run and some are not done.
    fn stuck(&mut self, context: &Context) -> Result<(), Box<Fault>> {
        let threads = 32 * self.warps.len() as u32;
        let gone: u32 = self.warps.iter().map(|w| if w.live() == 0 { 32 } else { 0 }).sum();
        if !context.checks.barriers {
            // As PTX says of `exit`: threads that are gone no longer hold a barrier up.
            let ready = (0..16).find(|&id| {
                let b = &self.barriers[id as usize];
                b.waiting != 0 && b.expected.is_none() && b.arrived + gone >= threads
            });
            if let Some(id) = ready {
                self.complete(context, id);
                return Ok(());
            }
        }
        Err(self.divergence(context))
    }

    /// Describes who waits where, with none left to release them.
    #[cold]
    fn divergence(&self, context: &Context) -> Box<Fault> {
        let mut waits: Vec<(u32, u32, String)> = Vec::new();
        for warp in &self.warps {
            for f in &warp.fragments {
                let line = context.program.code[f.pc as usize].line;
                let what = match f.wait {
                    Wait::Barrier(id) => format!("at barrier {id} of line {line}"),
                    _ => format!("for other lanes at line {line}"),
                };
                match waits.iter_mut().find(|(_, _, w)| *w == what) {
                    Some((n, _, _)) => *n += f.mask.count_ones(),
                    None => {
                        let thread = warp.index * 32 + f.mask.trailing_zeros();
                        waits.push((f.mask.count_ones(), thread, what));
                    }
                }
            }
        }
        let exited: u32 = self.warps.iter().map(|w| w.exited.count_ones()).sum();
        let mut parts: Vec<String> = waits
            .iter()
            .map(|(n, first, what)| format!("{n} threads (first: {first}) wait {what}"))
            .collect();
        if exited > 0 {
            parts.push(format!("{exited} threads have exited"));
        }
        let at = self.warps.iter().find_map(|w| {
            let f = w.fragments.first()?;
            Some((f.pc, w.index * 32 + f.mask.trailing_zeros()))
        });
        let (pc, thread) = at.unwrap_or_default();
        let trouble = Trouble {
            kind: FaultKind::BarrierDivergence,
            message: format!("no thread of the block can go on: {}", parts.join("; ")),
            lane: None,
        };
        Box::new(context.fault(trouble, Some(pc), self.index, thread))
    }

    #[cold]
    fn fault(&self, context: &Context, warp: usize, trouble: Trouble) -> Box<Fault> {
        let w = &self.warps[warp];
        let running =
            w.fragments.iter().filter(|f| f.wait == Wait::No).map(|f| f.mask.trailing_zeros()).min();
        let lane = trouble.lane.or(running).unwrap_or(0).min(31);
        let thread = w.index * 32 + lane;
        Box::new(context.fault(trouble, Some(w.pc), self.index, thread))
    }
}
