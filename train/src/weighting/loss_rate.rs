//! Weights by how fast each task's loss falls: the plain heuristic, made robust.
//!
//! Over two successive blocks of `task_weighting_window` steps, `ρᵢ = max(0, 1 − Lᵢ(last)/Lᵢ(before))` is the
//! share of its loss that task i shed, ρ̄ the mean over the tasks. The weight is
//! `(ρ̄ / (ρᵢ + ρ̄))^(1/T)`: inversely related to the descent, 1 for a task that stands still, ½ for an average
//! one. Adding ρ̄ bounds the spread without a cut-off: no weight is more than (1 + K)^(1/T) times another, and
//! a task that has converged does not take everything, as it would with 1/ρᵢ. A loss that rises counts as one
//! that stands still. When nothing falls, weights are equal. There is no paper; DWA is its nearest kin.

use super::blocks::Blocks;
use super::{Signal, Weighting, checked};
use serde_json::Value;

/// The method.
#[derive(Debug)]
pub struct LossRate {
    temperature: f64,
    window: u64,
    blocks: Blocks,
}

impl LossRate {
    /// T: as the formula stands.
    pub const TEMPERATURE: f64 = 1.0;
    /// Steps in a block.
    pub const WINDOW: u64 = 20;

    /// Equal weights.
    pub fn new(tasks: usize, temperature: f64, window: u64) -> Self {
        LossRate { temperature, window, blocks: Blocks::new(tasks) }
    }
}

impl Weighting for LossRate {
    fn name(&self) -> &'static str {
        "loss_rate"
    }

    fn signal(&self) -> Signal {
        Signal::Step
    }

    fn weights(&self) -> Vec<f64> {
        let falls: Vec<Option<f64>> = self.blocks.ratios().map(|r| r.map(|r| (1.0 - r).max(0.0))).collect();
        let known: Vec<f64> = falls.iter().copied().flatten().collect();
        let mean = known.iter().sum::<f64>() / known.len().max(1) as f64;
        if mean <= 0.0 {
            return vec![1.0; falls.len()];
        }
        // A task that was not measured yet counts as an average one.
        falls.iter().map(|f| (mean / (f.unwrap_or(mean) + mean)).powf(1.0 / self.temperature)).collect()
    }

    fn observe(&mut self, losses: &[Option<f64>]) {
        self.blocks.add(losses, self.window);
    }

    fn observe_before(&mut self, _: &[Option<f64>]) {}

    fn save(&self) -> serde_json::Result<Value> {
        serde_json::to_value(&self.blocks)
    }

    fn restore(&mut self, state: Value) -> serde_json::Result<()> {
        self.blocks = checked(serde_json::from_value(state)?, Blocks::tasks, self.blocks.tasks())?;
        Ok(())
    }
}
