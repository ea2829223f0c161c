//! The training loop.

mod best;
mod by_task;
pub mod checkpoint;
mod evaluate;
mod lock;
mod output;
mod pissa;
mod prepare;
mod progress;
mod record;
mod resume;
pub mod setup;
mod step;
#[cfg(test)]
mod tests;
mod update;
mod watch;
mod weigh;

pub use best::Objective;
pub use evaluate::{Answers, Evaluation, evaluate, evaluation_entry, token_accuracy};
pub use step::{StepLoss, Training, Weighing, run_examples};

use crate::config::{IntervalStrategy, TrainConfig};
use crate::events::{Event, EventSink, Plan, Summary};
use crate::mix::Sampler;
use crate::report::samples::{Moment, SAMPLE_PREDICTIONS};
use crate::report::tasks::task_progress;
use crate::report::trainer_log::TRAINER_LOG;
use crate::schedule::Schedule;
use crate::state::TrainerState;
use crate::weighting::Weigher;
use crate::weighting::conflict::Conflicts;
use crate::{Error, Result};
use best::Best;
use lock::OutputLock;
use medley_autograd::GradScaler;
use medley_autograd::optim::Optimizer;
use medley_model::Llama;
use medley_model::adapter::LoraConfig;
use medley_model::tokenizer::Tokenizer;
use medley_tensor::{Device, ledger};
use progress::Progress;
use record::Recorder;
use setup::RunData;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use update::Stepped;
use watch::LossWatch;
use weigh::Probe;

/// Everything that moves while training.
struct Trainer<'a> {
    config: &'a TrainConfig,
    model: Llama,
    lora: Option<LoraConfig>,
    tokenizer: Tokenizer,
    data: RunData,
    /// The weights as given: what evaluations are weighed with, so that they can be compared.
    weighing: Weighing,
    /// The weights as they move.
    weigher: Weigher,
    probe: Option<Probe>,
    conflicts: Conflicts,
    sampler: Sampler,
    optimizer: Optimizer,
    /// Only where gradients are f16: their range is small.
    scaler: Option<GradScaler>,
    schedule: Schedule,
    state: TrainerState,
    progress: Progress,
    watch: LossWatch,
    best: Best,
    /// What the model answers in an evaluation, if it does.
    answers: Option<Answers>,
    output_dir: PathBuf,
    total_steps: u64,
    /// Ids that end a reply; empty in pre-training.
    stop_ids: Vec<u32>,
    /// Open while the loop runs.
    recorder: Option<Recorder>,
    /// Held while the run lasts.
    _lock: OutputLock,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// All steps were made; results are in the output folder.
    Finished(Summary),
    /// Stopped by the user after the given step; the checkpoint to go on from.
    Interrupted {
        /// Steps completed.
        step: u64,
        /// Its folder.
        checkpoint: PathBuf,
    },
}

/// Trains as `config` says, telling `sink` what happens. Setting `stop` ends the run after the
/// step under way, with a checkpoint.
///
/// # Errors
/// Bad configuration, data or model; a loss that is not a number; an output folder that cannot be
/// written. Checkpoints already written stay good.
pub fn train(config: &TrainConfig, sink: &mut dyn EventSink, stop: &AtomicBool) -> Result<Outcome> {
    config.validate()?;
    let output_dir = output_dir(config)?;
    let was_there = output_dir.exists();
    let outcome = Trainer::prepare(config, sink).and_then(|mut trainer| trainer.run(sink, stop));
    if outcome.is_err() && !was_there {
        // Takes away what was made before the first entry of the log, and only that: a folder with a checkpoint in
        // it is not removed.
        if !output_dir.join(TRAINER_LOG).exists() && checkpoint::list(output_dir).is_ok_and(|c| c.is_empty())
        {
            let _ = std::fs::remove_file(output_dir.join(SAMPLE_PREDICTIONS));
        }
        let _ = std::fs::remove_dir(output_dir);
    }
    outcome
}

fn output_dir(config: &TrainConfig) -> Result<&Path> {
    config
        .output
        .output_dir
        .as_deref()
        .ok_or_else(|| Error::Run("output_dir is not set; say where the results go".into()))
}

