//! ROUGE-N and ROUGE-L F-measures, as Google's rouge-score 0.1.2 computes them with `use_stemmer=False`
//! (<https://github.com/google-research/google-research/tree/master/rouge>; Lin 2004). Its tokeniser knows ASCII
//! words only; unless the language is [`Language::En`], Chinese characters and kana are words here too.

use super::language::is_ideograph;
use super::{Language, f_measure, overlap};

/// F-measure over shared runs of `n` words.
pub fn rouge_n(prediction: &str, reference: &str, n: usize, language: Language) -> f64 {
    let (prediction, reference) = (words(prediction, language), words(reference, language));
    let runs =
        |words: &[String]| -> Vec<Vec<String>> { words.windows(n.max(1)).map(<[String]>::to_vec).collect() };
    let (prediction, reference) = (runs(&prediction), runs(&reference));
    let shared = overlap(&prediction, &reference) as f64;
    f_measure(shared / prediction.len().max(1) as f64, shared / reference.len().max(1) as f64)
}

/// F-measure over the longest common subsequence of words.
pub fn rouge_l(prediction: &str, reference: &str, language: Language) -> f64 {
    let (prediction, reference) = (words(prediction, language), words(reference, language));
    if prediction.is_empty() || reference.is_empty() {
        return 0.0;
    }
    let shared = longest_common_subsequence(&prediction, &reference) as f64;
    f_measure(shared / prediction.len() as f64, shared / reference.len() as f64)
}

/// Runs of ASCII letters and digits, in lower case, and single ideographs; everything else separates.
fn words(text: &str, language: Language) -> Vec<String> {
    let mut words: Vec<String> = vec![];
    let mut run = String::new();
    for c in text.to_lowercase().chars() {
        if c.is_ascii_alphanumeric() {
            run.push(c);
            continue;
        }
        if !run.is_empty() {
            words.push(std::mem::take(&mut run));
        }
        if language != Language::En && is_ideograph(c) {
            words.push(c.to_string());
        }
    }
    if !run.is_empty() {
        words.push(run);
    }
    words
}

/// Length of the longest common subsequence, by the row-by-row table.
fn longest_common_subsequence(a: &[String], b: &[String]) -> usize {
    let mut above = vec![0; b.len() + 1];
    let mut row = vec![0; b.len() + 1];
    for item in a {
        for (index, other) in b.iter().enumerate() {
            row[index + 1] = if item == other { above[index] + 1 } else { row[index].max(above[index + 1]) };
        }
        std::mem::swap(&mut above, &mut row);
    }
    above[b.len()]
}
