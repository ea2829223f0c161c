//! `medley eval`: loss and perplexity of each task, and with `predict_with_generate` scores of the answers.

use anyhow::{Context, Result};
use medley_model::tokenizer::Tokenizer;
use medley_train::config::Stage;
use medley_train::data::Split;
use medley_train::predict::evaluation_split;
use medley_train::state::{LogEntry, write_results};
use medley_train::trainer::{Answers, Evaluation, setup};

use super::predict::scores_table;
use crate::args::Settings;
use crate::progress::Counter;
use crate::table;

/// Prints the tables; writes `eval_results.json` where an `output_dir` is given.
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
    let answers = match config.evaluation.predict_with_generate {
        true => Some(Answers::new(config)?),
        false => None,
    };
    let counter = answers.as_ref().map(|answers| Counter::new("answering", answers.len()));
    let mut progress = |at| {
        if let Some(counter) = &counter {
            counter.answered(&at);
        }
    };
    let measured = Evaluation::measure(config, &model, &data, &weighing, answers.as_ref(), &mut progress)?;
    if let Some(counter) = counter {
        counter.done();
    }
    let loss = &measured.loss;
    let rows: Vec<Vec<String>> = tasks
        .names()
        .iter()
        .enumerate()
        .filter_map(|(i, name)| {
            let mean = loss.task_loss(i)?;
            let mut row = vec![
                name.clone(),
                loss.examples[i].to_string(),
                loss.labelled[i].to_string(),
                format!("{mean:.4}"),
                format!("{:.2}", mean.exp()),
            ];
            if let Some(Some(accuracy)) = measured.token_accuracy.get(i) {
                row.push(format!("{:.1}", 100.0 * accuracy));
            }
            Some(row)
        })
        .collect();
    let mut header = vec!["task", "examples", "tokens", "loss", "perplexity"];
    if config.evaluation.compute_accuracy {
        header.push("token accuracy");
    }
    print!("{}", table::render(&header, &rows));
    if answers.is_some() {
        print!("\n{}", scores_table(&measured.reports));
    }
    if let Some(folder) = &config.output.output_dir {
        let entry = measured.entry(LogEntry::new(0, 0.0), tasks.names());
        let results = measured.results(&entry, &tasks);
        write_results(folder, "eval", &results)?;
        println!("\nwritten to {}", folder.join("eval_results.json").display());
    }
    Ok(())
}
