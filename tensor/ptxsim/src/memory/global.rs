//! Device memory: allocations far apart in a 64-bit address space, each with a bitmap of written bytes.
//!
//! Words are relaxed atomics, so blocks that run in parallel and race in global memory get some value
//! but no undefined behaviour, as on the hardware.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use super::GLOBAL_START;
use crate::error::GpuError;

/// Allocations start at multiples of this, as `cudaMalloc`'s do.
const ALIGNMENT: u64 = 256;
/// Unused addresses after an allocation, so that a stray access does not hit its neighbour.
const GUARD: u64 = 1 << 20;
/// Freed ranges remembered for messages.
const REMEMBERED: usize = 256;

/// One allocation.
#[derive(Debug)]
pub(crate) struct Allocation {
    pub base: u64,
    pub bytes: u64,
    pub read_only: bool,
    words: Box<[AtomicU32]>,
    /// One bit a byte, 32 bytes a word.
    written: Box<[AtomicU32]>,
    /// Set once every byte has been written: most loads need look no further.
    all_written: AtomicBool,
}

fn zeroed(words: usize) -> Box<[AtomicU32]> {
    (0..words).map(|_| AtomicU32::new(0)).collect()
}

impl Allocation {
    fn new(base: u64, bytes: u64, read_only: bool) -> Self {
        // Sixteen bytes of slack: an access at the end never indexes past the words.
        let words = (bytes as usize).div_ceil(4) + 4;
        Self {
            base,
            bytes,
            read_only,
            words: zeroed(words),
            written: zeroed((bytes as usize).div_ceil(32) + 1),
            all_written: AtomicBool::new(bytes == 0),
        }
    }

    /// Whether `bytes` bytes at `address` lie inside.
    #[inline(always)]
    pub(crate) fn contains(&self, address: u64, bytes: u64) -> bool {
        let offset = address.wrapping_sub(self.base);
        offset < self.bytes && bytes <= self.bytes - offset
    }

    /// `count` words from byte offset `offset` (a multiple of 4).
    #[inline(always)]
    pub(crate) fn run(&self, offset: usize, count: usize) -> &[AtomicU32] {
        &self.words[offset / 4..offset / 4 + count]
    }

    /// Reads 1, 2 or 4 bytes at an aligned offset.
    #[inline(always)]
    pub(crate) fn load(&self, offset: usize, bytes: u32) -> u32 {
        let word = self.words[offset / 4].load(Relaxed);
        match bytes {
            4 => word,
            2 => word >> (8 * (offset & 2)) & 0xffff,
            _ => word >> (8 * (offset & 3)) & 0xff,
        }
    }

    /// Writes 1, 2 or 4 bytes at an aligned offset.
    #[inline(always)]
    pub(crate) fn store(&self, offset: usize, bytes: u32, value: u32) {
        let word = &self.words[offset / 4];
        match bytes {
            4 => word.store(value, Relaxed),
            _ => {
                let shift = 8 * (offset as u32 & if bytes == 2 { 2 } else { 3 });
                let mask = (if bytes == 2 { 0xffffu32 } else { 0xff }) << shift;
                // Two steps are enough: other threads own other bytes of the word.
                word.fetch_and(!mask, Relaxed);
                word.fetch_or(value << shift & mask, Relaxed);
            }
        }
    }

    /// Whether every byte of a naturally aligned access of at most 32 bytes has been written.
    #[inline(always)]
    pub(crate) fn is_written(&self, offset: usize, bytes: u32) -> bool {
        if self.all_written.load(Relaxed) {
            return true;
        }
        let need = bits(bytes) << (offset % 32);
        self.written[offset / 32].load(Relaxed) & need == need
    }

    /// Whether every byte was written at some time; a cheap hint that lets checks be skipped.
    #[inline(always)]
    pub(crate) fn fully_written(&self) -> bool {
        self.all_written.load(Relaxed)
    }

    /// Notes that a naturally aligned range of at most 32 bytes has been written.
    #[inline(always)]
    pub(crate) fn mark_written(&self, offset: usize, bytes: u32) {
        if self.all_written.load(Relaxed) {
            return;
        }
        let bits = bits(bytes) << (offset % 32);
        let word = &self.written[offset / 32];
        if word.load(Relaxed) & bits != bits {
            word.fetch_or(bits, Relaxed);
        }
    }

