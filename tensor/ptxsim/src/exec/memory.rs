//! `ld` and `st` in every space, with their checks.

use std::sync::atomic::Ordering::Relaxed;

use super::access::{Words, addresses, classify, consecutive, pack, unpack};
use super::context::{Context, Step, Trouble, Worker};
use super::regs::{FULL, Row64};
use super::warp::Warp;
use crate::count::GlobalAccess;
use crate::error::FaultKind;
use crate::memory::global::{Allocation, group};
use crate::memory::shared::Shared;
use crate::program::{Load, Order, Place, Store};

/// Lanes of a mask, lowest first.
#[inline(always)]
pub(super) fn lanes(mask: u32) -> impl Iterator<Item = usize> {
    let mut left = mask;
    std::iter::from_fn(move || {
        if left == 0 {
            return None;
        }
        let lane = left.trailing_zeros();
        left &= left - 1;
        Some(lane as usize)
    })
}

#[cold]
pub(super) fn misaligned(verb: &str, space: &str, address: u64, bytes: u32, lane: usize) -> Box<Trouble> {
    Trouble::new(
        FaultKind::Misaligned,
        lane as u32,
        format!(
            "{verb} {bytes} bytes of {space} memory at 0x{address:x}, which is not a multiple of {bytes}"
        ),
    )
}

#[cold]
pub(super) fn outside(
    verb: &str,
    space: &str,
    offset: u64,
    bytes: u32,
    size: u64,
    lane: usize,
) -> Box<Trouble> {
    Trouble::new(
        FaultKind::OutOfBounds,
        lane as u32,
        format!(
            "{verb} {bytes} bytes of {space} memory at offset {}, {} bytes past the end of its {} bytes",
            group(offset),
            group((offset + u64::from(bytes)).saturating_sub(size)),
            group(size)
        ),
    )
}

impl Warp {
    #[inline(always)]
    pub(super) fn load(
        &mut self,
        load: &Load,
        mask: u32,
        context: &Context,
        shared: &mut Shared,
        worker: &mut Worker,
    ) -> Step<()> {
        if mask == 0 {
            return Ok(());
        }
        let total = load.bytes * load.dst.len() as u32;
        let mut words: Words = [[0; 32]; 4];
        if load.place == Place::CallParam {
            self.load_call_param(load, &mut words);
        } else {
            let mut at = addresses(&self.regs, &load.address);
            let spaces = classify(load.place, &mut at, mask);
            if spaces.global != 0 {
                self.load_global(&at, spaces.global, total, &mut words, context, worker)?;
            }
            if spaces.shared != 0 {
                if shared.shadowed() && strong(load.order, context) {
                    self.note_strong(&at, spaces.shared, total, load.order, false, shared)?;
                    shared.hide(true);
                }
                let loaded = self.load_shared(&at, spaces.shared, total, &mut words, context, shared, worker);
                shared.hide(false);
                loaded?;
            }
            if spaces.local != 0 {
                if context.counts {
                    worker.counts.local_access(spaces.local, total);
                }
                self.load_local(&at, spaces.local, total, &mut words)?;
            }
            if spaces.param != 0 {
                load_param(&at, spaces.param, total, &mut words, context)?;
            }
        }
        unpack(&mut self.regs, &load.dst, load.bytes, load.extend, &words, mask);
        Ok(())
    }

    #[inline(always)]
    pub(super) fn store(
        &mut self,
        store: &Store,
        mask: u32,
        context: &Context,
        shared: &mut Shared,
        worker: &mut Worker,
    ) -> Step<()> {
        if mask == 0 {
            return Ok(());
        }
        let total = store.bytes * store.src.len() as u32;
        let words = pack(&self.regs, &store.src, store.bytes);
        if store.place == Place::CallParam {
            self.store_call_param(store, mask, &words);
            return Ok(());
        }
        let mut at = addresses(&self.regs, &store.address);
        let spaces = classify(store.place, &mut at, mask);
        if spaces.global != 0 {
            self.store_global(&at, spaces.global, total, &words, context, worker)?;
        }
        if spaces.shared != 0 {
            if shared.shadowed() && strong(store.order, context) {
                self.note_strong(&at, spaces.shared, total, store.order, true, shared)?;
                shared.hide(true);
            }
            let stored = self.store_shared(&at, spaces.shared, total, &words, context, shared, worker);
            shared.hide(false);
            stored?;
        }
        if spaces.local != 0 {
            if context.counts {
                worker.counts.local_access(spaces.local, total);
            }
            self.store_local(&at, spaces.local, total, &words)?;
        }
        if spaces.param != 0 {
            let lane = spaces.param.trailing_zeros();
            return Err(Trouble::new(
                FaultKind::ReadOnly,
                lane,
                "writes to the kernel's parameters, which are constant",
            ));
        }
        Ok(())
    }

