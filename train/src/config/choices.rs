//! The options whose value is one of a few names.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// What is learned: responses to prompts, or plain text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Supervised fine-tuning on instruction / response pairs.
    #[default]
    Sft,
    /// Continued pre-training on plain text.
    Pt,
}

/// Which weights are trained.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinetuningType {
    /// Low-rank adapters on a frozen base.
    #[default]
    Lora,
    /// Some blocks of the model, the rest frozen.
    Freeze,
    /// Every weight of the model.
    Full,
}

/// Code book of a 4-bit quantisation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QuantizationType {
    /// NormalFloat4 of the QLoRA paper (arXiv 2305.14314).
    #[default]
    Nf4,
}

/// How task weights move during training.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskWeighting {
    /// As given in `task_weights`.
    #[default]
    Fixed,
    /// Learned variances: Kendall et al. 2018, arXiv 1705.07115.
    Uncertainty,
    /// Dynamic weight average: Liu et al. 2019, arXiv 1803.10704.
    Dwa,
    /// Equal relative progress: Liu et al. 2023, arXiv 2306.03792.
    Famo,
    /// Convergence balancing on held-out losses: Gong et al. 2024, arXiv 2410.06741.
    Coba,
    /// Inverse to how fast each loss falls.
    LossRate,
    /// `coba` where every task has evaluation examples, else `famo`.
    Dynamic,
}

/// What is done about gradients of tasks that point apart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GradientSurgery {
    /// They are summed.
    #[default]
    None,
    /// Conflicting parts are projected out: Yu et al. 2020, arXiv 2001.06782.
    Pcgrad,
}

/// Which task the next example comes from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SamplingStrategy {
    /// Every example once an epoch: a task's share is its share of the examples.
    #[default]
    Proportional,
    /// Every optimizer step holds equal shares of every task.
    Balanced,
    /// Share ∝ examples^(1/T), T = `sampling_temperature`.
    Temperature,
    /// As proportional, but every step holds its share of every task.
    Stratified,
    /// Share ∝ min(examples, `sampling_cap`): T5's examples-proportional mixing (arXiv 1910.10683).
    Capped,
}

/// What the shares of a sampling strategy are shares of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SamplingUnit {
    /// Examples.
    #[default]
    Examples,
    /// Labelled tokens: tasks with long replies are drawn less often.
    Tokens,
}

/// How datasets are mixed, and with it how long an epoch is: LLaMA-Factory's option.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MixStrategy {
    /// One after another, shuffled together: every example once an epoch.
    #[default]
    Concat,
    /// By `interleave_probs` (else equally) until the first dataset has no example left.
    InterleaveUnder,
    /// By `interleave_probs` (else equally) until every dataset was seen whole; smaller ones come again.
    InterleaveOver,
    /// By `interleave_probs` (else equally) among the datasets that have examples left: each example once.
    InterleaveOnce,
}

/// Shares of datasets or tasks: numbers in their order, or by task name. They need not sum to 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Shares {
    /// One for each dataset file, in the order in which they are given, or for each task.
    InOrder(Vec<f64>),
    /// One for each task; 0 leaves it out.
    ByTask(BTreeMap<String, f64>),
}

/// What to do about training rows whose prompt is in the evaluation data.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EvalContamination {
    /// Say how many there are, and name a few.
    #[default]
    Warn,
    /// Leave them out of training.
    Drop,
    /// Do not look for them.
    Off,
}

/// What the loss of one optimizer step is the mean of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossReduction {
    /// Σᵢ αᵢ · (mean over task i's labelled tokens in the step).
    #[default]
    TaskMean,
    /// Σₜ α_task(t) · nllₜ / (labelled tokens in the step).
    TokenMean,
}

/// Shape of the learning rate over the run: names of `transformers.SchedulerType`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SchedulerType {
    /// Warm-up, then a straight line to 0.
    #[default]
    Linear,
    /// Warm-up, then half a cosine to 0.
    Cosine,
    /// No warm-up, no decay.
    Constant,
    /// Warm-up, then level.
    ConstantWithWarmup,
    /// Warm-up, then half a cosine to `min_lr` (or `min_lr_rate` · `learning_rate`).
    CosineWithMinLr,
}

