//! `llama.*` metadata of a GGUF file, and the `config.json` it stands for.

use super::{Error, Result};
use medley_tensor::io::Gguf;
use serde_json::{Map, Value, json};

/// The shape of a LLaMA model, as its GGUF metadata tells it (llama.cpp `gguf-py/constants.py`).
#[derive(Debug, Clone, PartialEq)]
pub(super) struct LlamaMetadata {
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub num_key_value_heads: usize,
    pub head_dim: usize,
    pub max_position_embeddings: u64,
    pub rms_norm_eps: f64,
    pub rope_theta: f64,
    pub rope_scaling: Option<Value>,
    pub vocab_size: usize,
    pub tie_word_embeddings: bool,
    pub attention_bias: bool,
    pub mlp_bias: bool,
}

/// Ids of the tokens with a role, as far as the file names them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct SpecialTokens {
    pub bos: Option<u64>,
    pub eos: Option<u64>,
    /// End of turn, where that is another token than the end of text.
    pub eot: Option<u64>,
    pub unk: Option<u64>,
    pub pad: Option<u64>,
}

impl LlamaMetadata {
    pub fn read(file: &Gguf) -> Result<Self> {
        let architecture = file.required("general.architecture", file.string("general.architecture")?)?;
        if architecture != "llama" {
            let message = format!("architecture `{architecture}` is not converted, only `llama` is");
            return Err(Error::unsupported(file, message));
        }
        if let Some(experts) = file.uint("llama.expert_count")?.filter(|&n| n > 0) {
            let message = format!("a mixture of {experts} experts is not converted, only dense models are");
            return Err(Error::unsupported(file, message));
        }
        let count = |key: &str| -> Result<usize> {
            let value = file.required(key, file.uint(key)?)?;
            match usize::try_from(value) {
                Ok(n @ 1..=0xFFFF_FFFF) => Ok(n),
                _ => Err(Error::unsupported(file, format!("`{key}` is {value}"))),
            }
        };
        let hidden_size = count("llama.embedding_length")?;
        let num_attention_heads = count("llama.attention.head_count")?;
        let num_key_value_heads = match file.value("llama.attention.head_count_kv") {
            Some(_) => count("llama.attention.head_count_kv")?,
            None => num_attention_heads,
        };
        let head_dim = match file.value("llama.attention.key_length") {
            Some(_) => count("llama.attention.key_length")?,
            None => hidden_size / num_attention_heads,
        };
        let value_dim = file.uint("llama.attention.value_length")?.unwrap_or(head_dim as u64);
        let rotated = file.uint("llama.rope.dimension_count")?.unwrap_or(head_dim as u64);
        if head_dim == 0 || head_dim % 2 != 0 || value_dim != head_dim as u64 || rotated != head_dim as u64 {
            let message = format!(
                "head size {head_dim} with values of {value_dim} and {rotated} rotated dimensions is not \
                 converted: all three must be the same even number"
            );
            return Err(Error::unsupported(file, message));
        }
        if !num_attention_heads.is_multiple_of(num_key_value_heads) {
            let message =
                format!("{num_attention_heads} heads cannot share {num_key_value_heads} key/value heads");
            return Err(Error::unsupported(file, message));
        }
        let rms_norm_eps = {
            let key = "llama.attention.layer_norm_rms_epsilon";
            file.required(key, file.float(key)?)?
        };
        let rope_theta = file.float("llama.rope.freq_base")?.unwrap_or(10_000.0);
        let embedding = file.info("token_embd.weight")?;
        Ok(LlamaMetadata {
            hidden_size,
            intermediate_size: count("llama.feed_forward_length")?,
            num_hidden_layers: count("llama.block_count")?,
            num_attention_heads,
            num_key_value_heads,
            head_dim,
            max_position_embeddings: count("llama.context_length")? as u64,
            rms_norm_eps,
            rope_theta,
            rope_scaling: rope_scaling(file, rope_theta, head_dim)?,
            vocab_size: embedding.shape.first().copied().unwrap_or(0),
            tie_word_embeddings: file.get("output.weight").is_none(),
            attention_bias: file.get("blk.0.attn_q.bias").is_some(),
            mlp_bias: file.get("blk.0.ffn_gate.bias").is_some(),
        })
    }

    /// `config.json` as transformers writes it for a `LlamaForCausalLM`.
    pub fn config_json(&self, special: &SpecialTokens, dtype: &str) -> Value {
        json!({
            "architectures": ["LlamaForCausalLM"],
            "attention_bias": self.attention_bias,
            "attention_dropout": 0.0,
            "bos_token_id": special.bos,
            "eos_token_id": eos_ids(special),
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "hidden_size": self.hidden_size,
            "initializer_range": 0.02,
            "intermediate_size": self.intermediate_size,
            "max_position_embeddings": self.max_position_embeddings,
            "mlp_bias": self.mlp_bias,
            "model_type": "llama",
            "num_attention_heads": self.num_attention_heads,
            "num_hidden_layers": self.num_hidden_layers,
            "num_key_value_heads": self.num_key_value_heads,
            "pad_token_id": special.pad,
            "pretraining_tp": 1,
            "rms_norm_eps": self.rms_norm_eps,
            "rope_scaling": self.rope_scaling,
            "rope_theta": self.rope_theta,
            "tie_word_embeddings": self.tie_word_embeddings,
            "torch_dtype": dtype,
            "use_cache": true,
            "vocab_size": self.vocab_size,
        })
    }
}

