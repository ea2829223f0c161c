//! One optimizer step: loss and gradients, the update, and what to say when a number is not one.

use super::Trainer;
use super::progress::Measured;
use super::step::{StepLoss, Training, run_examples};
use crate::events::{Event, EventSink};
use crate::{Error, Result};
use medley_autograd::GradScaler;
use medley_autograd::optim::StepSettings;

impl Trainer<'_> {
    /// Forward, backward and update of step `step`, counted from 0.
    pub(super) fn step(&mut self, step: u64, sink: &mut dyn EventSink) -> Result<Measured> {
        let loss_scale = self.scaler.as_ref().map_or(1.0, GradScaler::scale);
        let args = &self.config.train;
        let indices = self.sampler.step(step).to_vec();
        let training = Training {
            seed: self.config.run.seed,
            step,
            first_micro_batch: step * args.gradient_accumulation_steps as u64,
            checkpoint: args.gradient_checkpointing,
            loss_scale,
            neftune_alpha: args.neftune_noise_alpha,
        };
        let loss = run_examples(
            &self.model,
            &self.data.train,
            &indices,
            args.per_device_train_batch_size,
            &self.weighing,
            Some(training),
        )?;
        if !loss.loss.is_finite() {
            return Err(self.non_finite("loss", &loss, step, &indices));
        }
        let learning_rate = self.schedule.lr(step);
        let max_grad_norm = args.max_grad_norm;
        let report = self.optimizer.step(&StepSettings { learning_rate, max_grad_norm, loss_scale })?;
        match &mut self.scaler {
            Some(scaler) => {
                scaler.update(report.skipped)?;
                if report.skipped {
                    sink.event(&Event::Warning(format!(
                        "step {}: a gradient overflowed in half precision, so the step was skipped and the loss \
                         scale lowered from {loss_scale} to {}",
                        step + 1,
                        scaler.scale()
                    )));
                }
            }
            None if report.skipped => return Err(self.non_finite("gradient", &loss, step, &indices)),
            None => {}
        }
        Ok(Measured { loss, grad_norm: report.grad_norm, learning_rate, skipped: report.skipped })
    }

    fn non_finite(&self, what: &str, loss: &StepLoss, step: u64, indices: &[u32]) -> Error {
        let names = self.data.tasks.names();
        let tasks: Vec<String> = names
            .iter()
            .zip(&loss.nll)
            .filter(|(_, nll)| !nll.is_finite())
            .map(|(name, _)| name.clone())
            .collect();
        let rows: Vec<String> = indices
            .iter()
            .filter_map(|i| self.data.train.get(*i as usize))
            .filter(|e| tasks.is_empty() || tasks.contains(&names[e.task.index()]))
            .take(3)
            .map(|e| format!("{}:{}", e.file.display(), e.line))
            .collect();
        let range = if self.scaler.is_some() { "; so does bf16 where values pass f16's 65504" } else { "" };
        let of_task = if tasks.is_empty() { String::new() } else { format!(" of {}", tasks.join(", ")) };
        Error::NonFinite(format!(
            "step {}: the {what}{of_task} is not a number; the step was not taken, checkpoints before it are good. \
             Among its examples: {}. A lower learning_rate, a warm-up or max_grad_norm 1.0 usually helps{range}",
            step + 1,
            rows.join(", ")
        ))
    }
}
