//! Evaluation by generation: a completion for every example, and scores by task.

use crate::config::{ConfigError, GenerateArgs, TaskChoice, TrainConfig};
use crate::data::{
    Conversation, LoadOptions, STREAM_ANSWERS, Split, data_files, location, read_conversations, stream,
};
use crate::metrics::{Extraction, Pair, Scoring, TaskReport, label_set, score_tasks};
use crate::trainer::setup;
use crate::{Error, Result};
use medley_model::Llama;
use medley_model::generate::{GenerateOptions, Prompt, SamplingParams, Step, TokenTrie, generate_each};
use medley_model::template::{Message, Renderer};
use medley_tensor::io::write_atomic;
use medley_tensor::rng::Philox;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

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
    let mut all = all_conversations(config)?;
    if evaluation_split(config) == Split::Train && config.data.val_size > 0.0 {
        let (_, held_out) = setup::load_evaluation_data(config, Some(renderer), renderer.tokenizer())?;
        let kept: HashSet<(&Path, u64)> = held_out.iter().map(|e| (e.file, e.line)).collect();
        all.retain(|c| kept.contains(&(c.file.as_path(), c.line)));
    }
    Ok(all)
}

/// Every conversation of the evaluation files, or of the training files where there are none.
pub(crate) fn all_conversations(config: &TrainConfig) -> Result<Vec<Conversation>> {
    let files = data_files(&config.data, evaluation_split(config))?;
    Ok(read_conversations(&files, &LoadOptions::of(config))?)
}

/// Evaluation files where any are named, else the training files.
pub fn evaluation_split(config: &TrainConfig) -> Split {
    if config.data.eval_data_files.is_empty() && config.data.eval_dataset.is_empty() {
        Split::Train
    } else {
        Split::Eval
    }
}

/// Conversations of which the model is to write the last turn, and how its answers are judged.
pub struct Questions {
    conversations: Vec<Conversation>,
    prompts: Vec<Prompt>,
    /// How answers become scores.
    pub scoring: Scoring,
}

/// How far the answering is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Answered {
    /// Answers complete.
    pub done: usize,
    /// Answers wanted.
    pub total: usize,
    /// Tokens written so far.
    pub tokens: u64,
    /// Time since the first.
    pub elapsed: Duration,
}

impl Answered {
    /// Tokens written a second.
    pub fn tokens_per_second(&self) -> f64 {
        self.tokens as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }
}

/// The labels of every task of `config` whose references are labels ([`label_set`]): those of the evaluation examples
/// and, where `constrain_labels` needs every label there is, of the training examples too.
///
/// # Errors
/// As [`conversations`].
pub fn task_labels(config: &TrainConfig) -> Result<BTreeMap<String, BTreeSet<String>>> {
    let options = LoadOptions::of(config);
    let mut references: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let named = !config.data.data_files.is_empty() || !config.data.dataset.is_empty();
    let held_out = evaluation_split(config) == Split::Eval;
    let trains = named && (!held_out || config.evaluation.constrain_labels != TaskChoice::None);
    let splits = [(Split::Train, trains), (Split::Eval, held_out)];
    for (split, _) in splits.into_iter().filter(|(_, named)| *named) {
        for mut conversation in read_conversations(&data_files(&config.data, split)?, &options)? {
            if let Some(reply) = conversation.messages.pop() {
                references.entry(conversation.task).or_default().push(reply.content);
            }
        }
    }
    let labels =
        |(task, texts): (String, Vec<String>)| Some((task, label_set(texts.iter().map(String::as_str))?));
    Ok(references.into_iter().filter_map(labels).collect())
}

/// At most `most` conversations of each task: always the same ones for a seed, and of a task with labels so many of
/// each label as its share is. They stay in their order.
pub fn sample(
    conversations: Vec<Conversation>,
    labels: &BTreeMap<String, BTreeSet<String>>,
    most: usize,
    seed: u64,
) -> Vec<Conversation> {
    let mut strata: BTreeMap<&str, BTreeMap<&str, Vec<usize>>> = BTreeMap::new();
    for (i, c) in conversations.iter().enumerate() {
        let label = match labels.contains_key(&c.task) {
            true => c.messages.last().map_or("", |m| m.content.trim()),
            false => "",
        };
        strata.entry(&c.task).or_default().entry(label).or_default().push(i);
    }
    let mut kept = vec![false; conversations.len()];
    for (task, by_label) in strata.values().enumerate() {
        // Members of a stratum of n stand at (k + 1/2) / n: the first so many by place hold every stratum's share.
        let mut places: Vec<(f64, usize)> = vec![];
        for (label, mut members) in by_label.values().cloned().enumerate() {
            Philox::new(seed, stream(STREAM_ANSWERS, task as u64, label as u64)).shuffle(&mut members);
            let n = members.len() as f64;
            places.extend(members.into_iter().enumerate().map(|(k, i)| ((k as f64 + 0.5) / n, i)));
        }
        places.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        places.into_iter().take(most).for_each(|(_, i)| kept[i] = true);
    }
    conversations.into_iter().zip(kept).filter_map(|(c, kept)| kept.then_some(c)).collect()
}

