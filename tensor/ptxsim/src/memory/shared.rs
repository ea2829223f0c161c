//! A block's shared memory and its shadow: who wrote and read each word since which barrier, which
//! bytes were ever written, which are the target of a `cp.async` still in flight.
//!
//! Order between warps is kept as vector clocks. Each warp has a clock that grows at every barrier it
//! passes; `seen[w][v]` is the latest clock of warp v that warp w is ordered after. An earlier access
//! stamped (v, clock) is ordered before warp w's current one exactly if `clock <= seen[w][v]`. Accesses
//! of one warp are ordered by its program.

use super::global::group;
use super::order::Orders;
use crate::error::FaultKind;

/// Shadow of one 4-byte word. A stamp packs clock, warp and byte mask; 0 means none.
#[derive(Clone, Copy, Default)]
struct Word {
    write: u32,
    read: u32,
    /// The latest reader of another warp than `read`'s. More are not kept: a race is missed only where a
    /// writer is ordered after both of these by named barriers and not after a third reader.
    other_read: u32,
    /// The latest write that was not an atomic: atomics race with it, though not with each other.
    plain: u32,
    /// Bits 0–3: bytes written at some time. Bit 4: target of a copy in flight, by thread `>> 8`.
    state: u32,
}

const IN_FLIGHT: u32 = 1 << 4;

#[inline(always)]
fn stamp(clock: u32, warp: u32, bytes: u32) -> u32 {
    clock << 9 | warp << 4 | bytes
}

#[inline(always)]
fn stamp_warp(stamp: u32) -> usize {
    (stamp >> 4 & 31) as usize
}

/// Which checks apply to shared memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SharedChecks {
    pub uninitialised: bool,
    pub races: bool,
    pub async_copies: bool,
    /// What unwritten bytes hold.
    pub fill: u8,
}

/// What is wrong with an access.
#[derive(Debug)]
pub(crate) struct Problem {
    pub kind: FaultKind,
    pub message: String,
    /// Two warps write without order and nobody reads: no harm is done if both write the same value.
    pub rewrite: bool,
}

/// Shared memory of one block.
pub(crate) struct Shared {
    data: Vec<u32>,
    shadow: Vec<Word>,
    pub bytes: u32,
    checks: SharedChecks,
    /// Clock of each warp.
    pub(super) clock: [u32; 32],
    pub(super) seen: Box<[[u32; 32]; 32]>,
    pub(super) orders: Orders,
    /// While set, accesses are not noted: strong ones have been already.
    hidden: bool,
}

impl Shared {
    pub(crate) fn new(checks: SharedChecks) -> Self {
        Self {
            data: Vec::new(),
            shadow: Vec::new(),
            bytes: 0,
            checks,
            clock: [1; 32],
            seen: Box::new([[0; 32]; 32]),
            orders: Orders::default(),
            hidden: false,
        }
    }

    /// Starts a block: `bytes` of unwritten memory, warps that nothing orders yet.
    pub(crate) fn reset(&mut self, bytes: u32) {
        let words = bytes.div_ceil(4) as usize + 4;
        self.bytes = bytes;
        self.data.clear();
        self.data.resize(words, u32::from_ne_bytes([self.checks.fill; 4]));
        self.shadow.clear();
        if self.tracks() {
            self.shadow.resize(words, Word::default());
        }
        self.clock = [1; 32];
        *self.seen = [[0; 32]; 32];
        self.orders.clear();
        self.hidden = false;
    }

    /// Adds `bytes` bytes of zeros from `start` on, behind the kernel's own memory.
    pub(crate) fn reserve(&mut self, start: u32, bytes: u32) {
        self.bytes = start + bytes;
        let first = start as usize / 4;
        self.data.truncate(first);
        self.data.resize(self.bytes as usize / 4 + 4, 0);
        if self.tracks() {
            self.shadow.truncate(first);
            self.shadow.resize(self.data.len(), Word { state: 15, ..Word::default() });
        }
    }

    /// Stops or resumes noting accesses.
    #[inline(always)]
    pub(crate) fn hide(&mut self, hidden: bool) {
        self.hidden = hidden;
    }

    fn tracks(&self) -> bool {
        self.checks.uninitialised || self.checks.races || self.checks.async_copies
    }

    /// Whether accesses need [`Self::note_read`] and [`Self::note_write`] at all.
    #[inline(always)]
    pub(crate) fn shadowed(&self) -> bool {
        !self.hidden && !self.shadow.is_empty()
    }

