//! What a run writes: the trained weights, checkpoints, results and plots.

use super::{Trainer, checkpoint};
use crate::events::{Event, EventSink, Summary};
use crate::state::{LogEntry, write_json, write_results};
use crate::{Error, Result, plot};
use medley_model::export;
use medley_tensor::{DType, ledger};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

/// Shards of a fully trained model are at most this large.
const SHARD_BYTES: usize = 5_000_000_000;

impl Trainer<'_> {
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

    pub(super) fn save_checkpoint(&mut self, resumable: bool) -> Result<PathBuf> {
        let step = self.state.global_step;
        let path = checkpoint::folder(&self.output_dir, step);
        let best = self.state.best_model_checkpoint.clone();
        self.state.checkpoint_saved(&path);
        let keep = self.config.output.save_total_limit;
        let saved = checkpoint::save(&self.output_dir, step, keep, |folder| self.fill(folder, resumable));
        if saved.is_err() {
            self.state.best_model_checkpoint = best;
        }
        saved
    }

    /// What a checkpoint consists of.
    fn fill(&self, folder: &Path, resumable: bool) -> Result<()> {
        // Full precision: a resumed run must continue to the bit.
        self.write_model(folder, DType::F32)?;
        self.state.write(folder)?;
        if resumable {
            self.progress.write(folder)?;
            self.watch.write(folder)?;
            self.write_optimizer(folder)?;
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
            .and_then(|()| checkpoint::save(&folder, step, None, |folder| self.fill(folder, true)));
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

    pub(super) fn finish(&mut self, summary: &Summary, sink: &mut dyn EventSink) -> Result<()> {
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
