//! `medley predict`: a completion for every example, and scores by task.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use medley_train::data::Split;
use medley_train::metrics::{LabelTable, TaskReport};
use medley_train::predict::{
    Questions, conversations, evaluation_split, generate_options, pairs, scoring, task_labels,
    write_predictions,
};
use medley_train::state::{write_json, write_results};
use medley_train::trainer::setup;
use serde_json::{Map, Value, json};

use crate::args::Settings;
use crate::progress::Counter;
use crate::table;

/// Writes `generated_predictions.jsonl`, `predict_results.json` and, where tasks have labels, `label_scores.json`;
/// prints the scores.
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
    let labels = task_labels(config)?;
    let mut questions = Questions::new(&renderer, conversations, scoring(config, labels)?)?;
    questions.constrain(&renderer, &config.evaluation.constrain_labels)?;
    let counter = Counter::new("predicting", questions.len());
    let skip = config.generate.skip_special_tokens;
    let predictions =
        questions.answers(&model, &renderer, &options, skip, &mut |at| counter.answered(&at))?;
    counter.done();
    write_predictions(folder, &predictions)?;
    let scores = questions.scoring.reports(pairs(&predictions));
    write_scores(folder, &scores)?;
    print!("{}", scores_table(&scores));
    let labels = questions.scoring.label_tables(pairs(&predictions));
    for (task, label_table) in &labels {
        print!("\n{task}\n{}", label_scores(label_table));
    }
    if !labels.is_empty() {
        write_json(&folder.join("label_scores.json"), &labels)?;
    }
    println!("\nwritten to {}", folder.display());
    Ok(())
}

/// Precision, recall and F1 of each label, and what its examples were taken for.
fn label_scores(scores: &LabelTable) -> String {
    let percent = |x: f64| format!("{:.1}", 100.0 * x);
    let rows: Vec<Vec<String>> = scores
        .labels
        .iter()
        .enumerate()
        .map(|(i, label)| {
            let name = |j: usize| scores.labels.get(j).map_or("no label", |label| label.label.as_str());
            let mut taken: Vec<(usize, usize)> =
                scores.confusion[i].iter().copied().enumerate().filter(|(j, n)| *j != i && *n > 0).collect();
            taken.sort_by_key(|(j, n)| (std::cmp::Reverse(*n), *j));
            let taken: Vec<String> =
                taken.iter().take(3).map(|(j, n)| format!("{} ({n})", name(*j))).collect();
            vec![
                label.label.clone(),
                label.support.to_string(),
                percent(label.precision),
                percent(label.recall),
                percent(label.f1),
                taken.join(", "),
            ]
        })
        .collect();
    table::render(&["label", "examples", "precision", "recall", "F1", "taken for"], &rows)
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

/// One row a task, in percent.
pub fn scores_table(scores: &BTreeMap<String, TaskReport>) -> String {
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
                percent(r.bleu4),
                optional(r.accuracy),
                optional(r.macro_f1),
            ]
        })
        .collect();
    table::render(
        &["task", "examples", "exact match", "F1", "ROUGE-L", "BLEU-4", "accuracy", "macro F1"],
        &rows,
    )
}
