//! The history as it goes, for other programs: `trainer_log.jsonl` and TensorBoard's event files; and, when the run
//! is over, the pictures and the report. None of them is worth a run: one that fails is a warning that names it.

use super::Trainer;
use crate::config::{Stage, TrainConfig};
use crate::events::{Event, EventSink};
use crate::report::samples::{Moment, SAMPLE_PREDICTIONS, Writer};
use crate::report::trainer_log::{Pace, TrainerLog};
use crate::state::{LogEntry, TrainerState};
use crate::tensorboard::EventWriter;
use crate::{Result, plot, report};
use medley_tensor::Device;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The files that entries of the history are appended to.
#[derive(Debug)]
pub(super) struct Recorder {
    folder: PathBuf,
    log: Option<TrainerLog>,
    events_folder: Option<PathBuf>,
    events: Option<EventWriter>,
    /// Entries of the history that the files hold.
    entries: usize,
    started: Instant,
    first_step: u64,
    first_tokens: u64,
}

impl Recorder {
    /// Opens the files for a run that goes on after `state`.
    pub fn open(config: &TrainConfig, folder: &Path, state: &TrainerState, sink: &mut dyn EventSink) -> Self {
        let output = &config.output;
        let events_folder = output
            .reports_to_tensorboard()
            .then(|| output.logging_dir.clone().unwrap_or_else(|| folder.join("runs")));
        let mut recorder = Self {
            folder: folder.to_path_buf(),
            log: None,
            events_folder,
            events: None,
            entries: 0,
            started: Instant::now(),
            first_step: state.global_step,
            first_tokens: state.num_input_tokens_seen,
        };
        // A new run forgets everything that others left in the folder, from its very first entry on.
        let first = if state.global_step == 0 { 0 } else { state.global_step + 1 };
        recorder.reopen(state.global_step, state.log_history.len(), first, sink);
        if let (Some(events), Ok(text)) = (&mut recorder.events, serde_json::to_string_pretty(config)) {
            // Indented by four, Markdown shows it as it is.
            let text: String = text.lines().map(|line| format!("    {line}\n")).collect();
            let written = events.text("args", &text);
            recorder.check_events(written, sink);
        }
        recorder
    }

    /// Takes up the files after the first `entries` entries, the last of them of `step`; events from `first` on are
    /// replaced.
    fn reopen(&mut self, step: u64, entries: usize, first: u64, sink: &mut dyn EventSink) {
        self.entries = entries;
        self.log = match TrainerLog::open(&self.folder, step, entries) {
            Ok(log) => Some(log),
            Err(error) => {
                sink.event(&Event::Warning(format!("trainer_log.jsonl is not written: {error}")));
                None
            }
        };
        if let Some(folder) = &self.events_folder {
            match EventWriter::create(folder, first) {
                Ok(events) => self.events = Some(events),
                Err(error) => self.check_events(Err(error), sink),
            }
        }
    }

    fn check_events(&mut self, written: Result<()>, sink: &mut dyn EventSink) {
        if let Err(error) = written {
            sink.event(&Event::Warning(format!("nothing more is told to TensorBoard: {error}")));
            (self.events, self.events_folder) = (None, None);
        }
    }

    /// Appends an entry that `state` does not hold yet.
    pub fn entry(
        &mut self,
        entry: &LogEntry,
        state: &TrainerState,
        total_steps: u64,
        sink: &mut dyn EventSink,
    ) {
        let held = state.log_history.len();
        if held < self.entries {
            // The run has gone back to a checkpoint.
            let step = state.log_history.last().map_or(0, |last| last.step);
            self.reopen(step, held, step + 1, sink);
        }
        // What was measured within a step is in the history already.
        for earlier in &state.log_history[self.entries..] {
            self.append(earlier, state, total_steps, sink);
        }
        self.append(entry, state, total_steps, sink);
        self.entries = held + 1;
    }

    fn append(&mut self, entry: &LogEntry, state: &TrainerState, total_steps: u64, sink: &mut dyn EventSink) {
        let elapsed = self.started.elapsed();
        let tokens = state.num_input_tokens_seen.saturating_sub(self.first_tokens);
        let pace = Pace {
            total_steps,
            first_step: self.first_step,
            elapsed,
            total_tokens: state.num_input_tokens_seen,
            throughput: tokens as f64 / elapsed.as_secs_f64().max(1e-9),
        };
        if let Some(log) = &mut self.log
            && let Err(error) = log.entry(entry, &pace)
        {
            sink.event(&Event::Warning(format!("nothing more is written to trainer_log.jsonl: {error}")));
            self.log = None;
        }
        if let Some(events) = &mut self.events {
            let written = events.entry(entry);
            self.check_events(written, sink);
        }
    }
}

impl Trainer<'_> {
    /// Opens the record of the run, and says which trackers of `report_to` are not there.
    pub(super) fn open_record(&mut self, sink: &mut dyn EventSink) {
        let others = self.config.output.other_trackers();
        if !others.is_empty() {
            sink.event(&Event::Warning(format!(
                "report_to: {} has no effect, no tracking service is contacted; metrics go to trainer_log.jsonl, \
                 trainer_state.json and report.html, and with `report_to: tensorboard` to event files",
                others.join(", ")
            )));
        }
        self.recorder = Some(Recorder::open(self.config, &self.output_dir, &self.state, sink));
    }

    /// Adds an entry to the history and to the files that follow it.
    pub(super) fn record(&mut self, entry: LogEntry, sink: &mut dyn EventSink) {
        if let Some(recorder) = &mut self.recorder {
            recorder.entry(&entry, &self.state, self.total_steps, sink);
        }
        self.state.log(entry);
    }

    /// Has the model write its samples for the report, where there is to be one.
    pub(super) fn write_samples(&self, moment: Moment, sink: &mut dyn EventSink) {
        let output = &self.config.output;
        let simulated = match &self.model.placement().device {
            Device::Cpu => false,
            // Minutes a token: not what samples are for.
            Device::Cuda(card) => card.info().simulated,
        };
        if !output.report || output.report_samples == 0 || self.config.train.stage == Stage::Pt || simulated {
            return;
        }
        let writer = Writer {
            model: &self.model,
            tokenizer: &self.tokenizer,
            stop_ids: &self.stop_ids,
            batch_size: self.config.train.per_device_eval_batch_size,
        };
        let (train, eval) = (&self.data.train, self.data.eval.as_ref());
        if let Err(error) = writer.write(&self.output_dir, train, eval, output.report_samples, moment) {
            let when = if moment == Moment::Before { "before" } else { "after" };
            sink.event(&Event::Warning(format!(
                "{SAMPLE_PREDICTIONS}: no samples of what the model writes {when} training: {error}"
            )));
        }
    }

    /// Draws the plot and writes the report of a run whose results are written. Returns the files made.
    pub(super) fn write_views(&self, sink: &mut dyn EventSink) -> Vec<PathBuf> {
        let mut made = vec![];
        let output = &self.config.output;
        if output.plot_loss {
            match plot::write_training_loss(&self.output_dir, &self.state.log_history) {
                Ok(path) => made.push(path),
                Err(error) => {
                    sink.event(&Event::Warning(format!("training_loss.png is not drawn: {error}")));
                }
            }
        }
        if output.report {
            self.write_samples(Moment::After, sink);
            match report::write_report(&self.output_dir) {
                Ok(path) => made.push(path),
                Err(error) => sink.event(&Event::Warning(format!("report.html is not written: {error}"))),
            }
        }
        made
    }
}