impl<'a> Trainer<'a> {
    fn run(&mut self, sink: &mut dyn EventSink, stop: &AtomicBool) -> Result<Outcome> {
        let first = self.state.global_step;
        self.announce(sink, first);
        if first == 0 {
            self.write_samples(Moment::Before, sink);
        }
        self.open_record(sink);
        let started = Instant::now();
        let mut tokens = 0u64;
        // A run resumed from step 0 has that evaluation already.
        if self.config.train.eval_on_start && first == 0 && self.state.log_history.is_empty() {
            let best = self.evaluate(sink)?;
            self.save_best(best, sink);
        }
        while self.state.global_step < self.total_steps {
            if self.stop_early(rate_of(tokens, started), sink) {
                break;
            }
            let step = self.state.global_step;
            let Stepped::Done(measured) = self.step(step, sink)? else { continue };
            tokens += measured.loss.tokens;
            self.state.global_step = step + 1;
            self.state.epoch = self.epoch_after(step + 1);
            self.state.num_input_tokens_seen += measured.loss.tokens;
            let rate = rate_of(tokens, started);
            let loss = measured.loss.loss;
            self.progress.add(&measured);
            let tasks = (0..measured.loss.nll.len()).map(|task| measured.loss.task_loss(task)).collect();
            sink.event(&Event::StepFinished { step: step + 1, loss, tasks, tokens_per_second: rate });

            let last = step + 1 == self.total_steps;
            if self.due(self.config.output.logging_strategy, self.state.logging_steps, last)
                || (step == 0 && self.config.output.logging_first_step)
            {
                self.log_steps(rate, sink);
            }
            let mut best = false;
            if self.due(self.config.train.eval_strategy, self.state.eval_steps, false) {
                best = self.evaluate(sink)?;
            }
            let stopping = stop.load(Ordering::Relaxed);
            if self.due(self.config.output.save_strategy, self.state.save_steps, false) || (stopping && !last)
            {
                // Whoever stops a run wants to go on with it, whatever save_only_model says.
                let resumable = !self.config.output.save_only_model || stopping;
                match self.save_checkpoint(resumable) {
                    Ok(path) => {
                        sink.event(&Event::CheckpointSaved { step: step + 1, path: path.clone() });
                        if stopping && !last {
                            sink.event(&Event::Interrupted {
                                step: step + 1,
                                checkpoint: Some(path.clone()),
                            });
                            return Ok(Outcome::Interrupted { step: step + 1, checkpoint: path });
                        }
                    }
                    Err(error) if stopping && !last => return Err(self.rescue(error)),
                    Err(error) => self.not_saved(&error, sink),
                }
            } else {
                self.save_best(best, sink);
            }
        }
        self.load_best(sink)?;
        let runtime = started.elapsed();
        let mut summary = Summary {
            steps: self.state.global_step,
            train_loss: self.progress.mean_loss(),
            runtime,
            tokens_per_second: tokens as f64 / runtime.as_secs_f64().max(1e-9),
            peak_memory_bytes: ledger::snapshot().total.1 as u64,
            shares: self.progress.shares(self.data.tasks.names()),
            output_dir: self.output_dir.clone(),
            ..Summary::default()
        };
        self.finish(&summary, sink).map_err(|error| self.rescue(error))?;
        summary.files = self.write_views(sink);
        summary.tasks = task_progress(&self.state.log_history);
        sink.event(&Event::Finished(summary.clone()));
        Ok(Outcome::Finished(summary))
    }

    fn announce(&self, sink: &mut dyn EventSink, first_step: u64) {
        let (names, counts) = (self.data.tasks.names(), self.examples());
        let (trainable, total) = self.model.parameter_counts();
        let placement = self.model.placement();
        let device = match &placement.device {
            Device::Cpu => None,
            Device::Cuda(card) => {
                let slow = if card.info().simulated {
                    ", which runs and checks the GPU's kernels on the CPU: far slower than --device cpu"
                } else {
                    ""
                };
                Some(format!("{} in {}{slow}", card.name(), placement.compute))
            }
        };
        sink.event(&Event::RunStarted(Plan {
            total_steps: self.total_steps,
            first_step,
            num_epochs: self.total_steps as f64 / self.sampler.steps_per_epoch().max(1) as f64,
            sequences_per_step: step_size(self.config),
            tasks: names.iter().cloned().zip(counts).collect(),
            trainable_parameters: trainable as u64,
            total_parameters: total as u64,
            device,
        }));
    }

    /// Training examples of each task.
    fn examples(&self) -> Vec<usize> {
        let mut counts = vec![0; self.data.tasks.len()];
        for task in self.data.train.task_ids() {
            counts[task.index()] += 1;
        }
        counts
    }

    /// Passes over the data after so many steps.
    fn epoch_after(&self, steps: u64) -> f64 {
        steps as f64 / self.sampler.steps_per_epoch() as f64
    }

    /// Whether something with this rhythm happens now; `last` forces it at the end of the run.
    fn due(&self, strategy: IntervalStrategy, every: u64, last: bool) -> bool {
        let step = self.state.global_step;
        match strategy {
            IntervalStrategy::No => false,
            IntervalStrategy::Steps => step.is_multiple_of(every) || last,
            IntervalStrategy::Epoch => {
                step.is_multiple_of(self.sampler.steps_per_epoch().max(1) as u64) || last
            }
        }
    }

    /// Adds an entry for the steps since the last one.
    fn log_steps(&mut self, rate: f64, sink: &mut dyn EventSink) {
        let mut entry =
            self.progress.take_entry(&self.state, self.data.tasks.names(), rate, self.scaler.as_ref());
        if self.watch.skipped > 0 {
            entry.set("left_out_steps", self.watch.skipped as f64);
        }
        if self.watch.rollbacks > 0 {
            entry.set("rollbacks", self.watch.rollbacks as f64);
        }
        self.record(entry.clone(), sink);
        sink.event(&Event::StepLogged(entry));
    }

    /// Whether early stopping ends the run before the next step; says so, and logs what is not logged yet.
    fn stop_early(&mut self, rate: f64, sink: &mut dyn EventSink) -> bool {
        let Some(reason) = self.best.stopped(&self.state) else { return false };
        if self.config.output.logging_strategy != IntervalStrategy::No && !self.progress.is_logged() {
            self.log_steps(rate, sink);
        }
        sink.event(&Event::StoppedEarly { step: self.state.global_step, reason });
        true
    }
}

fn rate_of(tokens: u64, started: Instant) -> f64 {
    tokens as f64 / started.elapsed().as_secs_f64().max(1e-9)
}

/// Examples of one optimizer step.
pub(crate) fn step_size(config: &TrainConfig) -> usize {
    config.train.per_device_train_batch_size * config.train.gradient_accumulation_steps
}
