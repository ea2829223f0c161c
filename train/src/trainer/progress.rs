//! What the steps measured that no log entry holds yet, and its place in a checkpoint: without it a
//! resumed run would average its next entry over fewer steps than an uninterrupted one.

use super::step::StepLoss;
use crate::events::TaskShare;
use crate::state::{LogEntry, TrainerState, write_json};
use crate::{Error, Result};
use medley_autograd::GradScaler;
use serde::{Deserialize, Serialize};
use std::path::Path;

const FILE: &str = "progress.json";

/// What one step measured.
pub(super) struct Measured {
    pub loss: StepLoss,
    /// The weight each task had.
    pub alpha: Vec<f64>,
    /// Before clipping.
    pub grad_norm: f64,
    pub learning_rate: f64,
    /// The gradients overflowed and nothing was updated; their norm is not finite then.
    pub skipped: bool,
    /// The step was left out for its loss, which then counts nowhere.
    pub left_out: bool,
    /// What the sampler was asked for, by task: examples, or labelled tokens where those are shared.
    pub asked: Vec<f64>,
}

/// What the tasks were asked to have of something and what they had.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Drawn {
    asked: Vec<f64>,
    examples: Vec<u64>,
    labelled: Vec<u64>,
}

impl Drawn {
    fn add(&mut self, step: &Measured) {
        let tasks = step.loss.nll.len();
        self.asked.resize(tasks, 0.0);
        self.examples.resize(tasks, 0);
        self.labelled.resize(tasks, 0);
        self.asked.iter_mut().zip(&step.asked).for_each(|(sum, x)| *sum += x);
        self.examples.iter_mut().zip(&step.loss.examples).for_each(|(sum, x)| *sum += x);
        self.labelled.iter_mut().zip(&step.loss.labelled).for_each(|(sum, x)| *sum += x);
    }

    /// Shares by task, none where nothing was drawn.
    fn shares(&self, tasks: &[String]) -> Vec<TaskShare> {
        let total = |counts: &[u64]| counts.iter().sum::<u64>().max(1) as f64;
        let (examples, labelled) = (total(&self.examples), total(&self.labelled));
        let asked: f64 = self.asked.iter().sum();
        let each = tasks.iter().zip(&self.asked).zip(self.examples.iter().zip(&self.labelled));
        each.map(|((name, a), (e, l))| TaskShare {
            task: name.clone(),
            asked: if asked > 0.0 { a / asked } else { 0.0 },
            examples: *e,
            share: *e as f64 / examples,
            labelled_tokens: *l,
            share_tokens: *l as f64 / labelled,
        })
        .collect()
    }
}

/// Sums over the steps of the run, and over those since the last log entry.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Progress {
    /// Sum of the losses of all steps that count.
    run_loss: f64,
    /// How many they are.
    counted: u64,
    /// Steps since the last entry.
    steps: u64,
    /// Sum of their losses.
    loss: f64,
    /// Sums by task of their negative log-likelihoods and labelled tokens.
    nll: Vec<f64>,
    labelled: Vec<u64>,
    /// Each task's weight in the last of them.
    alpha: Vec<f64>,
    /// What was drawn of each task since the last entry, and in the whole run.
    drawn: Drawn,
    run_drawn: Drawn,
    /// Gradient norm and learning rate of the last of them that was not skipped.
    last: Option<[f64; 2]>,
}

impl Progress {
    pub fn add(&mut self, step: &Measured) {
        if step.left_out {
            return;
        }
        self.counted += 1;
        let tasks = step.loss.nll.len();
        self.nll.resize(tasks, 0.0);
        self.labelled.resize(tasks, 0);
        self.run_loss += step.loss.loss;
        self.loss += step.loss.loss;
        self.steps += 1;
        self.alpha.clone_from(&step.alpha);
        self.drawn.add(step);
        self.run_drawn.add(step);
        for (sum, nll) in self.nll.iter_mut().zip(&step.loss.nll) {
            *sum += nll;
        }
        for (sum, labelled) in self.labelled.iter_mut().zip(&step.loss.labelled) {
            *sum += labelled;
        }
        if !step.skipped {
            self.last = Some([step.grad_norm, step.learning_rate]);
        }
    }

    /// The entry for the steps since the last one: loss is the mean over them, a task's loss is over
    /// its labelled tokens in them, its weight that of the last; a loss scaler adds its scale and how many
    /// steps of the run it has skipped.
    pub fn take_entry(
        &mut self,
        state: &TrainerState,
        tasks: &[String],
        tokens_per_second: f64,
        scaler: Option<&GradScaler>,
    ) -> LogEntry {
        let mut entry = LogEntry::new(state.global_step, state.epoch);
        if self.steps > 0 {
            entry.set("loss", self.loss / self.steps as f64);
        }
        for (name, (nll, labelled)) in tasks.iter().zip(self.nll.iter().zip(&self.labelled)) {
            if *labelled > 0 {
                entry.set(format!("loss/{name}"), nll / *labelled as f64);
            }
        }
        for (name, weight) in tasks.iter().zip(&self.alpha) {
            entry.set(format!("weight/{name}"), *weight);
        }
        for share in self.drawn.shares(tasks) {
            entry.set(format!("share/{}", share.task), share.share);
            entry.set(format!("share_tokens/{}", share.task), share.share_tokens);
            entry.set(format!("share_asked/{}", share.task), share.asked);
        }
        if let Some([grad_norm, learning_rate]) = self.last {
            entry.set("grad_norm", grad_norm);
            entry.set("learning_rate", learning_rate);
        }
        if let Some(scaler) = scaler {
            entry.set("loss_scale", f64::from(scaler.scale()));
            entry.set("skipped_steps", scaler.skipped() as f64);
        }
        let (run_loss, counted) = (self.run_loss, self.counted);
        let run_drawn = std::mem::take(&mut self.run_drawn);
        *self = Progress { run_loss, counted, run_drawn, ..Progress::default() };
        entry.with("tokens_per_second", tokens_per_second)
    }

    /// Whether the last entry holds every step.
    pub fn is_logged(&self) -> bool {
        self.steps == 0
    }

    /// Mean loss over all steps so far, those left out not counted.
    pub fn mean_loss(&self) -> f64 {
        self.run_loss / self.counted.max(1) as f64
    }

    /// What each task was asked to have of the whole run so far, and what it had.
    pub fn shares(&self, tasks: &[String]) -> Vec<TaskShare> {
        self.run_drawn.shares(tasks)
    }

    pub fn write(&self, folder: &Path) -> Result<()> {
        write_json(&folder.join(FILE), self)
    }

    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(FILE);
        let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
        serde_json::from_str(&text).map_err(|e| Error::Checkpoint {
            path: folder.to_path_buf(),
            message: format!("{FILE} is damaged: {e}"),
        })
    }
}
