//! The counts of a launch, and their sum over launches.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Class;
use super::sectors::SECTOR;

/// How often instructions of a class were issued.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ClassCounts {
    /// Instructions issued by warps.
    pub warps: u64,
    /// The same, each counted once an active lane.
    pub lanes: u64,
}

/// The counts of one line of PTX.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LineCounts {
    /// Entry the line belongs to.
    pub kernel: String,
    /// Line in the PTX text, from 1.
    pub line: u32,
    /// Name of the instruction's class.
    pub class: &'static str,
    /// Times issued by a warp.
    pub warps: u64,
    /// The same, each counted once an active lane.
    pub lanes: u64,
    /// Times the branch split a warp.
    pub divergent: u64,
    /// Global sectors of 32 bytes moved.
    pub sectors: u64,
    /// Global sectors that would have held the bytes used.
    pub sectors_needed: u64,
    /// Shared-memory wavefronts.
    pub wavefronts: u64,
    /// Shared-memory wavefronts without bank conflicts.
    pub wavefronts_ideal: u64,
}

impl LineCounts {
    /// Sectors and wavefronts beyond the ideal, in units of one issue of the memory pipe.
    pub fn excess(&self) -> u64 {
        self.sectors.saturating_sub(self.sectors_needed)
            + self.wavefronts.saturating_sub(self.wavefronts_ideal)
    }
}

/// The counts of a loop: the code between a backward branch and its target.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LoopCounts {
    /// Entry the loop belongs to.
    pub kernel: String,
    /// First line of the loop in the PTX text.
    pub first_line: u32,
    /// Line of the branch that closes it.
    pub last_line: u32,
    /// Times a warp reached the closing branch.
    pub turns: u64,
    /// Instructions issued in it, by class.
    #[serde(serialize_with = "super::sums::by_name")]
    pub classes: BTreeMap<Class, u64>,
    /// Global sectors moved in it.
    pub sectors: u64,
    /// Global sectors needed.
    pub sectors_needed: u64,
    /// Shared-memory wavefronts in it.
    pub wavefronts: u64,
    /// The same without bank conflicts.
    pub wavefronts_ideal: u64,
}

pub(super) fn by_name<S: serde::Serializer>(
    classes: &BTreeMap<Class, u64>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let mut sums: BTreeMap<&str, u64> = BTreeMap::new();
    for (class, n) in classes {
        *sums.entry(class.name()).or_default() += n;
    }
    sums.serialize(serializer)
}

impl LoopCounts {
    pub(super) fn add(&mut self, class: Class, warps: u64) {
        *self.classes.entry(class).or_default() += warps;
    }

    /// Tensor-core instructions issued in the loop.
    pub fn tensor_instructions(&self) -> u64 {
        let tensor = |class: &Class| matches!(class, Class::Tensor { .. });
        self.classes.iter().filter(|(class, _)| tensor(class)).map(|(_, n)| n).sum()
    }

    /// All other instructions issued in the loop.
    pub fn other_instructions(&self) -> u64 {
        self.classes.values().sum::<u64>() - self.tensor_instructions()
    }

    /// Tensor-core FLOPs of the loop.
    pub fn tensor_flops(&self) -> u64 {
        self.classes.iter().map(|(class, n)| flops(*class) * n).sum()
    }
}

fn flops(class: Class) -> u64 {
    match class {
        Class::Tensor { flops, .. } => u64::from(flops),
        _ => 0,
    }
}

/// Everything counted over one launch, or over several added up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Launches added up.
    pub launches: u64,
    /// Blocks executed.
    pub blocks: u64,
    /// Instructions by class.
    pub classes: BTreeMap<Class, ClassCounts>,
    /// Sectors of 32 bytes moved by global loads (and `cp.async`).
    pub load_sectors: u64,
    /// Sectors moved by global stores.
    pub store_sectors: u64,
    /// Sectors touched by atomics.
    pub atomic_sectors: u64,
    /// Bytes of local memory loaded and stored.
    pub local_bytes: u64,
    /// Bytes of distinct global sectors read, summed over launches: the least DRAM must deliver.
    pub read_footprint: u64,
    /// Bytes of distinct global sectors written.
    pub written_footprint: u64,
    pub(super) lines: BTreeMap<(String, u32), LineCounts>,
    pub(super) loops: BTreeMap<(String, u32, u32), LoopCounts>,
}

impl Counts {
    pub(super) fn add_class(&mut self, class: Class, counts: ClassCounts) {
        let sum = self.classes.entry(class).or_default();
        sum.warps += counts.warps;
        sum.lanes += counts.lanes;
    }

    pub(super) fn add_line(&mut self, line: LineCounts) {
        let sum = self.lines.entry((line.kernel.clone(), line.line)).or_default();
        *sum = LineCounts {
            warps: sum.warps + line.warps,
            lanes: sum.lanes + line.lanes,
            divergent: sum.divergent + line.divergent,
            sectors: sum.sectors + line.sectors,
            sectors_needed: sum.sectors_needed + line.sectors_needed,
            wavefronts: sum.wavefronts + line.wavefronts,
            wavefronts_ideal: sum.wavefronts_ideal + line.wavefronts_ideal,
            ..line
        };
    }

    pub(super) fn add_loop(&mut self, other: LoopCounts) {
        let key = (other.kernel.clone(), other.first_line, other.last_line);
        match self.loops.get_mut(&key) {
            None => {
                self.loops.insert(key, other);
            }
            Some(sum) => {
                sum.turns += other.turns;
                sum.sectors += other.sectors;
                sum.sectors_needed += other.sectors_needed;
                sum.wavefronts += other.wavefronts;
                sum.wavefronts_ideal += other.wavefronts_ideal;
                for (class, n) in other.classes {
                    sum.add(class, n);
                }
            }
        }
    }

