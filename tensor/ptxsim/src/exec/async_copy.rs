//! `cp.async`: the bytes arrive at once, but the shadow keeps them poisoned until their issuer waits.

use super::access::{Words, addresses};
use super::context::{Context, Step, Trouble, Worker};
use super::memory::lanes;
use super::regs::Row32;
use super::warp::Warp;
use crate::error::FaultKind;
use crate::memory::shared::Shared;
use crate::program::CopyAsync;

/// One `cp.async` of a warp whose bytes some lane has not waited for.
#[derive(Clone, Debug)]
pub(crate) struct PendingCopy {
    /// Shared-memory offset by lane.
    offset: Row32,
    bytes: u32,
    /// Lanes that have yet to wait.
    lanes: u32,
    /// Number of groups the lane had committed when it issued the copy.
    group: Row32,
}

impl Warp {
    pub(super) fn copy_async(
        &mut self,
        copy: &CopyAsync,
        mask: u32,
        context: &Context,
        shared: &mut Shared,
        worker: &mut Worker,
    ) -> Step<()> {
        if mask == 0 {
            return Ok(());
        }
        let dst = addresses(&self.regs, &copy.dst);
        let src = addresses(&self.regs, &copy.src);
        let bytes = copy.bytes;
        let ignored = copy.ignore.map_or(0, |(row, negated)| {
            let p = self.regs.pred(row);
            if negated { !p } else { p }
        });
        let sizes = copy.source_bytes.map(|reg| self.regs.get(reg));
        // Lanes that read their whole source, and those that read part of it.
        let (mut whole, mut part) = (mask & !ignored, 0);
        if let Some(sizes) = &sizes {
            for lane in lanes(mask & !ignored) {
                if sizes[lane] > u64::from(bytes) {
                    return Err(Trouble::new(
                        FaultKind::IllegalInstruction,
                        lane as u32,
                        format!("cp.async of {bytes} bytes with a source size of {}", sizes[lane]),
                    ));
                }
                if sizes[lane] < u64::from(bytes) {
                    whole &= !(1 << lane);
                    part |= 1 << lane;
                }
            }
        }
        let mut words: Words = [[0; 32]; 4];
        if whole != 0 {
            self.load_global(&src, whole, bytes, &mut words, context, worker)?;
        }
        if let Some(sizes) = &sizes {
            for lane in lanes(part) {
                for i in 0..sizes[lane] {
                    let mut byte: Words = [[0; 32]; 4];
                    let mut at = src;
                    at[lane] += i;
                    self.load_global(&at, 1 << lane, 1, &mut byte, context, worker)?;
                    words[i as usize / 4][lane] |= byte[0][lane] << (8 * (i % 4));
                }
            }
        }
        if context.counts {
            worker.counts.shared_access(self.pc, &dst.map(|a| a as u32), mask, bytes);
        }
        let mut pending = PendingCopy { offset: [0; 32], bytes, lanes: mask, group: self.committed };
        for lane in lanes(mask) {
            let offset = self.shared_offset("writes", dst[lane], bytes, lane, shared)?;
            if shared.shadowed() {
                let thread = self.index * 32 + lane as u32;
                shared
                    .begin_copy(offset, bytes, self.index, thread)
                    .map_err(|p| Trouble::new(p.kind, lane as u32, p.message))?;
            }
            pending.offset[lane] = offset as u32;
            for (w, row) in words.iter().enumerate().take(bytes as usize / 4) {
                *shared.word_mut(offset / 4 + w) = row[lane];
            }
        }
        if shared.shadowed() {
            self.copies.push(pending);
        }
        Ok(())
    }

    pub(super) fn commit_group(&mut self, mask: u32) {
        for lane in lanes(mask) {
            self.committed[lane] += 1;
        }
    }

    /// All but the latest `allowed` groups of each lane have arrived.
    pub(super) fn wait_group(&mut self, mask: u32, allowed: u32, shared: &mut Shared) {
        let committed = self.committed;
        self.finish_copies(mask, shared, |group, lane| group + allowed < committed[lane]);
    }

    /// Everything issued has arrived, committed or not.
    pub(super) fn wait_all(&mut self, mask: u32, shared: &mut Shared) {
        self.finish_copies(mask, shared, |_, _| true);
    }

    fn finish_copies(&mut self, mask: u32, shared: &mut Shared, done: impl Fn(u32, usize) -> bool) {
        let warp = self.index;
        self.copies.retain_mut(|copy| {
            for lane in lanes(copy.lanes & mask) {
                if done(copy.group[lane], lane) {
                    copy.lanes &= !(1 << lane);
                    shared.finish_copy(copy.offset[lane] as usize, copy.bytes, warp);
                }
            }
            copy.lanes != 0
        });
    }
}
