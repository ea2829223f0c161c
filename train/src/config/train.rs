//! The optimisation itself.

use super::choices::{BadStep, IntervalStrategy, Optimizer, Resume, SchedulerType, Stage};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The optimisation: batch, steps, learning rate, optimizer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainArgs {
    /// Instruction tuning or plain text.
    pub stage: Stage,
    /// Run the training loop.
    pub do_train: bool,
    /// Evaluate when training has finished.
    pub do_eval: bool,
    /// Predict when training has finished.
    pub do_predict: bool,
    /// Sequences in one micro-batch.
    pub per_device_train_batch_size: usize,
    /// Sequences in one evaluation batch.
    pub per_device_eval_batch_size: usize,
    /// Micro-batches in one optimizer step.
    pub gradient_accumulation_steps: usize,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Passes over the data; a fraction is allowed.
    pub num_train_epochs: f64,
    /// Optimizer steps; overrides `num_train_epochs` when positive.
    pub max_steps: i64,
    /// Shape of the learning rate over the run.
    pub lr_scheduler_type: SchedulerType,
    /// Extra settings of the schedule: `min_lr`, `min_lr_rate`, `num_cycles`.
    pub lr_scheduler_kwargs: BTreeMap<String, f64>,
    /// Share of the steps spent warming up; used when `warmup_steps` is 0.
    pub warmup_ratio: f64,
    /// Steps of linear warm-up; a value below 1 is a share of all steps.
    pub warmup_steps: f64,
    /// The optimizer.
    pub optim: Optimizer,
    /// Decoupled weight decay (not applied to norms and biases).
    pub weight_decay: f64,
    /// β₁ of AdamW and Lion.
    pub adam_beta1: f64,
    /// β₂ of AdamW and Lion; Lion's paper takes 0.99.
    pub adam_beta2: f64,
    /// AdamW's ε.
    pub adam_epsilon: f64,
    /// Gradients are scaled down to this global L2 norm; 0 turns clipping off.
    pub max_grad_norm: f64,
    /// Re-run the forward of each block in the backward instead of keeping its activations.
    pub gradient_checkpointing: bool,
    /// Uniform noise of size α / √(tokens · hidden size) on a sequence's embeddings in training (NEFTune, arXiv
    /// 2310.05914); `None`: none.
    pub neftune_noise_alpha: Option<f64>,
    /// When to evaluate.
    pub eval_strategy: IntervalStrategy,
    /// Steps between evaluations (a value below 1 is a share of all steps); `None`: `logging_steps`.
    pub eval_steps: Option<f64>,
    /// Evaluate before the first step too.
    pub eval_on_start: bool,
    /// What to do when a loss or a gradient is not a number: `stop`, `skip` or `rollback`.
    pub nonfinite_action: BadStep,
    /// What to do when a task's loss is far above what it was: `warn`, `stop`, `skip` or `rollback`.
    pub loss_spike_action: BadStep,
    /// How many standard deviations above its mean a task's loss is a spike; 0 looks for none.
    pub loss_spike_threshold: f64,
    /// A checkpoint folder to go on from, or the newest one of `output_dir`.
    pub resume_from_checkpoint: Resume,
}

impl Default for TrainArgs {
    fn default() -> Self {
        Self {
            stage: Stage::Sft,
            do_train: false,
            do_eval: false,
            do_predict: false,
            per_device_train_batch_size: 8,
            per_device_eval_batch_size: 8,
            gradient_accumulation_steps: 1,
            learning_rate: 5e-5,
            num_train_epochs: 3.0,
            max_steps: -1,
            lr_scheduler_type: SchedulerType::Linear,
            lr_scheduler_kwargs: BTreeMap::new(),
            warmup_ratio: 0.0,
            warmup_steps: 0.0,
            optim: Optimizer::AdamwTorch,
            weight_decay: 0.0,
            adam_beta1: 0.9,
            adam_beta2: 0.999,
            adam_epsilon: 1e-8,
            max_grad_norm: 1.0,
            gradient_checkpointing: false,
            neftune_noise_alpha: None,
            eval_strategy: IntervalStrategy::No,
            eval_steps: None,
            eval_on_start: false,
            nonfinite_action: BadStep::Stop,
            loss_spike_action: BadStep::Warn,
            loss_spike_threshold: 6.0,
            resume_from_checkpoint: Resume::No,
        }
    }
}
