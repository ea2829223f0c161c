//! `trainer_state.json` and the result files, in the form that Hugging Face's `Trainer` writes.
//!
//! Logged numbers are kept to nine significant digits, all that an f32 holds: they then read back from JSON to the
//! bit, so that a resumed run writes the same history as one that was never interrupted.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use medley_tensor::io::write_atomic;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::{Map, Value};

use crate::{Error, Result};

/// File name of the state in an output folder and in a checkpoint.
pub const TRAINER_STATE: &str = "trainer_state.json";

/// One entry of `log_history`: `step`, `epoch` and whatever was measured there.
///
/// Training entries hold `loss`, `loss/<task>`, `weight/<task>`, `grad_norm`, `learning_rate`,
/// `tokens_per_second`, and what each task had since the entry before: `share/<task>` of the examples,
/// `share_tokens/<task>` of the labelled tokens, and `share_asked/<task>` of the unit that is shared;
/// evaluation entries `eval_loss`, `eval_<task>_loss`, `eval_<task>_perplexity`, `eval_runtime` and, where
/// the model answers, `eval_<task>_<score>`; the last one
/// `train_loss` and `train_runtime`. A value that is not finite is `null` in the file and NaN here.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LogEntry {
    /// Optimizer steps completed.
    pub step: u64,
    /// Passes over the data completed.
    pub epoch: f64,
    values: BTreeMap<String, f64>,
}

impl LogEntry {
    /// An entry without measurements.
    pub fn new(step: u64, epoch: f64) -> Self {
        Self { step, epoch: nine_digits(epoch), values: BTreeMap::new() }
    }

    /// The entry with one more measurement.
    pub fn with(mut self, name: impl Into<String>, value: f64) -> Self {
        self.set(name, value);
        self
    }

    /// Adds or replaces a measurement.
    pub fn set(&mut self, name: impl Into<String>, value: f64) {
        self.values.insert(name.into(), nine_digits(value));
    }

    /// A measurement, if it was taken.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.values.get(name).copied()
    }

    /// Every measurement, by name.
    pub fn values(&self) -> impl Iterator<Item = (&str, f64)> {
        self.values.iter().map(|(name, value)| (name.as_str(), *value))
    }
}

impl Serialize for LogEntry {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut entries: BTreeMap<&str, Value> = BTreeMap::new();
        entries.insert("step", self.step.into());
        entries.insert("epoch", self.epoch.into());
        entries.extend(self.values().map(|(name, value)| (name, Value::from(value))));
        entries.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for LogEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let entries = BTreeMap::<String, Value>::deserialize(deserializer)?;
        let mut entry = Self::default();
        let mut step = None;
        for (name, value) in entries {
            if name == "step" {
                step = value.as_u64();
                continue;
            }
            let number = match value {
                Value::Null => f64::NAN,
                // Hugging Face also logs a few integers, e.g. `num_input_tokens_seen`.
                other => other.as_f64().ok_or_else(|| {
                    de::Error::custom(format!("log_history: expected a number for `{name}`, got {other}"))
                })?,
            };
            if name == "epoch" {
                entry.epoch = nine_digits(number);
            } else {
                entry.set(name, number);
            }
        }
        entry.step =
            step.ok_or_else(|| de::Error::custom("log_history: an entry has no whole number `step`"))?;
        Ok(entry)
    }
}

/// Where a run stands: the fields of `transformers.TrainerState`, so that tools that read it work on ours.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainerState {
    /// Step of the lowest `eval_loss` so far.
    pub best_global_step: Option<u64>,
    /// The lowest `eval_loss` so far.
    pub best_metric: Option<f64>,
    /// The checkpoint saved at `best_global_step`, if one was.
    pub best_model_checkpoint: Option<PathBuf>,
    /// Passes over the data completed.
    pub epoch: f64,
    /// Steps between evaluations.
    pub eval_steps: u64,
    /// Optimizer steps completed.
    pub global_step: u64,
    /// Always false: kept for readers of the format.
    pub is_hyper_param_search: bool,
    /// Always true: kept for readers of the format.
    pub is_local_process_zero: bool,
    /// Always true: kept for readers of the format.
    pub is_world_process_zero: bool,
    /// Everything logged, oldest first.
    pub log_history: Vec<LogEntry>,
    /// Steps between log entries.
    pub logging_steps: u64,
    /// Optimizer steps of the whole run.
    pub max_steps: u64,
    /// Tokens trained on, prompts included.
    pub num_input_tokens_seen: u64,
    /// Passes over the data of the whole run, rounded up.
    pub num_train_epochs: u64,
    /// Steps between checkpoints.
    pub save_steps: u64,
    /// The counters of early stopping, under Hugging Face's name for them.
    pub stateful_callbacks: Map<String, Value>,
    /// Floating-point operations of the run so far; 0 where not counted.
    pub total_flos: f64,
    /// Sequences in a micro-batch.
    pub train_batch_size: usize,
    /// Always absent: kept for readers of the format.
    pub trial_name: Option<String>,
    /// Always absent: kept for readers of the format.
    pub trial_params: Option<Value>,
}

