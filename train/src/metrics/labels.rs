//! Accuracy and macro-F1 where answers are labels, as scikit-learn defines them.

use std::collections::BTreeSet;

use super::{Pair, f_measure};

/// More distinct references than this are no longer labels.
const MOST_LABELS: usize = 20;

/// Whether the references are labels: at most 20 distinct ones, and at most half as many as there are examples.
pub fn are_labels(pairs: &[Pair<'_>]) -> bool {
    let distinct = classes(pairs).len();
    distinct > 0 && distinct <= MOST_LABELS && 2 * distinct <= pairs.len()
}

/// Share of predictions that are their reference, but for space around them: `accuracy_score`. 0 without pairs.
pub fn accuracy(pairs: &[Pair<'_>]) -> f64 {
    let right = pairs.iter().filter(|pair| pair.prediction.trim() == pair.reference.trim()).count();
    right as f64 / pairs.len().max(1) as f64
}

/// Unweighted mean over the references' classes of each one's F1.
///
/// `f1_score(labels=sorted(set(references)), average="macro", zero_division=0)`: an answer that is no class is wrong
/// for its reference, but does not count as a class of its own. 0 without pairs.
pub fn macro_f1(pairs: &[Pair<'_>]) -> f64 {
    let classes = classes(pairs);
    let f1 = |class: &str| {
        let predicted = pairs.iter().filter(|pair| pair.prediction.trim() == class).count();
        let actual = pairs.iter().filter(|pair| pair.reference.trim() == class).count();
        let both =
            pairs.iter().filter(|pair| pair.prediction.trim() == class && pair.reference.trim() == class);
        let both = both.count() as f64;
        f_measure(both / predicted.max(1) as f64, both / actual.max(1) as f64)
    };
    classes.iter().map(|class| f1(class)).sum::<f64>() / classes.len().max(1) as f64
}

fn classes<'a>(pairs: &[Pair<'a>]) -> BTreeSet<&'a str> {
    pairs.iter().map(|pair| pair.reference.trim()).collect()
}
