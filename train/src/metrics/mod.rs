//! How well predicted texts match their references, task by task. Scores are shares in [0, 1].

mod bleu;
mod extract;
mod labels;
mod language;
mod rouge;
mod squad;

pub use bleu::corpus_bleu;
pub use extract::{AnswerRegex, Extraction, PatternError};
pub use labels::{LabelScore, LabelTable, accuracy, are_labels, label_set, macro_f1, micro_f1};
pub use language::Language;
pub use rouge::{rouge_l, rouge_n};
pub use squad::{exact_match, token_f1};

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// The names of the scores that every task has, as in result files.
pub const TEXT_SCORES: [&str; 6] = ["exact_match", "f1", "rouge1", "rouge2", "rougeL", "bleu4"];
/// The names of the scores of tasks whose references are labels.
pub const LABEL_SCORES: [&str; 3] = ["accuracy", "macro_f1", "micro_f1"];

/// A prediction and what it should have been.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pair<'a> {
    /// What the model wrote.
    pub prediction: &'a str,
    /// What the example says.
    pub reference: &'a str,
}

/// The scores of one task, each a mean over its examples unless said otherwise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskReport {
    /// Number of examples.
    pub examples: usize,
    /// Equal after SQuAD's normalisation.
    pub exact_match: f64,
    /// SQuAD's F1 over words.
    pub f1: f64,
    /// ROUGE-1 F-measure.
    pub rouge1: f64,
    /// ROUGE-2 F-measure.
    pub rouge2: f64,
    /// ROUGE-L F-measure.
    #[serde(rename = "rougeL")]
    pub rouge_l: f64,
    /// Corpus BLEU-4.
    pub bleu4: f64,
    /// Share of labels that are right; only where the references are labels ([`are_labels`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
    /// Unweighted mean of each label's F1; only where the references are labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub macro_f1: Option<f64>,
    /// F1 of all labels' decisions together; only where the references are labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub micro_f1: Option<f64>,
    /// Share of replies in which `answer_regex` found an answer; only where one applies. The others count as empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answered: Option<f64>,
}

