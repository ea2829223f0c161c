//! Joint training against one model a task, under one budget: the same examples of each task are
//! trained on in both, only together or apart.
//!
//! ```text
//! plan.rs (who trains on what, for how long) ─► trainer ─► score.rs (greedy answers, loss)
//!        ─► deployment.rs (memory and latency of K models against one) ─► report.rs (tables)
//! ```

mod deployment;
mod plan;
mod report;
mod score;

pub use deployment::{Deployment, Serving};
pub use plan::{Role, Run};
pub use report::{Comparison, Spread, TaskRow};
pub use score::Scores;

use crate::config::TrainConfig;
use crate::events::EventSink;
use crate::state::write_json;
use crate::trainer::{Outcome, setup, train};
use crate::{Error, Result};
use medley_tensor::io::write_atomic;
use std::path::Path;
use std::sync::atomic::AtomicBool;

/// What is compared, beside the joint run's own configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompareOptions {
    /// Each seed trains the joint run and every single run once.
    pub seeds: Vec<u64>,
    /// Evaluation examples of each task that are answered; `None`: all.
    pub samples: Option<usize>,
    /// Requests of each task in the serving measurement.
    pub requests: usize,
}

/// What happens while runs are compared.
#[derive(Debug, Clone, PartialEq)]
pub enum Stage<'a> {
    /// A run is trained.
    Training(&'a Run),
    /// A finished run was found in its folder and is used as it is; the options it was trained with that
    /// are not those asked for now.
    Taken(&'a Run, Vec<String>),
    /// A model answers the evaluation examples: how many of how many.
    Scoring(&'a str, usize, usize),
    /// Memory and latency are measured.
    Serving,
}

/// Whoever watches a comparison.
pub trait CompareSink {
    /// Something new begins or goes on.
    fn stage(&mut self, stage: &Stage<'_>);
    /// Who watches a training run.
    fn training(&mut self) -> Box<dyn EventSink>;
}

/// Trains, or takes from `output_dir/seed-N/{joint,<task>}`, the runs of every seed, scores them and the
/// base model, measures serving, and writes `comparison.json` and `comparison.md`.
///
/// `None` when `stop` ended a run: calling again goes on from there.
///
/// # Errors
/// What training and evaluation report; data of one task only.
pub fn compare(
    config: &TrainConfig,
    options: &CompareOptions,
    sink: &mut dyn CompareSink,
    stop: &AtomicBool,
) -> Result<Option<Comparison>> {
    config.validate()?;
    let output =
        config.output.output_dir.as_deref().ok_or_else(|| Error::Run("output_dir is not set".into()))?;
    std::fs::create_dir_all(output).map_err(Error::io(output))?;
    let mut runs = vec![];
    for &seed in &options.seeds {
        runs.extend(plan::runs(config, output, seed)?);
    }
    for run in &runs {
        if let Some(differences) = run.finished()? {
            sink.stage(&Stage::Taken(run, differences));
            continue;
        }
        sink.stage(&Stage::Training(run));
        let mut events = sink.training();
        if let Outcome::Interrupted { .. } = train(&run.config, events.as_mut(), stop)? {
            return Ok(None);
        }
    }
    let renderer = setup::renderer(config)?;
    let questions = score::questions(config, &renderer, options.samples)?;
    let base = score::base(config, output, &renderer, &questions, sink)?;
    let mut scored = vec![];
    for run in &runs {
        scored.push((run, score::run(run, &renderer, &questions, sink)?));
    }
    sink.stage(&Stage::Serving);
    let deployment = deployment::measure(&runs, &renderer, &questions, options.requests)?;
    let comparison = Comparison::new(config, options, &runs, base, &scored, deployment);
    write(output, &comparison)?;
    Ok(Some(comparison))
}

fn write(output: &Path, comparison: &Comparison) -> Result<()> {
    write_json(&output.join("comparison.json"), comparison)?;
    Ok(write_atomic(&output.join("comparison.md"), comparison.markdown().as_bytes())?)
}
