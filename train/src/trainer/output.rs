//! What a run writes: the trained weights, checkpoints, results and plots.

use super::{Trainer, checkpoint};
use crate::config::{FinetuningType, IntervalStrategy};
use crate::events::{Event, EventSink, Summary};
use crate::state::{LogEntry, write_json, write_results};
use crate::{Error, Result};
use medley_model::export;
use medley_tensor::{DType, ledger};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

/// Shards of a fully trained model are at most this large.
pub(super) const SHARD_BYTES: usize = 5_000_000_000;

impl Trainer<'_> {
    fn base_name(&self) -> String {
        if let Some(residual) = super::pissa::base(self.config, &self.output_dir) {
            return residual.to_string_lossy().into_owned();
        }
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

    pub(super) fn save_checkpoint(&mut self, resumable: bool) -> Result<PathBuf> {
        let step = self.state.global_step;
        let path = checkpoint::folder(&self.output_dir, step);
        let best = self.state.best_model_checkpoint.clone();
        self.state.checkpoint_saved(&path);
        let args = self.config;
        let only_best =
            args.output.save_strategy == IntervalStrategy::No && args.evaluation.load_best_model_at_end;
        let keep = if only_best { Some(1) } else { args.output.save_total_limit };
        let kept = self.state.best_model_checkpoint.as_deref();
        let saved =
            checkpoint::save(&self.output_dir, step, keep, kept, |folder| self.fill(folder, resumable));
        if saved.is_err() {
            self.state.best_model_checkpoint = best;
        }
        saved
    }

    /// What a checkpoint consists of.
    fn fill(&self, folder: &Path, resumable: bool) -> Result<()> {
        // Full precision: a resumed run must continue to the bit. Of a model trained in part the trained weights alone
        // are kept so, beside the optimizer's state.
        let in_part = self.config.lora.finetuning_type == FinetuningType::Freeze && resumable;
        self.write_model(folder, if in_part { self.model.config().dtype } else { DType::F32 })?;
        self.state.write(folder)?;
        if resumable {
            self.progress.write(folder)?;
            self.watch.write(folder)?;
            self.write_optimizer(folder)?;
        } else if self.config.evaluation.load_best_model_at_end {
            self.write_parameters(folder)?;
        }
        Ok(())
    }

    /// When results cannot be written where they should be, they are put where temporary files go: whoever trained
    /// for hours must not lose it to a full disk. The error then says how to go on.
    pub(super) fn rescue(&self, error: Error) -> Error {
        let step = self.state.global_step;
        let folder = std::env::temp_dir().join(format!("medley-rescue-{}", std::process::id()));
        let saved = std::fs::create_dir_all(&folder)
            .map_err(Error::io(&folder))
            .and_then(|()| checkpoint::save(&folder, step, None, None, |folder| self.fill(folder, true)));
        match saved {
            Ok(path) => Error::Run(format!(
                "{error}. What was trained so far is safe in {}: make room and go on with \
                 --resume_from_checkpoint {}",
                path.display(),
                path.display()
            )),
            Err(second) => {
                // Empty, for a checkpoint that fails leaves nothing; the errors are what matters.
                let _ = std::fs::remove_dir(&folder);
                Error::Run(format!(
                    "{error}. It could not be saved elsewhere either ({second}); what there is are the checkpoints \
                     saved before, in {}",
                    self.output_dir.display()
                ))
            }
        }
    }

    /// Under `load_best_model_at_end`, a checkpoint of an evaluation that is the best so far.
    pub(super) fn save_best(&mut self, best: bool, sink: &mut dyn EventSink) {
        if !(best && self.config.evaluation.load_best_model_at_end) {
            return;
        }
        match self.save_checkpoint(!self.config.output.save_only_model) {
            Ok(path) => sink.event(&Event::CheckpointSaved { step: self.state.global_step, path }),
            Err(error) => self.not_saved(&error, sink),
        }
    }

    /// A checkpoint that cannot be saved does not end the run: what was learned so far is in memory, and going on
    /// loses nothing.
    pub(super) fn not_saved(&self, error: &Error, sink: &mut dyn EventSink) {
        sink.event(&Event::Warning(format!(
            "step {}: the checkpoint could not be saved ({error}); the run goes on and tries again at the next one. \
             Make room in, or give back access to, {}",
            self.state.global_step,
            self.output_dir.display()
        )));
    }

    /// Under `load_best_model_at_end`, puts the best checkpoint's weights back. One that is gone or damaged costs the
    /// best weights, not the run: a warning says so and the last weights stay.
    pub(super) fn load_best(&mut self, sink: &mut dyn EventSink) -> Result<()> {
        let state = &self.state;
        let (true, Some(step), Some(value)) =
            (self.config.evaluation.load_best_model_at_end, state.best_global_step, state.best_metric)
        else {
            return Ok(());
        };
        if step == state.global_step {
            return Ok(());
        }
        let Some(path) = state.best_model_checkpoint.clone() else {
            sink.event(&Event::Warning(format!(
                "the best evaluation was at step {step}, of which there is no checkpoint; the weights of the last step \
                 are kept"
            )));
            return Ok(());
        };
        match checkpoint::verify(&path).and_then(|_| self.read_parameters(&path)) {
            Ok(()) => {
                sink.event(&Event::BestLoaded { step, metric: self.best.metric().to_string(), value });
            }
            Err(error @ (Error::Checkpoint { .. } | Error::Io { .. })) => {
                sink.event(&Event::Warning(format!(
                    "the best weights cannot be had, those of the last step are kept: {error}"
                )));
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    pub(super) fn finish(&mut self, summary: &Summary, sink: &mut dyn EventSink) -> Result<()> {
        let dtype = self.model.config().dtype;
        self.write_model(&self.output_dir, dtype)?;
        let entry = LogEntry::new(self.state.global_step, self.state.epoch)
            .with("train_loss", summary.train_loss)
            .with("train_runtime", summary.runtime.as_secs_f64());
        self.record(entry, sink);
        // Now, and once more below: an evaluation that fails must not cost the history.
        self.state.write(&self.output_dir)?;
        if self.config.train.do_eval
            && let Some(eval) = &self.data.eval
        {
            let measured = self.evaluation(eval, sink)?;
            let step = LogEntry::new(self.state.global_step, self.state.epoch);
            let entry = measured.entry(step, self.data.tasks.names());
            write_results(&self.output_dir, "eval", &measured.results(&entry, &self.data.tasks))?;
            self.record(entry.clone(), sink);
            sink.event(&Event::Evaluated(entry));
        }
        let ledger = ledger::snapshot();
        let by_category: Map<String, Value> = ledger::CATEGORIES
            .iter()
            .zip(ledger.by_category)
            .map(|(c, (_, peak))| (c.name().to_string(), json!(peak)))
            .collect();
        let mut results = json!({
            "epoch": self.state.epoch,
            "train_loss": summary.train_loss,
            "train_runtime": summary.runtime.as_secs_f64(),
            "train_steps": summary.steps,
            "train_tokens_per_second": summary.tokens_per_second,
            "peak_memory_bytes": summary.peak_memory_bytes,
            "peak_memory_by_category": by_category,
            "shares": summary.shares,
        });
        if let (Some(step), Some(value)) = (self.state.best_global_step, self.state.best_metric) {
            results["best_metric"] = json!({"name": self.best.metric(), "value": value, "step": step});
        }
        if let Value::Object(mut results) = results {
            for (name, count) in self.data.tasks.names().iter().zip(self.examples()) {
                results.insert(format!("{name}/examples"), json!(count));
            }
            write_results(&self.output_dir, "train", &results)?;
        }
        write_json(&self.output_dir.join("medley_config.json"), self.config)?;
        self.write_conflicts(sink)?;
        self.state.write(&self.output_dir)
    }
}
