//! `medley quickstart`: the whole job in miniature. The small base model that comes with Medley is
//! fine-tuned on three real tasks at once, scored before and after on examples it never trained on,
//! and merged.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use medley_model::Llama;
use medley_model::template::Renderer;
use medley_train::config::{FinetuningType, IntervalStrategy, SamplingStrategy, SchedulerType, TrainConfig};
use medley_train::data::Conversation;
use medley_train::metrics::TaskReport;
use medley_train::predict::{conversations, generate_options, predict, score, write_predictions};
use medley_train::trainer::setup;

use super::{export, predict as predict_command, train};
use crate::args::Settings;
use crate::progress::Counter;
use crate::table;

const TASKS: [&str; 3] = ["qa", "summarization", "classification"];
const OUTPUT: &str = "outputs/quickstart";
/// Held-out examples scored, of each task.
const SCORED: usize = 100;

/// The repository's `examples` folder: below the current folder, else where this binary was built.
fn examples() -> Result<PathBuf> {
    let candidates = [PathBuf::from("examples"), Path::new(env!("CARGO_MANIFEST_DIR")).join("examples")];
    let Some(found) = candidates.iter().find(|p| p.join("base-model/config.json").is_file()) else {
        bail!(
            "the quickstart needs the folders examples/base-model and examples/data of the repository; \
             run it from the repository's folder (looked in {} and {})",
            candidates[0].display(),
            candidates[1].display()
        );
    };
    Ok(found.clone())
}

/// Everything the run is told; a YAML with these keys does the same through `medley train`.
fn config(examples: &Path, output: &Path, settings: &Settings) -> TrainConfig {
    let mut config = TrainConfig::default();
    let data = examples.join("data");
    config.model.model_name_or_path = Some(examples.join("base-model"));
    config.data.dataset_dir = data;
    config.data.data_files = TASKS.iter().map(|t| PathBuf::from(format!("{t}.jsonl.zst"))).collect();
    config.data.eval_data_files = TASKS.iter().map(|t| PathBuf::from(format!("{t}.dev.jsonl"))).collect();
    config.data.template = Some("alpaca".into());
    // The small model has little context to spare: the header names the task, the preamble goes.
    config.data.default_system = Some(String::new());
    config.data.task_prefix = true;
    config.data.cutoff_len = 320;
    config.tasks.sampling_strategy = SamplingStrategy::Balanced;
    config.lora.finetuning_type = FinetuningType::Lora;
    config.lora.lora_rank = 16;
    config.train.per_device_train_batch_size = 24;
    config.train.per_device_eval_batch_size = 32;
    config.train.learning_rate = 4e-3;
    config.train.lr_scheduler_type = SchedulerType::Cosine;
    config.train.warmup_ratio = 0.05;
    config.train.max_steps = 150;
    config.train.eval_strategy = IntervalStrategy::Steps;
    config.train.eval_steps = Some(75.0);
    config.output.output_dir = Some(output.to_path_buf());
    config.output.overwrite_output_dir = true;
    config.output.logging_steps = 5.0;
    config.output.save_strategy = IntervalStrategy::No;
    config.output.plot_loss = true;
    config.generate.do_sample = false;
    config.generate.max_new_tokens = 24;
    config.run = settings.config.run.clone();
    config
}

