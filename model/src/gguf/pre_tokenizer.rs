//! `tokenizer.ggml.pre`: how text is cut before byte-pair merges, in Hugging Face's terms.
//!
//! The names are llama.cpp's (`llama-vocab.cpp`); one entry of [`PRE_TOKENIZERS`] supports one more.

use serde_json::{Value, json};

/// GPT-4's pattern as LLaMA 3 and Qwen2 use it; they differ in how many digits go together.
macro_rules! gpt4_pattern {
    ($digits:literal) => {
        concat!(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|",
            $digits,
            r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        )
    };
}

/// How a tokenizer cuts text.
pub(super) struct PreTokenizer {
    /// The names llama.cpp has for it.
    names: &'static [&'static str],
    /// Cuts before the byte-level step.
    split: Split,
    /// A whole piece that is in the vocabulary is taken without merging (tiktoken's way).
    pub ignore_merges: bool,
    /// Text is brought to Unicode NFC first.
    pub nfc: bool,
    /// Whether a BOS token is prepended where the file does not say.
    pub add_bos: bool,
}

enum Split {
    /// GPT-2's own pattern, built into the byte-level step.
    Gpt2,
    /// Every digit alone, then GPT-2's pattern.
    DigitsGpt2,
    Pattern(&'static str),
}

const PRE_TOKENIZERS: [PreTokenizer; 4] = [
    PreTokenizer {
        names: &["gpt-2", "gpt2", "default", "mpt", "olmo", "jais"],
        split: Split::Gpt2,
        ignore_merges: false,
        nfc: false,
        add_bos: false,
    },
    PreTokenizer {
        names: &["smollm", "starcoder", "refact", "command-r", "codeshell"],
        split: Split::DigitsGpt2,
        ignore_merges: false,
        nfc: false,
        add_bos: false,
    },
    PreTokenizer {
        names: &["llama-bpe", "llama3", "llama-v3"],
        split: Split::Pattern(gpt4_pattern!(r"\p{N}{1,3}")),
        ignore_merges: true,
        nfc: false,
        add_bos: true,
    },
    PreTokenizer {
        names: &["qwen2", "deepseek-r1-qwen"],
        split: Split::Pattern(gpt4_pattern!(r"\p{N}")),
        ignore_merges: false,
        nfc: true,
        add_bos: false,
    },
];

impl PreTokenizer {
    /// The pre-tokenizer of that name.
    pub fn from_name(name: &str) -> Option<&'static Self> {
        PRE_TOKENIZERS.iter().find(|p| p.names.contains(&name))
    }

    /// All names, for messages.
    pub fn names() -> String {
        let names: Vec<_> = PRE_TOKENIZERS.iter().flat_map(|p| p.names).copied().collect();
        names.join(", ")
    }

    /// The `pre_tokenizer` of `tokenizer.json`.
    pub fn to_json(&self, add_prefix_space: bool) -> Value {
        let byte_level = |use_regex: bool| {
            json!({
                "type": "ByteLevel",
                "add_prefix_space": add_prefix_space,
                "trim_offsets": true,
                "use_regex": use_regex,
            })
        };
        let sequence =
            |first: Value, second: Value| json!({"type": "Sequence", "pretokenizers": [first, second]});
        match self.split {
            Split::Gpt2 => byte_level(true),
            Split::DigitsGpt2 => {
                sequence(json!({"type": "Digits", "individual_digits": true}), byte_level(true))
            }
            Split::Pattern(pattern) => sequence(
                json!({
                    "type": "Split",
                    "pattern": {"Regex": pattern},
                    "behavior": "Isolated",
                    "invert": false,
                }),
                byte_level(false),
            ),
        }
    }
}
