//! `medley predict`: a completion for every example, and scores by task.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use medley_train::data::Split;
use medley_train::metrics::TaskReport;
use medley_train::predict::{
    conversations, evaluation_split, generate_options, predict, score, write_predictions,
};
use medley_train::state::write_results;
use medley_train::trainer::setup;
use serde_json::{Map, Value, json};

use crate::args::Settings;
use crate::progress::Counter;
use crate::table;

/// Writes `generated_predictions.jsonl` and `predict_results.json`, prints the scores.
///
/// # Errors
/// Model, data or template cannot be used, or a file cannot be written.
pub fn run(settings: &Settings) -> Result<()> {
    let config = &settings.config;
    let folder = config.output.output_dir.as_deref().context("output_dir is not set")?;
    std::fs::create_dir_all(folder).with_context(|| format!("output_dir {}", folder.display()))?;
    let renderer = setup::renderer(config)?;
    if evaluation_split(config) == Split::Train && config.data.val_size == 0.0 {
        eprintln!(
            "note: no evaluation files are named (eval_data_files, eval_dataset): the training files are scored, all of them"
        );
    }
    let conversations = conversations(config, &renderer)?;
    let model = setup::inference_model(config)?;
    let options = generate_options(
        &config.generate,
        renderer.stop_ids(),
        config.run.seed,
        config.train.per_device_eval_batch_size,
    );
    let counter = Counter::new("predicting", conversations.len());
    let predictions = predict(
        &model,
        &renderer,
        &conversations,
        &options,
        config.generate.skip_special_tokens,
        &mut |n| {
            counter.at(n);
        },
    )?;
    counter.done();
    write_predictions(folder, &predictions)?;
    let scores = score(&predictions);
    write_scores(folder, &scores)?;
    print!("{}", scores_table(&scores));
    println!("\nwritten to {}", folder.display());
    Ok(())
}

/// `predict_results.json`: `<task>/<score>`.
///
/// # Errors
/// The file cannot be written.
pub fn write_scores(folder: &Path, scores: &BTreeMap<String, TaskReport>) -> Result<()> {
    let mut results: Map<String, Value> = Map::new();
    for (task, report) in scores {
        results.insert(format!("{task}/examples"), json!(report.examples));
        for (name, value) in report.scores() {
            results.insert(format!("{task}/{name}"), json!(value));
        }
    }
    Ok(write_results(folder, "predict", &results)?)
}

fn scores_table(scores: &BTreeMap<String, TaskReport>) -> String {
    let percent = |x: f64| format!("{:.1}", 100.0 * x);
    let optional = |x: Option<f64>| x.map_or("-".to_string(), percent);
    let rows: Vec<Vec<String>> = scores
        .iter()
        .map(|(task, r)| {
            vec![
                task.clone(),
                r.examples.to_string(),
                percent(r.exact_match),
                percent(r.f1),
                percent(r.rouge_l),
                optional(r.accuracy),
                optional(r.macro_f1),
            ]
        })
        .collect();
    table::render(&["task", "examples", "exact match", "F1", "ROUGE-L", "accuracy", "macro F1"], &rows)
}
