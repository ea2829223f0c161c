//! Loss over a data set, by task, and scores of the model's own answers.

use super::Trainer;
use super::setup::RunData;
use super::step::{StepLoss, Weighing, run_examples};
use crate::Result;
use crate::config::{LossReduction, TrainConfig};
use crate::data::{Conversation, Dataset, Tasks};
use crate::events::{Event, EventSink};
use crate::metrics::{LABEL_SCORES, TEXT_SCORES, TaskReport};
use crate::mix::pack;
use crate::predict::{
    Answered, Prediction, Questions, conversations, generate_options, pairs, sample, scoring, task_labels,
};
use crate::state::LogEntry;
use medley_autograd::no_grad;
use medley_model::generate::GenerateOptions;
use medley_model::template::Renderer;
use medley_model::{Llama, Pass};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::time::{Duration, Instant};

/// The loss of every example of `data`, `batch_size` sequences at a time. Task means are over the
/// whole set; the total weighs them as training does.
///
/// Costs a forward pass over the examples, packed without padding, and of the head the labelled positions only.
///
/// # Errors
/// When an id is out of range for the model.
pub fn evaluate(model: &Llama, data: &Dataset, batch_size: usize, weighing: &Weighing) -> Result<StepLoss> {
    let mut sums = StepLoss::new(weighing.alpha.len());
    let indices: Vec<u32> = (0..data.len() as u32).collect();
    for batch in indices.chunks(batch_size.max(1)) {
        sums.add(&run_examples(model, data, batch, batch_size, weighing, None)?);
    }
    let total: u64 = sums.labelled.iter().sum();
    sums.loss = (0..weighing.alpha.len())
        .map(|t| {
            let n = match weighing.reduction {
                LossReduction::TaskMean => sums.labelled[t],
                LossReduction::TokenMean => total,
            };
            weighing.alpha[t] * sums.nll[t] / n.max(1) as f64
        })
        .sum();
    Ok(sums)
}

/// Labelled positions whose logits are held at once.
const ROWS: usize = 256;

/// Of each task's labelled tokens, the share to which the model gives the highest probability of all; `None` for a
/// task without any. A forward pass of its own: the fused loss never holds the logits that this needs.
///
/// # Errors
/// When an id is out of range for the model.
pub fn token_accuracy(model: &Llama, data: &Dataset, batch_size: usize) -> Result<Vec<Option<f64>>> {
    let tasks = data.tasks().len();
    let (mut right, mut all) = (vec![0_u64; tasks], vec![0_u64; tasks]);
    let vocab = model.config().vocab_size;
    let indices: Vec<u32> = (0..data.len() as u32).collect();
    for chunk in indices.chunks(batch_size.max(1)) {
        let batch = pack(data, chunk);
        if batch.label_rows.is_empty() {
            continue;
        }
        no_grad(|| -> Result<()> {
            let hidden = model.hidden(&batch.sequences, &Pass::default())?;
            for start in (0..batch.label_rows.len()).step_by(ROWS) {
                let end = (start + ROWS).min(batch.label_rows.len());
                let logits = model.logits_at(&hidden, &batch.label_rows[start..end])?.to_vec_f32()?;
                for (i, row) in (start..end).zip(logits.chunks(vocab)) {
                    let target = batch.targets[i] as usize;
                    // The first of several equal ones counts, as torch's argmax has it.
                    let best = (1..vocab).fold(0, |best, id| if row[id] > row[best] { id } else { best });
                    let task = batch.label_tasks[i].index();
                    all[task] += 1;
                    right[task] += u64::from(best == target);
                }
            }
            Ok(())
        })?;
    }
    Ok(right.iter().zip(&all).map(|(r, n)| (*n > 0).then(|| *r as f64 / *n as f64)).collect())
}

/// `eval_loss`, `eval_<task>_loss`, `eval_<task>_perplexity` and `eval_runtime` (seconds) added to `entry`.
pub fn evaluation_entry(
    mut entry: LogEntry,
    loss: &StepLoss,
    tasks: &[String],
    runtime: Duration,
) -> LogEntry {
    entry.set("eval_loss", loss.loss);
    for (i, name) in tasks.iter().enumerate() {
        if let Some(mean) = loss.task_loss(i) {
            entry.set(format!("eval_{name}_loss"), mean);
            entry.set(format!("eval_{name}_perplexity"), mean.exp());
        }
    }
    entry.with("eval_runtime", runtime.as_secs_f64())
}

