//! `trainer_log.jsonl`: a line for every entry of the history, appended as the run goes, in the form of
//! LLaMA-Factory's `LogCallback` (`train/callbacks.py`): what its web board and scripts around it read.

use crate::state::LogEntry;
use crate::{Error, Result};
use medley_tensor::io::write_atomic;
use serde_json::{Map, Value, json};
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// File name in an output folder.
pub const TRAINER_LOG: &str = "trainer_log.jsonl";

/// How far a run was, and how long it took, when an entry was made.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pace {
    /// Optimizer steps of the whole run.
    pub total_steps: u64,
    /// Steps that earlier sittings made: a resumed run's time is spent on those after it.
    pub first_step: u64,
    /// Since this sitting began.
    pub elapsed: Duration,
    /// Tokens trained on since the run's first step.
    pub total_tokens: u64,
    /// Tokens a second in this sitting.
    pub throughput: f64,
}

/// The file, opened for appending at the first entry.
#[derive(Debug)]
pub struct TrainerLog {
    path: PathBuf,
    file: Option<File>,
}

impl TrainerLog {
    /// Opens the log of `folder` after its first lines, those that the `entries` of a checkpoint at `step` stand for;
    /// what a killed run wrote beyond them is dropped, a torn last line too. A new run keeps none.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub fn open(folder: &Path, step: u64, entries: usize) -> Result<Self> {
        let path = folder.join(TRAINER_LOG);
        let text = match std::fs::read(&path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            Err(error) => return Err(Error::io(&path)(error)),
        };
        let within = |line: &&str| {
            let value: Option<Value> = serde_json::from_str(line).ok();
            value.and_then(|value| value.get("current_steps")?.as_u64()).is_some_and(|at| at <= step)
        };
        let kept: String =
            text.lines().take_while(within).take(entries).flat_map(|line| [line, "\n"]).collect();
        if kept != text {
            write_atomic(&path, kept.as_bytes())?;
        }
        Ok(Self { path, file: None })
    }

    /// Appends an entry's line, in one write.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn entry(&mut self, entry: &LogEntry, pace: &Pace) -> Result<()> {
        let text = Value::Object(line(entry, pace)).to_string() + "\n";
        let file = match &mut self.file {
            Some(file) => file,
            // Only now: a run that ends before its first entry leaves no file.
            none => none.insert(
                File::options().create(true).append(true).open(&self.path).map_err(Error::io(&self.path))?,
            ),
        };
        file.write_all(text.as_bytes()).map_err(Error::io(&self.path))
    }
}

/// LLaMA-Factory's keys in its order, then every other number of the entry under its own name.
fn line(entry: &LogEntry, pace: &Pace) -> Map<String, Value> {
    let mut line = Map::new();
    line.insert("current_steps".into(), entry.step.into());
    line.insert("total_steps".into(), pace.total_steps.into());
    for (key, name) in [("loss", "loss"), ("eval_loss", "eval_loss"), ("lr", "learning_rate")] {
        if let Some(value) = entry.get(name) {
            line.insert(key.into(), json!(value));
        }
    }
    line.insert("epoch".into(), json!(entry.epoch));
    let percentage = 100.0 * entry.step as f64 / pace.total_steps.max(1) as f64;
    line.insert("percentage".into(), json!((percentage * 100.0).round() / 100.0));
    line.insert("elapsed_time".into(), clock(pace.elapsed.as_secs()).into());
    line.insert("remaining_time".into(), clock(remaining(entry.step, pace)).into());
    line.insert("throughput".into(), json!((pace.throughput * 100.0).round() / 100.0));
    line.insert("total_tokens".into(), pace.total_tokens.into());
    for (name, value) in entry.values() {
        if !["loss", "eval_loss", "learning_rate"].contains(&name) {
            line.insert(name.into(), json!(value));
        }
    }
    line
}

