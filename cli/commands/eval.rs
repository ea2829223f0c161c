//! `medley eval`: loss and perplexity of each task.

use std::time::Instant;

use anyhow::{Context, Result};
use medley_model::tokenizer::Tokenizer;
use medley_train::config::Stage;
use medley_train::data::Split;
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
    let tokenizer = Tokenizer::from_folder(&setup::model_folder(config)?)?;
    // Plain text needs no prompt format, and a base model has none.
    let renderer = match config.train.stage {
        Stage::Sft => Some(setup::renderer(config)?),
        Stage::Pt => None,
    };
    if let Some(folder) = &config.output.output_dir {
        std::fs::create_dir_all(folder).with_context(|| format!("output_dir {}", folder.display()))?;
    }
    if evaluation_split(config) == Split::Train && config.data.val_size == 0.0 {
        eprintln!(
            "note: no evaluation data is named (eval_data_files, eval_dataset, val_size): the training files are scored"
        );
    }
    let (tasks, data) = setup::load_evaluation_data(config, renderer.as_ref(), &tokenizer)?;
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
