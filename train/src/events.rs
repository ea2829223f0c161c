//! What a run tells whoever watches it: a progress bar, a log, a test.

use std::path::PathBuf;
use std::time::Duration;

use crate::predict::Answered;
use crate::report::tasks::TaskProgress;
use crate::state::LogEntry;
use crate::weighting::conflict::ConflictReport;

/// What a run is going to do, told once at its start.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Plan {
    /// Optimizer steps of the whole run.
    pub total_steps: u64,
    /// Optimizer steps already behind it, when it is resumed.
    pub first_step: u64,
    /// Passes over the data.
    pub num_epochs: f64,
    /// Sequences in an optimizer step.
    pub sequences_per_step: usize,
    /// Examples of each task, by name.
    pub tasks: Vec<(String, usize)>,
    /// Numbers that are trained.
    pub trainable_parameters: u64,
    /// Numbers of the model, those of the adapter included.
    pub total_parameters: u64,
    /// Where it runs and in which dtype, where that is not the CPU: `sim in bf16`.
    pub device: Option<String>,
}

/// Something that happened in a run.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// The first step is about to be taken.
    RunStarted(Plan),
    /// An optimizer step was taken.
    StepFinished {
        /// Steps completed.
        step: u64,
        /// Its loss.
        loss: f64,
        /// Loss of each task in the order of [`Plan::tasks`], `None` for one without a labelled token in the step.
        tasks: Vec<Option<f64>>,
        /// Tokens a second since the run started.
        tokens_per_second: f64,
    },
    /// A training entry was added to the history.
    StepLogged(LogEntry),
    /// The model is answering the questions of an evaluation.
    Answering(Answered),
    /// No further step is taken: early stopping. The run finishes as after its last step.
    StoppedEarly {
        /// Steps completed.
        step: u64,
        /// Which measurement has stopped improving, and what was best.
        reason: String,
    },
    /// The weights are those of the best evaluation again.
    BestLoaded {
        /// Its step.
        step: u64,
        /// What it is the best by.
        metric: String,
        /// The value there.
        value: f64,
    },
    /// An evaluation entry was added to the history.
    Evaluated(LogEntry),
    /// A checkpoint is complete on disk.
    CheckpointSaved {
        /// Steps completed.
        step: u64,
        /// Its folder.
        path: PathBuf,
    },
    /// What a choice left to the program came to.
    Note(String),
    /// How the tasks' gradients lay to each other, at the end of a run that measured it.
    Conflicts(ConflictReport),
    /// Something the user should know, though the run goes on.
    Warning(String),
    /// The run stops early, at the user's wish.
    Interrupted {
        /// Steps completed.
        step: u64,
        /// The checkpoint to go on from.
        checkpoint: Option<PathBuf>,
    },
    /// The last step is behind.
    Finished(Summary),
}

/// How a run went.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Summary {
    /// Steps completed.
    pub steps: u64,
    /// Mean loss over all steps, those before a resume included.
    pub train_loss: f64,
    /// Wall time of training.
    pub runtime: Duration,
    /// Tokens a second over the whole run.
    pub tokens_per_second: f64,
    /// Most memory in use at once.
    pub peak_memory_bytes: u64,
    /// What each task had of the run, those before a resume included.
    pub shares: Vec<TaskShare>,
    /// Where the results are.
    pub output_dir: PathBuf,
    /// How each task went, by name.
    pub tasks: Vec<TaskProgress>,
    /// What was made to look at: plot and report.
    pub files: Vec<PathBuf>,
}

/// What a task was asked to have of a run, and what it had.
#[derive(Debug, Clone, PartialEq, Default, serde::Serialize)]
pub struct TaskShare {
    /// Its name.
    pub task: String,
    /// The share asked: of the examples, or of the labelled tokens under `sampling_unit: tokens`.
    pub asked: f64,
    /// Examples trained on, repeats counted.
    pub examples: u64,
    /// Their share.
    pub share: f64,
    /// Labelled tokens trained on.
    pub labelled_tokens: u64,
    /// Their share.
    pub share_tokens: f64,
}

/// Whoever watches a run. Any `FnMut(&Event)` is one.
pub trait EventSink {
    /// Takes note of an event; the run waits until it returns.
    fn event(&mut self, event: &Event);
}

impl<F: FnMut(&Event)> EventSink for F {
    fn event(&mut self, event: &Event) {
        self(event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closure_is_a_sink() {
        fn run(sink: &mut dyn EventSink) {
            sink.event(&Event::Warning("one".into()));
            sink.event(&Event::Finished(Summary::default()));
        }
        let mut seen = Vec::new();
        run(&mut |event: &Event| seen.push(event.clone()));
        assert_eq!(seen, [Event::Warning("one".into()), Event::Finished(Summary::default())]);
    }
}
