//! Exact match and F1 over words, as SQuAD 2.0's evaluation script defines them
//! (<https://rajpurkar.github.io/SQuAD-explorer/>); for Chinese as MLQA's script extends it (arXiv 1910.07475,
//! <https://github.com/facebookresearch/MLQA>): characters are words, there are no articles.

use super::language::{is_ideograph, is_punctuation, split_at_space};
use super::{Language, f_measure, overlap};

/// Whether both are the same after normalisation: lower case, without punctuation and articles, one space between
/// words.
pub fn exact_match(prediction: &str, reference: &str, language: Language) -> bool {
    let cut = language.cuts(prediction, reference);
    normalized(prediction, cut) == normalized(reference, cut)
}

/// F1 over the words of both after normalisation; where one has no words, 1 if neither has.
pub fn token_f1(prediction: &str, reference: &str, language: Language) -> f64 {
    let cut = language.cuts(prediction, reference);
    let (prediction, reference) = (normalized(prediction, cut), normalized(reference, cut));
    if prediction.is_empty() || reference.is_empty() {
        return if prediction == reference { 1.0 } else { 0.0 };
    }
    let shared = overlap(&prediction, &reference) as f64;
    f_measure(shared / prediction.len() as f64, shared / reference.len() as f64)
}

/// Words in lower case, without punctuation; `cut` into characters where there are no spaces, else without the
/// articles a, an, the.
fn normalized(text: &str, cut: bool) -> Vec<String> {
    let lower = text.to_lowercase();
    if cut {
        let mut spaced = String::with_capacity(2 * lower.len());
        for c in lower.chars().filter(|c| !is_punctuation(*c)) {
            if is_ideograph(c) {
                spaced.extend([' ', c, ' ']);
            } else {
                spaced.push(c);
            }
        }
        return split_at_space(&spaced).map(str::to_string).collect();
    }
    let plain: String = lower.chars().filter(|character| !character.is_ascii_punctuation()).collect();
    split_at_space(&without_articles(&plain)).map(str::to_string).collect()
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
