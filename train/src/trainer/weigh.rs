//! The trainer's side of [`crate::weighting`]: which method a run has, what it is shown and when, and what a
//! checkpoint keeps of it.

use super::by_task::TaskGradients;
use super::setup::RunData;
use super::step::{StepLoss, Training, Weighing, run_examples};
use super::{Trainer, setup};
use crate::config::{TaskWeighting, TrainConfig};
use crate::data::{STREAM_PCGRAD, STREAM_PROBE, stream};
use crate::events::{Event, EventSink};
use crate::state::{LogEntry, write_json};
use crate::weighting::conflict::{Conflicts, GRADIENT_CONFLICTS, Measurement};
use crate::weighting::{Coba, CobaSettings, Dwa, Famo, LossRate, Signal, Uncertainty, Weigher, Weighting};
use crate::{Error, Result, plot};
use medley_tensor::io::write_atomic;
use medley_tensor::rng::Philox;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::Path;

/// What a checkpoint keeps of weights and measurements.
const FILE: &str = "task_weighting.json";

/// Held-out mini-batches that CoBa's first losses, the measure of all later ones, are averaged over.
const BASELINE_PROBES: usize = 8;

/// The contents of [`FILE`].
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    tasks: Vec<String>,
    weigher: Option<Value>,
    conflicts: Option<Conflicts>,
}

/// The held-out examples that CoBa looks at, a few a task at a time.
pub(super) struct Probe {
    /// Of each task to be weighed, in an order of its own.
    members: Vec<Vec<u32>>,
    /// Examples a task and measurement.
    each: usize,
}

impl Probe {
    fn new(data: &RunData, active: &[usize], batch: usize, seed: u64) -> Option<Self> {
        let eval = data.eval.as_ref()?;
        let mut members = vec![vec![]; data.tasks.len()];
        for (i, task) in eval.task_ids().iter().enumerate() {
            members[task.index()].push(i as u32);
        }
        let members: Vec<Vec<u32>> = active
            .iter()
            .map(|&task| {
                Philox::new(seed, stream(STREAM_PROBE, task as u64, 0)).shuffle(&mut members[task]);
                std::mem::take(&mut members[task])
            })
            .collect();
        let all = !members.is_empty() && members.iter().all(|m| !m.is_empty());
        all.then(|| Probe { each: batch.div_ceil(members.len()).max(1), members })
    }

    /// Measurements that go once through the largest task.
    fn round(&self) -> u64 {
        self.members.iter().map(|m| m.len().div_ceil(self.each)).max().unwrap_or(1) as u64
    }

    /// The examples of measurement `number`, from 0; the first looks at more.
    fn examples(&self, number: u64) -> Vec<u32> {
        let times = if number == 0 { BASELINE_PROBES } else { 1 };
        let mut indices = vec![];
        for members in &self.members {
            let (n, first) = (members.len(), (number as usize).wrapping_mul(self.each));
            indices.extend((0..(times * self.each).min(n)).map(|i| members[(first + i) % n]));
        }
        indices
    }
}

