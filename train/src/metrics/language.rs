//! Where words are, in texts with and without spaces between them.
//!
//! Chinese and Japanese are cut into characters: no dictionary, the same result everywhere, and what sacrebleu's
//! `zh` tokeniser and MLQA's evaluation do. Scores by words of a dictionary (jieba's, which rouge-chinese uses) are
//! lower and cannot be compared with these.

use serde::{Deserialize, Serialize};

/// How texts are cut into words before they are compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Language {
    /// By the text: Chinese characters and kana one by one, the rest as in `en`.
    #[default]
    Auto,
    /// At spaces and punctuation: the references' own definitions, under which Chinese has no words.
    En,
    /// Characters, whatever the text.
    Zh,
}

impl Language {
    /// Whether a pair of texts is to be cut into characters.
    pub(super) fn cuts(self, prediction: &str, reference: &str) -> bool {
        match self {
            Language::En => false,
            Language::Zh => true,
            Language::Auto => [prediction, reference].iter().any(|text| text.chars().any(is_ideograph)),
        }
    }
}

/// Whether a character is a word of its own: Han, kana.
pub(super) fn is_ideograph(c: char) -> bool {
    matches!(c,
        '\u{3400}'..='\u{4DBF}' | '\u{4E00}'..='\u{9FFF}' | '\u{F900}'..='\u{FAFF}' | '\u{20000}'..='\u{323AF}'
        | '\u{3005}' | '\u{3007}'
        | '\u{3041}'..='\u{3096}' | '\u{309D}'..='\u{309F}' | '\u{30A1}'..='\u{30FA}' | '\u{30FC}'..='\u{30FF}'
        | '\u{31F0}'..='\u{31FF}' | '\u{FF66}'..='\u{FF9F}')
}

/// Punctuation of Unicode's category P: all of ASCII's (symbols too, as `string.punctuation` has them), and what the
/// blocks used in Chinese and Japanese typesetting hold.
pub(super) fn is_punctuation(c: char) -> bool {
    c.is_ascii_punctuation()
        || matches!(c,
            '¡' | '§' | '«' | '¶' | '·' | '»' | '¿'
            | '\u{2010}'..='\u{2027}' | '\u{2030}'..='\u{2043}' | '\u{2045}'..='\u{2051}' | '\u{2053}'..='\u{205E}'
            | '\u{3001}'..='\u{3003}' | '\u{3008}'..='\u{3011}' | '\u{3014}'..='\u{301F}' | '\u{3030}' | '\u{303D}'
            | '\u{30A0}' | '\u{30FB}'
            | '\u{FE10}'..='\u{FE19}' | '\u{FE30}'..='\u{FE52}' | '\u{FE54}'..='\u{FE61}' | '\u{FE63}' | '\u{FE68}'
            | '\u{FE6A}' | '\u{FE6B}'
            | '\u{FF01}'..='\u{FF03}' | '\u{FF05}'..='\u{FF0A}' | '\u{FF0C}'..='\u{FF0F}' | '\u{FF1A}' | '\u{FF1B}'
            | '\u{FF1F}' | '\u{FF20}' | '\u{FF3B}'..='\u{FF3D}' | '\u{FF3F}' | '\u{FF5B}' | '\u{FF5D}'
            | '\u{FF5F}'..='\u{FF65}')
}

/// Python's `str.split()`: at its white space, which has four control characters more than Unicode's.
pub(super) fn split_at_space(text: &str) -> impl Iterator<Item = &str> {
    text.split(is_space).filter(|word| !word.is_empty())
}

/// Python's `str.isspace()` for one character.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\u{1C}'..='\u{1F}')
}