/// How a configuration turns answers into scores.
///
/// # Errors
/// A pattern that is no regular expression.
pub fn scoring(config: &TrainConfig, labels: BTreeMap<String, BTreeSet<String>>) -> Result<Scoring> {
    let args = &config.evaluation;
    let extraction = Extraction::new(args.answer_regex.as_ref(), args.answer_regex_on_label)
        .map_err(|error| ConfigError { key: "answer_regex", problem: error.to_string() })?;
    Ok(Scoring { language: args.metric_language, extraction, labels })
}

impl Questions {
    /// Renders the prompts.
    ///
    /// # Errors
    /// A conversation that the template refuses.
    pub fn new(renderer: &Renderer, conversations: Vec<Conversation>, scoring: Scoring) -> Result<Self> {
        let mut prompts = Vec::with_capacity(conversations.len());
        for c in &conversations {
            let ids = renderer.render_prompt(asked(c)?, Some(&c.task))?;
            prompts.push(Prompt { ids, ..Prompt::default() });
        }
        Ok(Self { conversations, prompts, scoring })
    }

    /// Lets the answers of the tasks in `choice` be labels of their task only.
    ///
    /// # Errors
    /// A task named that is not there or has no labels; a chat template that cannot write a conversation.
    pub fn constrain(&mut self, renderer: &Renderer, choice: &TaskChoice) -> Result<()> {
        let refuse = |problem: String| Error::Config(ConfigError { key: "constrain_labels", problem });
        if let TaskChoice::Named(names) = choice {
            let there = |name: &&String| self.conversations.iter().any(|c| c.task == **name);
            let with_labels: Vec<&str> = self.scoring.labels.keys().map(String::as_str).collect();
            for name in names.iter().filter(there) {
                if !self.scoring.labels.contains_key(name) {
                    return Err(refuse(format!(
                        "the references of task `{name}` are no labels (at most 20 different ones, each used twice on \
                         average); tasks with labels: {}",
                        with_labels.join(", ")
                    )));
                }
            }
            if let Some(name) = names.iter().find(|name| !there(name)) {
                return Err(refuse(format!("there is no task `{name}` among the evaluation examples")));
            }
        }
        for (task, labels) in self.scoring.labels.iter().filter(|(task, _)| choice.contains(task)) {
            let Some(first) = self.conversations.iter().find(|c| c.task == *task) else { continue };
            let mut sequences = vec![];
            for label in labels {
                let mut messages = first.messages.clone();
                if let Some(reply) = messages.last_mut() {
                    reply.content.clone_from(label);
                }
                // As in training: the template may write a reply otherwise than the tokenizer does alone.
                let reply = renderer.render_reply(&messages, Some(task))?;
                let end = reply.iter().position(|id| renderer.stop_ids().contains(id)).unwrap_or(reply.len());
                sequences.push(reply[..end].to_vec());
            }
            let trie = Arc::new(TokenTrie::new(sequences.iter().map(Vec::as_slice)));
            for (prompt, _) in
                self.prompts.iter_mut().zip(&self.conversations).filter(|(_, c)| c.task == *task)
            {
                prompt.constraint = Some(Arc::clone(&trie));
            }
        }
        Ok(())
    }

    /// Limits answers to twice the longest reference of their task and 16 tokens more: what is longer is wrong
    /// already, and an untrained model would go on to the end of its allowance.
    ///
    /// # Errors
    /// A reference that cannot be tokenised.
    pub fn limit_by_references(&mut self, renderer: &Renderer) -> Result<()> {
        let mut longest: BTreeMap<&str, usize> = BTreeMap::new();
        for c in &self.conversations {
            let reply = c.messages.last().map_or("", |m| m.content.as_str());
            let length = renderer.tokenizer().encode(reply, false)?.len();
            let most = longest.entry(&c.task).or_default();
            *most = length.max(*most);
        }
        for (prompt, c) in self.prompts.iter_mut().zip(&self.conversations) {
            prompt.max_new_tokens = longest.get(c.task.as_str()).map(|length| 2 * length + 16);
        }
        Ok(())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.conversations.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.conversations.is_empty()
    }