/// The weights of a run as its options ask for them, and CoBa's held-out examples.
///
/// # Errors
/// When `coba` is asked for and a task has no evaluation examples.
pub(super) fn weigher(
    config: &TrainConfig,
    data: &RunData,
    prior: &[f64],
    total_steps: u64,
    sink: &mut dyn EventSink,
) -> Result<(Weigher, Option<Probe>)> {
    let args = &config.tasks;
    let mut trained = vec![false; prior.len()];
    for task in data.train.task_ids() {
        trained[task.index()] = true;
    }
    let active: Vec<usize> = (0..prior.len()).filter(|i| prior[*i] > 0.0 && trained[*i]).collect();
    let tasks = active.len();
    let probe = match args.task_weighting {
        TaskWeighting::Coba | TaskWeighting::Dynamic => {
            let batch = config.train.per_device_eval_batch_size;
            Probe::new(data, &active, batch, setup::data_seed(config))
        }
        _ => None,
    };
    let method = match args.task_weighting {
        TaskWeighting::Dynamic => {
            let (method, why) = match probe {
                Some(_) => (TaskWeighting::Coba, "every task has evaluation examples"),
                None => (TaskWeighting::Famo, "not every task has evaluation examples"),
            };
            let name = if method == TaskWeighting::Coba { "coba" } else { "famo" };
            sink.event(&Event::Note(format!("task_weighting dynamic is {name} here: {why}")));
            method
        }
        chosen => chosen,
    };
    let prior = prior.to_vec();
    let warmup = args.task_weighting_warmup.unwrap_or(0);
    let lr = |default| args.task_weighting_lr.unwrap_or(default);
    let temperature = |default| args.task_weighting_temperature.unwrap_or(default);
    let window = |default| args.task_weighting_window.unwrap_or(default);
    let method: Box<dyn Weighting> = match (method, &probe) {
        (TaskWeighting::Fixed, _) => return Ok((Weigher::fixed(prior), None)),
        (TaskWeighting::Uncertainty, _) => Box::new(Uncertainty::new(tasks, lr(Uncertainty::LEARNING_RATE))),
        (TaskWeighting::Dwa, _) => {
            Box::new(Dwa::new(tasks, temperature(Dwa::TEMPERATURE), window(Dwa::WINDOW)))
        }
        (TaskWeighting::LossRate, _) => {
            Box::new(LossRate::new(tasks, temperature(LossRate::TEMPERATURE), window(LossRate::WINDOW)))
        }
        (TaskWeighting::Coba, Some(probe)) => {
            let measurements = total_steps / args.task_weighting_steps;
            let warmup = args.task_weighting_warmup.unwrap_or(probe.round().min(measurements / 10));
            let settings = CobaSettings {
                window: window(5 * warmup.max(2)),
                warmup,
                temperature: temperature(Coba::TEMPERATURE),
            };
            Box::new(Coba::new(tasks, settings))
        }
        (TaskWeighting::Coba, None) => {
            let eval = data.eval.iter().flat_map(|d| d.task_ids());
            let mut seen = vec![false; prior.len()];
            eval.for_each(|task| seen[task.index()] = true);
            let missing: Vec<&str> =
                active.iter().filter(|i| !seen[**i]).map(|i| data.tasks.names()[*i].as_str()).collect();
            return Err(Error::Run(format!(
                "task_weighting: coba weighs tasks by their held-out losses, and there are no evaluation examples of \
                 {}; set val_size or eval_data_files, or take task_weighting: famo, which needs none",
                missing.join(", ")
            )));
        }
        (TaskWeighting::Famo | TaskWeighting::Dynamic, _) => {
            Box::new(Famo::new(tasks, lr(Famo::LEARNING_RATE), args.task_weighting_reevaluate))
        }
    };
    // CoBa keeps its own warm-up, without which it has no slopes.
    let warmup = if method.name() == "coba" { 0 } else { warmup };
    Ok((Weigher::moving(prior, active, method, warmup), probe))
}

/// Mean loss of each task, `None` where it had no labelled token.
fn task_losses(loss: &StepLoss) -> Vec<Option<f64>> {
    (0..loss.nll.len()).map(|task| loss.task_loss(task)).collect()
}

