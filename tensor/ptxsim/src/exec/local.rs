//! Accesses of local memory and of `.param` variables of calls, which only the thread itself sees.

use super::access::Words;
use super::context::Step;
use super::memory::{lanes, misaligned, outside};
use super::regs::Row64;
use super::warp::Warp;
use crate::program::{Load, Store};

impl Warp {
    pub(super) fn load_local(&self, at: &Row64, mask: u32, bytes: u32, words: &mut Words) -> Step<()> {
        for lane in lanes(mask) {
            let offset = self.local_offset("reads", at[lane], bytes, lane)?;
            for (w, row) in words.iter_mut().enumerate().take((bytes as usize).div_ceil(4)) {
                let word = self.local[offset / 4 + w][lane];
                row[lane] = match bytes {
                    1 => word >> (8 * (offset & 3)) & 0xff,
                    2 => word >> (8 * (offset & 2)) & 0xffff,
                    _ => word,
                };
            }
        }
        Ok(())
    }

    pub(super) fn store_local(&mut self, at: &Row64, mask: u32, bytes: u32, words: &Words) -> Step<()> {
        for lane in lanes(mask) {
            let offset = self.local_offset("writes", at[lane], bytes, lane)?;
            for (w, row) in words.iter().enumerate().take((bytes as usize).div_ceil(4)) {
                let word = &mut self.local[offset / 4 + w][lane];
                let (shift, keep) = match bytes {
                    1 => (8 * (offset & 3), 0xff),
                    2 => (8 * (offset & 2), 0xffff),
                    _ => (0, u32::MAX),
                };
                *word = *word & !(keep << shift) | (row[lane] & keep) << shift;
            }
        }
        Ok(())
    }

    fn local_offset(&self, verb: &str, address: u64, bytes: u32, lane: usize) -> Step<usize> {
        let size = 4 * self.local.len() as u64;
        if address.saturating_add(u64::from(bytes)) > size {
            return Err(outside(verb, "local", address, bytes, size, lane));
        }
        if !address.is_multiple_of(u64::from(bytes)) {
            return Err(misaligned(verb, "local", address, bytes, lane));
        }
        Ok(address as usize)
    }

    /// `.param` variables of calls are named, so the decoder has checked bounds and alignment.
    pub(super) fn load_call_param(&self, load: &Load, words: &mut Words) {
        let total = load.bytes as usize * load.dst.len();
        let offset = load.address.offset as usize;
        let first = self.regs.base.param as usize + offset / 4;
        for w in 0..total.div_ceil(4) {
            let row = &self.regs.param[first + w];
            let shift = 8 * (offset % 4);
            for lane in 0..32 {
                words[w][lane] = row[lane] >> shift;
            }
        }
    }

    pub(super) fn store_call_param(&mut self, store: &Store, mask: u32, words: &Words) {
        let total = store.bytes as usize * store.src.len();
        let offset = store.address.offset as usize;
        let first = self.regs.base.param as usize + offset / 4;
        let (shift, keep) = match total {
            1 => (8 * (offset % 4), 0xff),
            2 => (8 * (offset % 4), 0xffff),
            _ => (0, u32::MAX),
        };
        for w in 0..total.div_ceil(4) {
            let row = &mut self.regs.param[first + w];
            for lane in lanes(mask) {
                row[lane] = row[lane] & !(keep << shift) | (words[w][lane] & keep) << shift;
            }
        }
    }
}
