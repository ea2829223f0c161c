//! What a run is asked to do: plain serde structs, one a concern, with LLaMA-Factory's option names.
//!
//! Every key of the YAML and of the command line is one field here; the `Default` of each struct is the
//! only place where a default value is written. [`TrainConfig::validate`] checks what types cannot.

mod choices;
mod validate;

pub use choices::{
    Device, FinetuningType, IntervalStrategy, LoraTarget, LossReduction, Optimizer, QuantizationType, Resume,
    SamplingStrategy, SchedulerType, Stage, TaskWeighting,
};
pub use validate::ConfigError;

use std::collections::BTreeMap;
use std::path::PathBuf;

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
    /// What is written, and when.
    pub output: OutputArgs,
    /// How completions are drawn (`predict`, `generate`, `chat`).
    pub generate: GenerateArgs,
    /// Seeds and hardware.
    pub run: RunArgs,
}

/// The base model and the adapter on it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelArgs {
    /// Hugging Face folder: `config.json`, `*.safetensors`, `tokenizer.json`.
    pub model_name_or_path: Option<PathBuf>,
    /// PEFT folder of a LoRA adapter to load on the base.
    pub adapter_name_or_path: Option<PathBuf>,
    /// `4` quantises the frozen base's linear weights to 4 bits at load; `None` keeps them as stored.
    pub quantization_bit: Option<u8>,
    /// Code book of the 4-bit quantisation.
    pub quantization_type: QuantizationType,
    /// Quantise the 4-bit blocks' scales too (4.127 instead of 4.5 bits a weight).
    pub double_quantization: bool,
    /// Start from random weights of `config.json`'s shapes instead of stored ones.
    pub train_from_scratch: bool,
}

impl Default for ModelArgs {
    fn default() -> Self {
        Self {
            model_name_or_path: None,
            adapter_name_or_path: None,
            quantization_bit: None,
            quantization_type: QuantizationType::Nf4,
            double_quantization: true,
            train_from_scratch: false,
        }
    }
}

/// The examples and how a prompt is made of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataArgs {
    /// Names of entries in `dataset_dir/dataset_info.json`.
    pub dataset: Vec<String>,
    /// Names of entries in `dataset_dir/dataset_info.json` to evaluate on.
    pub eval_dataset: Vec<String>,
    /// Folder of `dataset_info.json`, and what relative `data_files` start from.
    pub dataset_dir: PathBuf,
    /// JSON or JSONL files read directly, without `dataset_info.json`.
    pub data_files: Vec<PathBuf>,
    /// JSON or JSONL files to evaluate or predict on.
    pub eval_data_files: Vec<PathBuf>,
    /// Prompt template; `None` takes the model's own chat template.
    pub template: Option<String>,
    /// Put the article's `### Task: QA` header before the instruction.
    pub task_prefix: bool,
    /// System message for examples that have none.
    pub default_system: Option<String>,
    /// Longest example, in tokens; longer ones are cut.
    pub cutoff_len: usize,
    /// Also learn the prompt's tokens.
    pub train_on_prompt: bool,
    /// Learn the last turn of a conversation only.
    pub mask_history: bool,
    /// Keep only the first so many examples of each file or dataset.
    pub max_samples: Option<usize>,
    /// Held out for evaluation: a share in (0, 1) or a number of examples (≥ 1); 0 holds out none.
    pub val_size: f64,
    /// Fill every sequence of the batch with examples up to `cutoff_len` tokens. `None`: on for `pt`.
    pub packing: Option<bool>,
    /// Keep the examples in file order.
    pub disable_shuffling: bool,
}

impl Default for DataArgs {
    fn default() -> Self {
        Self {
            dataset: Vec::new(),
            eval_dataset: Vec::new(),
            dataset_dir: PathBuf::from("data"),
            data_files: Vec::new(),
            eval_data_files: Vec::new(),
            template: None,
            task_prefix: false,
            default_system: None,
            cutoff_len: 2048,
            train_on_prompt: false,
            mask_history: false,
            max_samples: None,
            val_size: 0.0,
            packing: None,
            disable_shuffling: false,
        }
    }
}

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

/// Which weights are trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoraArgs {
    /// Adapters on a frozen base, or every weight.
    pub finetuning_type: FinetuningType,
    /// Rank r of the low-rank update.
    pub lora_rank: usize,
    /// Scale: the update counts α / r. `None`: 2 · `lora_rank`.
    pub lora_alpha: Option<f64>,
    /// Share of the adapter's input dropped in training, in [0, 1).
    pub lora_dropout: f64,
    /// Linear layers that get an adapter.
    pub lora_target: LoraTarget,
    /// Scale by α / √r instead of α / r (rank-stabilised LoRA, arXiv 2312.03732).
    pub use_rslora: bool,
}

