//! LoRA adapters: attaching them, and the folder format of PEFT (`adapter_config.json`,
//! `adapter_model.safetensors`), read and written.

use crate::llama::Llama;
use crate::projection::{Lora, Projection};
use crate::{Error, Result};
use medley_autograd::Param;
use medley_tensor::io::{SafetensorsWriter, StoredDType, TensorSpec, WeightFiles, write_atomic};
use medley_tensor::ledger::{self, Category};
use medley_tensor::rng::Philox;
use medley_tensor::{DType, Device, Tensor};
use serde_json::{Map, Value, json};
use std::path::Path;

/// Which linear layers get an adapter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Targets {
    /// Every linear layer of the blocks; the head is left out, as PEFT's `all-linear` does.
    All,
    /// The layers of these kinds: `q_proj`, `v_proj`, …
    Kinds(Vec<String>),
}

/// An adapter's settings.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraConfig {
    /// Rank of the update.
    pub rank: usize,
    /// The update is scaled by `alpha / rank`.
    pub alpha: f64,
    /// Probability that an input of A is dropped while training.
    pub dropout: f64,
    /// Where adapters go.
    pub targets: Targets,
    /// Scale by `alpha / √rank` instead (rsLoRA, arXiv 2312.03732).
    pub rslora: bool,
}

impl LoraConfig {
    /// The factor on `B·A`.
    pub fn scale(&self) -> f32 {
        let rank = self.rank as f64;
        (self.alpha / if self.rslora { rank.sqrt() } else { rank }) as f32
    }
}

/// Linear layers of a block, in the file format's order.
pub const KINDS: [&str; 7] = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

const PREFIX: &str = "base_model.model.";

fn names(p: &Projection) -> (String, String) {
    (format!("{PREFIX}{}.lora_A.weight", p.path), format!("{PREFIX}{}.lora_B.weight", p.path))
}

impl Llama {
    fn blocks_mut(&mut self) -> Result<Vec<&mut Projection>> {
        self.projections_mut().ok_or_else(|| {
            Error::Request("adapters cannot be attached while a forward pass is under way".into())
        })
    }

    /// Attaches fresh adapters: A uniform in ±1/√in (Kaiming, a = √5, as PEFT does), B zero, so
    /// that training starts from the base model. The values depend on `seed` alone.
    ///
    /// # Errors
    /// When a target names no layer of the model, or the rank is zero.
    pub fn attach_lora(&mut self, config: &LoraConfig, seed: u64) -> Result<()> {
        if config.rank == 0 {
            return Err(Error::Request("lora_rank is 0; expected a positive rank such as 8".into()));
        }
        if let Targets::Kinds(kinds) = &config.targets {
            for kind in kinds {
                if !KINDS.contains(&kind.as_str()) {
                    return Err(Error::Request(format!(
                        "lora_target: the model has no layer `{kind}`; it has {}",
                        KINDS.join(", ")
                    )));
                }
            }
        }
        let _scope = ledger::scope(Category::Adapters);
        let placement = self.placement().clone();
        for p in self.blocks_mut()? {
            let wanted = match &config.targets {
                Targets::All => true,
                Targets::Kinds(kinds) => kinds.iter().any(|k| k == p.kind()),
            };
            if !wanted {
                continue;
            }
            let ((out, input), r) = (p.size(), config.rank);
            let (name_a, name_b) = names(p);
            let bound = 1.0 / (input as f32).sqrt();
            let mut rng = Philox::new(seed, 0x4C6F_5241 << 32 | p.index);
            let a = (0..r * input).map(|_| (2.0 * rng.uniform_f32() - 1.0) * bound).collect::<Vec<f32>>();
            p.lora = Some(Lora {
                a: Param::new(name_a, placement.trained(Tensor::from_vec(a, &[r, input])?)?)?,
                b: Param::new(name_b, placement.trained(Tensor::zeros(&[out, r], DType::F32)?)?)?,
                scale: config.scale(),
                dropout: config.dropout as f32,
            });
        }
        Ok(())
    }

