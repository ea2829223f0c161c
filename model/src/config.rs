//! `config.json` of a Hugging Face folder, with the rope fields of old and new releases.

use crate::rope::RopeScaling;
use crate::{Error, Result};
use medley_tensor::DType;
use serde_json::{Map, Value};
use std::path::Path;

/// What a LLaMA-architecture model looks like.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// Rows of the embedding and of the head.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the MLP.
    pub intermediate_size: usize,
    /// Number of blocks.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key/value heads; divides the query heads (grouped-query attention).
    pub num_key_value_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Epsilon of every RMSNorm.
    pub rms_norm_eps: f32,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// How the rotary frequencies are stretched beyond the trained context.
    pub rope_scaling: RopeScaling,
    /// Longest context the model was made for, in tokens.
    pub max_position_embeddings: usize,
    /// True when the head is the embedding.
    pub tie_word_embeddings: bool,
    /// True when q, k, v and o have biases.
    pub attention_bias: bool,
    /// True when gate, up and down have biases.
    pub mlp_bias: bool,
    /// The dtype the weights were released in.
    pub dtype: DType,
    /// End-of-sequence ids; several models have more than one.
    pub eos_token_ids: Vec<u32>,
    /// Begin-of-sequence id.
    pub bos_token_id: Option<u32>,
    /// The whole file, so that what this program does not read survives an export.
    pub raw: Map<String, Value>,
}

/// Reads typed keys of one JSON object, naming file and key in every error.
struct Keys<'a> {
    path: &'a Path,
    map: &'a Map<String, Value>,
}

impl Keys<'_> {
    fn wrong(&self, key: &str, expected: &str, got: Option<&Value>) -> Error {
        let message = match got {
            None => format!("\"{key}\" is missing; expected {expected}"),
            Some(v) => format!("\"{key}\" is {v}; expected {expected}"),
        };
        Error::file(self.path, message)
    }

    /// The value, with JSON null counting as absent.
    fn get(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|v| !v.is_null())
    }

    fn optional_size(&self, key: &str) -> Result<Option<usize>> {
        // Bounded so that products of a few sizes cannot overflow.
        self.get(key)
            .map(|v| {
                v.as_u64()
                    .filter(|n| (1..=1 << 31).contains(n))
                    .map(|n| n as usize)
                    .ok_or_else(|| self.wrong(key, "a positive integer", Some(v)))
            })
            .transpose()
    }

    fn size(&self, key: &str) -> Result<usize> {
        self.optional_size(key)?.ok_or_else(|| self.wrong(key, "a positive integer", None))
    }

    fn flag(&self, key: &str) -> Result<bool> {
        self.get(key)
            .map_or(Ok(false), |v| v.as_bool().ok_or_else(|| self.wrong(key, "true or false", Some(v))))
    }

    fn optional_number(&self, key: &str) -> Result<Option<f64>> {
        self.get(key)
            .map(|v| v.as_f64().filter(|x| x.is_finite()).ok_or_else(|| self.wrong(key, "a number", Some(v))))
            .transpose()
    }

    fn token_ids(&self, key: &str) -> Result<Vec<u32>> {
        let id = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok());
        match self.get(key) {
            None => Ok(vec![]),
            Some(Value::Array(items)) => {
                items.iter().map(|v| id(v).ok_or_else(|| self.wrong(key, "token ids", Some(v)))).collect()
            }
            Some(v) => {
                Ok(vec![id(v).ok_or_else(|| self.wrong(key, "a token id or a list of them", Some(v)))?])
            }
        }
    }
}

impl ModelConfig {
    /// The same model with a head of its own.
    pub(crate) fn untie(&mut self) {
        if self.tie_word_embeddings {
            self.tie_word_embeddings = false;
            self.raw.insert("tie_word_embeddings".into(), Value::Bool(false));
        }
    }

