//! From counts to time: a roofline for named cards.
//!
//! Every unit of the card gets the work counted for it and its peak rate; the slowest one bounds the
//! kernel. That is a lower bound: latencies nothing hides, launch overhead (2–5 µs) and ramp-up are not
//! in it, and an L1 hit counts as L2 traffic.
//!
//! **Issue slots.** A multiprocessor has four sub-partitions, each issuing one warp instruction a cycle.
//! A tensor-core instruction of `f` FLOPs occupies its sub-partition's tensor core for
//! `f · 4 · multiprocessors · clock / peak` cycles: 8 for `m16n8k16` of bf16 on an A100 (NVIDIA's A100
//! whitepaper: 1,024 dense FMA a clock and multiprocessor, 2,048 FMA an instruction), 32 on a GeForce
//! RTX 3090 or 4090, whose f32-accumulating rate is halved twice over (256 FMA), 16 on an L4. The
//! *tensor share* of a loop is tensor cycles / (tensor cycles + all other instructions): what it would
//! be if nothing overlapped, so a real kernel, whose other instructions issue while the tensor core is
//! busy, does better. On Hopper `mma.sync` reaches 62 % of the peak that `wgmma` has (Luo et al.,
//! "Benchmarking and Dissecting the Nvidia Hopper GPU Architecture", arXiv 2402.13499), so the rates of
//! the H100 are scaled by it.

use serde::Serialize;

use crate::count::{Class, Counts, LoopCounts};

/// A card's peak rates.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Card {
    /// Name, as `--card` takes it.
    pub name: &'static str,
    /// Compute capability.
    pub compute_capability: (u32, u32),
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// Boost clock in GHz.
    pub clock_ghz: f64,
    /// Dense f16/bf16 tensor rate with f32 sums, TFLOP/s.
    pub tensor_tflops: f64,
    /// The same with f16 sums.
    pub tensor_half_sums_tflops: f64,
    /// Dense 8-bit tensor rate, TOP/s.
    pub tensor_8bit_tops: f64,
    /// Dense tf32 tensor rate, TFLOP/s.
    pub tensor_tf32_tflops: f64,
    /// f64 tensor (or plain, where there is no such unit) rate, TFLOP/s.
    pub tensor_f64_tflops: f64,
    /// Part of the tensor peak that `mma.sync` can reach.
    pub mma_sync_share: f64,
    /// f32 lanes a clock and multiprocessor.
    pub f32_lanes: u32,
    /// f64 lanes a clock and multiprocessor.
    pub f64_lanes: u32,
    /// DRAM bandwidth, GB/s.
    pub dram_gbs: f64,
    /// L2 bandwidth, GB/s: stated by NVIDIA for the A100, estimated from published micro-benchmarks for
    /// the others (± 20 %).
    pub l2_gbs: f64,
}

/// The cards known by name. Peaks: NVIDIA's data sheets (dense, boost clock); of GeForce cards with f32
/// sums at half rate.
pub const CARDS: [Card; 5] = [
    Card {
        name: "RTX 3090",
        compute_capability: (8, 6),
        multiprocessors: 82,
        clock_ghz: 1.695,
        tensor_tflops: 71.0,
        tensor_half_sums_tflops: 142.0,
        tensor_8bit_tops: 284.0,
        tensor_tf32_tflops: 35.6,
        tensor_f64_tflops: 0.56,
        mma_sync_share: 1.0,
        f32_lanes: 128,
        f64_lanes: 2,
        dram_gbs: 936.0,
        l2_gbs: 2600.0,
    },
    Card {
        name: "RTX 4090",
        compute_capability: (8, 9),
        multiprocessors: 128,
        clock_ghz: 2.52,
        tensor_tflops: 165.2,
        tensor_half_sums_tflops: 330.3,
        tensor_8bit_tops: 660.6,
        tensor_tf32_tflops: 82.6,
        tensor_f64_tflops: 1.29,
        mma_sync_share: 1.0,
        f32_lanes: 128,
        f64_lanes: 2,
        dram_gbs: 1008.0,
        l2_gbs: 5000.0,
    },
    Card {
        name: "A100",
        compute_capability: (8, 0),
        multiprocessors: 108,
        clock_ghz: 1.41,
        tensor_tflops: 312.0,
        tensor_half_sums_tflops: 312.0,
        tensor_8bit_tops: 624.0,
        tensor_tf32_tflops: 156.0,
        tensor_f64_tflops: 19.5,
        mma_sync_share: 1.0,
        f32_lanes: 64,
        f64_lanes: 32,
        dram_gbs: 2039.0,
        l2_gbs: 7200.0,
    },
    Card {
        name: "H100",
        compute_capability: (9, 0),
        multiprocessors: 132,
        clock_ghz: 1.83,
        tensor_tflops: 989.4,
        tensor_half_sums_tflops: 989.4,
        tensor_8bit_tops: 1978.9,
        tensor_tf32_tflops: 494.7,
        tensor_f64_tflops: 66.9,
        mma_sync_share: 0.62,
        f32_lanes: 128,
        f64_lanes: 64,
        dram_gbs: 3350.0,
        l2_gbs: 7500.0,
    },
    Card {
        name: "L4",
        compute_capability: (8, 9),
        multiprocessors: 58,
        clock_ghz: 2.04,
        tensor_tflops: 121.0,
        tensor_half_sums_tflops: 121.0,
        tensor_8bit_tops: 242.0,
        tensor_tf32_tflops: 60.5,
        tensor_f64_tflops: 0.47,
        mma_sync_share: 1.0,
        f32_lanes: 128,
        f64_lanes: 2,
        dram_gbs: 300.0,
        l2_gbs: 1900.0,
    },
];