/// The names that an evaluation logs, in order.
fn logged(config: &TrainConfig, data: &RunData, answers: Option<&Answers>) -> Vec<String> {
    let Some(eval) = &data.eval else { return vec![] };
    let mut names = vec!["eval_loss".to_string()];
    let evaluated: HashSet<&str> =
        eval.iter().filter(|e| e.label_tokens() > 0).map(|e| data.tasks.name(e.task)).collect();
    for task in data.tasks.names().iter().filter(|task| evaluated.contains(task.as_str())) {
        let mut add = |score: &str| names.push(format!("eval_{task}_{score}"));
        add("loss");
        add("perplexity");
        if config.evaluation.compute_accuracy {
            add(TOKEN_ACCURACY);
        }
        if let Some(answers) = answers {
            TEXT_SCORES.into_iter().for_each(&mut add);
            if answers.questions.scoring.labels.contains_key(task) {
                LABEL_SCORES.into_iter().for_each(&mut add);
            }
            if answers.questions.scoring.extraction.applies_to(task) {
                add("answered");
            }
        }
    }
    names
}

/// `eval_<task>_token_accuracy`.
const TOKEN_ACCURACY: &str = "token_accuracy";

/// The questions of an evaluation by generation, and how they are answered: greedily, so that a score says something
/// of the model alone.
pub struct Answers {
    renderer: Renderer,
    questions: Questions,
    options: GenerateOptions,
    skip_special_tokens: bool,
}

impl Answers {
    /// The questions that `config` asks for, among the examples that it evaluates on.
    ///
    /// # Errors
    /// A row that cannot be read or rendered, a pattern or a constraint that cannot be used.
    pub fn new(config: &TrainConfig) -> Result<Self> {
        let renderer = super::setup::renderer(config)?;
        let all = conversations(config, &renderer)?;
        Self::among(config, renderer, all)
    }

    fn among(config: &TrainConfig, renderer: Renderer, all: Vec<Conversation>) -> Result<Self> {
        let args = &config.evaluation;
        let labels = task_labels(config)?;
        let asked = sample(all, &labels, args.eval_generate_samples, super::setup::data_seed(config));
        let mut questions = Questions::new(&renderer, asked, scoring(config, labels)?)?;
        questions.constrain(&renderer, &args.constrain_labels)?;
        let mut generate = config.generate.clone();
        generate.do_sample = false;
        match args.eval_max_new_tokens {
            Some(most) => generate.max_new_tokens = most,
            None => questions.limit_by_references(&renderer)?,
        }
        let batch = config.train.per_device_eval_batch_size;
        let options = generate_options(&generate, renderer.stop_ids(), config.run.seed, batch);
        Ok(Self { renderer, questions, options, skip_special_tokens: generate.skip_special_tokens })
    }

    /// How many questions there are.
    pub fn len(&self) -> usize {
        self.questions.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.questions.is_empty()
    }

    /// The model's answers and their scores by task.
    ///
    /// # Errors
    /// A model that yields non-finite logits.
    pub fn score(
        &self,
        model: &Llama,
        progress: &mut dyn FnMut(Answered),
    ) -> Result<(Vec<Prediction>, BTreeMap<String, TaskReport>)> {
        let answers = self.questions.answers(
            model,
            &self.renderer,
            &self.options,
            self.skip_special_tokens,
            progress,
        )?;
        let reports = self.questions.scoring.reports(pairs(&answers));
        Ok((answers, reports))
    }
}

/// What one evaluation measured.
#[derive(Debug, Clone, Default)]
pub struct Evaluation {
    /// Losses.
    pub loss: StepLoss,
    /// Shares of label tokens found likeliest, by task; empty unless asked for.
    pub token_accuracy: Vec<Option<f64>>,
    /// Scores of the model's answers, by task; empty unless it answers.
    pub reports: BTreeMap<String, TaskReport>,
    /// Its duration.
    pub runtime: Duration,
}

