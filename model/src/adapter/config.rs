//! `adapter_config.json`, read and written.

use super::{KINDS, LoraConfig, Targets};
use crate::{Error, Result};
use serde_json::{Map, Value, json};
use std::path::Path;

/// Options of PEFT that change the arithmetic and are not implemented: refused, not ignored.
const REFUSED: [&str; 8] = [
    "use_qalora",
    "use_bdlora",
    "fan_in_fan_out",
    "lora_bias",
    "layer_replication",
    "trainable_token_indices",
    "target_parameters",
    "alora_invocation_tokens",
];

/// Reads an `adapter_config.json`.
pub(super) fn read(path: &Path) -> Result<LoraConfig> {
    let text = std::fs::read_to_string(path).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => Error::file(
            path,
            "no such file; an adapter folder holds adapter_config.json and adapter_model.safetensors",
        ),
        _ => Error::Io { path: path.to_path_buf(), source },
    })?;
    let map: Map<String, Value> =
        serde_json::from_str(&text).map_err(|e| Error::file(path, format!("not a JSON object: {e}")))?;
    Reader { path, map }.config()
}

struct Reader<'a> {
    path: &'a Path,
    map: Map<String, Value>,
}

impl Reader<'_> {
    fn bad(&self, key: &str, expected: &str) -> Error {
        let got = self.map.get(key).unwrap_or(&Value::Null);
        Error::file(self.path, format!("\"{key}\" is {got}; expected {expected}"))
    }

    /// The value of a key that is there and not null.
    fn get(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|v| !v.is_null())
    }

    fn flag(&self, key: &str) -> Result<bool> {
        match self.get(key) {
            None => Ok(false),
            Some(v) => v.as_bool().ok_or_else(|| self.bad(key, "true or false")),
        }
    }

    fn config(&self) -> Result<LoraConfig> {
        if self.get("peft_type").and_then(Value::as_str) != Some("LORA") {
            return Err(self.bad("peft_type", "\"LORA\", the kind of adapter this version loads"));
        }
        let on = |v: &Value| match v {
            Value::Null => false,
            Value::Bool(b) => *b,
            Value::Array(a) => !a.is_empty(),
            Value::Object(o) => !o.is_empty(),
            _ => true,
        };
        for key in REFUSED {
            if self.map.get(key).is_some_and(on) {
                return Err(self.bad(key, "it unset: this version loads LoRA, rsLoRA and DoRA only"));
            }
        }
        // Initialisations that also change the base weights: the adapter alone does not say how.
        if let Some(init) = self.get("init_lora_weights").and_then(Value::as_str)
            && (init.starts_with("pissa") || ["olora", "corda", "loftq"].contains(&init))
        {
            return Err(self.bad(
                "init_lora_weights",
                "true or \"gaussian\": this one changes the base model too; convert the adapter to plain LoRA when \
                 saving it with PEFT (path_initial_model_for_weight_conversion), or merge it there",
            ));
        }
        if let Some(v) = self.map.get("bias").filter(|v| v.as_str() != Some("none")) {
            return Err(Error::file(self.path, format!("\"bias\" is {v}; expected \"none\"")));
        }
        let rank = self.get("r").and_then(Value::as_u64).filter(|r| *r > 0);
        let alpha = match self.get("lora_alpha") {
            None => 8.0, // PEFT's default
            Some(v) => v.as_f64().ok_or_else(|| self.bad("lora_alpha", "a number"))?,
        };
        let targets = match self.get("target_modules") {
            Some(Value::Array(items)) => {
                Targets::Kinds(items.iter().filter_map(|v| v.as_str().map(String::from)).collect())
            }
            _ => Targets::All,
        };
        let rank_pattern = self.pattern("rank_pattern", "positive ranks", |v| {
            v.as_u64().filter(|r| *r > 0).map(|r| r as usize)
        })?;
        Ok(LoraConfig {
            rank: rank.ok_or_else(|| self.bad("r", "a positive rank"))? as usize,
            alpha,
            dropout: self.get("lora_dropout").and_then(Value::as_f64).unwrap_or(0.0),
            targets,
            rslora: self.flag("use_rslora")?,
            dora: self.flag("use_dora")?,
            layers: self.layers()?,
            rank_pattern,
            alpha_pattern: self.pattern("alpha_pattern", "numbers", Value::as_f64)?,
            modules_to_save: self.modules_to_save()?,
        })
    }

    fn modules_to_save(&self) -> Result<Vec<String>> {
        let key = "modules_to_save";
        let items = match self.get(key) {
            None => return Ok(vec![]),
            Some(Value::Array(items)) => items.iter().map(|v| v.as_str().map(String::from)).collect(),
            Some(_) => None,
        };
        items.ok_or_else(|| self.bad(key, "null or a list of module names such as [\"embed_tokens\"]"))
    }

    fn layers(&self) -> Result<Option<Vec<usize>>> {
        let key = "layers_to_transform";
        let Some(value) = self.get(key) else { return Ok(None) };
        let items = match value {
            Value::Array(items) => items.iter().map(Value::as_u64).collect(),
            one => one.as_u64().map(|index| vec![index]),
        };
        let items: Vec<u64> =
            items.ok_or_else(|| self.bad(key, "the number of a block or a list of them"))?;
        if let Some(pattern) = self.get("layers_pattern")
            && !["layers", "model.layers"].map(Value::from).contains(pattern)
            && *pattern != json!(["layers"])
            && *pattern != json!([])
        {
            return Err(self.bad("layers_pattern", "\"layers\", the list of this model's blocks"));
        }
        Ok(Some(items.into_iter().map(|index| index as usize).collect()))
    }

    /// Entries in the file's order. PEFT's keys are regular expressions; a name with its dots is one, others are
    /// refused.
    fn pattern<T>(
        &self,
        key: &str,
        values: &str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<Vec<(String, T)>> {
        let expected =
            || self.bad(key, &format!("module names with {values}, such as {{\"{}\": 4}}", KINDS[0]));
        let entries = match self.get(key) {
            None => return Ok(vec![]),
            Some(Value::Object(entries)) => entries,
            Some(_) => return Err(expected()),
        };
        let mut out = vec![];
        for (name, value) in entries {
            let plain = name.strip_prefix('^').unwrap_or(name);
            if !plain.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c)) {
                let message = format!(
                    "\"{key}\" has the regular expression {name:?}; expected names of modules, such as {:?}",
                    KINDS[0]
                );
                return Err(Error::file(self.path, message));
            }
            out.push((name.clone(), read(value).ok_or_else(expected)?));
        }
        Ok(out)
    }
}

/// A number as PEFT writes it: whole numbers without a fraction.
fn number(v: f64) -> Value {
    if v.fract() == 0.0 { json!(v as i64) } else { json!(v) }
}

/// The fields of `adapter_config.json`; `kinds` are the layers that have an adapter.
pub(super) fn fields(config: &LoraConfig, kinds: &[&str], base: &str) -> Value {
    let ranks: Map<String, Value> = config.rank_pattern.iter().map(|(k, v)| (k.clone(), json!(v))).collect();
    let alphas: Map<String, Value> =
        config.alpha_pattern.iter().map(|(k, v)| (k.clone(), number(*v))).collect();
    json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "inference_mode": true,
        "r": config.rank,
        "lora_alpha": number(config.alpha),
        "lora_dropout": config.dropout,
        "use_rslora": config.rslora,
        "use_dora": config.dora,
        "target_modules": kinds,
        "layers_to_transform": config.layers,
        "bias": "none",
        "fan_in_fan_out": false,
        "init_lora_weights": true,
        "modules_to_save": if config.modules_to_save.is_empty() { Value::Null } else { json!(config.modules_to_save) },
        "rank_pattern": ranks,
        "alpha_pattern": alphas,
    })
}