    /// Reads `config.json` in `folder`.
    ///
    /// # Errors
    /// When the file is missing or not JSON, a needed key is missing or of the wrong type, or the
    /// architecture is not one this program runs. Every message names the file and the key.
    pub fn from_folder(folder: &Path) -> Result<Self> {
        let path = folder.join("config.json");
        let text = std::fs::read_to_string(&path).map_err(|source| {
            if source.kind() == std::io::ErrorKind::NotFound {
                Error::file(
                    &path,
                    "no such file; a model folder holds config.json and model.safetensors, as downloaded from Hugging Face",
                )
            } else {
                Error::Io { path: path.clone(), source }
            }
        })?;
        Self::parse(&path, &text)
    }

    /// Reads the text of a `config.json`; `path` is for messages.
    ///
    /// # Errors
    /// As [`ModelConfig::from_folder`].
    pub fn parse(path: &Path, text: &str) -> Result<Self> {
        let value: Value =
            serde_json::from_str(text).map_err(|e| Error::file(path, format!("not JSON: {e}")))?;
        let Value::Object(raw) = value else {
            return Err(Error::file(path, "expected a JSON object"));
        };
        let keys = Keys { path, map: &raw };
        let model_type = keys.get("model_type").and_then(Value::as_str).unwrap_or_default();
        if model_type != "llama" {
            return Err(Error::file(
                path,
                format!(
                    "\"model_type\" is \"{model_type}\"; this version runs \"llama\" (LLaMA 1–3, TinyLlama, SmolLM, Vicuna, Yi, …)"
                ),
            ));
        }
        if let Some(act) = keys.get("hidden_act").filter(|v| v.as_str() != Some("silu")) {
            return Err(keys.wrong("hidden_act", "\"silu\", the activation of LLaMA models", Some(act)));
        }
        let hidden_size = keys.size("hidden_size")?;
        let num_attention_heads = keys.size("num_attention_heads")?;
        let num_key_value_heads = keys.optional_size("num_key_value_heads")?.unwrap_or(num_attention_heads);
        if num_attention_heads % num_key_value_heads != 0 {
            return Err(Error::file(
                path,
                format!(
                    "{num_attention_heads} query heads cannot share {num_key_value_heads} key/value heads evenly"
                ),
            ));
        }
        let head_dim = match keys.optional_size("head_dim")? {
            Some(d) => d,
            None if hidden_size % num_attention_heads == 0 => hidden_size / num_attention_heads,
            None => {
                return Err(Error::file(
                    path,
                    format!(
                        "hidden_size {hidden_size} is not a multiple of {num_attention_heads} heads; expected \"head_dim\""
                    ),
                ));
            }
        };
        if head_dim % 2 != 0 {
            return Err(Error::file(
                path,
                format!("head_dim is {head_dim}; rotary embeddings need an even one"),
            ));
        }
        let max_position_embeddings = keys.optional_size("max_position_embeddings")?.unwrap_or(2048);
        // Releases before transformers 5 keep rope_theta at the top and the rest in rope_scaling;
        // later ones put both into rope_parameters.
        let rope = ["rope_parameters", "rope_scaling"].into_iter().find_map(|k| keys.get(k).map(|v| (k, v)));
        let rope_scaling = match rope {
            None => RopeScaling::Default,
            Some((key, Value::Object(map))) => RopeScaling::parse(map, max_position_embeddings)
                .map_err(|m| Error::file(path, format!("\"{key}\": {m}")))?,
            Some((key, other)) => return Err(keys.wrong(key, "an object", Some(other))),
        };
        let inner_theta = match rope {
            Some((_, Value::Object(map))) => Keys { path, map }.optional_number("rope_theta")?,
            _ => None,
        };
        let rope_theta = inner_theta.or(keys.optional_number("rope_theta")?).unwrap_or(10_000.0);
        if rope_theta <= 1.0 {
            return Err(Error::file(
                path,
                format!("\"rope_theta\" is {rope_theta}; expected a number above 1"),
            ));
        }
        let dtype = match keys.get("dtype").or(keys.get("torch_dtype")).and_then(Value::as_str) {
            Some("bfloat16") => DType::BF16,
            Some("float16") => DType::F16,
            _ => DType::F32,
        };
        let config = ModelConfig {
            vocab_size: keys.size("vocab_size")?,
            hidden_size,
            intermediate_size: keys.size("intermediate_size")?,
            num_hidden_layers: keys.size("num_hidden_layers")?,
            num_attention_heads,
            num_key_value_heads,
            head_dim,
            rms_norm_eps: keys.optional_number("rms_norm_eps")?.unwrap_or(1e-6) as f32,
            rope_theta,
            rope_scaling,
            max_position_embeddings,
            tie_word_embeddings: keys.flag("tie_word_embeddings")?,
            attention_bias: keys.flag("attention_bias")?,
            mlp_bias: keys.flag("mlp_bias")?,
            dtype,
            eos_token_ids: keys.token_ids("eos_token_id")?,
            bos_token_id: keys.token_ids("bos_token_id")?.first().copied(),
            raw: Map::new(),
        };
        Ok(ModelConfig { raw, ..config })
    }

