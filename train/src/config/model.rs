//! Which model, which adapter, in which storage.

use super::choices::QuantizationType;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The base model and the adapter on it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelArgs {
    /// Hugging Face folder: `config.json`, `*.safetensors`, `tokenizer.json`.
    pub model_name_or_path: Option<PathBuf>,
    /// PEFT folder of a LoRA adapter to load on the base.
    pub adapter_name_or_path: Option<PathBuf>,
    /// `4` quantises the frozen base's linear weights to 4 bits at load; `None` keeps them as stored.
    pub quantization_bit: Option<u8>,
    /// Code book of the 4-bit quantisation.
    pub quantization_type: QuantizationType,
    /// Quantise the 4-bit blocks' scales too (4.127 instead of 4.5 bits a weight).
    pub double_quantization: bool,
    /// Start from random weights of `config.json`'s shapes instead of stored ones.
    pub train_from_scratch: bool,
}

impl Default for ModelArgs {
    fn default() -> Self {
        Self {
            model_name_or_path: None,
            adapter_name_or_path: None,
            quantization_bit: None,
            quantization_type: QuantizationType::Nf4,
            double_quantization: true,
            train_from_scratch: false,
        }
    }
}