/// Seconds that the steps left will take at the pace of this sitting.
fn remaining(step: u64, pace: &Pace) -> u64 {
    let (taken, left) = (step.saturating_sub(pace.first_step), pace.total_steps.saturating_sub(step));
    if taken == 0 { 0 } else { (pace.elapsed.as_secs_f64() / taken as f64 * left as f64) as u64 }
}

/// As Python prints a `timedelta`: `0:01:05`, `1 day, 2:03:04`.
fn clock(seconds: u64) -> String {
    let (days, hours, minutes, seconds) =
        (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    match days {
        0 => format!("{hours}:{minutes:02}:{seconds:02}"),
        1 => format!("1 day, {hours}:{minutes:02}:{seconds:02}"),
        _ => format!("{days} days, {hours}:{minutes:02}:{seconds:02}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(seconds: u64) -> Pace {
        Pace {
            total_steps: 40,
            first_step: 0,
            elapsed: Duration::from_secs(seconds),
            total_tokens: 5000,
            throughput: 83.333_3,
        }
    }

    fn text(folder: &Path) -> String {
        std::fs::read_to_string(folder.join(TRAINER_LOG)).unwrap()
    }

    #[test]
    fn a_line_has_llamafactorys_keys_first() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = TrainerLog::open(dir.path(), 0, 0).unwrap();
        let entry =
            LogEntry::new(10, 0.25).with("loss", 1.5).with("loss/qa", 2.0).with("learning_rate", 1e-4);
        log.entry(&entry, &pace(65)).unwrap();
        log.entry(&LogEntry::new(40, 1.0).with("eval_loss", f64::NAN), &pace(93_784)).unwrap();
        let expected = concat!(
            r#"{"current_steps":10,"total_steps":40,"loss":1.5,"lr":0.0001,"epoch":0.25,"percentage":25.0,"#,
            r#""elapsed_time":"0:01:05","remaining_time":"0:03:15","throughput":83.33,"total_tokens":5000,"loss/qa":2.0}"#,
            "\n",
            r#"{"current_steps":40,"total_steps":40,"eval_loss":null,"epoch":1.0,"percentage":100.0,"#,
            r#""elapsed_time":"1 day, 2:03:04","remaining_time":"0:00:00","throughput":83.33,"total_tokens":5000}"#,
            "\n",
        );
        assert_eq!(text(dir.path()), expected);
    }

    #[test]
    fn a_resumed_run_goes_on_after_its_checkpoint() {
        let dir = tempfile::tempdir().unwrap();
        let write = |log: &mut TrainerLog, step: u64| {
            log.entry(&LogEntry::new(step, 0.0).with("loss", step as f64), &pace(1)).unwrap();
        };
        let mut log = TrainerLog::open(dir.path(), 0, 0).unwrap();
        for step in [10, 20, 30] {
            write(&mut log, step);
        }
        let whole = text(dir.path());
        // Killed in the middle of a line.
        std::fs::write(dir.path().join(TRAINER_LOG), format!("{whole}{{\"current_st")).unwrap();
        let mut log = TrainerLog::open(dir.path(), 20, 2).unwrap();
        write(&mut log, 30);
        assert_eq!(text(dir.path()), whole);
        // An evaluation after the last checkpointed entry has the checkpoint's step and is made again.
        write(&mut log, 30);
        let mut log = TrainerLog::open(dir.path(), 30, 3).unwrap();
        assert_eq!(text(dir.path()), whole);
        write(&mut log, 40);
        assert_eq!(text(dir.path()).lines().count(), 4);
        // A new run starts with an empty log.
        TrainerLog::open(dir.path(), 0, 0).unwrap();
        assert_eq!(text(dir.path()), "");
    }

    #[test]
    fn a_log_that_cannot_be_written_is_named() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join(TRAINER_LOG)).unwrap();
        let error = TrainerLog::open(dir.path(), 0, 0).unwrap_err().to_string();
        assert!(error.contains(TRAINER_LOG), "{error}");
    }
}
