//! How task weights move during training: one file a method, each from its paper.
//!
//! A method is told losses and answers with weights of any scale; [`Weigher`] makes
//! `αᵢ = priorᵢ · dᵢ` of them, where priorᵢ is `task_weights` and the mean of d over the tasks that are
//! trained is 1. So the loss keeps the scale of fixed weights, and `learning_rate` and `max_grad_norm` keep
//! their meaning. `docs/task-weighting.md` has the formulas side by side.

mod adam;
mod blocks;
mod coba;
pub mod conflict;
mod dwa;
mod famo;
mod loss_rate;
pub mod pcgrad;
#[cfg(test)]
mod tests;
mod uncertainty;

pub use coba::{Coba, CobaSettings};
pub use dwa::Dwa;
pub use famo::Famo;
pub use loss_rate::LossRate;
pub use uncertainty::Uncertainty;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The losses that a method learns from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Each step's own losses, which cost nothing: [`Weighting::observe`] after the step.
    Step,
    /// The step's batch before and after the update, without dropout: [`Weighting::observe_before`] and
    /// [`Weighting::observe`], a forward pass each.
    Reevaluated,
    /// A few held-out examples before every so many steps: [`Weighting::observe`].
    Validation,
}

/// A method of moving the weights. Losses are means over a task's labelled tokens, in nats, `None` for a
/// task that was not measured; slices are as long as there are trained tasks.
pub trait Weighting: Send {
    /// The name in `task_weighting`.
    fn name(&self) -> &'static str;

    /// What it learns from.
    fn signal(&self) -> Signal;

    /// The weights of the next step, positive, of any scale.
    fn weights(&self) -> Vec<f64>;

    /// Takes note of the losses that `signal` names.
    fn observe(&mut self, losses: &[Option<f64>]);

    /// Takes note of the batch's losses before the update; for [`Signal::Reevaluated`] alone.
    fn observe_before(&mut self, losses: &[Option<f64>]);

    /// Everything that moved, for a checkpoint; f64s survive JSON to the bit.
    fn save(&self) -> serde_json::Result<Value>;

    /// Goes on from what [`Weighting::save`] returned; settings stay those of `self`.
    ///
    /// # Errors
    /// When it is the state of another method or of another number of tasks.
    fn restore(&mut self, state: Value) -> serde_json::Result<()>;
}

/// `exp(xᵢ) / Σ exp(xₖ)`.
fn softmax(values: &[f64]) -> Vec<f64> {
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let powers: Vec<f64> = values.iter().map(|x| (x - most).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.iter().map(|p| p / sum).collect()
}

/// The state of `count` tasks, or an error that says so.
fn checked<T>(state: T, tasks: impl Fn(&T) -> usize, count: usize) -> serde_json::Result<T> {
    let found = tasks(&state);
    if found == count {
        return Ok(state);
    }
    Err(serde::de::Error::custom(format!("weights of {found} tasks, expected {count}")))
}

/// What a checkpoint keeps.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    method: String,
    observed: u64,
    state: Value,
}

/// The weights of a run: the priors, and the method that moves them.
pub struct Weigher {
    /// Of all tasks.
    prior: Vec<f64>,
    /// The tasks that a method weighs: those with a prior above 0 and examples to train on.
    active: Vec<usize>,
    method: Option<Box<dyn Weighting>>,
    /// Until so many observations were made, weights are the priors.
    warmup: u64,
    observed: u64,
}

impl Weigher {
    /// Weights that stay as they are.
    pub fn fixed(prior: Vec<f64>) -> Self {
        Weigher { prior, active: vec![], method: None, warmup: 0, observed: 0 }
    }

    /// Weights that `method` moves for the tasks `active`, after `warmup` observations.
    pub fn moving(prior: Vec<f64>, active: Vec<usize>, method: Box<dyn Weighting>, warmup: u64) -> Self {
        Weigher { prior, active, method: Some(method), warmup, observed: 0 }
    }

    /// The method's name.
    pub fn name(&self) -> &'static str {
        self.method.as_ref().map_or("fixed", |m| m.name())
    }

    /// What has to be observed, `None` with fixed weights.
    pub fn signal(&self) -> Option<Signal> {
        self.method.as_ref().map(|m| m.signal())
    }

    /// The tasks whose weights move.
    pub fn active(&self) -> &[usize] {
        &self.active
    }

    /// Observations made so far.
    pub fn observed(&self) -> u64 {
        self.observed
    }

    /// α of every task for the next step: `priorᵢ · dᵢ`, mean of d over the active tasks 1.
    pub fn alpha(&self) -> Vec<f64> {
        let mut alpha = self.prior.clone();
        let Some(method) = self.method.as_ref().filter(|_| self.observed >= self.warmup) else {
            return alpha;
        };
        let weights = method.weights();
        let mean = weights.iter().sum::<f64>() / weights.len().max(1) as f64;
        for (task, weight) in self.active.iter().zip(weights) {
            alpha[*task] *= weight / mean;
        }
        alpha
    }

    /// Tells the method losses by task (all tasks), of the kind that [`Weigher::signal`] names.
    pub fn observe(&mut self, losses: &[Option<f64>]) {
        let losses = self.of_active(losses);
        if let Some(method) = &mut self.method {
            method.observe(&losses);
            self.observed += 1;
        }
    }

    /// Tells the method the batch's losses before the update ([`Signal::Reevaluated`]).
    pub fn observe_before(&mut self, losses: &[Option<f64>]) {
        let losses = self.of_active(losses);
        if let Some(method) = &mut self.method {
            method.observe_before(&losses);
        }
    }

    fn of_active(&self, losses: &[Option<f64>]) -> Vec<Option<f64>> {
        self.active.iter().map(|t| losses.get(*t).copied().flatten().filter(|l| l.is_finite())).collect()
    }

    /// What a checkpoint keeps; `None` with fixed weights.
    ///
    /// # Errors
    /// None in practice; those of the JSON writer.
    pub fn save(&self) -> serde_json::Result<Option<Value>> {
        let Some(method) = &self.method else { return Ok(None) };
        let state = method.save()?;
        serde_json::to_value(Saved { method: method.name().into(), observed: self.observed, state }).map(Some)
    }

    /// Goes on from what [`Weigher::save`] returned. Returns the name of the saved method where it is another
    /// one: then nothing is restored.
    ///
    /// # Errors
    /// When the state is damaged or belongs to other tasks.
    pub fn restore(&mut self, saved: Value) -> serde_json::Result<Option<String>> {
        let saved: Saved = serde_json::from_value(saved)?;
        match &mut self.method {
            Some(method) if method.name() == saved.method => method.restore(saved.state)?,
            _ => return Ok(Some(saved.method)),
        }
        self.observed = saved.observed;
        Ok(None)
    }
}