/// Trains, scores, merges, and says what to do next.
///
/// # Errors
/// The repository's example files are missing, or the output folder cannot be written.
pub fn run(settings: &Settings) -> Result<()> {
    let started = Instant::now();
    let examples = examples()?;
    let output = settings.config.output.output_dir.clone().unwrap_or_else(|| PathBuf::from(OUTPUT));
    let config = config(&examples, &output, settings);
    let base = setup::model_folder(&config)?;
    println!(
        "One model, three tasks: question answering, one-line summaries and classification of Debian packages."
    );
    println!(
        "Base model: {} (4 million parameters, trained from scratch with this program)\n",
        base.display()
    );

    // A device for each use: what one has cached of its memory would be in the way of training.
    let placement = || setup::placement(&config, &base);
    let renderer = setup::renderer(&config)?;
    let all = conversations(&config, &renderer)?;
    let held_out: Vec<Conversation> =
        TASKS.iter().flat_map(|task| all.iter().filter(|c| c.task == *task).take(SCORED)).cloned().collect();
    println!("Before: scoring {SCORED} held-out examples of each task");
    let before = scores(
        &setup::open_model(&base, None, setup::storage(&config, false), placement()?)?,
        &renderer,
        &held_out,
        &config,
    )?
    .1;

    println!("Training: LoRA on every linear layer, equal shares of the three tasks in every step");
    train::run(&Settings { config: config.clone(), ..settings.clone() })?;

    println!("After: scoring the same examples");
    let tuned = setup::open_model(&base, Some(&output), setup::storage(&config, false), placement()?)?;
    let (predictions, after) = scores(&tuned, &renderer, &held_out, &config)?;
    write_predictions(&output, &predictions)?;
    predict_command::write_scores(&output, &after)?;
    drop(tuned);

    let merged = output.join("merged");
    if merged.exists() {
        std::fs::remove_dir_all(&merged).with_context(|| format!("cannot replace {}", merged.display()))?;
    }
    export::merge(&base, Some(&output), &merged, 5.0)?;

    println!("\n{}", comparison(&before, &after));
    let shown = output.display();
    println!("Done in {} s. Look at:", started.elapsed().as_secs());
    println!(
        "  {shown}/report.html                     curves, tasks, what the model writes before and after"
    );
    println!("  {shown}/training_loss.png               loss of each task, held-out loss, learning rate");
    println!("  {shown}/adapter_model.safetensors       the adapter, in PEFT's format");
    println!("  {shown}/merged                          base and adapter as one Hugging Face folder");
    println!("  {shown}/generated_predictions.jsonl     what the tuned model wrote\n");
    println!("Next, ask the tuned model (the header names the task):");
    println!(
        "  medley generate --model_name_or_path {shown}/merged --template alpaca --default_system '' --task_prefix true \\\n    \
         --task_name summarization --do_sample false --max_new_tokens 32 --prompt \\\n    \
         'Say in one line what this package is.\nA small program that shows the weather in a terminal window.'"
    );
    println!("Then your own model and data:");
    println!(
        "  medley train --model_name_or_path MODEL_FOLDER --data_files qa.jsonl,summaries.jsonl,labels.jsonl \\\n    \
         --template alpaca --sampling_strategy balanced --output_dir outputs/first --plot_loss"
    );
    Ok(())
}

type Scored = (Vec<medley_train::predict::Prediction>, BTreeMap<String, TaskReport>);

fn scores(
    model: &Llama,
    renderer: &Renderer,
    examples: &[Conversation],
    config: &TrainConfig,
) -> Result<Scored> {
    let options = generate_options(&config.generate, renderer.stop_ids(), config.run.seed, 32);
    let counter = Counter::new("scoring", examples.len());
    let predictions = predict(model, renderer, examples, &options, true, &mut |n| counter.at(n))?;
    counter.done();
    let scores = score(&predictions);
    Ok((predictions, scores))
}

/// The score that says most about each task, before and after.
fn comparison(before: &BTreeMap<String, TaskReport>, after: &BTreeMap<String, TaskReport>) -> String {
    let mut rows = vec![];
    for task in TASKS {
        let (Some(b), Some(a)) = (before.get(task), after.get(task)) else { continue };
        let measures: [(&str, f64, f64); 2] = match task {
            "classification" => [
                ("accuracy", b.accuracy.unwrap_or(b.exact_match), a.accuracy.unwrap_or(a.exact_match)),
                ("macro F1", b.macro_f1.unwrap_or(b.f1), a.macro_f1.unwrap_or(a.f1)),
            ],
            "qa" => [("exact match", b.exact_match, a.exact_match), ("F1", b.f1, a.f1)],
            _ => [("ROUGE-L", b.rouge_l, a.rouge_l), ("F1", b.f1, a.f1)],
        };
        for (name, before, after) in measures {
            rows.push(vec![
                task.to_string(),
                name.to_string(),
                format!("{:.1}", 100.0 * before),
                format!("{:.1}", 100.0 * after),
                format!("{:+.1}", 100.0 * (after - before)),
            ]);
        }
    }
    table::render(&["task", "score", "before", "after", "gain"], &rows)
}

#[cfg(test)]
mod tests {
    use super::TASKS;

    #[test]
    fn the_examples_are_where_it_looks() {
        let data = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/data");
        for task in TASKS {
            for name in [format!("{task}.jsonl.zst"), format!("{task}.dev.jsonl")] {
                assert!(data.join(&name).is_file(), "{name}");
            }
        }
    }
}