    /// The allocation that holds all of an access, if one does.
    #[inline(always)]
    pub(super) fn allocation<'c>(
        &self,
        address: u64,
        bytes: u32,
        context: &'c Context,
        worker: &mut Worker,
    ) -> Option<&'c Allocation> {
        let site = &mut worker.site[self.pc as usize];
        if let Some(a) = context.allocations.get(*site as usize)
            && a.contains(address, u64::from(bytes))
        {
            return Some(a);
        }
        let index = context.find(address)?;
        let a = &context.allocations[index];
        *site = index as u32;
        a.contains(address, u64::from(bytes)).then_some(a)
    }

    #[inline(always)]
    pub(super) fn load_global(
        &mut self,
        at: &Row64,
        mask: u32,
        bytes: u32,
        words: &mut Words,
        context: &Context,
        worker: &mut Worker,
    ) -> Step<()> {
        if context.counts {
            worker.counts.global_access(self.pc, GlobalAccess::Load, at, mask, bytes);
        }
        let first = mask.trailing_zeros() as usize;
        if mask == FULL && bytes >= 4 && consecutive(at, bytes) && at[0].is_multiple_of(u64::from(bytes)) {
            let a = self.allocation(at[0], bytes, context, worker);
            if let Some(a) = a
                && a.contains(at[0], 32 * u64::from(bytes))
                && (a.fully_written() || !context.checks.uninitialised)
            {
                let n = bytes as usize / 4;
                let run = a.run((at[0] - a.base) as usize, 32 * n);
                for (lane, chunk) in run.chunks_exact(n).enumerate() {
                    for (w, word) in chunk.iter().enumerate() {
                        words[w][lane] = word.load(Relaxed);
                    }
                }
                return Ok(());
            }
        }
        let mut a = self.allocation(at[first], bytes, context, worker);
        for lane in lanes(mask) {
            let address = at[lane];
            let usable = a.is_some_and(|a| a.contains(address, u64::from(bytes)));
            if !usable {
                a = self.allocation(address, bytes, context, worker);
            }
            let Some(a) = a else {
                if !context.checks.bounds {
                    continue;
                }
                return Err(context.out_of_bounds("reads", "global", address, bytes, lane as u32));
            };
            if !address.is_multiple_of(u64::from(bytes)) {
                if context.checks.alignment {
                    return Err(misaligned("reads", "global", address, bytes, lane));
                }
                for i in 0..bytes {
                    let (at, mut byte) = ([address + u64::from(i); 32], [[0; 32]; 4]);
                    self.load_byte(&at, lane, &mut byte, context, worker)?;
                    words[i as usize / 4][lane] |= byte[0][lane] << (8 * (i % 4));
                }
                continue;
            }
            let offset = (address - a.base) as usize;
            if context.checks.uninitialised && !a.is_written(offset, bytes) {
                return Err(uninitialised(a, address, bytes, lane));
            }
            if bytes >= 4 {
                for (w, word) in a.run(offset, bytes as usize / 4).iter().enumerate() {
                    words[w][lane] = word.load(Relaxed);
                }
            } else {
                words[0][lane] = a.load(offset, bytes);
            }
        }
        Ok(())
    }

    #[inline(always)]
    pub(super) fn store_global(
        &mut self,
        at: &Row64,
        mask: u32,
        bytes: u32,
        words: &Words,
        context: &Context,
        worker: &mut Worker,
    ) -> Step<()> {
        if context.counts {
            worker.counts.global_access(self.pc, GlobalAccess::Store, at, mask, bytes);
        }
        let first = mask.trailing_zeros() as usize;
        let mut a = self.allocation(at[first], bytes, context, worker);
        for lane in lanes(mask) {
            let address = at[lane];
            let usable = a.is_some_and(|a| a.contains(address, u64::from(bytes)));
            if !usable {
                a = self.allocation(address, bytes, context, worker);
            }
            let Some(a) = a else {
                if !context.checks.bounds {
                    continue;
                }
                return Err(context.out_of_bounds("writes", "global", address, bytes, lane as u32));
            };
            if a.read_only() {
                return Err(Trouble::new(
                    FaultKind::ReadOnly,
                    lane as u32,
                    format!("writes to constant memory at 0x{address:x}"),
                ));
            }
            let offset = (address - a.base) as usize;
            if !address.is_multiple_of(u64::from(bytes)) {
                if context.checks.alignment {
                    return Err(misaligned("writes", "global", address, bytes, lane));
                }
                for i in 0..bytes as usize {
                    a.store(offset + i, 1, words[i / 4][lane] >> (8 * (i % 4)) & 0xff);
                    a.mark_written(offset + i, 1);
                }
                continue;
            }
            if bytes >= 4 {
                for (w, word) in a.run(offset, bytes as usize / 4).iter().enumerate() {
                    word.store(words[w][lane], Relaxed);
                }
            } else {
                a.store(offset, bytes, words[0][lane]);
            }
            a.mark_written(offset, bytes);
        }
        Ok(())
    }

    /// One byte of one lane, for accesses that are not aligned.
    #[cold]
    #[inline(never)]
    fn load_byte(
        &mut self,
        at: &Row64,
        lane: usize,
        byte: &mut Words,
        context: &Context,
        worker: &mut Worker,
    ) -> Step<()> {
        self.load_global(at, 1 << lane, 1, byte, context, worker)
    }

    /// Checks one lane's shared access; the byte offset.
    #[inline(always)]
    pub(super) fn shared_offset(
        &self,
        verb: &str,
        address: u64,
        bytes: u32,
        lane: usize,
        shared: &Shared,
    ) -> Step<usize> {
        if address.saturating_add(u64::from(bytes)) > u64::from(shared.bytes) {
            return Err(outside(verb, "shared", address, bytes, u64::from(shared.bytes), lane));
        }
        if !address.is_multiple_of(u64::from(bytes)) {
            return Err(misaligned(verb, "shared", address, bytes, lane));
        }
        Ok(address as usize)
    }

    /// Checks one lane's plain read of shared memory and takes note of it; the byte offset.
    #[inline(always)]
    pub(super) fn shared_read(
        &self,
        address: u64,
        bytes: u32,
        lane: usize,
        shared: &mut Shared,
    ) -> Step<usize> {
        let offset = self.shared_offset("reads", address, bytes, lane, shared)?;
        if shared.shadowed() {
            shared
                .note_read(offset, bytes, self.index)
                .map_err(|p| Trouble::new(p.kind, lane as u32, p.message))?;
        }
        Ok(offset)
    }

    #[inline(always)]
    pub(super) fn load_shared(
        &mut self,
        at: &Row64,
        mask: u32,
        bytes: u32,
        words: &mut Words,
        context: &Context,
        shared: &mut Shared,
        worker: &mut Worker,
    ) -> Step<()> {
        if context.counts {
            worker.counts.shared_access(self.pc, &at.map(|a| a as u32), mask, bytes);
        }
        for lane in lanes(mask) {
            let offset = self.shared_read(at[lane], bytes, lane, shared)?;
            if bytes >= 4 {
                for (w, row) in words.iter_mut().enumerate().take(bytes as usize / 4) {
                    row[lane] = shared.word(offset / 4 + w);
                }
            } else {
                words[0][lane] = shared.load(offset, bytes);
            }
        }
        Ok(())
    }

    #[inline(always)]
    pub(super) fn store_shared(
        &mut self,
        at: &Row64,
        mask: u32,
        bytes: u32,
        words: &Words,
        context: &Context,
        shared: &mut Shared,
        worker: &mut Worker,
    ) -> Step<()> {
        if context.counts {
            worker.counts.shared_access(self.pc, &at.map(|a| a as u32), mask, bytes);
        }
        if context.checks.races {
            self.colliding_lanes(at, mask, bytes, words)?;
        }
        for lane in lanes(mask) {
            let offset = self.shared_offset("writes", at[lane], bytes, lane, shared)?;
            if shared.shadowed() {
                self.note_store(offset, bytes, lane, words, shared)?;
            }
            if bytes >= 4 {
                for (w, row) in words.iter().enumerate().take(bytes as usize / 4) {
                    *shared.word_mut(offset / 4 + w) = row[lane];
                }
            } else {
                shared.store(offset, bytes, words[0][lane]);
            }
        }
        Ok(())
    }

    /// Checks a strong access of shared memory, which takes the place of the checks of plain ones.
    #[cold]
    fn note_strong(
        &self,
        at: &Row64,
        mask: u32,
        bytes: u32,
        order: Order,
        write: bool,
        shared: &mut Shared,
    ) -> Step<()> {
        for lane in lanes(mask) {
            let verb = if write { "writes" } else { "reads" };
            let offset = self.shared_offset(verb, at[lane], bytes, lane, shared)?;
            let noted = if write {
                shared.note_strong_write(offset, bytes, self.index, order.release)
            } else {
                shared.note_strong_read(offset, bytes, self.index, order.acquire)
            };
            noted.map_err(|p| Trouble::new(p.kind, lane as u32, p.message))?;
        }
        Ok(())
    }

    /// Checks one lane's store. Warps that write the same value to the same place do no harm: compilers
    /// that replicate a value over warps (Triton) let each of them store it.
    #[inline(always)]
    fn note_store(
        &self,
        offset: usize,
        bytes: u32,
        lane: usize,
        words: &Words,
        shared: &mut Shared,
    ) -> Step<()> {
        match shared.note_write(offset, bytes, self.index) {
            Ok(()) => Ok(()),
            Err(problem) if problem.rewrite => self.note_rewrite(offset, bytes, lane, words, shared),
            Err(problem) => Err(Trouble::new(problem.kind, lane as u32, problem.message)),
        }
    }

    #[cold]
    fn note_rewrite(
        &self,
        offset: usize,
        bytes: u32,
        lane: usize,
        words: &Words,
        shared: &mut Shared,
    ) -> Step<()> {
        let size = bytes.min(4);
        let keep = u32::MAX >> (32 - 8 * size);
        for (word, at) in (offset..offset + bytes as usize).step_by(4).enumerate() {
            let Err(problem) = shared.note_write(at, size, self.index) else { continue };
            if !problem.rewrite || shared.load(at, size) != words[word][lane] & keep {
                return Err(Trouble::new(problem.kind, lane as u32, problem.message));
            }
        }
        Ok(())
    }

    /// Two lanes of one store that write different values to one place: which one stays is undefined.
    #[inline(always)]
    fn colliding_lanes(&self, at: &Row64, mask: u32, bytes: u32, words: &Words) -> Step<()> {
        if mask == FULL && ascending(at, bytes) {
            return Ok(());
        }
        self.compare_lanes(at, mask, bytes, words)
    }

    fn compare_lanes(&self, at: &Row64, mask: u32, bytes: u32, words: &Words) -> Step<()> {
        let mut order = [0u64; 32];
        let mut n = 0;
        for lane in lanes(mask) {
            order[n] = at[lane] << 5 | lane as u64;
            n += 1;
        }
        order[..n].sort_unstable();
        for pair in order[..n].windows(2) {
            let (a, b) = (pair[0], pair[1]);
            if b >> 5 == a >> 5 {
                let (x, y) = ((a & 31) as usize, (b & 31) as usize);
                let count = (bytes as usize).div_ceil(4);
                if words.iter().take(count).any(|row| row[x] != row[y]) {
                    return Err(Trouble::new(
                        FaultKind::SharedRace,
                        y as u32,
                        format!(
                            "lanes {x} and {y} of warp {} write different values to shared memory at {} in one instruction",
                            self.index,
                            group(at[x])
                        ),
                    ));
                }
            }
        }
        Ok(())
    }
}

