//! Loss over a data set, by task.

use super::step::{StepLoss, Weighing, run_examples};
use crate::Result;
use crate::config::LossReduction;
use crate::data::Dataset;
use crate::state::LogEntry;
use medley_model::Llama;
use std::time::Duration;

/// The loss of every example of `data`, `batch_size` sequences at a time. Task means are over the
/// whole set; the total weighs them as training does.
///
/// # Errors
/// When an id is out of range for the model.
pub fn evaluate(model: &Llama, data: &Dataset, batch_size: usize, weighing: &Weighing) -> Result<StepLoss> {
    let mut sums = StepLoss::new(weighing.alpha.len());
    let indices: Vec<u32> = (0..data.len() as u32).collect();
    for batch in indices.chunks(batch_size.max(1)) {
        sums.add(&run_examples(model, data, batch, batch_size, weighing, None)?);
    }
    let total: u64 = sums.labelled.iter().sum();
    sums.loss = (0..weighing.alpha.len())
        .map(|t| {
            let n = match weighing.reduction {
                LossReduction::TaskMean => sums.labelled[t],
                LossReduction::TokenMean => total,
            };
            weighing.alpha[t] * sums.nll[t] / n.max(1) as f64
        })
        .sum();
    Ok(sums)
}

/// `eval_loss`, `eval_<task>_loss` and `eval_runtime` (seconds) added to `entry`.
pub fn evaluation_entry(
    mut entry: LogEntry,
    loss: &StepLoss,
    tasks: &[String],
    runtime: Duration,
) -> LogEntry {
    entry.set("eval_loss", loss.loss);
    for (i, name) in tasks.iter().enumerate() {
        if let Some(mean) = loss.task_loss(i) {
            entry.set(format!("eval_{name}_loss"), mean);
        }
    }
    entry.with("eval_runtime", runtime.as_secs_f64())
}