impl Default for TrainerState {
    fn default() -> Self {
        Self {
            best_global_step: None,
            best_metric: None,
            best_model_checkpoint: None,
            epoch: 0.0,
            eval_steps: 0,
            global_step: 0,
            is_hyper_param_search: false,
            is_local_process_zero: true,
            is_world_process_zero: true,
            log_history: Vec::new(),
            logging_steps: 0,
            max_steps: 0,
            num_input_tokens_seen: 0,
            num_train_epochs: 0,
            save_steps: 0,
            stateful_callbacks: Map::new(),
            total_flos: 0.0,
            train_batch_size: 0,
            trial_name: None,
            trial_params: None,
        }
    }
}

impl TrainerState {
    /// Appends to the history.
    pub fn log(&mut self, entry: LogEntry) {
        self.log_history.push(entry);
    }

    /// Notes that the evaluation at `global_step` is the best so far; its checkpoint is yet to be saved.
    pub fn set_best(&mut self, metric: f64) {
        self.best_metric = Some(nine_digits(metric));
        self.best_global_step = Some(self.global_step);
        self.best_model_checkpoint = None;
    }

    /// Notes a checkpoint saved at `global_step`; if that is the best step, it is the best checkpoint.
    pub fn checkpoint_saved(&mut self, folder: &Path) {
        if self.best_global_step == Some(self.global_step) {
            self.best_model_checkpoint = Some(folder.to_path_buf());
        }
    }

    /// Writes `trainer_state.json` into `folder`, whole or not at all.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        write_json(&folder.join(TRAINER_STATE), self)
    }

    /// Reads `trainer_state.json` of `folder`, ours or one that Hugging Face's trainer wrote.
    ///
    /// # Errors
    /// The file cannot be read, or is not in this form.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(TRAINER_STATE);
        let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
        let mut state: Self = serde_json::from_str(&text)
            .map_err(|error| Error::Run(format!("{}: not a trainer state: {error}", path.display())))?;
        state.best_metric = state.best_metric.map(nine_digits);
        Ok(state)
    }
}

/// Writes `<split>_results.json` and merges it into `all_results.json`, as `Trainer.save_metrics` does.
///
/// `split` is `train`, `eval` or `predict`.
///
/// # Errors
/// A file cannot be written, or the `all_results.json` there is not a JSON object.
pub fn write_results(folder: &Path, split: &str, results: &Map<String, Value>) -> Result<()> {
    write_json(&folder.join(format!("{split}_results.json")), results)?;
    let path = folder.join("all_results.json");
    let mut all: Map<String, Value> = match std::fs::read_to_string(&path) {
        Ok(text) => serde_json::from_str(&text)
            .map_err(|error| Error::Run(format!("{}: expected a JSON object: {error}", path.display())))?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Map::new(),
        Err(error) => return Err(Error::io(&path)(error)),
    };
    all.extend(results.clone());
    write_json(&path, &all)
}

/// Writes indented JSON with a final newline, atomically.
///
/// # Errors
/// The value has no JSON form, or the file cannot be written.
pub fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let mut text = serde_json::to_vec_pretty(value)
        .map_err(|error| Error::Run(format!("{}: cannot be written as JSON: {error}", path.display())))?;
    text.push(b'\n');
    Ok(write_atomic(path, &text)?)
}