/// Finds a card; case and spaces do not matter, and "3090" is enough.
pub fn card(name: &str) -> Option<&'static Card> {
    let plain =
        |text: &str| -> String { text.to_lowercase().chars().filter(char::is_ascii_alphanumeric).collect() };
    let wanted = plain(name);
    CARDS.iter().find(|card| {
        let known = plain(card.name);
        known == wanted || known.strip_prefix("rtx") == Some(&wanted)
    })
}

impl Card {
    /// FLOP/s of the tensor cores for elements of `bits` bits.
    fn tensor_rate(&self, bits: u32, half_sums: bool) -> f64 {
        let tflops = match bits {
            64 => self.tensor_f64_tflops,
            32 => self.tensor_tf32_tflops,
            16 if half_sums => self.tensor_half_sums_tflops,
            16 => self.tensor_tflops,
            8 => self.tensor_8bit_tops,
            _ => 2.0 * self.tensor_8bit_tops,
        };
        tflops * 1e12 * self.mma_sync_share
    }

    /// Cycles for which one instruction of `class` occupies its sub-partition's tensor core; 0 for others.
    pub fn tensor_cycles(&self, class: Class) -> f64 {
        match class {
            Class::Tensor { flops, bits, half_sums } => {
                let cycles = 4.0 * f64::from(self.multiprocessors) * self.clock_ghz * 1e9;
                f64::from(flops) * cycles / self.tensor_rate(bits, half_sums)
            }
            _ => 0.0,
        }
    }

    /// Tensor share of a loop's issue slots (see the module's description); 0 without tensor cores.
    pub fn tensor_share(&self, found: &LoopCounts) -> f64 {
        let tensor: f64 = found.classes.iter().map(|(class, &n)| self.tensor_cycles(*class) * n as f64).sum();
        let all = tensor + found.other_instructions() as f64;
        if all > 0.0 { tensor / all } else { 0.0 }
    }
}

/// What a kernel would take on a card.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Prediction {
    /// The card's name.
    pub card: &'static str,
    /// The lower bound in seconds: the largest of `parts`.
    pub seconds: f64,
    /// Which unit that is.
    pub bound: &'static str,
    /// Seconds each unit needs for its work.
    pub parts: Vec<Part>,
    /// Tensor share of the main loop's issue slots, if the kernel uses tensor cores in a loop.
    pub main_loop_tensor_share: Option<f64>,
}

/// The time one unit of the card needs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Part {
    /// The unit.
    pub unit: &'static str,
    /// Seconds.
    pub seconds: f64,
}

