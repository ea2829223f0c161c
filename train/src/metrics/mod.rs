//! How well predicted texts match their references, task by task. Scores are shares in [0, 1].

mod labels;
mod rouge;
mod squad;

pub use labels::{accuracy, are_labels, macro_f1};
pub use rouge::{rouge_l, rouge_n};
pub use squad::{exact_match, token_f1};

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

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
    /// Share of labels that are right; only where the references are labels ([`are_labels`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
    /// Unweighted mean of each label's F1; only where the references are labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub macro_f1: Option<f64>,
}

impl TaskReport {
    /// Scores a task's pairs; `None` without any.
    pub fn score(pairs: &[Pair<'_>]) -> Option<Self> {
        if pairs.is_empty() {
            return None;
        }
        let mean = |metric: &dyn Fn(&str, &str) -> f64| {
            pairs.iter().map(|pair| metric(pair.prediction, pair.reference)).sum::<f64>() / pairs.len() as f64
        };
        let labels = are_labels(pairs);
        Some(Self {
            examples: pairs.len(),
            exact_match: mean(&|prediction, reference| {
                f64::from(u8::from(exact_match(prediction, reference)))
            }),
            f1: mean(&token_f1),
            rouge1: mean(&|prediction, reference| rouge_n(prediction, reference, 1)),
            rouge2: mean(&|prediction, reference| rouge_n(prediction, reference, 2)),
            rouge_l: mean(&rouge_l),
            accuracy: labels.then(|| accuracy(pairs)),
            macro_f1: labels.then(|| macro_f1(pairs)),
        })
    }

    /// Each score with its name, as in result files: `exact_match`, `f1`, …
    pub fn scores(&self) -> Vec<(&'static str, f64)> {
        let always = [
            ("exact_match", self.exact_match),
            ("f1", self.f1),
            ("rouge1", self.rouge1),
            ("rouge2", self.rouge2),
            ("rougeL", self.rouge_l),
        ];
        let labels = [("accuracy", self.accuracy), ("macro_f1", self.macro_f1)];
        let labels = labels.into_iter().filter_map(|(name, score)| Some((name, score?)));
        always.into_iter().chain(labels).collect()
    }
}

/// Scores every task of a mixed list of (task, pair).
pub fn score_tasks<'a>(
    examples: impl IntoIterator<Item = (&'a str, Pair<'a>)>,
) -> BTreeMap<String, TaskReport> {
    let mut by_task: BTreeMap<String, Vec<Pair<'a>>> = BTreeMap::new();
    for (task, pair) in examples {
        by_task.entry(task.to_string()).or_default().push(pair);
    }
    by_task.into_iter().filter_map(|(task, pairs)| Some((task, TaskReport::score(&pairs)?))).collect()
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
