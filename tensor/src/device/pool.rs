//! The caching allocator. `cuMemAlloc` costs tens of microseconds and waits for the device; a training
//! step frees and takes the same sizes over and over. So memory is taken from the driver in segments and
//! blocks of them are handed out, best fit first, split when too large and merged when neighbours are
//! free.
//!
//! Sizes follow PyTorch's `CUDACachingAllocator`: blocks are multiples of 512 bytes; blocks up to 1 MiB
//! come from 2 MiB segments, up to 10 MiB from 20 MiB segments, larger ones have their own segment, a
//! multiple of 2 MiB. A block is reused at once after it was given back: all kernels run on one stream, so
//! whoever takes it next comes later in that stream.
//!
//! Which block is chosen depends on sizes and addresses only, so runs are repeatable. On the simulator
//! nothing is cached or rounded: every buffer is an allocation of its own, so that a single byte past its
//! end, and any use after it was dropped, is found.

use super::Driver;
use super::DriverError;
use super::driver::DriverResult;
use std::collections::{BTreeMap, BTreeSet};

const GRAIN: usize = 512;
const SMALL: usize = 1 << 20;
const SMALL_SEGMENT: usize = 2 << 20;
const LARGE: usize = 10 << 20;
const LARGE_SEGMENT: usize = 20 << 20;

/// What the allocator holds, in bytes and buffers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PoolStats {
    /// Buffers handed out.
    pub live_buffers: usize,
    /// Bytes of them, as asked for.
    pub live_bytes: usize,
    /// Bytes taken from the driver.
    pub reserved_bytes: usize,
    /// Most bytes ever taken from the driver.
    pub peak_reserved_bytes: usize,
    /// Segments taken from the driver so far.
    pub driver_allocations: usize,
    /// Requests so far that a cached block served.
    pub reused: usize,
}

impl PoolStats {
    /// Bytes reserved that no buffer asked for: cached blocks and rounding.
    pub fn cached_bytes(&self) -> usize {
        self.reserved_bytes - self.live_bytes
    }
}

#[derive(Debug, Clone, Copy)]
struct Block {
    bytes: usize,
    /// Bytes asked for; `None` while free.
    live: Option<usize>,
    /// First address of its segment.
    segment: u64,
}

/// Blocks by address, and the free ones by size.
#[derive(Debug)]
pub(crate) struct Pool {
    caching: bool,
    blocks: BTreeMap<u64, Block>,
    /// `(small segment, bytes, address)` of the free blocks.
    free: BTreeSet<(bool, usize, u64)>,
    /// Bytes of each segment.
    segments: BTreeMap<u64, usize>,
    stats: PoolStats,
}

impl Pool {
    pub(crate) fn new(caching: bool) -> Self {
        Pool {
            caching,
            blocks: BTreeMap::new(),
            free: BTreeSet::new(),
            segments: BTreeMap::new(),
            stats: PoolStats::default(),
        }
    }

    pub(crate) fn stats(&self) -> PoolStats {
        self.stats
    }

    /// `(address, bytes asked for)` of the buffers handed out.
    pub(crate) fn live(&self) -> Vec<(u64, usize)> {
        self.blocks.iter().filter_map(|(at, b)| Some((*at, b.live?))).collect()
    }

    fn is_small(&self, segment: u64) -> bool {
        self.segments.get(&segment) == Some(&SMALL_SEGMENT)
    }

    /// A block of at least `bytes` > 0. When the driver has no memory left, everything cached is given
    /// back and the driver asked once more.
    pub(crate) fn take(&mut self, driver: &dyn Driver, bytes: usize) -> DriverResult<u64> {
        let (size, segment) = if !self.caching {
            (bytes, bytes)
        } else {
            let size = bytes.next_multiple_of(GRAIN);
            let segment = if size <= SMALL {
                SMALL_SEGMENT
            } else if size <= LARGE {
                LARGE_SEGMENT
            } else {
                size.next_multiple_of(SMALL_SEGMENT)
            };
            (size, segment)
        };
        let small = segment == SMALL_SEGMENT;
        // A huge block is not cut up for a medium request: it will be wanted whole again.
        let modest = if small { usize::MAX } else { size.max(LARGE_SEGMENT) * 2 };
        let address = match self.best_fit(small, size, modest) {
            Some(address) => address,
            None => match self.reserve(driver, segment) {
                // But rather cut up than no memory.
                Err(error @ DriverError::OutOfMemory { .. }) => {
                    self.best_fit(small, size, usize::MAX).ok_or(error)?
                }
                other => other?,
            },
        };
        self.split(address, size, small);
        if let Some(block) = self.blocks.get_mut(&address) {
            block.live = Some(bytes);
            self.free.remove(&(small, block.bytes, address));
        }
        self.stats.live_buffers += 1;
        self.stats.live_bytes += bytes;
        Ok(address)
    }