    #[inline(always)]
    pub(crate) fn word(&self, index: usize) -> u32 {
        self.data[index]
    }

    #[inline(always)]
    pub(crate) fn word_mut(&mut self, index: usize) -> &mut u32 {
        &mut self.data[index]
    }

    /// Reads 1, 2 or 4 bytes at an aligned offset.
    #[inline(always)]
    pub(crate) fn load(&self, offset: usize, bytes: u32) -> u32 {
        let word = self.data[offset / 4];
        match bytes {
            4 => word,
            2 => word >> (8 * (offset & 2)) & 0xffff,
            _ => word >> (8 * (offset & 3)) & 0xff,
        }
    }

    /// Writes 1, 2 or 4 bytes at an aligned offset.
    #[inline(always)]
    pub(crate) fn store(&mut self, offset: usize, bytes: u32, value: u32) {
        let word = &mut self.data[offset / 4];
        match bytes {
            4 => *word = value,
            2 => {
                let shift = 8 * (offset & 2);
                *word = *word & !(0xffff << shift) | (value & 0xffff) << shift;
            }
            _ => {
                let shift = 8 * (offset & 3);
                *word = *word & !(0xff << shift) | (value & 0xff) << shift;
            }
        }
    }

    /// Checks a read of `bytes` bytes (1, 2, 4, 8 or 16, aligned) by `warp` and notes it.
    #[inline(always)]
    pub(crate) fn note_read(&mut self, offset: usize, bytes: u32, warp: u32) -> Result<(), Problem> {
        let (mask, words) = extent(offset, bytes);
        let now = stamp(self.clock[warp as usize], warp, mask);
        let seen = &self.seen[warp as usize];
        for index in offset / 4..offset / 4 + words {
            let w = &mut self.shadow[index];
            if w.state & (IN_FLIGHT | mask) != mask {
                let w = *w;
                self.read_problem(index, w, mask)?;
            }
            let w = &mut self.shadow[index];
            let unordered = stamp_warp(w.write) != warp as usize
                && w.write >> 9 > seen[stamp_warp(w.write)]
                && w.write & mask != 0;
            if unordered && self.checks.races {
                return Err(race("reads", index, warp, "wrote", w.write));
            }
            if w.read & !15 == now & !15 {
                w.read |= mask;
            } else {
                if stamp_warp(w.read) != warp as usize {
                    w.other_read = w.read;
                }
                w.read = now;
            }
        }
        Ok(())
    }

    #[cold]
    fn read_problem(&self, index: usize, w: Word, mask: u32) -> Result<(), Problem> {
        if w.state & IN_FLIGHT != 0 && self.checks.async_copies {
            return Err(in_flight("reads", index, w));
        }
        if w.state & mask != mask && self.checks.uninitialised {
            return Err(Problem {
                kind: FaultKind::UninitialisedRead,
                message: format!("reads shared memory at {}, which nothing has written", 4 * index),
                rewrite: false,
            });
        }
        Ok(())
    }

    /// Checks a write by `warp` and notes it.
    #[inline(always)]
    pub(crate) fn note_write(&mut self, offset: usize, bytes: u32, warp: u32) -> Result<(), Problem> {
        let (mask, words) = extent(offset, bytes);
        let now = stamp(self.clock[warp as usize], warp, mask);
        let seen = &self.seen[warp as usize];
        for index in offset / 4..offset / 4 + words {
            let w = &mut self.shadow[index];
            if w.state & IN_FLIGHT != 0 && self.checks.async_copies {
                return Err(in_flight("writes", index, *w));
            }
            if self.checks.races {
                for (verb, earlier) in [("read", w.read), ("read", w.other_read), ("wrote", w.write)] {
                    let other = stamp_warp(earlier);
                    if other != warp as usize && earlier >> 9 > seen[other] && earlier & mask != 0 {
                        let mut problem = race("writes", index, warp, verb, earlier);
                        problem.rewrite = verb == "wrote";
                        return Err(problem);
                    }
                }
            }
            w.write = if w.write & !15 == now & !15 { w.write | mask } else { now };
            w.plain = w.write;
            w.state = w.state & !ATOMIC | mask;
        }
        Ok(())
    }

