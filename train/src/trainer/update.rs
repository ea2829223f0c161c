//! One optimizer step: loss and gradients, the update, and what happens when a loss is not to be trusted.

use super::progress::Measured;
use super::step::{StepLoss, Training, run_examples};
use super::watch::{Finding, MOST_SKIPS_IN_A_ROW};
use super::{Trainer, checkpoint};
use crate::config::{BadStep, GradientSurgery};
use crate::data::location;
use crate::events::{Event, EventSink};
use crate::{Error, Result};
use medley_autograd::GradScaler;
use medley_autograd::optim::StepSettings;

/// Rollbacks of a run after which another one is no help.
const MOST_ROLLBACKS: u64 = 5;

/// Examples named in a report.
const NAMED: usize = 3;

/// How a step went.
pub(super) enum Stepped {
    /// It was taken, or left out.
    Done(Measured),
    /// The run is back at an earlier checkpoint.
    RolledBack,
}

impl Trainer<'_> {
    /// Forward, backward and update of step `step`, counted from 0.
    pub(super) fn step(&mut self, step: u64, sink: &mut dyn EventSink) -> Result<Stepped> {
        let loss_scale = self.scaler.as_ref().map_or(1.0, GradScaler::scale);
        let args = &self.config.train;
        let indices = self.sampler.step(step + self.watch.data_offset).to_vec();
        let asked = self.sampler.asked(step + self.watch.data_offset);
        let training = Training {
            seed: self.config.run.seed,
            step,
            first_micro_batch: step * args.gradient_accumulation_steps as u64,
            checkpoint: args.gradient_checkpointing,
            loss_scale,
            neftune_alpha: args.neftune_noise_alpha,
        };
        let (micro_batch, max_grad_norm) = (args.per_device_train_batch_size, args.max_grad_norm);
        let weighing = self.weigh(step, &indices)?;
        let loss = match self.config.tasks.gradient_surgery {
            GradientSurgery::Pcgrad => self.run_projected(step, &indices, &weighing, training)?,
            GradientSurgery::None => {
                self.measure_conflicts(step, &indices, training)?;
                run_examples(&self.model, &self.data.train, &indices, micro_batch, &weighing, Some(training))?
            }
        };
        let finding = self.watch.judge(&loss, args.loss_spike_threshold);
        if let Some(finding) = finding
            && let Some(stepped) = self.bad_step(&finding, &loss, step, &indices, sink)?
        {
            return Ok(stepped);
        }
        let learning_rate = self.schedule.lr(step);
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
            None if report.skipped => {
                if let Some(stepped) = self.bad_step(&Finding::NonFinite, &loss, step, &indices, sink)? {
                    return Ok(stepped);
                }
            }
            None => {}
        }
        if !report.skipped {
            self.learn_weights(&indices, &loss)?;
        }
        self.watch.add(&loss, args.loss_spike_threshold);
        self.watch.skipped_in_a_row = 0;
        let (grad_norm, skipped) = (report.grad_norm, report.skipped);
        let alpha = weighing.alpha;
        Ok(Stepped::Done(Measured { loss, alpha, grad_norm, learning_rate, skipped, left_out: false, asked }))
    }

    /// Reports a step that is not to be trusted and does what the options say; `None` where it is to be taken
    /// all the same.
    fn bad_step(
        &mut self,
        finding: &Finding,
        loss: &StepLoss,
        step: u64,
        indices: &[u32],
        sink: &mut dyn EventSink,
    ) -> Result<Option<Stepped>> {
        let args = &self.config.train;
        let (action, option) = match finding {
            Finding::NonFinite => (args.nonfinite_action, "nonfinite_action"),
            Finding::Spike(_) => (args.loss_spike_action, "loss_spike_action"),
        };
        let what = self.describe(finding, loss, step, indices)?;
        match action {
            BadStep::Stop => {
                let other =
                    format!("; {option}: skip leaves such a step out, rollback goes back to a checkpoint");
                return Err(self.non_finite(&(what + &other)));
            }
            BadStep::Warn => {
                sink.event(&Event::Warning(what));
                return Ok(None);
            }
            BadStep::Skip => {
                if self.watch.skipped_in_a_row >= MOST_SKIPS_IN_A_ROW {
                    return Err(self.non_finite(&format!(
                        "{what}. {MOST_SKIPS_IN_A_ROW} steps before it were left out already, so it is not single \
                         examples"
                    )));
                }
                sink.event(&Event::Warning(format!("{what}; the step was left out")));
            }
            BadStep::Rollback => {
                if self.watch.rollbacks >= MOST_ROLLBACKS {
                    return Err(self.non_finite(&format!(
                        "{what}. The run was rolled back {MOST_ROLLBACKS} times already"
                    )));
                }
                let mut heard = vec![];
                let newest = checkpoint::newest_intact(&self.output_dir, &mut |m| heard.push(m))?;
                heard.into_iter().for_each(|m| sink.event(&Event::Warning(m)));
                if let Some(folder) = newest {
                    self.roll_back(&folder, step, &what, sink)?;
                    return Ok(Some(Stepped::RolledBack));
                }
                sink.event(&Event::Warning(format!(
                    "{what}; there is no checkpoint to go back to yet, so the step was left out"
                )));
            }
        }
        self.optimizer.params().iter().for_each(|p| p.zero_grad());
        self.watch.skipped += 1;
        self.watch.skipped_in_a_row += 1;
        let (loss, learning_rate) = (loss.clone(), self.schedule.lr(step));
        let (alpha, grad_norm) = (self.weigher.alpha(), f64::NAN);
        let measured =
            Measured { loss, alpha, grad_norm, learning_rate, skipped: true, left_out: true, asked: vec![] };
        Ok(Some(Stepped::Done(measured)))
    }

    /// Back to the checkpoint in `folder`, and on with the data after step `step`.
    fn roll_back(
        &mut self,
        folder: &std::path::Path,
        step: u64,
        what: &str,
        sink: &mut dyn EventSink,
    ) -> Result<()> {
        let (rollbacks, skipped, offset) = (self.watch.rollbacks, self.watch.skipped, self.watch.data_offset);
        self.optimizer.params().iter().for_each(|p| p.zero_grad());
        self.restore(folder, sink)?;
        self.watch.rollbacks = rollbacks + 1;
        self.watch.skipped = skipped;
        self.watch.data_offset = offset + step + 1 - self.state.global_step;
        sink.event(&Event::Warning(format!(
            "{what}; the run went back to {} and goes on with the data after that step",
            folder.display()
        )));
        Ok(())
    }

    /// What is wrong with a step, in which task, and among which examples.
    fn describe(&self, finding: &Finding, loss: &StepLoss, step: u64, indices: &[u32]) -> Result<String> {
        let names = self.data.tasks.names();
        let (head, tasks) = match finding {
            Finding::Spike(found) => {
                let each: Vec<String> = found
                    .iter()
                    .map(|(task, loss, mean)| {
                        format!("{} leapt to {loss:.3} (mean so far {mean:.3})", names[*task])
                    })
                    .collect();
                let tasks: Vec<usize> = found.iter().map(|(task, ..)| *task).collect();
                (format!("the loss of {}", each.join(", of ")), tasks)
            }
            Finding::NonFinite => {
                let tasks: Vec<usize> = (0..names.len()).filter(|i| !loss.nll[*i].is_finite()).collect();
                let of: Vec<&str> = tasks.iter().map(|i| names[*i].as_str()).collect();
                let head = match of.is_empty() {
                    true => "the gradient is not a number".to_string(),
                    false => format!("the loss of {} is not a number", of.join(", ")),
                };
                (head, tasks)
            }
        };
        let worst = self.worst(indices, &tasks)?;
        Ok(format!("step {}: {head}. Among its examples: {}", step + 1, worst.join(", ")))
    }

    /// The examples of these tasks (all, where none is named) with the highest losses, worst first.
    fn worst(&self, indices: &[u32], tasks: &[usize]) -> Result<Vec<String>> {
        let mut losses = vec![];
        for &i in indices {
            let Some(example) = self.data.train.get(i as usize) else { continue };
            let task = example.task.index();
            if tasks.is_empty() || tasks.contains(&task) {
                let one = run_examples(&self.model, &self.data.train, &[i], 1, &self.weighing, None)?;
                let mean = one.task_loss(task).unwrap_or(0.0);
                losses.push((mean, location(example.file, example.line)));
            }
        }
        // NaN counts as the worst.
        losses.sort_by(|a, b| b.0.is_nan().cmp(&a.0.is_nan()).then(b.0.total_cmp(&a.0)));
        let named = losses.into_iter().take(NAMED);
        Ok(named.map(|(loss, place)| format!("{place} (loss {loss:.3})")).collect())
    }

    fn non_finite(&self, what: &str) -> Error {
        let range = if self.scaler.is_some() { "; so does bf16 where values pass f16's 65504" } else { "" };
        Error::NonFinite(format!(
            "{what}. The step was not taken, checkpoints before it are good. A lower learning_rate, a warm-up or \
             max_grad_norm 1.0 usually helps{range}"
        ))
    }
}
