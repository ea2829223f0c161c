//! Dynamic weight average (Liu, Johns & Davison 2019, arXiv 1803.10704, eq. 6 and 7).
//!
//! `λᵢ = K · exp(rᵢ/T) / Σₖ exp(rₖ/T)` with `rᵢ = Lᵢ(t−1)/Lᵢ(t−2)`: a task whose loss falls slowly weighs more.
//! The paper's t counts epochs and Lᵢ is the mean over one; fine-tuning has few epochs, so t counts blocks of
//! `task_weighting_window` steps here. rᵢ is 1 until there are two blocks.

use super::blocks::Blocks;
use super::{Signal, Weighting, checked, softmax};
use serde_json::Value;

/// The method.
#[derive(Debug)]
pub struct Dwa {
    temperature: f64,
    window: u64,
    blocks: Blocks,
}

impl Dwa {
    /// The paper's T.
    pub const TEMPERATURE: f64 = 2.0;
    /// Steps in a block.
    pub const WINDOW: u64 = 20;

    /// Equal weights.
    pub fn new(tasks: usize, temperature: f64, window: u64) -> Self {
        Dwa { temperature, window, blocks: Blocks::new(tasks) }
    }
}

impl Weighting for Dwa {
    fn name(&self) -> &'static str {
        "dwa"
    }

    fn signal(&self) -> Signal {
        Signal::Step
    }

    fn weights(&self) -> Vec<f64> {
        let ratios: Vec<f64> = self.blocks.ratios().map(|r| r.unwrap_or(1.0) / self.temperature).collect();
        softmax(&ratios)
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
