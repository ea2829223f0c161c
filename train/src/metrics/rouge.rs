//! ROUGE-N and ROUGE-L F-measures, as Google's rouge-score 0.1.2 computes them with `use_stemmer=False`
//! (<https://github.com/google-research/google-research/tree/master/rouge>).

use super::{f_measure, overlap};

/// F-measure over shared runs of `n` words.
pub fn rouge_n(prediction: &str, reference: &str, n: usize) -> f64 {
    let (prediction, reference) = (words(prediction), words(reference));
    let runs =
        |words: &[String]| -> Vec<Vec<String>> { words.windows(n.max(1)).map(<[String]>::to_vec).collect() };
    let (prediction, reference) = (runs(&prediction), runs(&reference));
    let shared = overlap(&prediction, &reference) as f64;
    f_measure(shared / prediction.len().max(1) as f64, shared / reference.len().max(1) as f64)
}

/// F-measure over the longest common subsequence of words.
pub fn rouge_l(prediction: &str, reference: &str) -> f64 {
    let (prediction, reference) = (words(prediction), words(reference));
    if prediction.is_empty() || reference.is_empty() {
        return 0.0;
    }
    let shared = longest_common_subsequence(&prediction, &reference) as f64;
    f_measure(shared / prediction.len() as f64, shared / reference.len() as f64)
}

/// Runs of ASCII letters and digits, in lower case; everything else separates.
fn words(text: &str) -> Vec<String> {
    let lower = text.to_lowercase();
    let separates = |character: char| !character.is_ascii_alphanumeric();
    lower.split(separates).filter(|word| !word.is_empty()).map(str::to_string).collect()
}

/// Length of the longest common subsequence, by the row-by-row table.
fn longest_common_subsequence(a: &[String], b: &[String]) -> usize {
    let mut above = vec![0; b.len() + 1];
    for item in a {
        let mut row = vec![0; b.len() + 1];
        for (index, other) in b.iter().enumerate() {
            row[index + 1] = if item == other { above[index] + 1 } else { row[index].max(above[index + 1]) };
        }
        above = row;
    }
    above[b.len()]
}