/// Whether an access takes part in synchronisation.
#[inline(always)]
fn strong(order: Order, context: &Context) -> bool {
    order.strong || order.volatile && context.program.fences
}

/// Whether the accesses of a full warp ascend without overlap.
#[inline(always)]
fn ascending(at: &Row64, bytes: u32) -> bool {
    let mut ok = true;
    for i in 1..32 {
        ok &= at[i] >= at[i - 1] + u64::from(bytes);
    }
    ok
}

#[cold]
fn uninitialised(a: &Allocation, address: u64, bytes: u32, lane: usize) -> Box<Trouble> {
    Trouble::new(
        FaultKind::UninitialisedRead,
        lane as u32,
        format!(
            "reads {bytes} bytes of global memory at 0x{address:x}, {} bytes into the {}-byte allocation at 0x{:x}, which nothing has written",
            group(address - a.base),
            group(a.bytes),
            a.base
        ),
    )
}

fn load_param(at: &Row64, mask: u32, bytes: u32, words: &mut Words, context: &Context) -> Step<()> {
    let size = context.arguments.len() as u64;
    for lane in lanes(mask) {
        let end = at[lane].saturating_add(u64::from(bytes));
        if end > size {
            return Err(outside("reads", "parameter", at[lane], bytes, size, lane));
        }
        let value = &context.arguments[at[lane] as usize..end as usize];
        for (w, chunk) in value.chunks(4).enumerate() {
            let mut word = [0; 4];
            word[..chunk.len()].copy_from_slice(chunk);
            words[w][lane] = u32::from_le_bytes(word);
        }
    }
    Ok(())
}