impl Trainer<'_> {
    /// The weights of step `step` (from 0) on `indices`, after what the method has to see before it.
    pub(super) fn weigh(&mut self, step: u64, indices: &[u32]) -> Result<Weighing> {
        match self.weigher.signal() {
            Some(Signal::Validation) if step.is_multiple_of(self.config.tasks.task_weighting_steps) => {
                if let (Some(probe), Some(eval)) = (&self.probe, &self.data.eval) {
                    let examples = probe.examples(self.weigher.observed());
                    let batch = self.config.train.per_device_eval_batch_size;
                    let loss = run_examples(&self.model, eval, &examples, batch, &self.weighing, None)?;
                    self.weigher.observe(&task_losses(&loss));
                }
            }
            Some(Signal::Reevaluated) => {
                let losses = self.reevaluated(indices)?;
                self.weigher.observe_before(&losses);
            }
            _ => {}
        }
        Ok(Weighing { alpha: self.weigher.alpha(), reduction: self.weighing.reduction })
    }

    /// Tells the method how the step on `indices` went, once the model was updated.
    pub(super) fn learn_weights(&mut self, indices: &[u32], loss: &StepLoss) -> Result<()> {
        match self.weigher.signal() {
            Some(Signal::Step) => self.weigher.observe(&task_losses(loss)),
            Some(Signal::Reevaluated) => {
                let losses = self.reevaluated(indices)?;
                self.weigher.observe(&losses);
            }
            Some(Signal::Validation) | None => {}
        }
        Ok(())
    }

    /// The losses of training examples at the present weights, without dropout.
    fn reevaluated(&self, indices: &[u32]) -> Result<Vec<Option<f64>>> {
        let batch = self.config.train.per_device_train_batch_size;
        Ok(task_losses(&run_examples(&self.model, &self.data.train, indices, batch, &self.weighing, None)?))
    }

    /// Forward and backward of step `step` with PCGrad: leaves the projected gradients.
    pub(super) fn run_projected(
        &mut self,
        step: u64,
        indices: &[u32],
        weighing: &Weighing,
        training: Training,
    ) -> Result<StepLoss> {
        // A step cut by task may have more micro-batches, whose dropout must not meet the next step's.
        let most = (self.config.train.gradient_accumulation_steps + weighing.alpha.len()) as u64;
        let training = Training { first_micro_batch: step * most, ..training };
        let (loss, gradients) = self.run_by_task(indices, weighing, &training)?;
        if self.conflicts_due(step) {
            self.note_conflicts(step, &gradients.measure());
        }
        gradients.project(
            self.optimizer.params(),
            Philox::new(self.config.run.seed, stream(STREAM_PCGRAD, 0, step)),
        )?;
        Ok(loss)
    }

    /// Measures the conflicts of step `step` where it is due, before the step itself; leaves no trace in it.
    pub(super) fn measure_conflicts(&mut self, step: u64, indices: &[u32], training: Training) -> Result<()> {
        if !self.conflicts_due(step) {
            return Ok(());
        }
        // Cosines do not depend on the weights; all ones, so that no task is left out.
        let weighing =
            Weighing { alpha: vec![1.0; self.weighing.alpha.len()], reduction: self.weighing.reduction };
        let (_, gradients) = self.run_by_task(indices, &weighing, &training)?;
        self.note_conflicts(step, &gradients.measure());
        Ok(())
    }

    fn run_by_task(
        &self,
        indices: &[u32],
        weighing: &Weighing,
        training: &Training,
    ) -> Result<(StepLoss, TaskGradients)> {
        let batch = self.config.train.per_device_train_batch_size;
        let params = self.optimizer.params();
        TaskGradients::run(&self.model, params, &self.data.train, indices, batch, weighing, training)
    }

    fn conflicts_due(&self, step: u64) -> bool {
        let every = self.config.tasks.conflict_steps;
        every > 0 && (step + 1).is_multiple_of(every)
    }

    fn note_conflicts(&mut self, step: u64, measured: &Measurement) {
        self.conflicts.add(measured);
        let names = self.data.tasks.names();
        let mut entry = LogEntry::new(step + 1, self.epoch_after(step + 1));
        for (task, norm) in &measured.norms {
            entry.set(format!("grad_norm/{}", names[*task]), *norm);
        }
        for (a, b, cosine) in &measured.cosines {
            entry.set(format!("cos/{}/{}", names[*a], names[*b]), *cosine);
        }
        self.state.log(entry);
    }

    /// Writes the conflict report and its picture where anything was measured.
    pub(super) fn write_conflicts(&self, sink: &mut dyn EventSink) -> Result<()> {
        let every = self.config.tasks.conflict_steps;
        if every == 0 {
            return Ok(());
        }
        let Some(report) = self.conflicts.report(self.data.tasks.names(), every) else {
            sink.event(&Event::Warning(format!(
                "conflict_steps {every}: no two tasks were measured in one step, so there is no conflict report"
            )));
            return Ok(());
        };
        write_json(&self.output_dir.join(GRADIENT_CONFLICTS), &report)?;
        let picture = self.output_dir.join("gradient_conflicts.svg");
        write_atomic(&picture, plot::conflict_matrix_svg(&report).as_bytes())?;
        sink.event(&Event::Conflicts(report));
        Ok(())
    }

    pub(super) fn save_weights(&self, folder: &Path) -> Result<()> {
        let path = folder.join(FILE);
        let weigher = (self.weigher.save())
            .map_err(|e| Error::Run(format!("{}: cannot be written as JSON: {e}", path.display())))?;
        let conflicts = (self.config.tasks.conflict_steps > 0).then(|| self.conflicts.clone());
        if weigher.is_none() && conflicts.is_none() {
            return Ok(());
        }
        write_json(&path, &Saved { tasks: self.data.tasks.names().to_vec(), weigher, conflicts })
    }

    /// Goes on with the weights of a checkpoint. A run whose options ask for another method starts it anew.
    pub(super) fn restore_weights(&mut self, folder: &Path, sink: &mut dyn EventSink) -> Result<()> {
        let path = folder.join(FILE);
        let bad = |e: String| Error::Checkpoint {
            path: folder.to_path_buf(),
            message: format!("{FILE}: {e}; resume from an older checkpoint"),
        };
        let moves = self.weigher.signal().is_some();
        if !path.exists() {
            if moves {
                sink.event(&Event::Warning(format!(
                    "the checkpoint holds no moving task weights: task_weighting {} starts anew",
                    self.weigher.name()
                )));
            }
            return Ok(());
        }
        let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
        let saved: Saved = serde_json::from_str(&text).map_err(|e| bad(e.to_string()))?;
        if saved.tasks != self.data.tasks.names() {
            return Err(bad(format!(
                "it has weights of the tasks {}, the data has {}",
                saved.tasks.join(", "),
                self.data.tasks.names().join(", ")
            )));
        }
        if let Some(conflicts) = saved.conflicts
            && conflicts.tasks() == self.data.tasks.len()
        {
            self.conflicts = conflicts;
        }
        let other = match saved.weigher {
            Some(state) => self.weigher.restore(state).map_err(|e| bad(e.to_string()))?,
            None => moves.then(|| "fixed".to_string()),
        };
        if let Some(other) = other {
            sink.event(&Event::Warning(format!(
                "the checkpoint's task weights were moved by {other}: {} starts anew",
                self.weigher.name()
            )));
        }
        Ok(())
    }
}