    /// Adds the counts of other launches.
    pub fn merge(&mut self, other: &Counts) {
        self.launches += other.launches;
        self.blocks += other.blocks;
        self.load_sectors += other.load_sectors;
        self.store_sectors += other.store_sectors;
        self.atomic_sectors += other.atomic_sectors;
        self.local_bytes += other.local_bytes;
        self.read_footprint += other.read_footprint;
        self.written_footprint += other.written_footprint;
        for (class, counts) in &other.classes {
            self.add_class(*class, *counts);
        }
        for line in other.lines.values() {
            self.add_line(line.clone());
        }
        for found in other.loops.values() {
            self.add_loop(found.clone());
        }
    }

    /// Instructions issued by warps.
    pub fn warp_instructions(&self) -> u64 {
        self.classes.values().map(|c| c.warps).sum()
    }

    /// Instructions executed by lanes.
    pub fn lane_instructions(&self) -> u64 {
        self.classes.values().map(|c| c.lanes).sum()
    }

    /// Instructions of the classes of one name (see [`Class::name`]).
    pub fn class(&self, name: &str) -> ClassCounts {
        self.classes.iter().filter(|(class, _)| class.name() == name).fold(
            ClassCounts::default(),
            |sum, (_, c)| ClassCounts { warps: sum.warps + c.warps, lanes: sum.lanes + c.lanes },
        )
    }

    /// Tensor-core FLOPs (2·m·n·k each).
    pub fn tensor_flops(&self) -> u64 {
        self.classes.iter().map(|(class, c)| flops(*class) * c.warps).sum()
    }

    /// Global sectors moved by loads, stores and atomics.
    pub fn sectors(&self) -> u64 {
        self.load_sectors + self.store_sectors + self.atomic_sectors
    }

    /// Global sectors that would have held the bytes used.
    pub fn sectors_needed(&self) -> u64 {
        self.lines.values().map(|line| line.sectors_needed).sum()
    }

    /// Bytes between the multiprocessors and L2, if nothing hits L1: sectors moved times 32.
    pub fn l2_bytes(&self) -> u64 {
        self.sectors() * SECTOR
    }

    /// Shared-memory wavefronts.
    pub fn wavefronts(&self) -> u64 {
        self.lines.values().map(|line| line.wavefronts).sum()
    }

    /// Shared-memory wavefronts without bank conflicts.
    pub fn wavefronts_ideal(&self) -> u64 {
        self.lines.values().map(|line| line.wavefronts_ideal).sum()
    }

    /// Branches that split a warp.
    pub fn divergent_branches(&self) -> u64 {
        self.lines.values().map(|line| line.divergent).sum()
    }

    /// Every executed line, by kernel and line number.
    pub fn lines(&self) -> impl Iterator<Item = &LineCounts> {
        self.lines.values()
    }

    /// The `n` lines with the most sectors and wavefronts beyond the ideal; fewer if fewer have any.
    pub fn worst_lines(&self, n: usize) -> Vec<&LineCounts> {
        let mut lines: Vec<_> = self.lines.values().filter(|line| line.excess() > 0).collect();
        lines.sort_by_key(|line| std::cmp::Reverse(line.excess()));
        lines.truncate(n);
        lines
    }

    /// Every executed loop, by kernel and first line.
    pub fn loops(&self) -> impl Iterator<Item = &LoopCounts> {
        self.loops.values()
    }

    /// The loop that matters: the one with the most tensor-core FLOPs, or if there are none with the
    /// most instructions; of nested loops with equal work the innermost.
    pub fn main_loop(&self) -> Option<&LoopCounts> {
        self.loops.values().max_by_key(|found| {
            let issued: u64 = found.classes.values().sum();
            let length = found.last_line.saturating_sub(found.first_line);
            if found.tensor_flops() > 0 {
                (found.tensor_flops(), u64::MAX - issued, u32::MAX - length)
            } else {
                (0, issued, u32::MAX - length)
            }
        })
    }
}

impl Serialize for Counts {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct View<'a> {
            launches: u64,
            blocks: u64,
            warp_instructions: u64,
            lane_instructions: u64,
            classes: BTreeMap<&'static str, ClassCounts>,
            tensor_flops: u64,
            load_sectors: u64,
            store_sectors: u64,
            atomic_sectors: u64,
            sectors: u64,
            sectors_needed: u64,
            l2_bytes: u64,
            read_footprint: u64,
            written_footprint: u64,
            local_bytes: u64,
            shared_wavefronts: u64,
            shared_wavefronts_ideal: u64,
            divergent_branches: u64,
            main_loop: Option<&'a LoopCounts>,
            worst_lines: Vec<&'a LineCounts>,
        }
        let names: std::collections::BTreeSet<_> = self.classes.keys().map(|c| c.name()).collect();
        View {
            launches: self.launches,
            blocks: self.blocks,
            warp_instructions: self.warp_instructions(),
            lane_instructions: self.lane_instructions(),
            classes: names.into_iter().map(|name| (name, self.class(name))).collect(),
            tensor_flops: self.tensor_flops(),
            load_sectors: self.load_sectors,
            store_sectors: self.store_sectors,
            atomic_sectors: self.atomic_sectors,
            sectors: self.sectors(),
            sectors_needed: self.sectors_needed(),
            l2_bytes: self.l2_bytes(),
            read_footprint: self.read_footprint,
            written_footprint: self.written_footprint,
            local_bytes: self.local_bytes,
            shared_wavefronts: self.wavefronts(),
            shared_wavefronts_ideal: self.wavefronts_ideal(),
            divergent_branches: self.divergent_branches(),
            main_loop: self.main_loop(),
            worst_lines: self.worst_lines(10),
        }
        .serialize(serializer)
    }
}
