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
    /// Write `report.html` when training has finished.
    pub report: bool,
    /// Examples of each task that the model completes before and after training, for the report; 0: none.
    pub report_samples: usize,
    /// Programs that are told of the run as it goes: `tensorboard`, or `all`, which is the same here. Other
    /// trackers of Hugging Face's are accepted, with a warning that nothing is told to them.
    pub report_to: Vec<String>,
    /// Folder of TensorBoard's event files; `None`: `runs` in `output_dir`.
    pub logging_dir: Option<PathBuf>,
}

/// What Hugging Face's `report_to` takes (`transformers/integrations/integration_utils.py`), `tensorboard` aside.
pub(super) const OTHER_TRACKERS: [&str; 12] = [
    "azure_ml",
    "clearml",
    "codecarbon",
    "comet_ml",
    "dagshub",
    "dvclive",
    "flyte",
    "mlflow",
    "neptune",
    "swanlab",
    "trackio",
    "wandb",
];

impl OutputArgs {
    /// Whether event files for TensorBoard are written.
    pub fn reports_to_tensorboard(&self) -> bool {
        self.report_to.iter().any(|name| name == "tensorboard" || name == "all")
    }

    /// The trackers of `report_to` that nothing is told to.
    pub fn other_trackers(&self) -> Vec<&str> {
        let names = self.report_to.iter().map(String::as_str);
        names.filter(|name| OTHER_TRACKERS.contains(name)).collect()
    }
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
            report: true,
            report_samples: 2,
            report_to: vec![],
            logging_dir: None,
        }
    }
}
