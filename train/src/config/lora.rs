//! Which weights are trained.

use super::choices::{FinetuningType, LoraTarget};
use serde::{Deserialize, Serialize};

/// Which weights are trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoraArgs {
    /// Adapters on a frozen base, or every weight.
    pub finetuning_type: FinetuningType,
    /// Rank r of the low-rank update.
    pub lora_rank: usize,
    /// Scale: the update counts α / r. `None`: 2 · `lora_rank`.
    pub lora_alpha: Option<f64>,
    /// Share of the adapter's input dropped in training, in [0, 1).
    pub lora_dropout: f64,
    /// Linear layers that get an adapter.
    pub lora_target: LoraTarget,
    /// Scale by α / √r instead of α / r (rank-stabilised LoRA, arXiv 2312.03732).
    pub use_rslora: bool,
    /// Train a magnitude an output feature beside the low-rank direction (DoRA, arXiv 2402.09353).
    pub use_dora: bool,
    /// Start from the principal singular directions of the weights and keep the rest as the base (PiSSA, arXiv
    /// 2404.02948).
    pub pissa_init: bool,
    /// Power iterations of PiSSA's randomised decomposition; -1: an exact one, which takes many times as long.
    pub pissa_iter: i64,
    /// Save PiSSA's adapter as a plain one of twice the rank for the original base; false: as trained, with the
    /// residual base it belongs to in `pissa_base/`.
    pub pissa_convert: bool,
    /// Learning rate of B over that of A (LoRA+, arXiv 2402.12354); `None`: one rate for both.
    pub loraplus_lr_ratio: Option<f64>,
    /// Modules trained in full beside the adapter and kept in its file: `embed_tokens`, `lm_head`, `norm`.
    pub additional_target: Vec<String>,
    /// Blocks that `freeze` trains: the last n, or the first |n| where n is below 0.
    pub freeze_trainable_layers: i64,
    /// Their modules: `all`, or some of `self_attn`, `mlp`, `input_layernorm`, `post_attention_layernorm`.
    pub freeze_trainable_modules: Vec<String>,
    /// Modules outside the blocks that `freeze` trains too: `embed_tokens`, `norm`, `lm_head`.
    pub freeze_extra_modules: Vec<String>,
}

impl Default for LoraArgs {
    fn default() -> Self {
        Self {
            finetuning_type: FinetuningType::Lora,
            lora_rank: 8,
            lora_alpha: None,
            lora_dropout: 0.0,
            lora_target: LoraTarget::All,
            use_rslora: false,
            use_dora: false,
            pissa_init: false,
            pissa_iter: 16,
            pissa_convert: true,
            loraplus_lr_ratio: None,
            additional_target: vec![],
            freeze_trainable_layers: 2,
            freeze_trainable_modules: vec!["all".into()],
            freeze_extra_modules: vec![],
        }
    }
}

impl LoraArgs {
    /// The adapter's α: as given, or LLaMA-Factory's default of twice the rank.
    pub fn alpha(&self) -> f64 {
        self.lora_alpha.unwrap_or(2.0 * self.lora_rank as f64)
    }
}
