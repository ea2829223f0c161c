//! What a run is asked to do: plain serde structs, one a concern, with LLaMA-Factory's option names.
//!
//! Every key of the YAML and of the command line is one field here; the `Default` of each struct is the
//! only place where a default value is written. [`TrainConfig::validate`] checks what types cannot.

mod choices;
mod data;
mod evaluation;
mod generate;
mod lora;
mod model;
mod output;
mod run;
mod tasks;
mod train;
mod validate;

pub use choices::{
    BadStep, Device, EvalContamination, FinetuningType, GradientSurgery, IntervalStrategy, LoraTarget,
    LossReduction, MixStrategy, Optimizer, QuantizationType, Resume, SamplingStrategy, SamplingUnit,
    SchedulerType, Shares, Stage, TaskWeighting,
};
pub use data::DataArgs;
pub use evaluation::{EvalArgs, TaskChoice};
pub use generate::GenerateArgs;
pub use lora::LoraArgs;
pub use model::ModelArgs;
pub use output::OutputArgs;
pub use run::RunArgs;
pub use tasks::{SchedulePoint, TaskArgs};
pub use train::TrainArgs;
pub use validate::ConfigError;

use serde::{Deserialize, Serialize};

/// Everything a training, evaluation or prediction run is configured by.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// Which model, which adapter, in which storage.
    pub model: ModelArgs,
    /// Which examples, rendered how.
    pub data: DataArgs,
    /// How the tasks share a step and its loss.
    pub tasks: TaskArgs,
    /// Which weights are trained.
    pub lora: LoraArgs,
    /// The optimisation itself.
    pub train: TrainArgs,
    /// How it is scored, and what follows from the scores.
    pub evaluation: EvalArgs,
    /// What is written, and when.
    pub output: OutputArgs,
    /// How completions are drawn (`predict`, `generate`, `chat`).
    pub generate: GenerateArgs,
    /// Seeds and hardware.
    pub run: RunArgs,
}

#[cfg(test)]
mod tests;
