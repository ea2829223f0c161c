//! Order between warps that no barrier makes: release, acquire and fences on words of shared memory, as
//! in the PTX memory consistency model (PTX ISA §8.8), a warp's lanes taken together.

use std::collections::HashMap;

use super::shared::{Problem, Shared};
use crate::program::Order;

/// Latest clock of each warp that something is ordered after.
type Clocks = [u32; 32];

/// What releases and fences have published, and what strong reads have met.
#[derive(Default)]
pub(crate) struct Orders {
    /// By word: what a strong read of it synchronises with.
    released: HashMap<usize, Clocks>,
    /// By warp: what its latest fence lets later strong writes publish.
    fenced: HashMap<u32, Clocks>,
    /// By warp: what its strong reads have met, ordered from its next fence on.
    met: HashMap<u32, Clocks>,
}

impl Orders {
    pub(super) fn clear(&mut self) {
        self.released.clear();
        self.fenced.clear();
        self.met.clear();
    }
}

fn join(into: &mut Clocks, from: &Clocks) {
    for (a, &b) in into.iter_mut().zip(from) {
        *a = (*a).max(b);
    }
}

impl Shared {
    /// All that `warp` has done and seen so far; what it does next is later.
    fn history(&mut self, warp: u32) -> Clocks {
        let w = warp as usize;
        let mut clocks = self.seen[w];
        clocks[w] = self.clock[w];
        self.clock[w] += 1;
        clocks
    }

    /// `fence` and `membar`.
    pub(crate) fn fence(&mut self, warp: u32) {
        if !self.shadowed() {
            return;
        }
        if let Some(met) = self.orders.met.remove(&warp) {
            join(&mut self.seen[warp as usize], &met);
        }
        let history = self.history(warp);
        self.orders.fenced.insert(warp, history);
    }

    fn publish_word(&mut self, offset: usize, warp: u32, release: bool) {
        let clocks = match self.orders.fenced.get(&warp) {
            _ if release => self.history(warp),
            Some(fenced) => *fenced,
            None => return,
        };
        join(self.orders.released.entry(offset / 4).or_insert([0; 32]), &clocks);
    }

    fn meet_word(&mut self, offset: usize, warp: u32, acquire: bool) {
        let Some(released) = self.orders.released.get(&(offset / 4)) else { return };
        if acquire {
            join(&mut self.seen[warp as usize], released);
        } else {
            join(self.orders.met.entry(warp).or_insert([0; 32]), released);
        }
    }

    /// Checks a relaxed, acquire or volatile load.
    pub(crate) fn note_strong_read(
        &mut self,
        offset: usize,
        bytes: u32,
        warp: u32,
        acquire: bool,
    ) -> Result<(), Problem> {
        self.meet_word(offset, warp, acquire);
        self.note_strong_load(offset, bytes, warp)
    }

    /// Checks a relaxed, release or volatile store.
    pub(crate) fn note_strong_write(
        &mut self,
        offset: usize,
        bytes: u32,
        warp: u32,
        release: bool,
    ) -> Result<(), Problem> {
        self.note_atomic(offset, bytes, warp, false)?;
        self.publish_word(offset, warp, release);
        Ok(())
    }

    /// Checks an atomic; `reads` unless what was there before does not matter.
    pub(crate) fn note_update(
        &mut self,
        offset: usize,
        bytes: u32,
        warp: u32,
        reads: bool,
        order: Order,
    ) -> Result<(), Problem> {
        self.meet_word(offset, warp, order.acquire);
        self.note_atomic(offset, bytes, warp, reads)?;
        self.publish_word(offset, warp, order.release);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::shared::SharedChecks;
    use super::*;

    fn shared() -> Shared {
        let mut s =
            Shared::new(SharedChecks { uninitialised: true, races: true, async_copies: true, fill: 0 });
        s.reset(256);
        s.note_write(0, 4, 0).unwrap();
        s.synchronise(0b11);
        s.note_write(64, 4, 0).unwrap();
        s
    }

    #[test]
    fn a_release_orders_what_came_before_it_after_an_acquire() {
        let mut s = shared();
        s.note_strong_write(0, 4, 0, true).unwrap();
        s.note_write(68, 4, 0).unwrap();
        assert!(s.note_read(64, 4, 1).is_err(), "nothing acquired yet");
        s.note_strong_read(0, 4, 1, true).unwrap();
        s.note_read(64, 4, 1).unwrap();
        assert!(s.note_read(68, 4, 1).is_err(), "written after the release");
    }

    #[test]
    fn fences_order_with_relaxed_accesses_between_them() {
        let mut s = shared();
        s.fence(0);
        s.note_strong_write(0, 4, 0, false).unwrap();
        s.note_strong_read(0, 4, 1, false).unwrap();
        assert!(s.note_read(64, 4, 1).is_err(), "the reader has no fence yet");
        s.fence(1);
        s.note_read(64, 4, 1).unwrap();
    }

    #[test]
    fn a_relaxed_flag_alone_orders_nothing() {
        let mut s = shared();
        s.note_update(0, 4, 0, true, Order::default()).unwrap();
        s.note_strong_read(0, 4, 1, true).unwrap();
        assert!(s.note_read(64, 4, 1).is_err());
    }
}