impl Default for LoraArgs {
    fn default() -> Self {
        Self {
            finetuning_type: FinetuningType::Lora,
            lora_rank: 8,
            lora_alpha: None,
            lora_dropout: 0.0,
            lora_target: LoraTarget::All,
            use_rslora: false,
        }
    }
}

impl LoraArgs {
    /// The adapter's α: as given, or LLaMA-Factory's default of twice the rank.
    pub fn alpha(&self) -> f64 {
        self.lora_alpha.unwrap_or(2.0 * self.lora_rank as f64)
    }
}

/// The optimisation: batch, steps, learning rate, AdamW.
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
    /// AdamW's decoupled weight decay (not applied to norms and biases).
    pub weight_decay: f64,
    /// AdamW's β₁.
    pub adam_beta1: f64,
    /// AdamW's β₂.
    pub adam_beta2: f64,
    /// AdamW's ε.
    pub adam_epsilon: f64,
    /// Gradients are scaled down to this global L2 norm; 0 turns clipping off.
    pub max_grad_norm: f64,
    /// Re-run the forward of each block in the backward instead of keeping its activations.
    pub gradient_checkpointing: bool,
    /// When to evaluate.
    pub eval_strategy: IntervalStrategy,
    /// Steps between evaluations (a value below 1 is a share of all steps); `None`: `logging_steps`.
    pub eval_steps: Option<f64>,
    /// Evaluate before the first step too.
    pub eval_on_start: bool,
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
            eval_strategy: IntervalStrategy::No,
            eval_steps: None,
            eval_on_start: false,
            resume_from_checkpoint: Resume::No,
        }
    }
}

/// What is logged and saved, where, and how often.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OutputArgs {
    /// Folder of the adapter or model, checkpoints, logs and plots.
    pub output_dir: Option<PathBuf>,
    /// Write into an `output_dir` that already holds a run, starting it anew.
    pub overwrite_output_dir: bool,
    /// When to log.
    pub logging_strategy: IntervalStrategy,
    /// Steps between log entries (a value below 1 is a share of all steps).
    pub logging_steps: f64,
    /// Log the first step too.
    pub logging_first_step: bool,
    /// When to save a checkpoint.
    pub save_strategy: IntervalStrategy,
    /// Steps between checkpoints (a value below 1 is a share of all steps).
    pub save_steps: f64,
    /// Keep only the newest so many checkpoints; `None` keeps all.
    pub save_total_limit: Option<usize>,
    /// Leave optimizer and data position out of checkpoints: smaller, but they cannot be resumed from.
    /// The one written when a run is interrupted has them all the same.
    pub save_only_model: bool,
    /// Draw `training_loss.png` and `.svg`.
    pub plot_loss: bool,
}

impl Default for OutputArgs {
    fn default() -> Self {
        Self {
            output_dir: None,
            overwrite_output_dir: false,
            logging_strategy: IntervalStrategy::Steps,
            logging_steps: 500.0,
            logging_first_step: false,
            save_strategy: IntervalStrategy::Steps,
            save_steps: 500.0,
            save_total_limit: None,
            save_only_model: false,
            plot_loss: false,
        }
    }
}

/// How completions are drawn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GenerateArgs {
    /// Draw from the distribution; `false` takes the likeliest token each time (greedy).
    pub do_sample: bool,
    /// Divides the logits before sampling; below 1 sharpens.
    pub temperature: f64,
    /// Sample from the smallest set of tokens whose probability reaches this; 1 is off.
    pub top_p: f64,
    /// Sample from this many likeliest tokens; 0 is off.
    pub top_k: usize,
    /// Most tokens of a completion.
    pub max_new_tokens: usize,
    /// Divides (positive) or multiplies (negative) the logits of tokens already seen; 1 is off.
    pub repetition_penalty: f64,
    /// Leave special tokens out of the printed text.
    pub skip_special_tokens: bool,
}

impl Default for GenerateArgs {
    fn default() -> Self {
        Self {
            do_sample: true,
            temperature: 0.95,
            top_p: 0.7,
            top_k: 50,
            max_new_tokens: 1024,
            repetition_penalty: 1.0,
            skip_special_tokens: true,
        }
    }
}

/// Seeds and hardware.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunArgs {
    /// Seed of initialisation, dropout and sampling.
    pub seed: u64,
    /// Seed of the order of examples; `None`: `seed`.
    pub data_seed: Option<u64>,
    /// Where tensors live.
    pub device: Device,
    /// Compute in bfloat16 on a CUDA device.
    pub bf16: bool,
    /// Compute in half precision on a CUDA device, with dynamic loss scaling.
    pub fp16: bool,
    /// CPU threads; `None`: one a core.
    pub num_threads: Option<usize>,
}

impl Default for RunArgs {
    fn default() -> Self {
        Self { seed: 42, data_seed: None, device: Device::Auto, bf16: false, fp16: false, num_threads: None }
    }
}

#[cfg(test)]
mod tests;
