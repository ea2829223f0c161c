//! Going on from a checkpoint: parameters, moments and history; data order and dropout follow from
//! the step's number.

use super::Trainer;
use super::checkpoint::{self, newest_intact, read_tensor, verify, write_tensors};
use super::progress::Progress;
use super::watch::LossWatch;
use crate::config::{Resume, TrainConfig};
use crate::events::{Event, EventSink};
use crate::state::{TrainerState, write_json};
use crate::{Error, Result};
use medley_tensor::io::Safetensors;
use medley_tensor::ledger::{self, Category};
use medley_tensor::{DType, Tensor};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

const OPTIMIZER: &str = "optimizer.safetensors";
/// Trained weights of checkpoints that no run goes on from, for `load_best_model_at_end`.
const PARAMETERS: &str = "parameters.safetensors";
const RUN: &str = "run.json";
/// The loss scale, where there is one.
const SCALER: &str = "scaler.json";
/// What else shapes the course of a run; a change is allowed, and said.
const SETTINGS: &str = "settings.json";

/// What shapes data and updates, flat: the options, and the dtype of the activations.
fn settings(config: &TrainConfig, compute: DType) -> Map<String, Value> {
    let sections = [
        json!(config.tasks),
        json!(config.lora),
        json!(config.data),
        json!(config.train),
        // What may end the run early.
        json!({
            "early_stopping_steps": config.evaluation.early_stopping_steps,
            "early_stopping_threshold": config.evaluation.early_stopping_threshold,
            "early_stopping_tasks": config.evaluation.early_stopping_tasks,
            "metric_for_best_model": config.evaluation.metric_for_best_model,
            "greater_is_better": config.evaluation.greater_is_better,
        }),
    ];
    let mut all: Map<String, Value> =
        sections.into_iter().filter_map(|v| v.as_object().cloned()).flatten().collect();
    // These say where, when and whether, not how.
    for key in [
        "resume_from_checkpoint",
        "do_train",
        "do_eval",
        "do_predict",
        "eval_strategy",
        "eval_steps",
        "eval_on_start",
        "per_device_eval_batch_size",
        "gradient_checkpointing",
        "eval_dataset",
        "eval_data_files",
        "dataset_dir",
        "tokenized_path",
        "overwrite_cache",
        "num_train_epochs",
        "max_steps",
        "conflict_steps",
    ] {
        all.remove(key);
    }
    all.insert("the compute dtype".into(), json!(compute.name()));
    all
}

/// What must be the same for the data order and the updates to continue.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RunKey {
    seed: u64,
    data_seed: u64,
    examples: usize,
    step_size: usize,
    total_steps: u64,
    parameters: usize,
}

impl RunKey {
    /// What differs, in the words of the options: `seed was 1, is 2 now`.
    fn differences(&self, now: &RunKey) -> Vec<String> {
        let pairs = [
            ("seed", self.seed, now.seed),
            ("data_seed", self.data_seed, now.data_seed),
            ("the number of examples", self.examples as u64, now.examples as u64),
            (
                "per_device_train_batch_size × gradient_accumulation_steps",
                self.step_size as u64,
                now.step_size as u64,
            ),
            ("the number of steps", self.total_steps, now.total_steps),
            ("the number of trained parameters", self.parameters as u64, now.parameters as u64),
        ];
        pairs
            .into_iter()
            .filter(|(_, was, is)| was != is)
            .map(|(what, was, is)| format!("{what} was {was}, is {is} now"))
            .collect()
    }
}

/// The checkpoint that `config` goes on from.
///
/// # Errors
/// When a named checkpoint is damaged, or the output folder holds a run that nothing says to
/// continue or to overwrite.
pub(super) fn source(
    config: &TrainConfig,
    output_dir: &Path,
    sink: &mut dyn EventSink,
) -> Result<Option<PathBuf>> {
    let newest =
        |sink: &mut dyn EventSink| newest_intact(output_dir, &mut |m| sink.event(&Event::Warning(m)));
    match &config.train.resume_from_checkpoint {
        Resume::From(path) => {
            verify(path)?;
            Ok(Some(path.clone()))
        }
        Resume::Latest => {
            let found = newest(sink)?;
            if found.is_none() {
                sink.event(&Event::Warning(format!(
                    "{} holds no usable checkpoint: starting from the first step",
                    output_dir.display()
                )));
            }
            Ok(found)
        }
        Resume::No if config.output.overwrite_output_dir => Ok(None),
        Resume::No => {
            let occupied = !checkpoint::list(output_dir)?.is_empty()
                || output_dir.join(crate::state::TRAINER_STATE).is_file();
            if occupied {
                return Err(Error::Run(format!(
                    "output_dir {} already holds a run. To go on with it: --resume_from_checkpoint true. \
                     To start anew and replace it: --overwrite_output_dir true. Or choose another folder",
                    output_dir.display()
                )));
            }
            Ok(None)
        }
    }
}