/// The optimizer, under the names that Hugging Face gives its implementations.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Optimizer {
    /// AdamW (arXiv 1711.05101).
    #[default]
    #[serde(alias = "adamw_torch_fused", alias = "adamw_hf")]
    AdamwTorch,
    /// AdamW with its moments in 8 bits (arXiv 2110.02861).
    #[serde(rename = "adamw_8bit", alias = "adamw_bnb_8bit", alias = "paged_adamw_8bit")]
    Adamw8bit,
    /// Lion (arXiv 2302.06675).
    #[serde(rename = "lion_32bit", alias = "lion", alias = "paged_lion_32bit")]
    Lion,
    /// Lion with its moment in 8 bits.
    #[serde(rename = "lion_8bit", alias = "paged_lion_8bit")]
    Lion8bit,
    /// Adafactor at the schedule's learning rate (arXiv 1804.04235).
    Adafactor,
}

/// What to do about a step whose loss is not a number or spikes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BadStep {
    /// End the run; nothing of the step is applied.
    #[default]
    Stop,
    /// Say so and go on as if nothing were wrong (not for losses that are no numbers).
    Warn,
    /// Leave the step out.
    Skip,
    /// Go back to the last checkpoint, and on with the data after the step.
    Rollback,
}

/// When something recurring happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IntervalStrategy {
    /// Never.
    No,
    /// Every so many optimizer steps.
    Steps,
    /// At the end of each epoch.
    Epoch,
}

/// Linear layers that get an adapter: the word `all`, or module names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoraTarget {
    /// Every linear layer of the decoder blocks (not `lm_head`).
    All,
    /// Those whose name ends so, e.g. `q_proj`, `v_proj`.
    Modules(Vec<String>),
}

impl Serialize for LoraTarget {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::All => serializer.serialize_str("all"),
            Self::Modules(names) => names.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for LoraTarget {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            One(String),
            Many(Vec<String>),
        }
        let names = match Form::deserialize(deserializer)? {
            Form::One(text) => text.split(',').map(|name| name.trim().to_string()).collect(),
            Form::Many(names) => names,
        };
        Ok(if names == ["all"] { Self::All } else { Self::Modules(names) })
    }
}

/// Where a run starts: anew, from the newest checkpoint of `output_dir`, or from a named one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Resume {
    /// Start anew (`false`).
    #[default]
    No,
    /// The newest `checkpoint-N` of `output_dir` (`true`).
    Latest,
    /// This checkpoint folder.
    From(PathBuf),
}

impl Serialize for Resume {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::No => serializer.serialize_bool(false),
            Self::Latest => serializer.serialize_bool(true),
            Self::From(path) => path.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Resume {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Flag(bool),
            Path(PathBuf),
        }
        Ok(match Form::deserialize(deserializer)? {
            Form::Flag(false) => Self::No,
            Form::Flag(true) => Self::Latest,
            Form::Path(path) => Self::From(path),
        })
    }
}

/// Where tensors live and kernels run, as it is written; [`Device::open`] gives the device itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Device {
    /// The first CUDA card where there is one, else the processor.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// The n-th CUDA card.
    Cuda(usize),
    /// The PTX simulator.
    Sim,
}

impl Device {
    /// The device this names, with [`Device::Auto`] decided.
    pub fn resolved(self) -> Self {
        match self {
            Self::Auto if medley_tensor::Device::cuda_present() => Self::Cuda(0),
            Self::Auto => Self::Cpu,
            named => named,
        }
    }

    /// Opens it; each call of `Sim` makes a simulated device of its own.
    ///
    /// # Errors
    /// When the card, its driver or its number is not there, or the driver is too old.
    pub fn open(self) -> medley_tensor::Result<medley_tensor::Device> {
        medley_tensor::Device::open(&self.resolved().to_string())
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
            Self::Sim => f.write_str("sim"),
        }
    }
}

impl std::str::FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("expected auto, cpu, cuda, cuda:N or sim, got `{text}`");
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            "sim" => Ok(Self::Sim),
            _ => {
                let index = text.strip_prefix("cuda:").ok_or_else(wrong)?;
                index.parse().map(Self::Cuda).map_err(|_| wrong())
            }
        }
    }
}

impl Serialize for Device {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Device {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}
