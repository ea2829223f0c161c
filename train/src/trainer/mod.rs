//! The training loop.

pub mod checkpoint;
mod evaluate;
mod progress;
mod resume;
pub mod setup;
mod step;
#[cfg(test)]
mod tests;

pub use evaluate::{evaluate, evaluation_entry};
pub use step::{StepLoss, Training, Weighing, run_examples};

use crate::config::{IntervalStrategy, Optimizer, Resume, Stage, TrainConfig};
use crate::data::Dataset;
use crate::events::{Event, EventSink, Plan, Summary};
use crate::mix::{Sampler, SamplerOptions};
use crate::schedule::{Schedule, interval, total_steps};
use crate::state::{LogEntry, TrainerState, write_json, write_results};
use crate::{Error, Result, plot};
use medley_autograd::optim::{AdamW, AdamWConfig, StepSettings};
use medley_autograd::{GradScaler, ScalerConfig};
use medley_model::adapter::LoraConfig;
use medley_model::tokenizer::Tokenizer;
use medley_model::{Llama, export};
use medley_tensor::{DType, Device, ledger};
use progress::{Measured, Progress};
use serde_json::{Map, Value, json};
use setup::RunData;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Shards of a fully trained model are at most this large.
const SHARD_BYTES: usize = 5_000_000_000;

/// Everything that moves while training.
struct Trainer<'a> {
    config: &'a TrainConfig,
    model: Llama,
    lora: Option<LoraConfig>,
    tokenizer: Tokenizer,
    data: RunData,
    weighing: Weighing,
    sampler: Sampler,
    optimizer: AdamW,
    /// Only where gradients are f16: their range is small.
    scaler: Option<GradScaler>,
    schedule: Schedule,
    state: TrainerState,
    progress: Progress,
    output_dir: PathBuf,
    total_steps: u64,
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
        // Takes away what `prepare` made, and only that: a folder with a checkpoint in it is not removed.
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

/// Makes the output folder and tries to write to it: better before the first step than after the last.
fn prepare_output(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).and_then(|()| tempfile::tempfile_in(folder)).map(drop).map_err(|source| {
        Error::Run(format!(
            "output_dir {} cannot be written: {source}; choose a folder that you may write to",
            folder.display()
        ))
    })
}

/// Refuses examples with ids that the embedding of `vocab` rows does not have. What the data uses
/// counts, not what the tokenizer knows: many have a padding token more than their model.
fn check_ids(data: &RunData, vocab: usize, model: &Path) -> Result<()> {
    for example in data.train.iter().chain(data.eval.iter().flat_map(Dataset::iter)) {
        let labels = example.labels.iter().filter_map(|span| span.token);
        if let Some(id) = example.ids.iter().copied().chain(labels).find(|id| *id as usize >= vocab) {
            return Err(Error::Run(format!(
                "{}:{}: token {id} has no row in the model's embedding, which has {vocab}; the tokenizer and the \
                 weights in {} do not belong together",
                example.file.display(),
                example.line,
                model.display()
            )));
        }
    }
    Ok(())
}

/// Refuses a run that would write over, or remove, the model or adapter that it starts from.
fn spare_inputs(config: &TrainConfig, model: &Path, output_dir: &Path) -> Result<()> {
    // A folder that cannot be resolved does not exist, so nothing of it can be lost.
    let (Ok(model), Ok(output)) = (model.canonicalize(), output_dir.canonicalize()) else { return Ok(()) };
    if setup::lora_config(config).is_none() && model == output {
        return Err(Error::Run(format!(
            "output_dir {} is the folder of the model itself, which the trained weights would replace; choose \
             another folder",
            output_dir.display()
        )));
    }
    if config.output.overwrite_output_dir && config.train.resume_from_checkpoint == Resume::No {
        let adapter = config.model.adapter_name_or_path.as_deref().and_then(|a| a.canonicalize().ok());
        for (_, checkpoint) in checkpoint::list(&output)? {
            if model.starts_with(&checkpoint) || adapter.as_ref().is_some_and(|a| a.starts_with(&checkpoint))
            {
                return Err(Error::Run(format!(
                    "overwrite_output_dir would remove {}, from which this run starts; choose another output_dir",
                    checkpoint.display()
                )));
            }
        }
    }
    Ok(())
}

