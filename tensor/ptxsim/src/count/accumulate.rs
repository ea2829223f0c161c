//! Counting while a kernel runs: one record an instruction, one accumulator a worker thread.

use super::banks;
use super::sectors::{self, Footprint};
use super::sums::{Counts, LineCounts, LoopCounts};
use super::{Class, ClassCounts};

/// Which way a global access goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GlobalAccess {
    /// `ld`, and the reading side of `cp.async`.
    Load,
    /// `st`.
    Store,
    /// `atom` and `red`: executed by the L2 cache.
    Atomic,
}

#[derive(Clone, Copy, Debug, Default)]
struct Record {
    warps: u64,
    lanes: u64,
    divergent: u64,
    sectors: u64,
    sectors_needed: u64,
    wavefronts: u64,
    wavefronts_ideal: u64,
}

/// The counts of one worker, by instruction.
#[derive(Clone, Debug, Default)]
pub struct Accumulator {
    records: Vec<Record>,
    blocks: u64,
    load_sectors: u64,
    store_sectors: u64,
    atomic_sectors: u64,
    local_bytes: u64,
    read: Footprint,
    written: Footprint,
}

impl Accumulator {
    /// An empty accumulator for a program of `instructions` instructions.
    pub fn new(instructions: usize) -> Accumulator {
        Accumulator { records: vec![Record::default(); instructions], ..Accumulator::default() }
    }

    /// A block begins.
    pub fn block(&mut self) {
        self.blocks += 1;
    }

    /// A warp issues instruction `pc` for the lanes of `active`.
    #[inline(always)]
    pub fn instruction(&mut self, pc: u32, active: u32) {
        if let Some(record) = self.records.get_mut(pc as usize) {
            record.warps += 1;
            record.lanes += u64::from(active.count_ones());
        }
    }

    /// The branch at `pc` splits a warp.
    pub fn divergent_branch(&mut self, pc: u32) {
        if let Some(record) = self.records.get_mut(pc as usize) {
            record.divergent += 1;
        }
    }

    /// The lanes of `active` access `bytes` each of global memory.
    pub fn global_access(
        &mut self,
        pc: u32,
        access: GlobalAccess,
        addresses: &[u64; 32],
        active: u32,
        bytes: u32,
    ) {
        if active == 0 || bytes == 0 {
            return;
        }
        let counted = sectors::count(addresses, active, bytes);
        if let Some(record) = self.records.get_mut(pc as usize) {
            record.sectors += u64::from(counted.touched);
            record.sectors_needed += u64::from(counted.needed);
        }
        let touched = u64::from(counted.touched);
        match access {
            GlobalAccess::Load => self.load_sectors += touched,
            GlobalAccess::Store => self.store_sectors += touched,
            GlobalAccess::Atomic => self.atomic_sectors += touched,
        }
        for lane in (0..32).filter(|lane| active >> lane & 1 != 0) {
            if access != GlobalAccess::Store {
                self.read.touch(addresses[lane], bytes);
            }
            if access != GlobalAccess::Load {
                self.written.touch(addresses[lane], bytes);
            }
        }
    }

    /// The lanes of `active` access `bytes` each of shared memory (byte offsets).
    pub fn shared_access(&mut self, pc: u32, addresses: &[u32; 32], active: u32, bytes: u32) {
        let counted = banks::count(addresses, active, bytes);
        self.wavefronts(pc, counted);
    }

    /// `ldmatrix` or `stmatrix`: `rows[8 i + r]` is the offset of row r of matrix i.
    pub fn shared_rows(&mut self, pc: u32, rows: &[u32; 32], matrices: u32) {
        let counted = banks::count_rows(rows, matrices);
        self.wavefronts(pc, counted);
    }

    fn wavefronts(&mut self, pc: u32, counted: banks::Wavefronts) {
        if let Some(record) = self.records.get_mut(pc as usize) {
            record.wavefronts += u64::from(counted.taken);
            record.wavefronts_ideal += u64::from(counted.ideal);
        }
    }

    /// The lanes of `active` access `bytes` each of local memory.
    pub fn local_access(&mut self, active: u32, bytes: u32) {
        self.local_bytes += u64::from(active.count_ones() * bytes);
    }

    /// Adds another worker's counts of the same program.
    pub fn merge(&mut self, other: &Accumulator) {
        self.blocks += other.blocks;
        self.load_sectors += other.load_sectors;
        self.store_sectors += other.store_sectors;
        self.atomic_sectors += other.atomic_sectors;
        self.local_bytes += other.local_bytes;
        self.read.merge(&other.read);
        self.written.merge(&other.written);
        if self.records.len() < other.records.len() {
            self.records.resize(other.records.len(), Record::default());
        }
        for (mine, theirs) in self.records.iter_mut().zip(&other.records) {
            mine.warps += theirs.warps;
            mine.lanes += theirs.lanes;
            mine.divergent += theirs.divergent;
            mine.sectors += theirs.sectors;
            mine.sectors_needed += theirs.sectors_needed;
            mine.wavefronts += theirs.wavefronts;
            mine.wavefronts_ideal += theirs.wavefronts_ideal;
        }
    }

