//! Which examples, rendered how.

use super::choices::EvalContamination;
use medley_model::template::Thinking;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

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
    /// Files, folders or patterns read directly, without `dataset_info.json`; see [`crate::data::data_files`].
    pub data_files: Vec<PathBuf>,
    /// Files, folders or patterns to evaluate or predict on.
    pub eval_data_files: Vec<PathBuf>,
    /// Prompt template: a name, or a YAML file; `None` takes the model's own chat template.
    pub template: Option<String>,
    /// Whether models with a thinking template think.
    pub enable_thinking: Thinking,
    /// Keep the thoughts of earlier turns under `mask_history`.
    pub preserve_thinking: bool,
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
    /// Leave out rows that repeat an earlier one of their task exactly.
    pub drop_duplicates: bool,
    /// What to do about training rows whose prompt is in the evaluation data.
    pub eval_contamination: EvalContamination,
    /// Folder to store tokenised data in and load it from; `None`: a cache folder, for large data.
    pub tokenized_path: Option<PathBuf>,
    /// Tokenise again even where tokenised data is stored.
    pub overwrite_cache: bool,
    /// Use the examples of these tasks alone; empty: of all.
    pub only_tasks: Vec<String>,
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
            enable_thinking: Thinking::On,
            preserve_thinking: false,
            task_prefix: false,
            default_system: None,
            cutoff_len: 2048,
            train_on_prompt: false,
            mask_history: false,
            max_samples: None,
            val_size: 0.0,
            packing: None,
            disable_shuffling: false,
            drop_duplicates: false,
            eval_contamination: EvalContamination::Warn,
            tokenized_path: None,
            overwrite_cache: false,
            only_tasks: Vec::new(),
        }
    }
}
