//! Scores where answers are labels, as scikit-learn defines them. Classes are those of the references: an answer
//! outside them is wrong for its reference, but no class of its own.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Pair, f_measure};

/// More distinct references than this are no longer labels.
const MOST_LABELS: usize = 20;

/// Whether the references are labels: at most 20 distinct ones, and at most half as many as there are examples.
pub fn are_labels(pairs: &[Pair<'_>]) -> bool {
    label_set(pairs.iter().map(|pair| pair.reference)).is_some()
}

/// The distinct texts among `references`, where they are labels (see [`are_labels`]).
pub fn label_set<'a>(references: impl IntoIterator<Item = &'a str>) -> Option<BTreeSet<String>> {
    let mut labels = BTreeSet::new();
    let mut count = 0_usize;
    for reference in references {
        count += 1;
        if !labels.contains(reference.trim()) {
            labels.insert(reference.trim().to_string());
            if labels.len() > MOST_LABELS {
                return None;
            }
        }
    }
    (!labels.is_empty() && 2 * labels.len() <= count).then_some(labels)
}

/// Share of predictions that are their reference, but for space around them: `accuracy_score`. 0 without pairs.
pub fn accuracy(pairs: &[Pair<'_>]) -> f64 {
    let right = pairs.iter().filter(|pair| pair.prediction.trim() == pair.reference.trim()).count();
    right as f64 / pairs.len().max(1) as f64
}

/// Unweighted mean over the references' classes of each one's F1:
/// `f1_score(labels=sorted(set(references)), average="macro", zero_division=0)`. 0 without pairs.
pub fn macro_f1(pairs: &[Pair<'_>]) -> f64 {
    let table = LabelTable::new(pairs);
    table.labels.iter().map(|label| label.f1).sum::<f64>() / table.labels.len().max(1) as f64
}

/// F1 of all classes' decisions counted together, `average="micro"`: the accuracy, unless some answers are no class,
/// which cost recall but not precision. 0 without pairs.
pub fn micro_f1(pairs: &[Pair<'_>]) -> f64 {
    let table = LabelTable::new(pairs);
    let right: usize = (0..table.labels.len()).map(|i| table.confusion[i][i]).sum();
    let outside: usize = table.confusion.iter().filter_map(|row| row.last()).sum();
    let precision = right as f64 / (pairs.len() - outside).max(1) as f64;
    f_measure(precision, right as f64 / pairs.len().max(1) as f64)
}

/// How well one label is found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabelScore {
    /// The label.
    pub label: String,
    /// Of the answers that are this label, the share that should be; 0 without any.
    pub precision: f64,
    /// Of the examples of this label, the share answered so.
    pub recall: f64,
    /// Harmonic mean of the two.
    pub f1: f64,
    /// Examples of this label.
    pub support: usize,
}

/// Precision, recall and F1 of each label, and which is taken for which.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabelTable {
    /// The references' labels, sorted.
    pub labels: Vec<LabelScore>,
    /// A row for each label (of the reference), a column for each label (of the answer), and a last column for
    /// answers that are no label: counts of examples.
    pub confusion: Vec<Vec<usize>>,
}

impl LabelTable {
    /// Counts the pairs.
    pub fn new(pairs: &[Pair<'_>]) -> Self {
        let classes: BTreeSet<&str> = pairs.iter().map(|pair| pair.reference.trim()).collect();
        let index: BTreeMap<&str, usize> = classes.iter().enumerate().map(|(i, class)| (*class, i)).collect();
        let mut confusion = vec![vec![0; classes.len() + 1]; classes.len()];
        for pair in pairs {
            let answer = index.get(pair.prediction.trim()).copied().unwrap_or(classes.len());
            confusion[index[pair.reference.trim()]][answer] += 1;
        }
        let labels = classes
            .iter()
            .enumerate()
            .map(|(i, class)| {
                let right = confusion[i][i] as f64;
                let support: usize = confusion[i].iter().sum();
                let answered: usize = confusion.iter().map(|row| row[i]).sum();
                let (precision, recall) = (right / answered.max(1) as f64, right / support.max(1) as f64);
                let f1 = f_measure(precision, recall);
                LabelScore { label: class.to_string(), precision, recall, f1, support }
            })
            .collect();
        Self { labels, confusion }
    }
}
