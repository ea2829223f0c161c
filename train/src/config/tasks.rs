//! How the tasks share a step and its loss.

use super::choices::{LossReduction, SamplingStrategy, TaskWeighting};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How tasks share the steps and the loss.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TaskArgs {
    /// Loss weight αᵢ of each task (≥ 0); a task not named weighs 1.
    pub task_weights: BTreeMap<String, f64>,
    /// How the weights move during training.
    pub task_weighting: TaskWeighting,
    /// Which task the next example comes from.
    pub sampling_strategy: SamplingStrategy,
    /// Exponent's inverse T of `temperature` sampling: p(task) ∝ examples^(1/T).
    pub sampling_temperature: f64,
    /// What the loss of one optimizer step is the mean of.
    pub loss_reduction: LossReduction,
}

impl Default for TaskArgs {
    fn default() -> Self {
        Self {
            task_weights: BTreeMap::new(),
            task_weighting: TaskWeighting::Fixed,
            sampling_strategy: SamplingStrategy::Proportional,
            sampling_temperature: 2.0,
            loss_reduction: LossReduction::TaskMean,
        }
    }
}
