//! FAMO, fast adaptive multitask optimization (Liu, Feng, Stone & Liu 2023, arXiv 2306.03792, algorithm 1).
//!
//! Logits ξ, `z = softmax(ξ)`. The model descends `Σᵢ c·(zᵢ/ℓᵢ)·∇ℓᵢ` with `c = (Σᵢ zᵢ/ℓᵢ)⁻¹`, so the weight of
//! task i is proportional to zᵢ/ℓᵢ. Then the logits descend along `Jᵀδ`, J the softmax's Jacobian and
//! `δᵢ = log ℓᵢ(θₜ) − log ℓᵢ(θₜ₊₁)` the log-loss that the update took off: what improved least gains weight.
//! As in the authors' code, the step on ξ is Adam's with an L2 decay γ of 0.01.
//!
//! The loss after the update has two forms:
//! - *re-evaluated*, as in the authors' code: the same batch before and after the update (here without dropout,
//!   a forward pass each: the weights must be known before the first backward of a step that may have many
//!   micro-batches);
//! - *amortised*, which costs nothing: ℓ(θₜ₊₁) is the next step's loss and zᵢ/ℓᵢ takes the last one seen. δ then
//!   holds the difference between two batches too; summed over steps that noise telescopes, but it is there.

use super::adam::Adam;
use super::{Signal, Weighting, checked, softmax};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// γ of the authors' code.
const DECAY: f64 = 0.01;
/// Added to losses before a logarithm or a division, as there.
const EPS: f64 = 1e-8;

/// The method.
#[derive(Debug)]
pub struct Famo {
    learning_rate: f64,
    reevaluate: bool,
    state: State,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    logits: Vec<f64>,
    adam: Adam,
    /// The losses that the next change is measured from.
    losses: Vec<Option<f64>>,
}

impl Famo {
    /// The authors' rate for ξ.
    pub const LEARNING_RATE: f64 = 0.025;

    /// Equal logits. `reevaluate` chooses the form.
    pub fn new(tasks: usize, learning_rate: f64, reevaluate: bool) -> Self {
        let state = State { logits: vec![0.0; tasks], adam: Adam::new(tasks), losses: vec![None; tasks] };
        Famo { learning_rate, reevaluate, state }
    }

    /// Keeps a task's last loss where it was not measured.
    fn remember(&mut self, losses: &[Option<f64>]) {
        for (kept, loss) in self.state.losses.iter_mut().zip(losses) {
            *kept = loss.or(*kept);
        }
    }
}

impl Weighting for Famo {
    fn name(&self) -> &'static str {
        "famo"
    }

    fn signal(&self) -> Signal {
        if self.reevaluate { Signal::Reevaluated } else { Signal::Step }
    }

    fn weights(&self) -> Vec<f64> {
        let known: Vec<f64> = self.state.losses.iter().copied().flatten().collect();
        if known.is_empty() {
            return softmax(&self.state.logits);
        }
        // A task never seen yet counts as an average one.
        let mean = known.iter().sum::<f64>() / known.len() as f64;
        softmax(&self.state.logits)
            .iter()
            .zip(&self.state.losses)
            .map(|(z, l)| z / (l.unwrap_or(mean) + EPS))
            .collect()
    }

    fn observe(&mut self, losses: &[Option<f64>]) {
        let z = softmax(&self.state.logits);
        let delta: Vec<Option<f64>> = (self.state.losses.iter().zip(losses))
            .map(|(before, after)| Some((before.as_ref()? + EPS).ln() - (after.as_ref()? + EPS).ln()))
            .collect();
        // Σ zδ over the tasks measured, as if the others had fared like their mean: Jᵀδ is 0 for them.
        let (weight, sum) = z
            .iter()
            .zip(&delta)
            .filter_map(|(z, d)| d.map(|d| (z, z * d)))
            .fold((0.0, 0.0), |(weight, sum), (z, zd)| (weight + z, sum + zd));
        if weight > 0.0 {
            let gradient: Vec<Option<f64>> =
                z.iter().zip(&delta).map(|(z, d)| Some(d.map_or(0.0, |d| z * (d - sum / weight)))).collect();
            self.state.adam.step(&mut self.state.logits, &gradient, self.learning_rate, DECAY);
        }
        self.remember(losses);
    }

    fn observe_before(&mut self, losses: &[Option<f64>]) {
        self.remember(losses);
    }

    fn save(&self) -> serde_json::Result<Value> {
        serde_json::to_value(&self.state)
    }

    fn restore(&mut self, state: Value) -> serde_json::Result<()> {
        let count = self.state.logits.len();
        self.state = checked(serde_json::from_value(state)?, |s: &State| s.logits.len(), count)?;
        Ok(())
    }
}