    /// Checks an atomic operation by `warp` and notes it: atomics do not race with each other.
    pub(crate) fn note_atomic(
        &mut self,
        offset: usize,
        bytes: u32,
        warp: u32,
        reads: bool,
    ) -> Result<(), Problem> {
        let (mask, words) = extent(offset, bytes);
        for index in offset / 4..offset / 4 + words {
            let w = self.shadow[index];
            if reads && w.state & (IN_FLIGHT | mask) != mask {
                self.read_problem(index, w, mask)?;
            }
            if w.state & ATOMIC == 0 && w.state & IN_FLIGHT != 0 && self.checks.async_copies {
                return Err(in_flight("writes", index, w));
            }
            if self.checks.races {
                let seen = &self.seen[warp as usize];
                for (verb, earlier) in [("read", w.read), ("read", w.other_read), ("wrote", w.plain)] {
                    let other = stamp_warp(earlier);
                    if other != warp as usize && earlier >> 9 > seen[other] && earlier & mask != 0 {
                        return Err(race("updates", index, warp, verb, earlier));
                    }
                }
            }
            let clock = self.clock[warp as usize];
            let w = &mut self.shadow[index];
            w.state |= ATOMIC | mask;
            w.write = stamp(clock, warp, mask);
        }
        Ok(())
    }

    /// Checks a strong read by `warp`, which does not race with atomics.
    pub(crate) fn note_strong_load(&mut self, offset: usize, bytes: u32, warp: u32) -> Result<(), Problem> {
        let (mask, words) = extent(offset, bytes);
        for index in offset / 4..offset / 4 + words {
            let w = self.shadow[index];
            if w.state & ATOMIC == 0 {
                // The read itself is not kept: a strong write that follows does not race with it.
                let before = (w.read, w.other_read);
                self.note_read(offset.max(4 * index), bytes.min(4), warp)?;
                (self.shadow[index].read, self.shadow[index].other_read) = before;
            } else if w.state & (IN_FLIGHT | mask) != mask {
                self.read_problem(index, w, mask)?;
            }
        }
        Ok(())
    }

    /// Notes that a `cp.async` of thread `thread` will write these bytes.
    pub(crate) fn begin_copy(
        &mut self,
        offset: usize,
        bytes: u32,
        warp: u32,
        thread: u32,
    ) -> Result<(), Problem> {
        self.note_write(offset, bytes, warp)?;
        for index in offset / 4..offset / 4 + bytes.div_ceil(4) as usize {
            self.shadow[index].state = self.shadow[index].state & 0xff | IN_FLIGHT | thread << 8;
        }
        Ok(())
    }

    /// The issuer has waited: the bytes are its to read, and others' after a barrier.
    pub(crate) fn finish_copy(&mut self, offset: usize, bytes: u32, warp: u32) {
        let clock = self.clock[warp as usize];
        for index in offset / 4..offset / 4 + bytes.div_ceil(4) as usize {
            let w = &mut self.shadow[index];
            w.state &= !IN_FLIGHT;
            w.write = stamp(clock, warp, 15);
        }
    }

    /// `participants` have met at a barrier: what each did before is ordered before what all do after.
    pub(crate) fn synchronise(&mut self, participants: u32) {
        let mut joined = [0u32; 32];
        for w in (0..32).filter(|w| participants >> w & 1 != 0) {
            for (j, &s) in joined.iter_mut().zip(&self.seen[w]) {
                *j = (*j).max(s);
            }
            joined[w] = joined[w].max(self.clock[w]);
        }
        for w in (0..32).filter(|w| participants >> w & 1 != 0) {
            self.seen[w] = joined;
            self.clock[w] += 1;
        }
    }

    /// `from` has arrived at a barrier that `to` waits at: one direction only.
    pub(crate) fn publish(&mut self, from: u32, to: u32) {
        let mut joined = [0u32; 32];
        for w in (0..32).filter(|w| from >> w & 1 != 0) {
            for (j, &s) in joined.iter_mut().zip(&self.seen[w]) {
                *j = (*j).max(s);
            }
            joined[w] = joined[w].max(self.clock[w]);
            self.clock[w] += 1;
        }
        for w in (0..32).filter(|w| to >> w & 1 != 0) {
            for (s, &j) in self.seen[w].iter_mut().zip(&joined) {
                *s = (*s).max(j);
            }
        }
    }
}

/// Bit of [`Word::state`]: last written by an atomic operation.
const ATOMIC: u32 = 1 << 5;

/// Byte mask within each word, and how many words.
#[inline(always)]
fn extent(offset: usize, bytes: u32) -> (u32, usize) {
    match bytes {
        1 => (1 << (offset & 3), 1),
        2 => (3 << (offset & 2), 1),
        _ => (15, bytes as usize / 4),
    }
}