    /// Width of all query heads together.
    pub fn q_size(&self) -> usize {
        self.num_attention_heads * self.head_dim
    }

    /// Width of all key (or value) heads together.
    pub fn kv_size(&self) -> usize {
        self.num_key_value_heads * self.head_dim
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = r#"{"model_type":"llama","vocab_size":96,"hidden_size":48,"intermediate_size":60,
        "num_hidden_layers":2,"num_attention_heads":4,"rope_theta":5000.0,
        "rope_scaling":{"type":"linear","factor":4.0},"eos_token_id":[2,7],"torch_dtype":"float16"}"#;

    fn parse(text: &str) -> Result<ModelConfig> {
        ModelConfig::parse(Path::new("config.json"), text)
    }

    #[test]
    fn old_and_new_rope_fields_agree() {
        let old = parse(OLD).unwrap();
        let new = parse(&OLD.replace(r#""rope_theta":5000.0,"#, "").replace(
            r#""rope_scaling":{"type":"linear","factor":4.0}"#,
            r#""rope_parameters":{"rope_type":"linear","factor":4.0,"rope_theta":5000.0}"#,
        ))
        .unwrap();
        assert_eq!(old.rope_scaling, RopeScaling::Linear { factor: 4.0 });
        assert_eq!((old.rope_theta, &old.rope_scaling), (new.rope_theta, &new.rope_scaling));
        assert_eq!((old.head_dim, old.num_key_value_heads), (12, 4));
        assert_eq!((old.eos_token_ids.as_slice(), old.dtype), (&[2, 7][..], DType::F16));
    }

    #[test]
    fn bad_configs_name_the_key() {
        for (from, to, needle) in [
            (r#""hidden_size":48"#, r#""hidden_size":"48""#, "hidden_size"),
            (r#""vocab_size":96,"#, "", "vocab_size"),
            (r#""num_attention_heads":4"#, r#""num_attention_heads":5"#, "head_dim"),
            (r#""num_attention_heads":4"#, r#""num_attention_heads":4,"num_key_value_heads":3"#, "evenly"),
            (r#""model_type":"llama""#, r#""model_type":"mamba""#, "mamba"),
            (r#""linear""#, r#""spiral""#, "spiral"),
            (r#""factor":4.0"#, r#""factor":"x""#, "factor"),
            (r#""rope_theta":5000.0"#, r#""rope_theta":0"#, "rope_theta"),
            (r#""num_hidden_layers":2"#, r#""num_hidden_layers":-2"#, "num_hidden_layers"),
        ] {
            let text = parse(&OLD.replace(from, to)).unwrap_err().to_string();
            assert!(text.contains(needle) && text.contains("config.json"), "{text}");
        }
        assert!(parse("{").is_err());
        assert!(parse("[]").is_err());
    }
}
