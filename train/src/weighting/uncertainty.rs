//! Uncertainty weighting (Kendall, Gal & Cipolla 2018, arXiv 1705.07115).
//!
//! Each task has a learned `sᵢ = log σᵢ²`. A cross-entropy is the paper's classification likelihood (its
//! eq. 10): `Σᵢ Lᵢ/σᵢ² + log σᵢ = Σᵢ exp(−sᵢ)·Lᵢ + sᵢ/2`; the factor 1/(2σ²) belongs to squared errors only.
//! The weight of task i is `exp(−sᵢ)`; `∂/∂sᵢ = −exp(−sᵢ)·Lᵢ + ½`, so that a constant loss leads to
//! `exp(−sᵢ) = 1/(2Lᵢ)`. sᵢ starts at 0 and takes an Adam step of its own after each step of the model in which
//! the task occurs.

use super::adam::Adam;
use super::{Signal, Weighting, checked};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The method.
#[derive(Debug)]
pub struct Uncertainty {
    learning_rate: f64,
    state: State,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    log_variance: Vec<f64>,
    adam: Adam,
}

impl Uncertainty {
    /// Adam's rate for s; the paper gives none (it trains s with the model).
    pub const LEARNING_RATE: f64 = 0.01;

    /// All variances 1.
    pub fn new(tasks: usize, learning_rate: f64) -> Self {
        let state = State { log_variance: vec![0.0; tasks], adam: Adam::new(tasks) };
        Uncertainty { learning_rate, state }
    }
}

impl Weighting for Uncertainty {
    fn name(&self) -> &'static str {
        "uncertainty"
    }

    fn signal(&self) -> Signal {
        Signal::Step
    }

    fn weights(&self) -> Vec<f64> {
        self.state.log_variance.iter().map(|s| (-s).exp()).collect()
    }

    fn observe(&mut self, losses: &[Option<f64>]) {
        let s = &mut self.state.log_variance;
        let gradient: Vec<Option<f64>> =
            s.iter().zip(losses).map(|(s, loss)| loss.map(|l| 0.5 - (-s).exp() * l)).collect();
        self.state.adam.step(s, &gradient, self.learning_rate, 0.0);
    }

    fn observe_before(&mut self, _: &[Option<f64>]) {}

    fn save(&self) -> serde_json::Result<Value> {
        serde_json::to_value(&self.state)
    }

    fn restore(&mut self, state: Value) -> serde_json::Result<()> {
        let count = self.state.log_variance.len();
        self.state = checked(serde_json::from_value(state)?, |s: &State| s.log_variance.len(), count)?;
        Ok(())
    }
}