    /// Sums up. `code` gives, for every instruction in order, its PTX line, its class and where it
    /// branches to, if it is a branch within the program.
    pub fn finish(&self, kernel: &str, code: impl IntoIterator<Item = (u32, Class, Option<u32>)>) -> Counts {
        let code: Vec<_> = code.into_iter().collect();
        let mut counts = Counts {
            launches: 1,
            blocks: self.blocks,
            load_sectors: self.load_sectors,
            store_sectors: self.store_sectors,
            atomic_sectors: self.atomic_sectors,
            local_bytes: self.local_bytes,
            read_footprint: self.read.bytes(),
            written_footprint: self.written.bytes(),
            ..Counts::default()
        };
        for (record, &(line, class, _)) in self.records.iter().zip(&code) {
            if record.warps == 0 {
                continue;
            }
            let class_counts = ClassCounts { warps: record.warps, lanes: record.lanes };
            counts.add_class(class, class_counts);
            counts.add_line(LineCounts {
                kernel: kernel.to_owned(),
                line,
                class: class.name(),
                warps: record.warps,
                lanes: record.lanes,
                divergent: record.divergent,
                sectors: record.sectors,
                sectors_needed: record.sectors_needed,
                wavefronts: record.wavefronts,
                wavefronts_ideal: record.wavefronts_ideal,
            });
        }
        for (end, &(_, _, target)) in code.iter().enumerate() {
            let Some(start) = target.map(|t| t as usize).filter(|&t| t <= end) else { continue };
            let Some(branch) = self.records.get(end).filter(|r| r.warps > 0) else { continue };
            let mut found = LoopCounts {
                kernel: kernel.to_owned(),
                first_line: code[start].0,
                last_line: code[end].0,
                turns: branch.warps,
                ..LoopCounts::default()
            };
            for (record, &(_, class, _)) in self.records[start..=end].iter().zip(&code[start..]) {
                found.add(class, record.warps);
                found.sectors += record.sectors;
                found.sectors_needed += record.sectors_needed;
                found.wavefronts += record.wavefronts;
                found.wavefronts_ideal += record.wavefronts_ideal;
            }
            counts.add_loop(found);
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_become_lines_classes_and_loops() {
        let mma = Class::Tensor { flops: 4096, bits: 16, half_sums: false };
        // 0: integer; 1: ldmatrix; 2: mma; 3: bra 1; 4: st.global; 5: exit
        let code = [
            (10, Class::Integer, None),
            (12, Class::Matrix, None),
            (13, mma, None),
            (14, Class::Control, Some(1)),
            (15, Class::StoreGlobal, None),
            (16, Class::Control, None),
        ];
        let mut a = Accumulator::new(6);
        a.block();
        a.instruction(0, u32::MAX);
        for _ in 0..5 {
            for pc in 1..4 {
                a.instruction(pc, u32::MAX);
            }
            a.shared_rows(1, &std::array::from_fn(|lane| 64 * lane as u32), 4);
        }
        a.instruction(4, 0xff);
        a.global_access(4, GlobalAccess::Store, &std::array::from_fn(|i| 4096 + 64 * i as u64), 0xff, 4);
        a.instruction(5, u32::MAX);
        let mut b = a.clone();
        b.merge(&a);
        let counts = b.finish("k", code);
        assert_eq!(counts.blocks, 2);
        assert_eq!(counts.warp_instructions(), 2 * (1 + 15 + 2));
        assert_eq!(counts.tensor_flops(), 2 * 5 * 4096);
        assert_eq!((counts.store_sectors, counts.sectors_needed()), (16, 2));
        assert_eq!((counts.wavefronts(), counts.wavefronts_ideal()), (160, 40));
        assert_eq!(counts.written_footprint, 256);
        let main = counts.main_loop().expect("a loop");
        assert_eq!((main.first_line, main.last_line, main.turns), (12, 14, 10));
        assert_eq!((main.tensor_instructions(), main.other_instructions()), (10, 20));
        assert_eq!(counts.worst_lines(3)[0].line, 12);
        let doubled = {
            let mut sum = Counts::default();
            sum.merge(&counts);
            sum.merge(&counts);
            sum
        };
        assert_eq!(doubled.launches, 2);
        assert_eq!(doubled.warp_instructions(), 2 * counts.warp_instructions());
        assert_eq!(doubled.main_loop().map(|l| l.turns), Some(20));
    }
}