impl TaskReport {
    /// Scores a task's pairs, as labels if they look like ones; `None` without any.
    pub fn score(pairs: &[Pair<'_>]) -> Option<Self> {
        Self::score_as(pairs, Language::Auto, are_labels(pairs))
    }

    /// Scores a task's pairs in `language`, with `labels` as labels too; `None` without any.
    pub fn score_as(pairs: &[Pair<'_>], language: Language, labels: bool) -> Option<Self> {
        if pairs.is_empty() {
            return None;
        }
        let mean = |metric: &dyn Fn(&str, &str) -> f64| {
            pairs.iter().map(|pair| metric(pair.prediction, pair.reference)).sum::<f64>() / pairs.len() as f64
        };
        Some(Self {
            examples: pairs.len(),
            exact_match: mean(&|prediction, reference| {
                f64::from(u8::from(exact_match(prediction, reference, language)))
            }),
            f1: mean(&|prediction, reference| token_f1(prediction, reference, language)),
            rouge1: mean(&|prediction, reference| rouge_n(prediction, reference, 1, language)),
            rouge2: mean(&|prediction, reference| rouge_n(prediction, reference, 2, language)),
            rouge_l: mean(&|prediction, reference| rouge_l(prediction, reference, language)),
            bleu4: corpus_bleu(pairs, language),
            accuracy: labels.then(|| accuracy(pairs)),
            macro_f1: labels.then(|| macro_f1(pairs)),
            micro_f1: labels.then(|| micro_f1(pairs)),
            answered: None,
        })
    }

    /// Each score with its name, as in result files: [`TEXT_SCORES`], then [`LABEL_SCORES`] where there are labels.
    pub fn scores(&self) -> Vec<(&'static str, f64)> {
        let text = [self.exact_match, self.f1, self.rouge1, self.rouge2, self.rouge_l, self.bleu4].map(Some);
        let labels = [self.accuracy, self.macro_f1, self.micro_f1];
        let named = TEXT_SCORES.into_iter().zip(text).chain(LABEL_SCORES.into_iter().zip(labels));
        named.chain([("answered", self.answered)]).filter_map(|(name, score)| Some((name, score?))).collect()
    }
}

/// How replies become scores.
#[derive(Debug, Clone, Default)]
pub struct Scoring {
    /// How texts are cut into words.
    pub language: Language,
    /// Where the answer stands in a reply.
    pub extraction: Extraction,
    /// The labels of tasks whose references are labels, where they are known from more examples than those scored. A
    /// task that is not in it is judged by its references.
    pub labels: BTreeMap<String, BTreeSet<String>>,
}

impl Scoring {
    /// Scores every task of a mixed list of (task, pair).
    pub fn reports<'a>(
        &self,
        examples: impl IntoIterator<Item = (&'a str, Pair<'a>)>,
    ) -> BTreeMap<String, TaskReport> {
        let mut by_task: BTreeMap<String, Vec<(Pair<'a>, bool)>> = BTreeMap::new();
        for (task, pair) in examples {
            let answer = self.extraction.answer(task, pair.prediction);
            let reference = self.extraction.reference(task, pair.reference);
            let pair = Pair { prediction: answer.unwrap_or_default(), reference };
            by_task.entry(task.to_string()).or_default().push((pair, answer.is_some()));
        }
        let report = |(task, found): (String, Vec<(Pair<'a>, bool)>)| {
            let pairs: Vec<Pair<'_>> = found.iter().map(|(pair, _)| *pair).collect();
            let labels = self.labels.contains_key(&task) || are_labels(&pairs);
            let mut report = TaskReport::score_as(&pairs, self.language, labels)?;
            if self.extraction.applies_to(&task) {
                let answered = found.iter().filter(|(_, answered)| *answered).count();
                report.answered = Some(answered as f64 / pairs.len() as f64);
            }
            Some((task, report))
        };
        by_task.into_iter().filter_map(report).collect()
    }

    /// The label table of every task that has labels.
    pub fn label_tables<'a>(
        &self,
        examples: impl IntoIterator<Item = (&'a str, Pair<'a>)>,
    ) -> BTreeMap<String, LabelTable> {
        let mut by_task: BTreeMap<&str, Vec<Pair<'a>>> = BTreeMap::new();
        for (task, pair) in examples {
            let prediction = self.extraction.answer(task, pair.prediction).unwrap_or_default();
            let reference = self.extraction.reference(task, pair.reference);
            by_task.entry(task).or_default().push(Pair { prediction, reference });
        }
        by_task
            .into_iter()
            .filter(|(task, pairs)| self.labels.contains_key(*task) || are_labels(pairs))
            .map(|(task, pairs)| (task.to_string(), LabelTable::new(&pairs)))
            .collect()
    }
}

/// Scores every task of a mixed list of (task, pair), with [`Scoring`]'s defaults.
pub fn score_tasks<'a>(
    examples: impl IntoIterator<Item = (&'a str, Pair<'a>)>,
) -> BTreeMap<String, TaskReport> {
    Scoring::default().reports(examples)
}

/// 2PR / (P + R), 0 where both are 0.
fn f_measure(precision: f64, recall: f64) -> f64 {
    if precision + recall > 0.0 { 2.0 * precision * recall / (precision + recall) } else { 0.0 }
}

/// How many items two multisets share.
fn overlap<T: std::hash::Hash + Eq>(a: &[T], b: &[T]) -> usize {
    let mut counts = std::collections::HashMap::new();
    for item in a {
        *counts.entry(item).or_insert(0_usize) += 1;
    }
    let mut shared = 0;
    for item in b {
        if let Some(left) = counts.get_mut(item).filter(|left| **left > 0) {
            *left -= 1;
            shared += 1;
        }
    }
    shared
}

#[cfg(test)]
mod tests;
