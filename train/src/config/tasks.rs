//! How the tasks share a step and its loss.

use super::choices::{
    GradientSurgery, LossReduction, MixStrategy, SamplingStrategy, SamplingUnit, Shares, TaskWeighting,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How tasks share the steps and the loss.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TaskArgs {
    /// Loss weight αᵢ of each task (≥ 0); a task not named weighs 1. Where `task_weighting` moves the weights,
    /// these are multiplied with what it finds.
    pub task_weights: BTreeMap<String, f64>,
    /// How the weights move during training.
    pub task_weighting: TaskWeighting,
    /// T of `dwa` (2) and `loss_rate` (1), τ of `coba` (5); in brackets what `None` stands for.
    pub task_weighting_temperature: Option<f64>,
    /// Learning rate of the weights of `uncertainty` (0.01) and `famo` (0.025).
    pub task_weighting_lr: Option<f64>,
    /// Steps in a block of `dwa` and `loss_rate` (20); measurements in the window of `coba` (five times its
    /// warm-up).
    pub task_weighting_window: Option<u64>,
    /// Observations before the weights move (0; `coba`: as many as go once through the evaluation examples, at
    /// most a tenth of the run).
    pub task_weighting_warmup: Option<u64>,
    /// Steps between `coba`'s measurements of the held-out loss.
    pub task_weighting_steps: u64,
    /// `famo` evaluates the batch before and after each update, as its paper does, for two forward passes more a
    /// step; otherwise the next step's losses stand for those after the update.
    pub task_weighting_reevaluate: bool,
    /// What is done about gradients of tasks that point apart.
    pub gradient_surgery: GradientSurgery,
    /// Steps between measurements of the cosines between the tasks' gradients; 0: never.
    pub conflict_steps: u64,
    /// Which task the next example comes from.
    pub sampling_strategy: SamplingStrategy,
    /// Exponent's inverse T of `temperature` sampling: p(task) ∝ examples^(1/T).
    pub sampling_temperature: f64,
    /// The most that a task counts under `capped` sampling: examples, or labelled tokens where those are
    /// shared.
    pub sampling_cap: Option<u64>,
    /// What the shares are shares of.
    pub sampling_unit: SamplingUnit,
    /// Shares that change over the run, with straight lines between its points. The order of the run is
    /// fixed by its whole length, so a resumed run must have the same.
    pub sampling_schedule: Vec<SchedulePoint>,
    /// LLaMA-Factory's mixing of datasets; an `interleave_*` sets how long an epoch is.
    pub mix_strategy: MixStrategy,
    /// Shares of the datasets (in their order) or of the tasks (in order, or by name).
    pub interleave_probs: Option<Shares>,
    /// What the loss of one optimizer step is the mean of.
    pub loss_reduction: LossReduction,
}

impl Default for TaskArgs {
    fn default() -> Self {
        Self {
            task_weights: BTreeMap::new(),
            task_weighting: TaskWeighting::Fixed,
            task_weighting_temperature: None,
            task_weighting_lr: None,
            task_weighting_window: None,
            task_weighting_warmup: None,
            task_weighting_steps: 1,
            task_weighting_reevaluate: false,
            gradient_surgery: GradientSurgery::None,
            conflict_steps: 0,
            sampling_strategy: SamplingStrategy::Proportional,
            sampling_temperature: 2.0,
            sampling_cap: None,
            sampling_unit: SamplingUnit::Examples,
            sampling_schedule: Vec::new(),
            mix_strategy: MixStrategy::Concat,
            interleave_probs: None,
            loss_reduction: LossReduction::TaskMean,
        }
    }
}

/// Shares at one point of a run: `{at: 0.5, shares: {qa: 1, sum: 2}}` or `{at: 1, strategy: balanced}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SchedulePoint {
    /// Progress: 0 is the start of the run, 1 its end.
    pub at: f64,
    /// Shares given as numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shares: Option<Shares>,
    /// Or the shares of a strategy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strategy: Option<SamplingStrategy>,
}
