//! Corpus BLEU-4 (Papineni et al. 2002) as sacrebleu 2 computes it (arXiv 1804.08771): `13a` tokenisation, or `zh`
//! for Chinese; exponential smoothing, case kept, one reference each.
//!
//! LLaMA-Factory's `predict_bleu-4` is another number: the mean of nltk's sentence BLEU over characters. The corpus
//! score is what papers report, so that is the one here.

use super::language::{is_ideograph, is_space, split_at_space};
use super::{Language, Pair};
use std::collections::HashMap;

const ORDER: usize = 4;

/// BLEU-4 of all pairs together, as a share (sacrebleu's score / 100). 0 without a shared word, or where no
/// prediction has four words.
pub fn corpus_bleu(pairs: &[Pair<'_>], language: Language) -> f64 {
    let chinese = is_chinese(pairs, language);
    let (mut correct, mut total) = ([0_u64; ORDER], [0_u64; ORDER]);
    let (mut predicted, mut expected) = (0_u64, 0_u64);
    for pair in pairs {
        let (prediction, reference) = (tokens(pair.prediction, chinese), tokens(pair.reference, chinese));
        predicted += prediction.len() as u64;
        expected += reference.len() as u64;
        for n in 1..=ORDER {
            let mut there: HashMap<&[String], u64> = HashMap::new();
            for run in reference.windows(n) {
                *there.entry(run).or_default() += 1;
            }
            for run in prediction.windows(n) {
                total[n - 1] += 1;
                if let Some(left) = there.get_mut(run).filter(|left| **left > 0) {
                    *left -= 1;
                    correct[n - 1] += 1;
                }
            }
        }
    }
    if correct.iter().all(|n| *n == 0) || total.contains(&0) {
        return 0.0;
    }
    let mut smoothing = 1.0;
    let log_precisions: f64 = correct
        .iter()
        .zip(&total)
        .map(|(correct, total)| {
            // Method 3 of Chen and Cherry 2014: each order without a match counts half as much as the one before.
            let matched = if *correct == 0 {
                smoothing /= 2.0;
                smoothing
            } else {
                *correct as f64
            };
            (matched / *total as f64).ln()
        })
        .sum();
    let brevity = if predicted < expected { (1.0 - expected as f64 / predicted as f64).exp() } else { 1.0 };
    brevity * (log_precisions / ORDER as f64).exp()
}

/// A corpus has one tokeniser: the Chinese one where at least half of the references hold Chinese.
fn is_chinese(pairs: &[Pair<'_>], language: Language) -> bool {
    match language {
        Language::En => false,
        Language::Zh => true,
        Language::Auto => {
            let written = pairs.iter().filter(|pair| !pair.reference.trim().is_empty());
            let (mut all, mut chinese) = (0, 0);
            for pair in written {
                all += 1;
                chinese += usize::from(pair.reference.chars().any(is_ideograph));
            }
            chinese > 0 && 2 * chinese >= all
        }
    }
}

fn tokens(text: &str, chinese: bool) -> Vec<String> {
    let text = text.trim_end_matches(is_space);
    let prepared = if chinese {
        let mut spaced = String::with_capacity(2 * text.len());
        for c in text.trim_matches(is_space).chars() {
            if sacrebleu_chinese(c) {
                spaced.extend([' ', c, ' ']);
            } else {
                spaced.push(c);
            }
        }
        spaced
    } else {
        let joined = text.replace("<skipped>", "").replace("-\n", "").replace('\n', " ");
        let plain =
            joined.replace("&quot;", "\"").replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">");
        format!(" {plain} ")
    };
    split_at_space(&western(&prepared)).map(str::to_string).collect()
}

/// mteval-v13a's rules: symbols stand alone; so do points and commas unless between digits, and a dash after a digit.
fn western(text: &str) -> String {
    let symbol = |c: char| matches!(c, '{'..='~' | '['..='`' | ' '..='&' | '('..='+' | ':'..='@' | '/');
    let mut line: Vec<char> = vec![];
    for c in text.chars() {
        if symbol(c) {
            line.extend([' ', c, ' ']);
        } else {
            line.push(c);
        }
    }
    let mark = |c: char| matches!(c, '.' | ',');
    let line = separated(&line, |a, b| !a.is_ascii_digit() && mark(b), |a, b| [a, ' ', b, ' ']);
    let line = separated(&line, |a, b| mark(a) && !b.is_ascii_digit(), |a, b| [' ', a, ' ', b]);
    separated(&line, |a, b| a.is_ascii_digit() && b == '-', |a, b| [a, ' ', b, ' ']).into_iter().collect()
}

/// Replaces pairs of neighbours that match, from the left and without overlap, as `re.sub` does.
fn separated(
    line: &[char],
    matches: impl Fn(char, char) -> bool,
    replace: impl Fn(char, char) -> [char; 4],
) -> Vec<char> {
    let mut out = Vec::with_capacity(line.len() + 16);
    let mut i = 0;
    while i < line.len() {
        match line.get(i + 1) {
            Some(&next) if matches(line[i], next) => {
                out.extend(replace(line[i], next));
                i += 2;
            }
            _ => {
                out.push(line[i]);
                i += 1;
            }
        }
    }
    out
}

/// The characters that sacrebleu's `zh` tokeniser sets apart. Its two ranges beyond U+FFFF are written with four hex
/// digits, `'\u20000'..'\u2a6d6'`, and so compare as U+2000 followed by `0`: dashes, quotes, arrows and mathematical
/// signs from U+2001 to U+2A6D are set apart, ideographs of the supplementary planes are not.
fn sacrebleu_chinese(c: char) -> bool {
    matches!(c,
        '\u{3400}'..='\u{4DB5}' | '\u{4E00}'..='\u{9FBB}'
        | '\u{F900}'..='\u{FA2D}' | '\u{FA30}'..='\u{FA6A}' | '\u{FA70}'..='\u{FAD9}'
        | '\u{2001}'..='\u{2A6D}' | '\u{2E80}'..='\u{2EFF}' | '\u{2F00}'..='\u{2FDF}' | '\u{2FF0}'..='\u{2FFF}'
        | '\u{3000}'..='\u{303F}' | '\u{3100}'..='\u{312F}' | '\u{31A0}'..='\u{31BF}' | '\u{31C0}'..='\u{31EF}'
        | '\u{3200}'..='\u{33FF}' | '\u{FE10}'..='\u{FE1F}' | '\u{FE30}'..='\u{FE4F}' | '\u{FF00}'..='\u{FFEF}')
}