#[cold]
fn race(verb: &str, index: usize, warp: u32, earlier_verb: &str, earlier: u32) -> Problem {
    Problem {
        kind: FaultKind::SharedRace,
        message: format!(
            "{verb} shared memory at {} in warp {warp}, which warp {} {earlier_verb} with no barrier in between",
            group(4 * index as u64),
            stamp_warp(earlier)
        ),
        rewrite: false,
    }
}

#[cold]
fn in_flight(verb: &str, index: usize, w: Word) -> Problem {
    Problem {
        kind: FaultKind::MissingWait,
        message: format!(
            "{verb} shared memory at {} while a cp.async of thread {} to it is in flight: a cp.async.wait_group must come first",
            group(4 * index as u64),
            w.state >> 8
        ),
        rewrite: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: SharedChecks = SharedChecks { uninitialised: true, races: true, async_copies: true, fill: 0 };

    fn shared() -> Shared {
        let mut s = Shared::new(ALL);
        s.reset(256);
        s
    }

    fn kind(result: Result<(), Problem>) -> Option<FaultKind> {
        result.err().map(|p| p.kind)
    }

    #[test]
    fn order_is_only_between_warps_that_met() {
        let mut s = shared();
        s.note_write(0, 4, 0).unwrap();
        // Warps 1 and 2 meet without warp 0.
        s.synchronise(0b110);
        assert_eq!(kind(s.note_read(0, 4, 1)), Some(FaultKind::SharedRace));
        s.synchronise(0b011);
        assert_eq!(kind(s.note_read(0, 4, 1)), None);
        assert_eq!(kind(s.note_read(0, 4, 2)), Some(FaultKind::SharedRace));
        // What warp 0 did reaches warp 2 by way of warp 1.
        s.synchronise(0b110);
        assert_eq!(kind(s.note_read(0, 4, 2)), None);
    }

    #[test]
    fn arriving_orders_one_way_only() {
        let mut s = shared();
        s.note_write(0, 4, 0).unwrap();
        s.note_write(4, 4, 1).unwrap();
        s.publish(0b01, 0b10);
        assert_eq!(kind(s.note_read(0, 4, 1)), None);
        assert_eq!(kind(s.note_read(4, 4, 0)), Some(FaultKind::SharedRace));
    }

    #[test]
    fn a_write_after_the_reads_of_several_warps() {
        let mut s = shared();
        s.note_write(0, 4, 0).unwrap();
        s.synchronise(0b111);
        for warp in 0..2 {
            s.note_read(0, 4, warp).unwrap();
        }
        s.synchronise(0b110);
        assert_eq!(kind(s.note_write(0, 4, 2)), Some(FaultKind::SharedRace));
        s.synchronise(0b111);
        assert_eq!(kind(s.note_write(0, 4, 2)), None);
    }

    #[test]
    fn atomics_race_with_plain_accesses_but_not_with_each_other() {
        let mut s = shared();
        s.note_write(0, 4, 0).unwrap();
        assert_eq!(kind(s.note_atomic(0, 4, 1, true)), Some(FaultKind::SharedRace));
        s.synchronise(0b11);
        s.note_atomic(0, 4, 0, true).unwrap();
        s.note_atomic(0, 4, 1, true).unwrap();
        assert_eq!(kind(s.note_read(0, 4, 0)), Some(FaultKind::SharedRace));
        s.synchronise(0b11);
        s.note_read(0, 4, 0).unwrap();
    }

    #[test]
    fn copies_in_flight_are_poisoned_until_their_issuer_waits() {
        let mut s = shared();
        s.begin_copy(16, 16, 0, 5).unwrap();
        assert_eq!(kind(s.note_read(20, 4, 0)), Some(FaultKind::MissingWait));
        assert_eq!(kind(s.note_write(28, 2, 0)), Some(FaultKind::MissingWait));
        s.finish_copy(16, 16, 0);
        assert_eq!(kind(s.note_read(20, 4, 0)), None);
        assert_eq!(kind(s.note_read(20, 4, 1)), Some(FaultKind::SharedRace));
        s.synchronise(0b11);
        assert_eq!(kind(s.note_read(20, 4, 1)), None);
    }

    #[test]
    fn bytes_read_and_write_within_words() {
        let mut s = shared();
        s.store(5, 1, 0xab);
        s.store(6, 2, 0x1234);
        assert_eq!(s.word(1), 0x1234_ab00);
        assert_eq!((s.load(5, 1), s.load(6, 2), s.load(4, 4)), (0xab, 0x1234, 0x1234_ab00));
    }
}
