//! Watching the losses: a step whose loss is not a number, or far above what its task has shown so far,
//! is reported with its examples and, where asked for, skipped or rolled back.
//!
//! A task's loss is compared with its exponential mean `m` and standard deviation `s` over about the last
//! [`MEMORY`] steps: a *spike* is `loss > m + k · max(s, m / 20)` with `k = loss_spike_threshold`, once the
//! task has been seen [`WARM_UP`] times. Judged before the update, so that a bad step can be left out.
//! Rolling back goes to the last checkpoint and on with the data after the bad step, as was done by hand for
//! PaLM (arXiv 2204.02311, section 5.1).

use super::step::StepLoss;
use crate::state::write_json;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::Path;

const FILE: &str = "watch.json";

/// Steps of a task before its spikes are judged.
const WARM_UP: u64 = 20;

/// Steps over which mean and deviation are taken.
const MEMORY: u64 = 20;

/// Skips in a row after which skipping is no help.
pub(super) const MOST_SKIPS_IN_A_ROW: u64 = 10;

/// What is wrong with a step's loss.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Finding {
    /// A loss or a gradient is not a number.
    NonFinite,
    /// Losses of these tasks (by index) are far above what they were: task, loss, mean so far.
    Spike(Vec<(usize, f64, f64)>),
}

/// Exponential mean and variance of one task's loss.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Running {
    steps: u64,
    mean: f64,
    variance: f64,
}

impl Running {
    /// Above this, a loss is a spike.
    fn limit(&self, threshold: f64) -> Option<f64> {
        let deviation = self.variance.sqrt().max(0.05 * self.mean.abs());
        (self.steps >= WARM_UP).then_some(self.mean + threshold * deviation)
    }

    fn add(&mut self, loss: f64) {
        self.steps += 1;
        // A plain mean until the memory is full.
        let weight = 1.0 / self.steps.min(MEMORY) as f64;
        let difference = loss - self.mean;
        self.mean += weight * difference;
        self.variance = (1.0 - weight) * (self.variance + weight * difference * difference);
    }
}

/// What was seen so far; part of a checkpoint, since it decides which steps are left out.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LossWatch {
    tasks: Vec<Running>,
    /// Steps' worth of data passed over by rolling back.
    pub data_offset: u64,
    /// Times the run was rolled back.
    pub rollbacks: u64,
    /// Steps left out.
    pub skipped: u64,
    /// Of these, the last in a row.
    pub skipped_in_a_row: u64,
}

impl LossWatch {
    /// What is wrong with a step, before it counts; `threshold` 0 looks for numbers that are none only.
    pub fn judge(&self, loss: &StepLoss, threshold: f64) -> Option<Finding> {
        if !loss.loss.is_finite() {
            return Some(Finding::NonFinite);
        }
        if threshold <= 0.0 {
            return None;
        }
        let spikes: Vec<(usize, f64, f64)> = self
            .tasks
            .iter()
            .enumerate()
            .filter_map(|(i, running)| {
                let loss = loss.task_loss(i)?;
                (loss > running.limit(threshold)?).then_some((i, loss, running.mean))
            })
            .collect();
        (!spikes.is_empty()).then_some(Finding::Spike(spikes))
    }

    /// Takes note of a step. A spike counts as the highest loss that is none: a lasting change of level is
    /// accepted in time.
    pub fn add(&mut self, loss: &StepLoss, threshold: f64) {
        self.tasks.resize(loss.nll.len(), Running::default());
        for (i, running) in self.tasks.iter_mut().enumerate() {
            if let Some(loss) = loss.task_loss(i).filter(|l| l.is_finite()) {
                let limit = running.limit(threshold).filter(|_| threshold > 0.0);
                running.add(limit.map_or(loss, |limit| loss.min(limit)));
            }
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn step(losses: &[f64]) -> StepLoss {
        StepLoss {
            loss: losses.iter().sum(),
            nll: losses.iter().map(|l| l * 4.0).collect(),
            labelled: vec![4; losses.len()],
            tokens: 10,
            examples: vec![1; losses.len()],
        }
    }

    #[test]
    fn a_spike_is_judged_task_by_task() {
        let mut watch = LossWatch::default();
        for i in 0..30 {
            let ordinary = step(&[2.0 + 0.1 * f64::from(i % 3), 0.5 + 0.05 * f64::from(i % 2)]);
            assert_eq!(watch.judge(&ordinary, 6.0), None, "step {i}");
            watch.add(&ordinary, 6.0);
        }
        // 2.0 is nothing for the first task and four times the second one's level.
        let Some(Finding::Spike(found)) = watch.judge(&step(&[2.1, 2.0]), 6.0) else { panic!("no spike") };
        let [(task, loss, mean)] = found[..] else { panic!("{found:?}") };
        assert_eq!((task, loss), (1, 2.0));
        assert!((mean - 0.525).abs() < 0.01);
        assert_eq!(watch.judge(&step(&[2.1, 2.0]), 0.0), None);
        assert_eq!(watch.judge(&step(&[f64::NAN, 0.5]), 0.0), Some(Finding::NonFinite));
        // A falling loss is no spike, and neither is a task without labels.
        assert_eq!(watch.judge(&step(&[0.1, 0.01]), 6.0), None);
        let mut absent = step(&[2.1, 9.0]);
        absent.labelled[1] = 0;
        assert_eq!(watch.judge(&absent, 6.0), None);
    }

    #[test]
    fn a_new_level_is_accepted_in_time() {
        let mut watch = LossWatch::default();
        (0..40).for_each(|_| watch.add(&step(&[1.0]), 6.0));
        let spikes = (0..60)
            .filter(|_| {
                let spike = watch.judge(&step(&[3.0]), 6.0).is_some();
                watch.add(&step(&[3.0]), 6.0);
                spike
            })
            .count();
        assert!((1..40).contains(&spikes), "{spikes}");
        assert_eq!(watch.judge(&step(&[3.0]), 6.0), None);
    }

    #[test]
    fn the_first_steps_are_not_judged() {
        let mut watch = LossWatch::default();
        (0..WARM_UP - 1).for_each(|_| watch.add(&step(&[1.0]), 6.0));
        assert_eq!(watch.judge(&step(&[100.0]), 6.0), None);
        watch.add(&step(&[1.0]), 6.0);
        assert!(watch.judge(&step(&[100.0]), 6.0).is_some());
    }

    #[test]
    fn what_was_seen_survives_a_checkpoint() {
        let dir = tempfile::tempdir().unwrap();
        let mut watch = LossWatch { data_offset: 3, rollbacks: 1, ..LossWatch::default() };
        (0..25).for_each(|i| watch.add(&step(&[1.0 / f64::from(i + 3), 2.0]), 6.0));
        watch.write(dir.path()).unwrap();
        assert_eq!(LossWatch::read(dir.path()).unwrap(), watch);
        std::fs::write(dir.path().join(FILE), "{").unwrap();
        assert!(LossWatch::read(dir.path()).unwrap_err().to_string().contains("watch.json is damaged"));
    }
}