impl Trainer<'_> {
    fn run_key(&self) -> RunKey {
        RunKey {
            seed: self.config.run.seed,
            data_seed: super::setup::data_seed(self.config),
            examples: self.data.train.len(),
            step_size: super::step_size(self.config),
            total_steps: self.total_steps,
            parameters: self.optimizer.params().iter().map(|p| p.value().numel()).sum(),
        }
    }

    /// The trained weights by name.
    fn parameters(&self) -> Vec<(String, Tensor)> {
        self.optimizer.params().iter().map(|p| (format!("param/{}", p.name()), p.value())).collect()
    }

    pub(super) fn write_parameters(&self, folder: &Path) -> Result<()> {
        write_tensors(&folder.join(PARAMETERS), &self.parameters())
    }

    /// Puts the trained weights of a checkpoint back, and nothing else of it.
    pub(super) fn read_parameters(&mut self, folder: &Path) -> Result<()> {
        let file =
            [OPTIMIZER, PARAMETERS].map(|name| folder.join(name)).into_iter().find(|path| path.is_file());
        let file = file.ok_or_else(|| Error::Checkpoint {
            path: folder.to_path_buf(),
            message: format!("neither {OPTIMIZER} nor {PARAMETERS} is there"),
        })?;
        self.set_parameters(&Safetensors::open(file)?)
    }

    fn set_parameters(&mut self, file: &Safetensors) -> Result<()> {
        let kind = if self.lora.is_some() { Category::Adapters } else { Category::Weights };
        for p in self.optimizer.params() {
            let _scope = ledger::scope(kind);
            p.set(read_tensor(file, &format!("param/{}", p.name()), p.value().shape(), DType::F32)?)?;
        }
        Ok(())
    }

    pub(super) fn write_optimizer(&self, folder: &Path) -> Result<()> {
        let mut tensors = self.parameters();
        tensors.extend(self.optimizer.state());
        write_tensors(&folder.join(OPTIMIZER), &tensors)?;
        if let Some(scaler) = &self.scaler {
            write_json(&folder.join(SCALER), &scaler.state())?;
        }
        self.save_weights(folder)?;
        write_json(&folder.join(SETTINGS), &settings(self.config, self.model.placement().compute))?;
        write_json(&folder.join(RUN), &self.run_key())
    }

    pub(super) fn restore(&mut self, folder: &Path, sink: &mut dyn EventSink) -> Result<()> {
        let bad = |message: String| Error::Checkpoint { path: folder.to_path_buf(), message };
        let path = folder.join(RUN);
        let text = std::fs::read_to_string(&path).map_err(|e| {
            bad(format!(
                "{RUN} cannot be read ({e}); checkpoints saved with save_only_model cannot be resumed, \
                 start from their weights with model_name_or_path or adapter_name_or_path instead"
            ))
        })?;
        let saved: RunKey = serde_json::from_str(&text).map_err(|e| bad(format!("{RUN}: {e}")))?;
        let now = self.run_key();
        if saved != now {
            return Err(bad(format!(
                "it belongs to a run with other settings: {}; resume with the same data, seed, batch size and \
                 number of steps",
                saved.differences(&now).join(", ")
            )));
        }
        let path = folder.join(SETTINGS);
        let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
        let before: Map<String, Value> =
            serde_json::from_str(&text).map_err(|e| bad(format!("{SETTINGS}: {e}")))?;
        let changed: Vec<String> = settings(self.config, self.model.placement().compute)
            .into_iter()
            .filter(|(key, value)| before.get(key) != Some(value))
            .map(|(key, value)| format!("{key} was {}, is {value}", before.get(&key).unwrap_or(&Value::Null)))
            .collect();
        if !changed.is_empty() {
            sink.event(&Event::Warning(format!(
                "resumed with changed options, so the run will not go on as it began: {}",
                changed.join("; ")
            )));
        }
        let file = Safetensors::open(folder.join(OPTIMIZER))?;
        self.set_parameters(&file)?;
        let state = TrainerState::read(folder)?;
        // A skipped step moved nothing, so it does not count.
        let mut updates = state.global_step;
        let path = folder.join(SCALER);
        if self.scaler.is_none() && path.exists() {
            return Err(bad(
                "it belongs to a run in fp16, which may have skipped steps; resume it with fp16 on a GPU, or start \
                 from its weights with model_name_or_path or adapter_name_or_path"
                    .into(),
            ));
        }
        if let Some(scaler) = &mut self.scaler {
            let text = std::fs::read_to_string(&path).map_err(|e| {
                bad(format!(
                    "{SCALER} cannot be read ({e}); was the run begun without fp16? resume it the same way"
                ))
            })?;
            scaler.restore(serde_json::from_str(&text).map_err(|e| bad(format!("{SCALER}: {e}")))?)?;
            updates = updates.saturating_sub(scaler.skipped());
        }
        self.optimizer.restore(updates, |name, shape, dtype| read_tensor(&file, name, shape, dtype))?;
        self.progress = Progress::read(folder)?;
        self.restore_weights(folder, sink)?;
        self.watch = LossWatch::read(folder)?;
        // The rhythm is this run's: an option changed for the resumed part takes effect.
        self.state = TrainerState {
            max_steps: self.state.max_steps,
            num_train_epochs: self.state.num_train_epochs,
            logging_steps: self.state.logging_steps,
            save_steps: self.state.save_steps,
            eval_steps: self.state.eval_steps,
            train_batch_size: self.state.train_batch_size,
            ..state
        };
        Ok(())
    }
}