    /// Loads a PEFT adapter folder onto the model and returns its settings.
    ///
    /// # Errors
    /// When a file is missing or damaged, the adapter uses something other than plain LoRA on the
    /// blocks' linear layers, or a shape does not fit this model.
    pub fn load_lora(&mut self, folder: &Path) -> Result<LoraConfig> {
        let path = folder.join("adapter_config.json");
        let config = read_config(&path)?;
        let weights_path = folder.join("adapter_model.safetensors");
        let files = WeightFiles::open_file(&weights_path)?;
        let _scope = ledger::scope(Category::Adapters);
        let read = |name: &str, dims: [Option<usize>; 2]| -> Result<Tensor> {
            let info = files.info(name)?;
            let fits =
                info.shape.len() == 2 && info.shape.iter().zip(dims).all(|(n, d)| d.is_none_or(|d| d == *n));
            if !fits {
                let want = dims.map(|d| d.map_or("r".to_string(), |d| d.to_string())).join(", ");
                return Err(Error::file(
                    &weights_path,
                    format!("tensor `{name}` has shape {:?}; this model asks for [{want}]", info.shape),
                ));
            }
            let mapped = files.tensor(name)?;
            // Its own memory: training writes to it.
            Ok(Tensor::from_vec(mapped.to_vec_f32()?, &info.shape)?)
        };
        let mut found = 0;
        let placement = self.placement().clone();
        for p in self.blocks_mut()? {
            let (name_a, name_b) = names(p);
            if files.get(&name_a).is_none() && files.get(&name_b).is_none() {
                continue;
            }
            let (out, input) = p.size();
            let a = read(&name_a, [None, Some(input)])?;
            let b = read(&name_b, [Some(out), Some(a.shape()[0])])?;
            if a.shape()[0] != config.rank {
                let message = format!(
                    "`{name_a}` has rank {}; adapter_config.json says r = {}",
                    a.shape()[0],
                    config.rank
                );
                return Err(Error::file(&weights_path, message));
            }
            found += 2;
            p.lora = Some(Lora {
                a: Param::new(name_a, placement.trained(a)?)?,
                b: Param::new(name_b, placement.trained(b)?)?,
                scale: config.scale(),
                dropout: config.dropout as f32,
            });
        }
        let all = files.names().count();
        if found == 0 || found != all {
            let known: Vec<String> = self
                .projections()
                .filter(|p| p.lora.is_some())
                .flat_map(|p| <[String; 2]>::from(names(p)))
                .collect();
            let extra: Vec<&str> = files.names().filter(|n| !known.iter().any(|k| k == n)).take(3).collect();
            return Err(Error::file(
                &weights_path,
                format!(
                    "{} of {all} tensors belong to no linear layer of this model (such as {}); is it made for another base model?",
                    all - found,
                    extra.join(", ")
                ),
            ));
        }
        Ok(config)
    }

    /// Writes the adapter as a folder that PEFT loads.
    ///
    /// # Errors
    /// When there is no adapter or the folder cannot be written.
    pub fn save_lora(&self, folder: &Path, config: &LoraConfig, base: &str) -> Result<()> {
        std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
        let mut tensors: Vec<(String, Tensor)> = vec![];
        let mut kinds: Vec<&str> = vec![];
        for p in self.projections() {
            if let Some(lora) = &p.lora {
                let (name_a, name_b) = names(p);
                tensors.push((name_a, lora.a.value().to_device(&Device::Cpu)?));
                tensors.push((name_b, lora.b.value().to_device(&Device::Cpu)?));
                if !kinds.contains(&p.kind()) {
                    kinds.push(p.kind());
                }
            }
        }
        if tensors.is_empty() {
            return Err(Error::Request("the model has no adapter to save".into()));
        }
        tensors.sort_by(|a, b| a.0.cmp(&b.0));
        let path = folder.join("adapter_model.safetensors");
        let specs: Vec<TensorSpec> =
            tensors.iter().map(|(n, t)| TensorSpec::new(n.clone(), StoredDType::F32, t.shape())).collect();
        let mut writer = SafetensorsWriter::create(&path, &specs)?;
        for (name, t) in &tensors {
            writer.append(name, bytemuck::cast_slice(t.as_slice::<f32>()?))?;
        }
        writer.finish()?;
        let text = json!({
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base,
            "inference_mode": true,
            "r": config.rank,
            // A whole number is written as one, as PEFT does.
            "lora_alpha": if config.alpha.fract() == 0.0 { json!(config.alpha as i64) } else { json!(config.alpha) },
            "lora_dropout": config.dropout,
            "use_rslora": config.rslora,
            "use_dora": false,
            "target_modules": kinds,
            "bias": "none",
            "fan_in_fan_out": false,
            "init_lora_weights": true,
            "modules_to_save": null,
            "rank_pattern": {},
            "alpha_pattern": {},
        });
        write_json(&folder.join("adapter_config.json"), &text)
    }
}

