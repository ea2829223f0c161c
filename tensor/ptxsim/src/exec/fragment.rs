//! `wmma.load` and `wmma.store`: a matrix in memory to and from the registers of a warp.

use super::access::{Words, addresses, classify};
use super::context::{Context, Step, Worker};
use super::memory::lanes;
use super::regs::{FULL, Row64};
use super::warp::Warp;
use crate::memory::shared::Shared;
use crate::program::FragmentAccess;

impl Warp {
    /// Byte address of every lane's element at `position` of register `register`.
    fn element_addresses(&self, f: &FragmentAccess, register: u32, position: u32) -> Row64 {
        let fragment = &f.access.fragment;
        let base = addresses(&self.regs, &f.address);
        let stride = f.stride.map(|row| *self.regs.row32(row));
        let dense = if f.access.column_major { fragment.rows } else { fragment.columns };
        std::array::from_fn(|lane| {
            let (row, column) = fragment.place(lane as u32, register, position);
            let stride = stride.map_or(dense, |s| s[lane]);
            let index = fragment.offset(row, column, stride, f.access.column_major);
            // 4-bit elements share a byte; their position says which half.
            base[lane].wrapping_add(index * u64::from(fragment.element.bits()) / 8)
        })
    }

    pub(super) fn load_fragment(
        &mut self,
        f: &FragmentAccess,
        context: &Context,
        shared: &mut Shared,
        worker: &mut Worker,
    ) -> Step<()> {
        let bits = f.access.fragment.element.bits();
        let bytes = bits.div_ceil(8);
        for (register, &reg) in f.regs.iter().enumerate() {
            let mut value = [0u64; 32];
            // Neighbouring 4-bit elements of a byte are loaded together.
            let step = (8 / bits).max(1);
            let mut position = 0;
            while position < f.access.fragment.packed() {
                let mut at = self.element_addresses(f, register as u32, position);
                let spaces = classify(f.place, &mut at, FULL);
                let mut words: Words = [[0; 32]; 4];
                if spaces.global != 0 {
                    self.load_global(&at, spaces.global, bytes, &mut words, context, worker)?;
                }
                if spaces.shared != 0 {
                    let mask = spaces.shared;
                    self.load_shared(&at, mask, bytes, &mut words, context, shared, worker)?;
                }
                for lane in lanes(FULL) {
                    let low = u64::from(words[0][lane]) | u64::from(words[1][lane]) << 32;
                    value[lane] |= low << (bits * position);
                }
                position += step;
            }
            self.regs.set(reg, FULL, &value);
        }
        Ok(())
    }

    pub(super) fn store_fragment(
        &mut self,
        f: &FragmentAccess,
        context: &Context,
        shared: &mut Shared,
        worker: &mut Worker,
    ) -> Step<()> {
        let bits = f.access.fragment.element.bits();
        let bytes = bits.div_ceil(8);
        for (register, &reg) in f.regs.iter().enumerate() {
            let value = self.regs.get(reg);
            for position in 0..f.access.fragment.packed() {
                let mut at = self.element_addresses(f, register as u32, position);
                let spaces = classify(f.place, &mut at, FULL);
                let mut words: Words = [[0; 32]; 4];
                let keep = if bits == 64 { u64::MAX } else { (1 << bits) - 1 };
                for lane in lanes(FULL) {
                    let element = value[lane] >> (bits * position) & keep;
                    words[0][lane] = element as u32;
                    words[1][lane] = (element >> 32) as u32;
                }
                if spaces.global != 0 {
                    self.store_global(&at, spaces.global, bytes, &words, context, worker)?;
                }
                if spaces.shared != 0 {
                    let mask = spaces.shared;
                    self.store_shared(&at, mask, bytes, &words, context, shared, worker)?;
                }
            }
        }
        Ok(())
    }
}
