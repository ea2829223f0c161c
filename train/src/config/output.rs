//! What is written, and when.

use super::choices::IntervalStrategy;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

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