    /// The smallest free block of `size` to `most` bytes, the lowest of them.
    fn best_fit(&mut self, small: bool, size: usize, most: usize) -> Option<u64> {
        let (of_small, bytes, address) = self.free.range((small, size, 0)..).next().copied()?;
        (of_small == small && bytes <= most).then(|| {
            self.stats.reused += 1;
            address
        })
    }

    fn reserve(&mut self, driver: &dyn Driver, bytes: usize) -> DriverResult<u64> {
        let address = match driver.alloc(bytes) {
            Err(DriverError::OutOfMemory { .. }) if self.trim(driver)? > 0 => driver.alloc(bytes)?,
            other => other?,
        };
        self.segments.insert(address, bytes);
        self.blocks.insert(address, Block { bytes, live: None, segment: address });
        self.free.insert((self.is_small(address), bytes, address));
        self.stats.driver_allocations += 1;
        self.stats.reserved_bytes += bytes;
        self.stats.peak_reserved_bytes = self.stats.peak_reserved_bytes.max(self.stats.reserved_bytes);
        Ok(address)
    }

    /// Cuts the free block at `address` down to `size` when the rest is worth keeping apart.
    fn split(&mut self, address: u64, size: usize, small: bool) {
        let Some(&block) = self.blocks.get(&address) else { return };
        let rest = block.bytes - size;
        if rest < if small { GRAIN } else { SMALL } {
            return;
        }
        self.free.remove(&(small, block.bytes, address));
        self.blocks.insert(address, Block { bytes: size, ..block });
        self.free.insert((small, size, address));
        let tail = address + size as u64;
        self.blocks.insert(tail, Block { bytes: rest, ..block });
        self.free.insert((small, rest, tail));
    }

    /// Takes a block back.
    pub(crate) fn give(&mut self, driver: &dyn Driver, address: u64) -> DriverResult<()> {
        let Some(block) = self.blocks.get_mut(&address) else {
            return Err(DriverError::Address {
                call: "free",
                address,
                bytes: 0,
                message: "the allocator did not hand it out".into(),
            });
        };
        let Some(bytes) = block.live.take() else {
            let message = "it was given back already".into();
            return Err(DriverError::Address { call: "free", address, bytes: 0, message });
        };
        let mut merged = *block;
        self.stats.live_buffers -= 1;
        self.stats.live_bytes -= bytes;
        if !self.caching {
            self.blocks.remove(&address);
            self.segments.remove(&address);
            self.stats.reserved_bytes -= bytes;
            return driver.free(address);
        }
        let small = self.is_small(merged.segment);
        let mut start = address;
        let mergeable = |b: &Block| b.live.is_none() && b.segment == merged.segment;
        let next =
            self.blocks.range(address + 1..).next().map(|(a, b)| (*a, *b)).filter(|(_, b)| mergeable(b));
        let previous =
            self.blocks.range(..address).next_back().map(|(a, b)| (*a, *b)).filter(|(_, b)| mergeable(b));
        if let Some((at, neighbour)) = next {
            self.blocks.remove(&at);
            self.free.remove(&(small, neighbour.bytes, at));
            merged.bytes += neighbour.bytes;
        }
        if let Some((at, neighbour)) = previous {
            self.blocks.remove(&address);
            self.free.remove(&(small, neighbour.bytes, at));
            merged.bytes += neighbour.bytes;
            start = at;
        }
        self.blocks.insert(start, merged);
        self.free.insert((small, merged.bytes, start));
        Ok(())
    }

    /// Gives every wholly free segment back to the driver and says how many bytes that were.
    pub(crate) fn trim(&mut self, driver: &dyn Driver) -> DriverResult<usize> {
        let whole = |(address, bytes): (&u64, &usize)| {
            let block = self.blocks.get(address)?;
            (block.live.is_none() && block.bytes == *bytes).then_some((*address, *bytes))
        };
        let idle: Vec<(u64, usize)> = self.segments.iter().filter_map(whole).collect();
        let mut freed = 0;
        for (address, bytes) in idle {
            self.free.remove(&(self.is_small(address), bytes, address));
            self.blocks.remove(&address);
            self.segments.remove(&address);
            self.stats.reserved_bytes -= bytes;
            driver.free(address)?;
            freed += bytes;
        }
        Ok(freed)
    }
}
