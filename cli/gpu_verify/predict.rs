//! What the simulator says a bench takes on a card.
//!
//! The bench runs on the simulator at its small shape; each of its kernels leaves counts (instructions by class, shared
//! wavefronts, L2 and DRAM bytes), and `ptxsim::roofline` turns those into the time of the card's slowest unit. For the
//! full shape the times are scaled: a kernel on tensor cores by the ratio of the floors' FLOPs, its DRAM traffic and
//! every other kernel by the ratio of their bytes; all multiprocessors are then taken to be busy. Launch overhead is in
//! neither.

use anyhow::{Context, Result, ensure};
use medley_tensor::device::{CudaDevice, Device, SimOptions};
use ptxsim::count::Counts;
use ptxsim::roofline::{self, Card};

use crate::bench::{Bench, Size, Work};

/// A simulated card that counts.
pub struct Predictor {
    device: Device,
}

/// What the kernels of one pass did at the small shape.
pub struct Counted {
    kernels: Vec<Counts>,
    small: Work,
    full: Work,
}

impl Predictor {
    /// Simulates a card of this compute capability.
    ///
    /// # Errors
    /// When there is no such card.
    pub fn new(compute_capability: (u32, u32)) -> Result<Predictor> {
        // The checks belong to the ops' part; without them the simulator is twice as fast.
        let checks = ptxsim::Checks::NONE;
        let options = SimOptions { compute_capability, counts: true, checks, ..SimOptions::default() };
        Ok(Predictor { device: Device::Cuda(CudaDevice::sim(options)?) })
    }

    /// Runs one pass of a bench and counts.
    ///
    /// # Errors
    /// What the bench reports, and a kernel that failed.
    pub fn count(&self, bench: &Bench) -> Result<Counted> {
        let mut pass = bench.build(&self.device, Size::Small)?;
        let Device::Cuda(device) = &self.device else { anyhow::bail!("the simulator is a CUDA device") };
        let simulator = device.simulator().context("the device is no simulator")?;
        simulator.reset_reports();
        pass()?;
        device.synchronize()?;
        let kernels: Vec<Counts> = simulator.reports().into_iter().map(|(_, _, counts)| counts).collect();
        ensure!(!kernels.is_empty(), "{} {} started no kernel", bench.family, bench.name);
        Ok(Counted { kernels, small: bench.work(Size::Small), full: bench.work(Size::Full) })
    }
}

impl Counted {
    /// Milliseconds of a pass on `card`.
    pub fn on(&self, card: &Card, size: Size) -> f64 {
        1e3 * self.kernels.iter().map(|counts| self.seconds(counts, card, size)).sum::<f64>()
    }

    fn seconds(&self, counts: &Counts, card: &Card, size: Size) -> f64 {
        if size == Size::Small {
            return roofline::predict(counts, card).seconds;
        }
        let bytes = self.full.bytes / self.small.bytes;
        let work = if counts.tensor_flops() > 0 { self.full.flops / self.small.flops } else { bytes };
        let mut counts = counts.clone();
        counts.blocks = counts.launches.max(1) * u64::from(card.multiprocessors);
        let parts = roofline::predict(&counts, card).parts;
        parts
            .iter()
            .map(|part| part.seconds * if part.unit == "DRAM" { bytes } else { work })
            .fold(0.0, f64::max)
    }
}