impl Evaluation {
    /// Measures what `config` asks for.
    ///
    /// # Errors
    /// As [`evaluate`] and [`Answers::score`].
    pub fn measure(
        config: &TrainConfig,
        model: &Llama,
        data: &Dataset,
        weighing: &Weighing,
        answers: Option<&Answers>,
        progress: &mut dyn FnMut(Answered),
    ) -> Result<Self> {
        let started = Instant::now();
        let batch = config.train.per_device_eval_batch_size;
        let mut out = Evaluation { loss: evaluate(model, data, batch, weighing)?, ..Evaluation::default() };
        if config.evaluation.compute_accuracy {
            out.token_accuracy = token_accuracy(model, data, batch)?;
        }
        if let Some(answers) = answers {
            out.reports = answers.score(model, progress)?.1;
        }
        out.runtime = started.elapsed();
        Ok(out)
    }

    /// Everything as it is logged: `eval_loss`, `eval_<task>_<measurement>`, `eval_runtime`.
    pub fn entry(&self, entry: LogEntry, tasks: &[String]) -> LogEntry {
        let mut entry = evaluation_entry(entry, &self.loss, tasks, self.runtime);
        for (task, accuracy) in tasks.iter().zip(&self.token_accuracy) {
            if let Some(accuracy) = accuracy {
                entry.set(format!("eval_{task}_{TOKEN_ACCURACY}"), *accuracy);
            }
        }
        for (task, report) in &self.reports {
            for (name, score) in report.scores() {
                entry.set(format!("eval_{task}_{name}"), score);
            }
        }
        entry
    }

    /// The content of `eval_results.json`: the logged entry under Hugging Face's names, then every measurement as
    /// `<task>/<name>`.
    pub fn results(&self, entry: &LogEntry, tasks: &Tasks) -> Map<String, Value> {
        let mut results: Map<String, Value> =
            entry.values().map(|(name, value)| (name.to_string(), json!(value))).collect();
        for (i, task) in tasks.names().iter().enumerate() {
            let mut put = |name: &str, value: Value| results.insert(format!("{task}/{name}"), value);
            if let Some(mean) = self.loss.task_loss(i) {
                put("loss", json!(mean));
                put("perplexity", json!(mean.exp()));
            }
            if let Some(Some(accuracy)) = self.token_accuracy.get(i) {
                put(TOKEN_ACCURACY, json!(accuracy));
            }
            if let Some(report) = self.reports.get(task) {
                put("examples", json!(report.examples));
                for (name, score) in report.scores() {
                    put(name, json!(score));
                }
            }
        }
        results
    }
}

/// The questions of a training run, and the names that its evaluations log.
///
/// # Errors
/// As [`Answers::new`].
pub(super) fn prepare(config: &TrainConfig, data: &RunData) -> Result<(Option<Answers>, Vec<String>)> {
    let mut answers = None;
    if config.evaluation.predict_with_generate
        && let Some(eval) = &data.eval
    {
        let renderer = super::setup::renderer(config)?;
        let mut all = crate::predict::all_conversations(config)?;
        let held: HashSet<(&Path, u64)> = eval.iter().map(|e| (e.file, e.line)).collect();
        all.retain(|c| held.contains(&(c.file.as_path(), c.line)));
        answers = Some(Answers::among(config, renderer, all)?);
    }
    let names = logged(config, data, answers.as_ref());
    Ok((answers, names))
}

impl Trainer<'_> {
    /// An evaluation of the weights as they are; not yet logged.
    pub(super) fn evaluation(&self, data: &Dataset, sink: &mut dyn EventSink) -> Result<Evaluation> {
        Evaluation::measure(
            self.config,
            &self.model,
            data,
            &self.weighing,
            self.answers.as_ref(),
            &mut |at| sink.event(&Event::Answering(at)),
        )
    }

    /// An evaluation during training, logged and weighed: whether it is the best so far.
    pub(super) fn evaluate(&mut self, sink: &mut dyn EventSink) -> Result<bool> {
        let Some(eval) = &self.data.eval else { return Ok(false) };
        let measured = self.evaluation(eval, sink)?;
        let entry =
            measured.entry(LogEntry::new(self.state.global_step, self.state.epoch), self.data.tasks.names());
        let best = self.best.observe(&mut self.state, &entry);
        self.record(entry.clone(), sink);
        sink.event(&Event::Evaluated(entry));
        Ok(best)
    }
}