impl<'a> Trainer<'a> {
    fn prepare(config: &'a TrainConfig, sink: &mut dyn EventSink) -> Result<Self> {
        let output_dir = output_dir(config)?.to_path_buf();
        let resume = resume::source(config, &output_dir, sink)?;
        let folder = setup::model_folder(config)?;
        spare_inputs(config, &folder, &output_dir)?;
        prepare_output(&output_dir)?;

        let tokenizer = Tokenizer::from_folder(&folder)?;
        let renderer = match config.train.stage {
            Stage::Sft => Some(setup::renderer(config)?),
            Stage::Pt => None,
        };
        for note in renderer.iter().flat_map(|r| r.notes()) {
            sink.event(&Event::Warning(note.clone()));
        }
        let data = setup::load_data(config, renderer.as_ref(), &tokenizer)?;
        for warning in data.train.warnings() {
            sink.event(&Event::Warning(warning));
        }
        let weighing = setup::weighing(&config.tasks, &data.tasks)?;
        let (model, lora) = setup::training_model(config)?;
        check_ids(&data, model.config().vocab_size, &folder)?;
        let context = model.config().max_position_embeddings;
        let longest = data.train.iter().map(|e| e.ids.len()).max().unwrap_or(0);
        if longest > context {
            sink.event(&Event::Warning(format!(
                "the longest example has {longest} tokens, the model was made for {context}: a cutoff_len of {context} is safer"
            )));
        }
        let sampler = Sampler::new(
            &data.train.task_ids(),
            SamplerOptions {
                strategy: config.tasks.sampling_strategy,
                sampling_temperature: config.tasks.sampling_temperature,
                step_size: step_size(config),
                shuffle: !config.data.disable_shuffling,
                seed: setup::data_seed(config),
            },
        )
        .map_err(|e| Error::Run(e.to_string()))?;
        let total_steps = total_steps(&config.train, sampler.steps_per_epoch() as u64);
        let args = &config.train;
        let optimizer = AdamW::new(
            AdamWConfig {
                beta1: args.adam_beta1,
                beta2: args.adam_beta2,
                eps: args.adam_epsilon,
                weight_decay: args.weight_decay,
                eight_bit: args.optim == Optimizer::Adamw8bit,
            },
            model.params(),
        )?;
        let scaler = match model.placement().compute {
            DType::F16 => Some(GradScaler::new(ScalerConfig::default())?),
            _ => None,
        };
        let schedule = Schedule::new(args, total_steps);
        let state = TrainerState {
            max_steps: total_steps,
            logging_steps: interval(config.output.logging_steps, total_steps),
            save_steps: interval(config.output.save_steps, total_steps),
            eval_steps: interval(config.train.eval_steps.unwrap_or(config.output.logging_steps), total_steps),
            num_train_epochs: (total_steps as f64 / sampler.steps_per_epoch().max(1) as f64).ceil() as u64,
            train_batch_size: args.per_device_train_batch_size,
            ..TrainerState::default()
        };
        let mut trainer = Trainer {
            config,
            model,
            lora,
            tokenizer,
            data,
            weighing,
            sampler,
            optimizer,
            scaler,
            schedule,
            state,
            progress: Progress::default(),
            output_dir,
            total_steps,
        };
        match resume {
            Some(checkpoint) => trainer.restore(&checkpoint, sink)?,
            // Only now: a run that cannot start leaves the old one alone.
            None if config.output.overwrite_output_dir => {
                for (_, old) in checkpoint::list(&trainer.output_dir)? {
                    std::fs::remove_dir_all(&old).map_err(Error::io(&old))?;
                }
            }
            None => {}
        }
        Ok(trainer)
    }