/// Predicts the time of what was counted. Fewer blocks than multiprocessors leave the rest idle.
pub fn predict(counts: &Counts, card: &Card) -> Prediction {
    let launches = counts.launches.max(1);
    let busy = (counts.blocks / launches).clamp(1, u64::from(card.multiprocessors)) as f64;
    // Cycles of one multiprocessor become seconds of the busy ones.
    let seconds = |cycles: f64| cycles / (busy * card.clock_ghz * 1e9);
    let lanes = |names: &[&str]| -> f64 { names.iter().map(|name| counts.class(name).lanes as f64).sum() };
    let tensor_cycles: f64 =
        counts.classes.iter().map(|(class, n)| card.tensor_cycles(*class) * n.warps as f64).sum();
    let footprint = (counts.read_footprint + counts.written_footprint) as f64;
    let parts: Vec<Part> = [
        ("tensor cores", seconds(tensor_cycles / 4.0)),
        ("instruction issue", seconds(counts.warp_instructions() as f64 / 4.0)),
        ("f32 units", seconds(lanes(&["f32", "f16"]) / f64::from(card.f32_lanes))),
        ("integer units", seconds(lanes(&["integer"]) / 64.0)),
        ("f64 units", seconds(lanes(&["f64"]) / f64::from(card.f64_lanes))),
        ("special-function units", seconds(lanes(&["special"]) / 16.0)),
        ("shared memory", seconds(counts.wavefronts() as f64)),
        ("L2", counts.l2_bytes() as f64 / (card.l2_gbs * 1e9)),
        ("DRAM", footprint / (card.dram_gbs * 1e9)),
    ]
    .into_iter()
    .map(|(unit, seconds)| Part { unit, seconds })
    .collect();
    let worst = parts.iter().copied().max_by(|a, b| a.seconds.total_cmp(&b.seconds));
    let worst = worst.unwrap_or(Part { unit: "nothing", seconds: 0.0 });
    let main_loop_tensor_share = counts
        .main_loop()
        .filter(|found| found.tensor_instructions() > 0)
        .map(|found| card.tensor_share(found));
    Prediction { card: card.name, seconds: worst.seconds, bound: worst.unit, parts, main_loop_tensor_share }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::count::{Accumulator, GlobalAccess};

    const MMA: Class = Class::Tensor { flops: 4096, bits: 16, half_sums: false };

    #[test]
    fn cards_have_names_and_cycles() {
        let cycles = |name| card(name).map(|c| c.tensor_cycles(MMA).round());
        assert_eq!(cycles("a100"), Some(8.0));
        assert_eq!(cycles("RTX 3090"), Some(32.0));
        assert_eq!(cycles("4090"), Some(32.0));
        assert_eq!(cycles("l4"), Some(16.0));
        assert_eq!(cycles("H100"), Some(6.0)); // 4 / 0.62, rounded down
        assert!(card("Voodoo 2").is_none());
    }

    #[test]
    fn the_slowest_unit_bounds() {
        // 1000 mma and 500 others in a loop, on one block.
        let code = [(1, MMA, None), (2, Class::Integer, None), (3, Class::Control, Some(0))];
        let mut a = Accumulator::new(3);
        a.block();
        for turn in 0..1000 {
            a.instruction(0, u32::MAX);
            if turn % 2 == 0 {
                a.instruction(1, u32::MAX);
            }
        }
        a.instruction(2, u32::MAX);
        let counts = a.finish("k", code);
        let a100 = card("A100").expect("known");
        let p = predict(&counts, a100);
        assert_eq!(p.bound, "tensor cores");
        assert!((p.seconds - 1000.0 * 8.0 / 4.0 / 1.41e9).abs() < 1e-8);
        let share = p.main_loop_tensor_share.expect("a loop");
        assert!((share - 8000.0 / 8501.0).abs() < 1e-3, "{share}");
    }

    #[test]
    fn a_copy_is_bound_by_dram() {
        let code = [(1, Class::LoadGlobal, None), (2, Class::StoreGlobal, None)];
        let mut a = Accumulator::new(2);
        for warp in 0..4096u64 {
            a.block();
            let addresses = std::array::from_fn(|lane| (1 << 20) + 16 * (32 * warp + lane as u64));
            for (pc, access) in [(0, GlobalAccess::Load), (1, GlobalAccess::Store)] {
                a.instruction(pc, u32::MAX);
                a.global_access(pc, access, &addresses, u32::MAX, 16);
            }
        }
        let p = predict(&a.finish("copy", code), card("3090").expect("known"));
        assert_eq!(p.bound, "DRAM");
        assert!((p.seconds - 2.0 * 4096.0 * 512.0 / 936e9).abs() < 1e-9);
        assert_eq!(p.main_loop_tensor_share, None);
    }
}
