//! `medley compare`: one model for all tasks against one model a task, under one budget.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result, bail};
use medley_train::compare::{CompareOptions, CompareSink, Role, Stage, compare};
use medley_train::events::EventSink;

use crate::args::Settings;
use crate::progress::{Counter, progress};
use crate::table;

/// Trains what is still to be trained, prints both tables, and writes `comparison.json` and `comparison.md`.
///
/// # Errors
/// What training and evaluation report; an interrupted comparison is an error too, so that scripts notice.
pub fn run(settings: &Settings) -> Result<()> {
    let config = &settings.config;
    let folder = config.output.output_dir.as_deref().context("output_dir is not set")?;
    let args = &settings.command;
    let options = CompareOptions {
        seeds: args.seeds.clone(),
        samples: (args.compare_samples > 0).then_some(args.compare_samples),
        requests: args.compare_requests,
    };
    let stop = Arc::new(AtomicBool::new(false));
    super::stop_on_interrupt(&stop)?;
    let Some(comparison) = compare(config, &options, &mut Display { counter: None }, &stop)? else {
        bail!("interrupted; the same command goes on from here");
    };
    let (header, rows) = comparison.score_table();
    print!("{}", table::render(&header, &rows));
    println!();
    for verdict in comparison.verdicts() {
        println!("{verdict}");
    }
    let (header, rows) = comparison.deployment_table();
    print!("\n{}", table::render(&header, &rows));
    println!("\nwritten to {}", folder.join("comparison.md").display());
    Ok(())
}

/// A heading for each run, and a bar while answers are written.
struct Display {
    counter: Option<Counter>,
}

impl CompareSink for Display {
    fn stage(&mut self, stage: &Stage<'_>) {
        match stage {
            Stage::Scoring(_, done, _) if *done > 0 => {
                if let Some(counter) = &self.counter {
                    counter.at(*done);
                }
                return;
            }
            _ => {
                if let Some(counter) = self.counter.take() {
                    counter.done();
                }
            }
        }
        match stage {
            Stage::Training(run) => {
                let what = match &run.role {
                    Role::Joint => "all tasks together".to_string(),
                    Role::Single(task) => format!("{task} alone"),
                };
                eprintln!("== seed {}: {what}, {} steps", run.seed, run.steps);
            }
            Stage::Taken(run, differences) => {
                eprintln!("== seed {}: {} taken from {}", run.seed, run.role.name(), run.folder().display());
                if !differences.is_empty() {
                    eprintln!("   trained with other options than these: {}", differences.join("; "));
                }
            }
            Stage::Scoring(name, _, total) => {
                eprintln!("== {name}: answering {total} evaluation examples");
                self.counter = Some(Counter::new("answering", *total));
            }
            Stage::Serving => eprintln!("== measuring memory and latency"),
        }
    }

    fn training(&mut self) -> Box<dyn EventSink> {
        progress()
    }
}