    fn run(&mut self, sink: &mut dyn EventSink, stop: &AtomicBool) -> Result<Outcome> {
        let first = self.state.global_step;
        self.announce(sink, first);
        let started = Instant::now();
        let mut tokens = 0u64;
        if self.config.train.eval_on_start && first == 0 {
            self.evaluate(sink)?;
        }
        for step in first..self.total_steps {
            let measured = self.step(step, sink)?;
            tokens += measured.loss.tokens;
            self.state.global_step = step + 1;
            self.state.epoch = (step + 1) as f64 / self.sampler.steps_per_epoch() as f64;
            self.state.num_input_tokens_seen += measured.loss.tokens;
            let rate = tokens as f64 / started.elapsed().as_secs_f64().max(1e-9);
            let loss = measured.loss.loss;
            self.progress.add(&measured);
            sink.event(&Event::StepFinished { step: step + 1, loss, tokens_per_second: rate });

            let last = step + 1 == self.total_steps;
            if self.due(self.config.output.logging_strategy, self.state.logging_steps, last)
                || (step == 0 && self.config.output.logging_first_step)
            {
                let entry = self.progress.take_entry(
                    &self.state,
                    self.data.tasks.names(),
                    &self.weighing.alpha,
                    rate,
                    self.scaler.as_ref(),
                );
                self.state.log(entry.clone());
                sink.event(&Event::StepLogged(entry));
            }
            if self.due(self.config.train.eval_strategy, self.state.eval_steps, false) {
                self.evaluate(sink)?;
            }
            let stopping = stop.load(Ordering::Relaxed);
            if self.due(self.config.output.save_strategy, self.state.save_steps, false) || (stopping && !last)
            {
                // Whoever stops a run wants to go on with it, whatever save_only_model says.
                let resumable = !self.config.output.save_only_model || stopping;
                let path = self.save_checkpoint(resumable)?;
                sink.event(&Event::CheckpointSaved { step: step + 1, path: path.clone() });
                if stopping && !last {
                    sink.event(&Event::Interrupted { step: step + 1, checkpoint: Some(path.clone()) });
                    return Ok(Outcome::Interrupted { step: step + 1, checkpoint: path });
                }
            }
        }
        let runtime = started.elapsed();
        let summary = Summary {
            steps: self.state.global_step,
            train_loss: self.progress.mean_loss(self.state.global_step),
            runtime,
            tokens_per_second: tokens as f64 / runtime.as_secs_f64().max(1e-9),
            peak_memory_bytes: ledger::snapshot().total.1 as u64,
            output_dir: self.output_dir.clone(),
        };
        self.finish(&summary, sink)?;
        sink.event(&Event::Finished(summary.clone()));
        Ok(Outcome::Finished(summary))
    }

