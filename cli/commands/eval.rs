//! `medley eval`: loss and perplexity of each task.

use std::time::Instant;

use anyhow::Result;
use medley_train::config::Stage;
use medley_train::data::{LoadOptions, PtOptions, Tasks, data_files, load_pt, load_sft};
use medley_train::predict::evaluation_split;
use medley_train::state::{LogEntry, write_results};
use medley_train::trainer::{evaluate, evaluation_entry, setup};
use serde_json::{Map, Value, json};

use crate::args::Settings;
use crate::table;

/// Prints the table; writes `eval_results.json` where an `output_dir` is given.
///
/// # Errors
/// Model, data or template cannot be used, or the result cannot be written.
pub fn run(settings: &Settings) -> Result<()> {
    let config = &settings.config;
    let renderer = setup::renderer(config)?;
    let mut tasks = Tasks::default();
    let files = data_files(&config.data, evaluation_split(config))?;
    let options = LoadOptions { max_samples: config.data.max_samples, seed: setup::data_seed(config) };
    let data = match config.train.stage {
        Stage::Sft => load_sft(&files, &renderer, &options, &mut tasks)?,
        Stage::Pt => {
            let pt = PtOptions {
                cutoff_len: config.data.cutoff_len,
                packing: config.data.packing.unwrap_or(true),
            };
            load_pt(&files, renderer.tokenizer(), pt, &options, &mut tasks)?
        }
    };
    for warning in data.warnings() {
        eprintln!("warning: {warning}");
    }
    let weighing = setup::weighing(&config.tasks, &tasks)?;
    let model = setup::inference_model(config)?;
    let started = Instant::now();
    let loss = evaluate(&model, &data, config.train.per_device_eval_batch_size, &weighing)?;
    let rows: Vec<Vec<String>> = tasks
        .names()
        .iter()
        .enumerate()
        .filter_map(|(i, name)| {
            let mean = loss.task_loss(i)?;
            Some(vec![
                name.clone(),
                loss.examples[i].to_string(),
                loss.labelled[i].to_string(),
                format!("{mean:.4}"),
                format!("{:.2}", mean.exp()),
            ])
        })
        .collect();
    print!("{}", table::render(&["task", "examples", "tokens", "loss", "perplexity"], &rows));
    if let Some(folder) = &config.output.output_dir {
        std::fs::create_dir_all(folder)?;
        let mut results: Map<String, Value> = Map::new();
        let entry = evaluation_entry(LogEntry::new(0, 0.0), &loss, tasks.names(), started.elapsed());
        results.extend(entry.values().map(|(name, value)| (name.to_string(), json!(value))));
        for (i, name) in tasks.names().iter().enumerate() {
            if let Some(mean) = loss.task_loss(i) {
                results.insert(format!("{name}/loss"), json!(mean));
                results.insert(format!("{name}/perplexity"), json!(mean.exp()));
            }
        }
        write_results(folder, "eval", &results)?;
        println!("\nwritten to {}", folder.join("eval_results.json").display());
    }
    Ok(())
}
