//! Evaluation by generation: a completion for every example, and scores by task.

use crate::config::{GenerateArgs, TrainConfig};
use crate::data::{Conversation, LoadOptions, Split, data_files, read_conversations};
use crate::metrics::{Pair, TaskReport, score_tasks};
use crate::trainer::setup;
use crate::{Error, Result};
use medley_model::Llama;
use medley_model::generate::{GenerateOptions, SamplingParams, generate};
use medley_model::template::Renderer;
use medley_tensor::io::write_atomic;
use serde::Serialize;
use std::collections::{BTreeMap, HashSet};
use std::path::Path;

/// A line of `generated_predictions.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Prediction {
    /// The example's task.
    pub task_name: String,
    /// The prompt as the model saw it.
    pub prompt: String,
    /// The reference.
    pub label: String,
    /// What the model wrote.
    pub predict: String,
}

/// The generation options of a configuration, for `batch_size` sequences at once.
pub fn generate_options(
    args: &GenerateArgs,
    stop_ids: &[u32],
    seed: u64,
    batch_size: usize,
) -> GenerateOptions {
    GenerateOptions {
        sampling: SamplingParams {
            do_sample: args.do_sample,
            temperature: args.temperature as f32,
            top_k: args.top_k,
            top_p: args.top_p as f32,
            repetition_penalty: args.repetition_penalty as f32,
        },
        max_new_tokens: args.max_new_tokens,
        stop_ids: stop_ids.to_vec(),
        batch_size,
        seed,
    }
}

/// The conversations a configuration is scored on: its evaluation files; where none are named, what
/// `val_size` holds out of the training files, the same examples as in training; else all of them.
///
/// # Errors
/// The first row that cannot be read, with file and line.
pub fn conversations(config: &TrainConfig, renderer: &Renderer) -> Result<Vec<Conversation>> {
    let options = LoadOptions::of(config);
    let split = evaluation_split(config);
    let mut all = read_conversations(&data_files(&config.data, split)?, &options)?;
    if split == Split::Train && config.data.val_size > 0.0 {
        let (_, held_out) = setup::load_evaluation_data(config, Some(renderer), renderer.tokenizer())?;
        let kept: HashSet<(&Path, u64)> = held_out.iter().map(|e| (e.file, e.line)).collect();
        all.retain(|c| kept.contains(&(c.file.as_path(), c.line)));
    }
    Ok(all)
}

/// Evaluation files where any are named, else the training files.
pub fn evaluation_split(config: &TrainConfig) -> Split {
    if config.data.eval_data_files.is_empty() && config.data.eval_dataset.is_empty() {
        Split::Train
    } else {
        Split::Eval
    }
}

/// Completes the last turn of every conversation. `progress(begun)` hears how many have got their
/// first token.
///
/// # Errors
/// A conversation the template refuses, or a model that yields non-finite logits.
pub fn predict(
    model: &Llama,
    renderer: &Renderer,
    conversations: &[Conversation],
    options: &GenerateOptions,
    skip_special_tokens: bool,
    progress: &mut dyn FnMut(usize),
) -> Result<Vec<Prediction>> {
    let mut prompts = Vec::with_capacity(conversations.len());
    for c in conversations {
        let (_, asked) = c.messages.split_last().ok_or_else(|| {
            Error::Run(format!("{}:{}: the conversation is empty", c.file.display(), c.line))
        })?;
        prompts.push(renderer.render_prompt(asked, Some(&c.task))?);
    }
    let mut started = vec![false; prompts.len()];
    let mut count = 0;
    let completions = generate(model, &prompts, options, &mut |i, _| {
        if !std::mem::replace(&mut started[i], true) {
            count += 1;
            progress(count);
        }
        true
    })?;
    let tokenizer = renderer.tokenizer();
    conversations
        .iter()
        .zip(prompts.iter().zip(completions))
        .map(|(c, (prompt, done))| {
            Ok(Prediction {
                task_name: c.task.clone(),
                prompt: tokenizer.decode(prompt, false)?,
                label: c.messages.last().map(|m| m.content.clone()).unwrap_or_default(),
                predict: tokenizer.decode(&done.ids, skip_special_tokens)?.trim().to_string(),
            })
        })
        .collect()
}

/// Scores by task.
pub fn score(predictions: &[Prediction]) -> BTreeMap<String, TaskReport> {
    score_tasks(
        predictions
            .iter()
            .map(|p| (p.task_name.as_str(), Pair { prediction: &p.predict, reference: &p.label })),
    )
}

/// Writes `generated_predictions.jsonl`.
///
/// # Errors
/// When the file cannot be written.
pub fn write_predictions(folder: &Path, predictions: &[Prediction]) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
    let path = folder.join("generated_predictions.jsonl");
    let mut text = vec![];
    for p in predictions {
        serde_json::to_writer(&mut text, p)
            .map_err(|e| Error::Run(format!("{}: a line cannot be written as JSON: {e}", path.display())))?;
        text.push(b'\n');
    }
    Ok(write_atomic(&path, &text)?)
}