    fn announce(&self, sink: &mut dyn EventSink, first_step: u64) {
        let names = self.data.tasks.names();
        let mut counts = vec![0; names.len()];
        for task in self.data.train.task_ids() {
            counts[task.index()] += 1;
        }
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

    /// Forward, backward and update of step `step`, counted from 0.
    fn step(&mut self, step: u64, sink: &mut dyn EventSink) -> Result<Measured> {
        let loss_scale = self.scaler.as_ref().map_or(1.0, GradScaler::scale);
        let args = &self.config.train;
        let indices = self.sampler.step(step).to_vec();
        let training = Training {
            seed: self.config.run.seed,
            first_micro_batch: step * args.gradient_accumulation_steps as u64,
            checkpoint: args.gradient_checkpointing,
            loss_scale,
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

    fn evaluate(&mut self, sink: &mut dyn EventSink) -> Result<()> {
        let Some(eval) = &self.data.eval else { return Ok(()) };
        let entry = self.evaluation(eval)?;
        self.state.log(entry.clone());
        sink.event(&Event::Evaluated(entry));
        Ok(())
    }

    fn evaluation(&self, data: &Dataset) -> Result<LogEntry> {
        let started = Instant::now();
        let batch = self.config.train.per_device_eval_batch_size;
        let loss = evaluate(&self.model, data, batch, &self.weighing)?;
        let entry = LogEntry::new(self.state.global_step, self.state.epoch);
        Ok(evaluation_entry(entry, &loss, self.data.tasks.names(), started.elapsed()))
    }

    fn base_name(&self) -> String {
        self.config
            .model
            .model_name_or_path
            .as_deref()
            .unwrap_or(Path::new(""))
            .to_string_lossy()
            .into_owned()
    }

    /// The adapter, or the whole model in `dtype` with its tokenizer.
    fn write_model(&self, folder: &Path, dtype: DType) -> Result<()> {
        match &self.lora {
            Some(lora) => self.model.save_lora(folder, lora, &self.base_name())?,
            None => {
                self.model.save(folder, dtype, SHARD_BYTES)?;
                self.tokenizer.copy_files(folder)?;
                export::copy_side_files(self.tokenizer.folder(), folder)?;
            }
        }
        Ok(())
    }

    fn save_checkpoint(&mut self, resumable: bool) -> Result<PathBuf> {
        let step = self.state.global_step;
        let path = checkpoint::folder(&self.output_dir, step);
        self.state.checkpoint_saved(&path);
        checkpoint::save(&self.output_dir, step, self.config.output.save_total_limit, |folder| {
            // Full precision: a resumed run must continue to the bit.
            self.write_model(folder, DType::F32)?;
            self.state.write(folder)?;
            if resumable {
                self.progress.write(folder)?;
                self.write_optimizer(folder)?;
            }
            Ok(())
        })
    }

    fn finish(&mut self, summary: &Summary, sink: &mut dyn EventSink) -> Result<()> {
        let dtype = self.model.config().dtype;
        self.write_model(&self.output_dir, dtype)?;
        let entry = LogEntry::new(self.state.global_step, self.state.epoch)
            .with("train_loss", summary.train_loss)
            .with("train_runtime", summary.runtime.as_secs_f64());
        self.state.log(entry);
        // Now, and once more below: an evaluation that fails must not cost the history.
        self.state.write(&self.output_dir)?;
        if self.config.train.do_eval
            && let Some(eval) = &self.data.eval
        {
            let entry = self.evaluation(eval)?;
            let results: Map<String, Value> =
                entry.values().map(|(k, v)| (k.to_string(), json!(v))).collect();
            write_results(&self.output_dir, "eval", &results)?;
            self.state.log(entry.clone());
            sink.event(&Event::Evaluated(entry));
        }
        let ledger = ledger::snapshot();
        let by_category: Map<String, Value> = ledger::CATEGORIES
            .iter()
            .zip(ledger.by_category)
            .map(|(c, (_, peak))| (c.name().to_string(), json!(peak)))
            .collect();
        let results = json!({
            "epoch": self.state.epoch,
            "train_loss": summary.train_loss,
            "train_runtime": summary.runtime.as_secs_f64(),
            "train_steps": summary.steps,
            "train_tokens_per_second": summary.tokens_per_second,
            "peak_memory_bytes": summary.peak_memory_bytes,
            "peak_memory_by_category": by_category,
        });
        if let Value::Object(results) = results {
            write_results(&self.output_dir, "train", &results)?;
        }
        write_json(&self.output_dir.join("medley_config.json"), self.config)?;
        self.state.write(&self.output_dir)?;
        if self.config.output.plot_loss {
            plot::write_training_loss(&self.output_dir, &self.state.log_history)?;
        }
        Ok(())
    }
}

/// Examples of one optimizer step.
fn step_size(config: &TrainConfig) -> usize {
    config.train.per_device_train_batch_size * config.train.gradient_accumulation_steps
}