/// Rounds to nine significant decimal digits.
pub(crate) fn nine_digits(value: f64) -> f64 {
    if !value.is_finite() {
        return f64::NAN;
    }
    // Formatting and parsing are both exactly rounded, so this is idempotent; a finite number always parses.
    format!("{value:.8e}").parse().unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn example() -> TrainerState {
        let mut state = TrainerState {
            epoch: 0.5,
            global_step: 20,
            max_steps: 40,
            num_train_epochs: 1,
            train_batch_size: 4,
            ..TrainerState::default()
        };
        state.log(
            LogEntry::new(10, 0.25)
                .with("loss", f64::from(2.345_678_f32))
                .with("loss/qa", 1.0 / 3.0)
                .with("learning_rate", 1e-4 * 0.3),
        );
        state.log(LogEntry::new(10, 0.25).with("eval_loss", 2.0).with("eval_qa_loss", 1.5));
        state
    }

    #[test]
    fn the_file_has_hugging_faces_fields_in_its_order() {
        let dir = tempfile::tempdir().unwrap();
        example().write(dir.path()).unwrap();
        let text = std::fs::read_to_string(dir.path().join(TRAINER_STATE)).unwrap();
        let value: Value = serde_json::from_str(&text).unwrap();
        // Keys of a trainer_state.json of transformers 4.57, which sorts them.
        let expected = "best_global_step best_metric best_model_checkpoint epoch eval_steps global_step \
            is_hyper_param_search is_local_process_zero is_world_process_zero log_history logging_steps max_steps \
            num_input_tokens_seen num_train_epochs save_steps stateful_callbacks total_flos train_batch_size \
            trial_name trial_params";
        let keys: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys, expected.split_whitespace().collect::<Vec<_>>());
        assert_eq!(
            value["log_history"][1],
            json!({"epoch": 0.25, "eval_loss": 2.0, "eval_qa_loss": 1.5, "step": 10})
        );
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn histories_read_back_to_the_bit() {
        let dir = tempfile::tempdir().unwrap();
        let mut state = example();
        let mut x = 0.123_456_789_f64;
        for step in 0..500 {
            // Numbers of every size, as a long run would log.
            x = (x * 7919.0).fract().max(1e-9);
            let entry = LogEntry::new(step, step as f64 / 7.0).with("loss", x).with("tiny", x * 1e-30);
            state.log(entry.with("grad_norm", x * 1e12));
        }
        state.write(dir.path()).unwrap();
        let first = std::fs::read(dir.path().join(TRAINER_STATE)).unwrap();
        let read = TrainerState::read(dir.path()).unwrap();
        assert_eq!(read, state);
        read.write(dir.path()).unwrap();
        assert_eq!(std::fs::read(dir.path().join(TRAINER_STATE)).unwrap(), first);
        assert_eq!(state.log_history[0].get("loss").unwrap() as f32, 2.345_678_f32);
    }

    #[test]
    fn values_that_are_not_finite_are_null() {
        let entry = LogEntry::new(1, 0.1).with("loss", f64::INFINITY);
        let text = serde_json::to_string(&entry).unwrap();
        assert_eq!(text, r#"{"epoch":0.1,"loss":null,"step":1}"#);
        let read: LogEntry = serde_json::from_str(&text).unwrap();
        assert!(read.get("loss").unwrap().is_nan());
    }

    #[test]
    fn the_best_checkpoint_is_the_one_saved_at_the_best_step() {
        let mut state = TrainerState::default();
        let mut evaluated = |step: u64, best: Option<f64>, saved: bool| {
            state.global_step = step;
            if let Some(metric) = best {
                state.set_best(metric);
            }
            if saved {
                state.checkpoint_saved(Path::new(&format!("checkpoint-{step}")));
            }
            (state.best_global_step, state.best_metric, state.best_model_checkpoint.clone())
        };
        assert_eq!(evaluated(1, Some(3.0), true), (Some(1), Some(3.0), Some("checkpoint-1".into())));
        assert_eq!(evaluated(2, None, true), (Some(1), Some(3.0), Some("checkpoint-1".into())));
        assert_eq!(evaluated(3, Some(2.0), false), (Some(3), Some(2.0), None));
        assert_eq!(evaluated(4, None, true), (Some(3), Some(2.0), None));
    }

    #[test]
    fn damaged_files_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let missing = TrainerState::read(dir.path()).unwrap_err().to_string();
        assert!(missing.contains("trainer_state.json"), "{missing}");
        let path = dir.path().join(TRAINER_STATE);
        for (text, part) in
            [("{", "EOF"), (r#"{"global_step": 1}"#, "missing field"), (r#"{"surprise": 1}"#, "surprise")]
        {
            std::fs::write(&path, text).unwrap();
            let error = TrainerState::read(dir.path()).unwrap_err().to_string();
            assert!(
                error.contains("trainer_state.json: not a trainer state") && error.contains(part),
                "{error}"
            );
        }
        let entry = serde_json::from_value::<LogEntry>(json!({"epoch": 1.0})).unwrap_err().to_string();
        assert!(entry.contains("`step`"), "{entry}");
        let entry =
            serde_json::from_value::<LogEntry>(json!({"step": 1, "loss": "low"})).unwrap_err().to_string();
        assert!(entry.contains("`loss`") && entry.contains("low"), "{entry}");
    }

    #[test]
    fn results_gather_in_one_file() {
        let dir = tempfile::tempdir().unwrap();
        let object = |value: Value| value.as_object().unwrap().clone();
        write_results(dir.path(), "train", &object(json!({"train_loss": 1.0}))).unwrap();
        write_results(dir.path(), "eval", &object(json!({"qa/f1": 0.5}))).unwrap();
        write_results(dir.path(), "train", &object(json!({"train_loss": 0.5}))).unwrap();
        let read = |name: &str| -> Value {
            serde_json::from_str(&std::fs::read_to_string(dir.path().join(name)).unwrap()).unwrap()
        };
        assert_eq!(read("train_results.json"), json!({"train_loss": 0.5}));
        assert_eq!(read("eval_results.json"), json!({"qa/f1": 0.5}));
        assert_eq!(read("all_results.json"), json!({"train_loss": 0.5, "qa/f1": 0.5}));
        std::fs::write(dir.path().join("all_results.json"), "[]").unwrap();
        let error = write_results(dir.path(), "eval", &Map::new()).unwrap_err().to_string();
        assert!(error.contains("all_results.json: expected a JSON object"), "{error}");
    }
}
