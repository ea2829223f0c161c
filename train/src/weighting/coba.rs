//! CoBa, the convergence balancer (Gong et al. 2024, arXiv 2410.06741, section 3).
//!
//! At measurement t the held-out loss of task i over its first one is `ȳᵢ(t)`; `sᵢ(t)` is the slope of a least
//! squares line through the last N of them, `s_max(t)` the largest slope of a task. Then
//!
//! - relative convergence score `RCSᵢ = softmaxᵢ(K·sᵢ(t) / Σₖ|sₖ(t)|)`: who converges slowly weighs more;
//! - absolute convergence score `ACSᵢ = softmaxᵢ(−N·sᵢ(t) / Σⱼ|sᵢ(j)|)`, j over the last N slopes of task i:
//!   who begins to diverge weighs less;
//! - divergence factor `DF = min(t·softmaxₜ(−τ·t·s_max(t) / Σⱼ|s_max(j)|), 1)`, j and the softmax over all t so
//!   far: near 1 while all converge, near 0 when one diverges;
//! - weights `DF·RCS + (1 − DF)·ACS`.
//!
//! For the first W measurements weights are equal, and t of the last formula counts from there, as in the
//! authors' code. That code (MFTCoder) also sends the result through another softmax with a floor of 1/(10K);
//! here it is the paper's formula as it stands.

use super::{Signal, Weighting, checked, softmax};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What CoBa is told.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CobaSettings {
    /// N: measurements that a slope is fitted through, at least 2.
    pub window: u64,
    /// W: measurements before the weights move.
    pub warmup: u64,
    /// τ of the divergence factor.
    pub temperature: f64,
}

/// The method.
#[derive(Debug)]
pub struct Coba {
    settings: CobaSettings,
    state: State,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    measured: u64,
    first: Vec<f64>,
    /// ȳ of the last N measurements, oldest first, \[N\]\[K\].
    ratios: Vec<Vec<f64>>,
    /// Slopes at the last N of them, \[N\]\[K\].
    slopes: Vec<Vec<f64>>,
    /// s_max at every measurement since the warm-up.
    steepest: Vec<f64>,
    weights: Vec<f64>,
}

impl Coba {
    /// The paper's τ.
    pub const TEMPERATURE: f64 = 5.0;

    /// Equal weights.
    pub fn new(tasks: usize, settings: CobaSettings) -> Self {
        Coba { settings, state: State { weights: vec![1.0 / tasks as f64; tasks], ..State::default() } }
    }

    fn balance(&mut self) {
        let (tasks, window) = (self.state.weights.len(), self.settings.window as usize);
        let now: Vec<f64> = (0..tasks).map(|i| slope(self.state.ratios.iter().map(|row| row[i]))).collect();
        self.state.slopes.push(now.clone());
        let surplus = self.state.slopes.len().saturating_sub(window);
        self.state.slopes.drain(..surplus);
        self.state.steepest.push(now.iter().copied().fold(f64::NEG_INFINITY, f64::max));

        let total = absolute_sum(now.iter().copied());
        let relative = softmax(&now.iter().map(|s| tasks as f64 * s / total).collect::<Vec<_>>());

        let slopes = &self.state.slopes;
        let fading: Vec<f64> = (0..tasks)
            .map(|i| -(slopes.len() as f64) * now[i] / absolute_sum(slopes.iter().map(|row| row[i])))
            .collect();
        let absolute = softmax(&fading);

        let (count, total) =
            (self.state.steepest.len() as f64, absolute_sum(self.state.steepest.iter().copied()));
        let over_time: Vec<f64> =
            self.state.steepest.iter().map(|s| -self.settings.temperature * count * s / total).collect();
        let latest = softmax(&over_time).last().copied().unwrap_or(1.0);
        let factor = (count * latest).min(1.0);

        self.state.weights =
            relative.iter().zip(&absolute).map(|(r, a)| factor * r + (1.0 - factor) * a).collect();
    }
}

/// Slope of the least squares line through values at 0, 1, 2, …; 0 for fewer than two.
fn slope(values: impl ExactSizeIterator<Item = f64> + Clone) -> f64 {
    let n = values.len() as f64;
    if n < 2.0 {
        return 0.0;
    }
    let (middle, mean) = ((n - 1.0) / 2.0, values.clone().sum::<f64>() / n);
    let (mut across, mut square) = (0.0, 0.0);
    for (x, y) in values.enumerate() {
        let x = x as f64 - middle;
        across += x * (y - mean);
        square += x * x;
    }
    across / square
}

/// Σ|x|, 1 where that is 0: all scores are then equal, as they should be.
fn absolute_sum(values: impl Iterator<Item = f64>) -> f64 {
    let sum: f64 = values.map(f64::abs).sum();
    if sum > 0.0 { sum } else { 1.0 }
}

impl Weighting for Coba {
    fn name(&self) -> &'static str {
        "coba"
    }

    fn signal(&self) -> Signal {
        Signal::Validation
    }

    fn weights(&self) -> Vec<f64> {
        self.state.weights.clone()
    }

    /// A task without a loss keeps its last ratio.
    fn observe(&mut self, losses: &[Option<f64>]) {
        if self.state.first.is_empty() {
            self.state.first = losses.iter().map(|l| l.filter(|l| *l > 0.0).unwrap_or(1.0)).collect();
        }
        let last = self.state.ratios.last();
        let row: Vec<f64> = (losses.iter().zip(&self.state.first).enumerate())
            .map(|(i, (loss, first))| loss.map_or(last.map_or(1.0, |row| row[i]), |loss| loss / first))
            .collect();
        self.state.ratios.push(row);
        let surplus = self.state.ratios.len().saturating_sub(self.settings.window as usize);
        self.state.ratios.drain(..surplus);
        self.state.measured += 1;
        if self.state.measured > self.settings.warmup && self.state.ratios.len() >= 2 {
            self.balance();
        }
    }

    fn observe_before(&mut self, _: &[Option<f64>]) {}

    fn save(&self) -> serde_json::Result<Value> {
        serde_json::to_value(&self.state)
    }

    fn restore(&mut self, state: Value) -> serde_json::Result<()> {
        let count = self.state.weights.len();
        self.state = checked(serde_json::from_value(state)?, |s: &State| s.weights.len(), count)?;
        Ok(())
    }
}