    /// The model's answers, in the order of the questions. `progress` hears of every answer, and of tokens between.
    ///
    /// # Errors
    /// A model that yields non-finite logits.
    pub fn answers(
        &self,
        model: &Llama,
        renderer: &Renderer,
        options: &GenerateOptions,
        skip_special_tokens: bool,
        progress: &mut dyn FnMut(Answered),
    ) -> Result<Vec<Prediction>> {
        let started = Instant::now();
        let mut state = Answered { total: self.prompts.len(), ..Answered::default() };
        progress(state);
        let completions = generate_each(model, &self.prompts, options, &mut |step| {
            match step {
                Step::Token { .. } => state.tokens += 1,
                Step::Done { .. } => state.done += 1,
            }
            state.elapsed = started.elapsed();
            if matches!(step, Step::Done { .. }) || state.tokens.is_multiple_of(64) {
                progress(state);
            }
            true
        })?;
        let tokenizer = renderer.tokenizer();
        self.conversations
            .iter()
            .zip(self.prompts.iter().zip(completions))
            .map(|(c, (prompt, done))| {
                Ok(Prediction {
                    task_name: c.task.clone(),
                    prompt: tokenizer.decode(&prompt.ids, false)?,
                    label: c.messages.last().map(|m| m.content.clone()).unwrap_or_default(),
                    predict: tokenizer.decode(&done.ids, skip_special_tokens)?.trim().to_string(),
                })
            })
            .collect()
    }
}

/// What comes before the last turn.
fn asked(conversation: &Conversation) -> Result<&[Message]> {
    match conversation.messages.split_last() {
        Some((_, asked)) => Ok(asked),
        None => Err(Error::Run(format!(
            "{}: the conversation is empty",
            location(&conversation.file, conversation.line)
        ))),
    }
}

/// Completes the last turn of every conversation, without constraints. `progress(done)` hears how many are complete.
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
    let questions = Questions::new(renderer, conversations.to_vec(), Scoring::default())?;
    questions.answers(model, renderer, options, skip_special_tokens, &mut |at| progress(at.done))
}

/// The task and the pair of every prediction, as [`Scoring`] takes them.
pub fn pairs(predictions: &[Prediction]) -> impl Iterator<Item = (&str, Pair<'_>)> {
    predictions.iter().map(|p| (p.task_name.as_str(), Pair { prediction: &p.predict, reference: &p.label }))
}

/// Scores by task, with [`Scoring`]'s defaults.
pub fn score(predictions: &[Prediction]) -> BTreeMap<String, TaskReport> {
    score_tasks(pairs(predictions))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn conversation(task: &str, reply: &str, line: u64) -> Conversation {
        let messages = vec![Message::user("which?"), Message::assistant(reply)];
        Conversation { messages, task: task.into(), file: "a.jsonl".into(), line }
    }

    #[test]
    fn a_sample_holds_every_label_in_proportion_and_is_always_the_same() {
        let mut all: Vec<Conversation> = vec![];
        for i in 0..80 {
            let label = if i % 8 == 0 { "rare" } else { "frequent" };
            all.push(conversation("cls", label, 2 * i));
            all.push(conversation("qa", &format!("answer {i}"), 2 * i + 1));
        }
        let labels: BTreeMap<String, BTreeSet<String>> =
            [("cls".to_string(), ["rare".to_string(), "frequent".to_string()].into())].into();
        let lines = |most, seed| -> Vec<(String, u64, String)> {
            sample(all.clone(), &labels, most, seed)
                .into_iter()
                .map(|c| (c.task, c.line, c.messages[1].content.clone()))
                .collect()
        };
        let chosen = lines(16, 1);
        let count =
            |what: &str| chosen.iter().filter(|(task, _, reply)| task == what || reply == what).count();
        assert_eq!((count("cls"), count("qa"), count("rare")), (16, 16, 2));
        assert!(chosen.is_sorted_by_key(|(_, line, _)| *line), "in their order");
        assert_eq!(lines(16, 1), chosen);
        assert_ne!(lines(16, 2), chosen);
        // A larger sample holds the smaller one.
        let more = lines(32, 1);
        assert!(chosen.iter().all(|one| more.contains(one)));
        assert_eq!(lines(1000, 1).len(), 160);
    }
}