/// `generation_config.json`: which tokens start, end and pad.
pub(super) fn generation_config_json(special: &SpecialTokens) -> Value {
    let mut config = Map::new();
    config.insert("_from_model_config".to_owned(), json!(true));
    if let Some(bos) = special.bos {
        config.insert("bos_token_id".to_owned(), json!(bos));
    }
    if special.eos.is_some() || special.eot.is_some() {
        config.insert("eos_token_id".to_owned(), eos_ids(special));
    }
    if let Some(pad) = special.pad {
        config.insert("pad_token_id".to_owned(), json!(pad));
    }
    Value::Object(config)
}

/// One id, or a list where the end of a turn has its own.
fn eos_ids(special: &SpecialTokens) -> Value {
    match (special.eos, special.eot) {
        (Some(eos), Some(eot)) if eos != eot => json!([eos, eot]),
        (eos, eot) => json!(eos.or(eot)),
    }
}

/// `rope_scaling` of `config.json`: from `llama.rope.scaling.*`, or recognised from the frequency
/// factors that llama.cpp stores for LLaMA 3.1 and later.
fn rope_scaling(file: &Gguf, theta: f64, head_dim: usize) -> Result<Option<Value>> {
    if file.get("rope_freqs.weight").is_some() {
        return llama3_scaling(file, theta, head_dim).map(Some);
    }
    let kind = file.string("llama.rope.scaling.type")?;
    let factor = match file.float("llama.rope.scaling.factor")? {
        Some(factor) => Some(factor),
        None => file.float("llama.rope.scale_linear")?,
    };
    let original = file.uint("llama.rope.scaling.original_context_length")?;
    match (kind, factor) {
        (Some("none"), _) | (None, None) => Ok(None),
        (None, Some(1.0)) => Ok(None),
        (Some("linear") | None, Some(factor)) => Ok(Some(json!({"rope_type": "linear", "factor": factor}))),
        (Some("yarn"), Some(factor)) => {
            let mut scaling = json!({"rope_type": "yarn", "factor": factor});
            if let (Some(original), Some(map)) = (original, scaling.as_object_mut()) {
                map.insert("original_max_position_embeddings".to_owned(), json!(original));
            }
            Ok(Some(scaling))
        }
        (Some(kind), Some(_)) => {
            let message =
                format!("rope scaling `{kind}` is not converted, only none, linear, yarn and llama3 are");
            Err(Error::unsupported(file, message))
        }
        (Some(kind), None) => {
            let message = format!("rope scaling `{kind}` has no `llama.rope.scaling.factor`");
            Err(Error::unsupported(file, message))
        }
    }
}

/// Constants of every released model with this scaling (transformers `modeling_rope_utils.py`,
/// `_compute_llama3_parameters`; LLaMA 3.1, 3.2 and 3.3 `config.json`).
const LLAMA3_LOW: f64 = 1.0;
const LLAMA3_HIGH: f64 = 4.0;
const LLAMA3_ORIGINAL: f64 = 8192.0;

/// Factor llama.cpp stores for a wavelength: 1 below `original / high`, `factor` above
/// `original / low`, a smooth blend between (`convert_hf_to_gguf.py`, `LlamaModel`).
fn llama3_factor(wavelength: f64, factor: f64) -> f64 {
    if wavelength < LLAMA3_ORIGINAL / LLAMA3_HIGH {
        1.0
    } else if wavelength > LLAMA3_ORIGINAL / LLAMA3_LOW {
        factor
    } else {
        let smooth = (LLAMA3_ORIGINAL / wavelength - LLAMA3_LOW) / (LLAMA3_HIGH - LLAMA3_LOW);
        1.0 / ((1.0 - smooth) / factor + smooth)
    }
}

/// The file holds only the factors: the largest is the scaling factor, and the rest must be what the
/// released constants give.
fn llama3_scaling(file: &Gguf, theta: f64, head_dim: usize) -> Result<Value> {
    let shape = &file.info("rope_freqs.weight")?.shape;
    if shape[..] != [head_dim / 2] {
        let message = format!("`rope_freqs.weight` has shape {shape:?}, expected [{}]", head_dim / 2);
        return Err(Error::unsupported(file, message));
    }
    let mut factors = vec![0f32; head_dim / 2];
    file.dequantize_row("rope_freqs.weight", 0, &mut factors)?;
    let largest = f64::from(factors.iter().copied().fold(1.0, f32::max));
    for (i, &got) in factors.iter().enumerate() {
        let wavelength = std::f64::consts::TAU * theta.powf(2.0 * i as f64 / head_dim as f64);
        let expected = llama3_factor(wavelength, largest);
        if (f64::from(got) - expected).abs() > 1e-3 * expected {
            let message = format!(
                "`rope_freqs.weight` is not LLaMA 3's: factor {i} is {got}, expected {expected:.4} (largest {largest})"
            );
            return Err(Error::unsupported(file, message));
        }
    }
    Ok(json!({
        "rope_type": "llama3",
        "factor": largest,
        "low_freq_factor": LLAMA3_LOW,
        "high_freq_factor": LLAMA3_HIGH,
        "original_max_position_embeddings": LLAMA3_ORIGINAL as u64,
    }))
}