    /// Sets `all_written` where the bitmap is full.
    pub(crate) fn settle(&self) {
        if self.all_written.load(Relaxed) {
            return;
        }
        let bytes = self.bytes as usize;
        let full = self.written[..bytes / 32].iter().all(|w| w.load(Relaxed) == u32::MAX);
        let tail = bits((bytes % 32) as u32);
        if full && self.written[bytes / 32].load(Relaxed) & tail == tail {
            self.all_written.store(true, Relaxed);
        }
    }

    fn mark_range(&self, offset: usize, bytes: usize) {
        if bytes as u64 == self.bytes {
            self.all_written.store(true, Relaxed);
            return;
        }
        let (mut at, end) = (offset, offset + bytes);
        while at < end {
            let n = (32 - at % 32).min(end - at);
            self.written[at / 32].fetch_or(bits(n as u32) << (at % 32), Relaxed);
            at += n;
        }
    }

    fn write(&self, offset: usize, data: &[u8]) {
        let mut at = 0;
        while at < data.len() && !(offset + at).is_multiple_of(4) {
            self.store(offset + at, 1, u32::from(data[at]));
            at += 1;
        }
        let (chunks, _) = data[at..].as_chunks::<4>();
        let first = (offset + at) / 4;
        for (word, chunk) in self.words[first..].iter().zip(chunks) {
            word.store(u32::from_le_bytes(*chunk), Relaxed);
        }
        for i in at + 4 * chunks.len()..data.len() {
            self.store(offset + i, 1, u32::from(data[i]));
        }
        self.mark_range(offset, data.len());
    }

    fn read(&self, offset: usize, out: &mut [u8]) {
        let mut at = 0;
        while at < out.len() && !(offset + at).is_multiple_of(4) {
            out[at] = self.load(offset + at, 1) as u8;
            at += 1;
        }
        let first = (offset + at) / 4;
        let (chunks, rest) = out[at..].as_chunks_mut::<4>();
        for (word, chunk) in self.words[first..].iter().zip(chunks.iter_mut()) {
            *chunk = word.load(Relaxed).to_le_bytes();
        }
        let tail = offset + at + 4 * chunks.len();
        for (i, byte) in rest.iter_mut().enumerate() {
            *byte = self.load(tail + i, 1) as u8;
        }
    }
}

#[inline(always)]
fn bits(bytes: u32) -> u32 {
    if bytes >= 32 { u32::MAX } else { (1 << bytes) - 1 }
}

/// All live allocations.
#[derive(Debug)]
pub(crate) struct Global {
    live: BTreeMap<u64, Arc<Allocation>>,
    freed: Vec<(u64, u64)>,
    next: u64,
    used: u64,
    total: u64,
}

impl Global {
    pub(crate) fn new(total: u64) -> Self {
        Self { live: BTreeMap::new(), freed: Vec::new(), next: GLOBAL_START, used: 0, total }
    }

    pub(crate) fn used(&self) -> u64 {
        self.used
    }

    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    pub(crate) fn alloc(&mut self, bytes: u64, read_only: bool) -> Result<u64, GpuError> {
        let charged = bytes.max(1).next_multiple_of(ALIGNMENT);
        let free = self.total - self.used;
        if bytes > free || charged > free {
            return Err(GpuError::OutOfMemory { requested: bytes, free, total: self.total });
        }
        let base = self.next;
        self.next += charged + GUARD.max(charged.next_multiple_of(GUARD));
        self.used += charged;
        self.live.insert(base, Arc::new(Allocation::new(base, bytes, read_only)));
        Ok(base)
    }

    pub(crate) fn free(&mut self, base: u64) -> Result<(), GpuError> {
        let gone = self.live.remove(&base).ok_or(GpuError::NotAllocated(base))?;
        self.used -= gone.bytes.max(1).next_multiple_of(ALIGNMENT);
        if self.freed.len() == REMEMBERED {
            self.freed.remove(0);
        }
        self.freed.push((base, gone.bytes));
        Ok(())
    }

    /// Live allocations by ascending address.
    pub(crate) fn snapshot(&self) -> Vec<Arc<Allocation>> {
        self.live.values().cloned().collect()
    }

    /// Ranges freed lately, oldest first.
    pub(crate) fn freed(&self) -> &[(u64, u64)] {
        &self.freed
    }

    fn find(&self, address: u64, bytes: u64) -> Result<&Arc<Allocation>, GpuError> {
        self.live
            .range(..=address)
            .next_back()
            .map(|(_, a)| a)
            .filter(|a| address - a.base <= a.bytes && bytes <= a.bytes - (address - a.base))
            .ok_or_else(|| GpuError::OutOfBounds {
                address,
                bytes,
                nearest: nearest(&self.snapshot(), &self.freed, address, bytes),
            })
    }

