//! What the steps measured that no log entry holds yet, and its place in a checkpoint: without it a
//! resumed run would average its next entry over fewer steps than an uninterrupted one.

use super::step::StepLoss;
use crate::state::{LogEntry, TrainerState, write_json};
use crate::{Error, Result};
use medley_autograd::GradScaler;
use serde::{Deserialize, Serialize};
use std::path::Path;

const FILE: &str = "progress.json";

/// What one step measured.
pub(super) struct Measured {
    pub loss: StepLoss,
    /// Before clipping.
    pub grad_norm: f64,
    pub learning_rate: f64,
    /// The gradients overflowed and nothing was updated; their norm is not finite then.
    pub skipped: bool,
    /// The step was left out for its loss, which then counts nowhere.
    pub left_out: bool,
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
    /// its labelled tokens in them. `alpha` holds each task's weight; a loss scaler adds its scale and how
    /// many steps of the run it has skipped.
    pub fn take_entry(
        &mut self,
        state: &TrainerState,
        tasks: &[String],
        alpha: &[f64],
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
        for (name, weight) in tasks.iter().zip(alpha) {
            entry.set(format!("weight/{name}"), *weight);
        }
        if let Some([grad_norm, learning_rate]) = self.last {
            entry.set("grad_norm", grad_norm);
            entry.set("learning_rate", learning_rate);
        }
        if let Some(scaler) = scaler {
            entry.set("loss_scale", f64::from(scaler.scale()));
            entry.set("skipped_steps", scaler.skipped() as f64);
        }
        *self = Progress { run_loss: self.run_loss, counted: self.counted, ..Progress::default() };
        entry.with("tokens_per_second", tokens_per_second)
    }

    /// Mean loss over all steps so far, those left out not counted.
    pub fn mean_loss(&self) -> f64 {
        self.run_loss / self.counted.max(1) as f64
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
