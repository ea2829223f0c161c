//! Global memory: how many 32-byte sectors a warp's access moves, and how many it would need.
//!
//! The memory system moves sectors of 32 bytes; a warp's access costs as many as it touches
//! (CUDA C++ Best Practices Guide, "Coalesced Access to Global Memory"). Needed are the bytes the lanes
//! use, each once, divided by 32.

use std::collections::HashMap;

/// Bytes of a sector.
pub const SECTOR: u64 = 32;

/// Sectors of one access of a warp.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sectors {
    /// Sectors touched: what moves.
    pub touched: u32,
    /// Sectors that would hold the bytes used.
    pub needed: u32,
}

/// Counts the sectors of an access of `bytes` a lane by the lanes of `active`.
pub fn count(addresses: &[u64; 32], active: u32, bytes: u32) -> Sectors {
    let mut starts = [0u64; 32];
    let mut n = 0;
    let mut sorted = true;
    let mut left = active;
    while left != 0 {
        let address = addresses[left.trailing_zeros() as usize];
        left &= left - 1;
        sorted &= n == 0 || starts[n - 1] <= address;
        starts[n] = address;
        n += 1;
    }
    let starts = &mut starts[..n];
    if !sorted {
        starts.sort_unstable();
    }
    let (mut touched, mut used) = (0, 0);
    let (mut next_sector, mut next_byte) = (0, 0);
    for &start in starts.iter() {
        let end = start + u64::from(bytes);
        let first = (start / SECTOR).max(next_sector);
        let last = (end - 1) / SECTOR;
        if last >= first {
            touched += last - first + 1;
            next_sector = last + 1;
        }
        used += end.saturating_sub(start.max(next_byte));
        next_byte = next_byte.max(end);
    }
    Sectors { touched: touched as u32, needed: used.div_ceil(SECTOR) as u32 }
}

/// The sectors a kernel touches at all: what must come from and go to DRAM at least once.
#[derive(Clone, Debug, Default)]
pub struct Footprint {
    /// One bit a sector, 4 KiB (128 sectors) an entry.
    pages: HashMap<u64, u128>,
    /// The page looked up last; neighbouring lanes mostly stay on it.
    page: u64,
    bits: u128,
}

impl Footprint {
    const PAGE: u64 = 4096;

    /// Adds `bytes` from `address`, which must not cross a page (aligned accesses of up to 16 bytes do
    /// not).
    #[inline]
    pub fn touch(&mut self, address: u64, bytes: u32) {
        let page = address / Self::PAGE;
        if page != self.page {
            self.flush();
            self.page = page;
            self.bits = 0;
        }
        let first = address % Self::PAGE / SECTOR;
        let last = (address % Self::PAGE + u64::from(bytes) - 1) / SECTOR;
        self.bits |= 1 << first | 1 << last.min(127);
    }

    fn flush(&mut self) {
        if self.bits != 0 {
            *self.pages.entry(self.page).or_default() |= self.bits;
        }
    }

    /// Adds what another one touched.
    pub fn merge(&mut self, other: &Footprint) {
        self.flush();
        self.bits = 0;
        for (page, bits) in &other.pages {
            *self.pages.entry(*page).or_default() |= bits;
        }
        if other.bits != 0 {
            *self.pages.entry(other.page).or_default() |= other.bits;
        }
    }

    /// Bytes of all sectors touched.
    pub fn bytes(&self) -> u64 {
        let held = self.pages.get(&self.page).copied().unwrap_or(0);
        let pending = u64::from((self.bits & !held).count_ones());
        let sectors: u64 = self.pages.values().map(|bits| u64::from(bits.count_ones())).sum();
        (sectors + pending) * SECTOR
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lanes(f: impl Fn(u64) -> u64) -> [u64; 32] {
        std::array::from_fn(|lane| f(lane as u64))
    }

    #[test]
    fn coalesced_strided_and_scattered() {
        let all = u32::MAX;
        let s = |touched, needed| Sectors { touched, needed };
        assert_eq!(count(&lanes(|i| 4096 + 4 * i), all, 4), s(4, 4));
        assert_eq!(count(&lanes(|i| 4096 + 16 * i), all, 16), s(16, 16));
        assert_eq!(count(&lanes(|i| 4100 + 4 * i), all, 4), s(5, 4));
        assert_eq!(count(&lanes(|i| 4096 + 128 * i), all, 4), s(32, 4));
        assert_eq!(count(&lanes(|_| 4096), all, 4), s(1, 1));
        assert_eq!(count(&lanes(|i| 4096 + 4 * (31 - i)), all, 4), s(4, 4));
        assert_eq!(count(&lanes(|i| 4096 + 2 * i), all, 2), s(2, 2));
        assert_eq!(count(&lanes(|i| 4096 + 4 * i), 0xff, 4), s(1, 1));
        assert_eq!(count(&lanes(|i| 4096 + 4 * i), 0, 4), s(0, 0));
        // Pairs of lanes share an address.
        assert_eq!(count(&lanes(|i| 4096 + 8 * (i / 2)), all, 8), s(4, 4));
    }

    #[test]
    fn footprint_counts_each_sector_once() {
        let mut a = Footprint::default();
        for i in 0..64 {
            a.touch(8192 + 4 * i, 4);
        }
        a.touch(1 << 20, 16);
        a.touch(8192, 4);
        assert_eq!(a.bytes(), 256 + 32);
        let mut b = Footprint::default();
        b.touch(8192 + 64, 4);
        b.touch(8192 + 1024, 4);
        b.merge(&a);
        assert_eq!(b.bytes(), 256 + 32 + 32);
    }
}