/// Writes pretty JSON atomically.
pub(crate) fn write_json(path: &Path, value: &Value) -> Result<()> {
    let mut text = serde_json::to_string_pretty(value)
        .map_err(|e| Error::file(path, format!("cannot be written as JSON: {e}")))?;
    text.push('\n');
    Ok(write_atomic(path, text.as_bytes())?)
}

fn read_config(path: &Path) -> Result<LoraConfig> {
    let text = std::fs::read_to_string(path).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => Error::file(
            path,
            "no such file; an adapter folder holds adapter_config.json and adapter_model.safetensors",
        ),
        _ => Error::Io { path: path.to_path_buf(), source },
    })?;
    let map: Map<String, Value> =
        serde_json::from_str(&text).map_err(|e| Error::file(path, format!("not a JSON object: {e}")))?;
    let bad = |key: &str, expected: &str| {
        let got = map.get(key).unwrap_or(&Value::Null);
        Error::file(path, format!("\"{key}\" is {got}; expected {expected}"))
    };
    if map.get("peft_type").and_then(Value::as_str) != Some("LORA") {
        return Err(bad("peft_type", "\"LORA\", the kind of adapter this version loads"));
    }
    // Options of PEFT that change the arithmetic and are not implemented: refused, not ignored.
    let on = |v: &Value| match v {
        Value::Null => false,
        Value::Bool(b) => *b,
        Value::Array(a) => !a.is_empty(),
        Value::Object(o) => !o.is_empty(),
        _ => true,
    };
    for key in [
        "use_dora",
        "use_qalora",
        "use_bdlora",
        "fan_in_fan_out",
        "lora_bias",
        "modules_to_save",
        "rank_pattern",
        "alpha_pattern",
        "layer_replication",
        "trainable_token_indices",
        "target_parameters",
        "alora_invocation_tokens",
    ] {
        if map.get(key).is_some_and(on) {
            return Err(bad(key, "it unset: this version loads plain LoRA and rsLoRA only"));
        }
    }
    // Initialisations that also change the base weights: the adapter alone does not say how.
    if let Some(init) = map.get("init_lora_weights").and_then(Value::as_str)
        && (init.starts_with("pissa") || ["olora", "corda", "loftq"].contains(&init))
    {
        return Err(bad(
            "init_lora_weights",
            "true or \"gaussian\": this one changes the base model too; convert the adapter to plain LoRA when \
             saving it with PEFT (path_initial_model_for_weight_conversion), or merge it there",
        ));
    }
    if let Some(v) = map.get("bias").filter(|v| v.as_str() != Some("none")) {
        return Err(Error::file(path, format!("\"bias\" is {v}; expected \"none\"")));
    }
    let rank =
        map.get("r").and_then(Value::as_u64).filter(|r| *r > 0).ok_or_else(|| bad("r", "a positive rank"))?;
    let alpha = match map.get("lora_alpha") {
        None | Some(Value::Null) => 8.0, // PEFT's default
        Some(v) => v.as_f64().ok_or_else(|| bad("lora_alpha", "a number"))?,
    };
    let targets = match map.get("target_modules") {
        Some(Value::Array(items)) => {
            Targets::Kinds(items.iter().filter_map(|v| v.as_str().map(String::from)).collect())
        }
        _ => Targets::All,
    };
    Ok(LoraConfig {
        rank: rank as usize,
        alpha,
        dropout: map.get("lora_dropout").and_then(Value::as_f64).unwrap_or(0.0),
        targets,
        rslora: map.get("use_rslora").and_then(Value::as_bool).unwrap_or(false),
    })
}
