//! Exact match and F1 over words, as SQuAD 2.0's evaluation script defines them
//! (<https://rajpurkar.github.io/SQuAD-explorer/>).

use super::{f_measure, overlap};

/// Whether both are the same after [`normalized`].
pub fn exact_match(prediction: &str, reference: &str) -> bool {
    normalized(prediction) == normalized(reference)
}

/// F1 over the words of both after [`normalized`]; where one has no words, 1 if neither has.
pub fn token_f1(prediction: &str, reference: &str) -> f64 {
    let (prediction, reference) = (normalized(prediction), normalized(reference));
    if prediction.is_empty() || reference.is_empty() {
        return if prediction == reference { 1.0 } else { 0.0 };
    }
    let shared = overlap(&prediction, &reference) as f64;
    f_measure(shared / prediction.len() as f64, shared / reference.len() as f64)
}

/// Words in lower case, without ASCII punctuation, without the articles a, an, the.
fn normalized(text: &str) -> Vec<String> {
    let lower = text.to_lowercase();
    let plain: String = lower.chars().filter(|character| !character.is_ascii_punctuation()).collect();
    without_articles(&plain).split_whitespace().map(str::to_string).collect()
}

/// `re.sub(r"\b(a|an|the)\b", " ", text)`: an article is a whole run of letters and digits.
fn without_articles(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let word_end = rest.find(|c: char| !c.is_alphanumeric()).unwrap_or(rest.len());
        let (word, after) = rest.split_at(word_end);
        kept.push_str(if matches!(word, "a" | "an" | "the") { " " } else { word });
        let gap_end = after.find(char::is_alphanumeric).unwrap_or(after.len());
        kept.push_str(&after[..gap_end]);
        rest = &after[gap_end..];
    }
    kept
}