    pub(crate) fn write(&self, address: u64, data: &[u8]) -> Result<(), GpuError> {
        if data.is_empty() {
            return Ok(());
        }
        let a = self.find(address, data.len() as u64)?;
        a.write((address - a.base) as usize, data);
        Ok(())
    }

    pub(crate) fn read(&self, address: u64, out: &mut [u8]) -> Result<(), GpuError> {
        if out.is_empty() {
            return Ok(());
        }
        let a = self.find(address, out.len() as u64)?;
        a.read((address - a.base) as usize, out);
        Ok(())
    }

    pub(crate) fn fill(&self, address: u64, bytes: u64, byte: u8) -> Result<(), GpuError> {
        if bytes == 0 {
            return Ok(());
        }
        let a = self.find(address, bytes)?;
        let chunk = [byte; 4096];
        let mut at = 0;
        while at < bytes {
            let n = (bytes - at).min(4096);
            a.write((address - a.base + at) as usize, &chunk[..n as usize]);
            at += n;
        }
        a.mark_range((address - a.base) as usize, bytes as usize);
        Ok(())
    }
}

/// Words for where `address` lies relative to the closest allocation.
pub(crate) fn nearest(
    live: &[Arc<Allocation>],
    freed: &[(u64, u64)],
    address: u64,
    bytes: u64,
) -> String {
    if let Some((base, size)) = freed.iter().rev().find(|(b, s)| address.wrapping_sub(*b) < *s) {
        return format!(
            "{} bytes into the {}-byte allocation at 0x{base:x}, which has been freed",
            group(address - base),
            group(*size)
        );
    }
    let after = live.partition_point(|a| a.base <= address);
    let below = after.checked_sub(1).map(|i| &live[i]);
    let above = live.get(after);
    let past = below.map(|a| address.saturating_add(bytes) - (a.base + a.bytes));
    let before = above.map(|a| a.base - address);
    match (below, past, above, before) {
        (Some(a), Some(past), _, before) if before.is_none_or(|b| past <= b) => format!(
            "{} bytes past the end of the {}-byte allocation at 0x{:x}",
            group(past),
            group(a.bytes),
            a.base
        ),
        (_, _, Some(a), Some(before)) => format!(
            "{} bytes before the {}-byte allocation at 0x{:x}",
            group(before),
            group(a.bytes),
            a.base
        ),
        _ => "nothing is allocated".to_string(),
    }
}

/// Digits in groups of three.
pub(crate) fn group(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_written_at_any_offset_come_back() {
        let mut global = Global::new(1 << 20);
        let base = global.alloc(103, false).unwrap();
        let data: Vec<u8> = (0..50).collect();
        for offset in 0..9 {
            global.write(base + offset, &data).unwrap();
            let mut out = vec![0; 50];
            global.read(base + offset, &mut out).unwrap();
            assert_eq!(out, data);
        }
        let allocation = global.snapshot()[0].clone();
        assert!(allocation.is_written(56, 2) && !allocation.is_written(58, 1));
        assert!(!allocation.is_written(56, 4));
        global.fill(base, 103, 0).unwrap();
        assert!(allocation.fully_written());
    }

    #[test]
    fn copies_that_leave_their_allocation_name_it() {
        let mut global = Global::new(1 << 20);
        let base = global.alloc(4096, false).unwrap();
        let error = global.write(base + 4090, &[0; 18]).unwrap_err().to_string();
        assert!(error.contains("12 bytes past the end of the 4,096-byte allocation"), "{error}");
        global.free(base).unwrap();
        let error = global.write(base + 8, &[0]).unwrap_err().to_string();
        assert!(error.contains("freed"), "{error}");
        assert_eq!(global.free(base), Err(GpuError::NotAllocated(base)));
    }

    #[test]
    fn memory_runs_out_and_comes_back() {
        let mut global = Global::new(1024);
        let a = global.alloc(512, false).unwrap();
        global.alloc(256, false).unwrap();
        assert_eq!(
            global.alloc(300, false),
            Err(GpuError::OutOfMemory { requested: 300, free: 256, total: 1024 })
        );
        global.free(a).unwrap();
        assert!(global.alloc(300, false).is_ok());
        assert!(global.alloc(u64::MAX, false).is_err());
    }
}
