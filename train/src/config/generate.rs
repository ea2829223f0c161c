//! How completions are drawn.

use serde::{Deserialize, Serialize};

/// How completions are drawn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GenerateArgs {
    /// Draw from the distribution; `false` takes the likeliest token each time (greedy).
    pub do_sample: bool,
    /// Divides the logits before sampling; below 1 sharpens.
    pub temperature: f64,
    /// Sample from the smallest set of tokens whose probability reaches this; 1 is off.
    pub top_p: f64,
    /// Sample from this many likeliest tokens; 0 is off.
    pub top_k: usize,
    /// Most tokens of a completion.
    pub max_new_tokens: usize,
    /// Divides (positive) or multiplies (negative) the logits of tokens already seen; 1 is off.
    pub repetition_penalty: f64,
    /// Leave special tokens out of the printed text.
    pub skip_special_tokens: bool,
}

impl Default for GenerateArgs {
    fn default() -> Self {
        Self {
            do_sample: true,
            temperature: 0.95,
            top_p: 0.7,
            top_k: 50,
            max_new_tokens: 1024,
            repetition_penalty: 1.0,
            skip_special_tokens: true,
        }
    }
}
