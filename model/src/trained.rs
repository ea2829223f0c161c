//! Which weights of the base model are trained, by name: some blocks (`freeze`), or modules in full beside an adapter
//! (PEFT's `modules_to_save`, LLaMA-Factory's `additional_target`).

use crate::config::ModelConfig;
use crate::{Error, Result};
use medley_tensor::ledger::Category;
use std::collections::BTreeSet;

/// Names of the base's weights that are trained, in f32; the others stay as they are stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrainedWeights {
    /// Full names: `model.layers.3.mlp.up_proj.weight`.
    pub names: BTreeSet<String>,
    /// Embedding and head, where the model ties them, become two weights: PEFT trains a copy of the module that is
    /// named, and the other keeps the base's weight.
    pub untie: bool,
    /// Where the ledger counts their values.
    pub category: Category,
}

impl Default for TrainedWeights {
    /// Nothing.
    fn default() -> Self {
        TrainedWeights { names: BTreeSet::new(), untie: false, category: Category::Weights }
    }
}

/// Which part of a model freeze tuning trains: LLaMA-Factory's `freeze_trainable_layers` and its companions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Freeze {
    /// n > 0: the last n blocks; n < 0: the first |n|.
    pub layers: i64,
    /// Modules of those blocks: `all`, or some of `self_attn`, `mlp`, `input_layernorm`, `post_attention_layernorm`.
    pub modules: Vec<String>,
    /// Modules outside the blocks: `embed_tokens`, `norm`, `lm_head`.
    pub extra: Vec<String>,
}

/// The modules of a block that freeze tuning may name.
const BLOCK_MODULES: [&str; 4] = ["self_attn", "mlp", "input_layernorm", "post_attention_layernorm"];

/// The module path of a weight: `model.layers.0.mlp.up_proj.weight` → `model.layers.0.mlp.up_proj`.
fn module(weight: &str) -> &str {
    weight.rsplit_once('.').map_or(weight, |(module, _)| module)
}

/// `(block, module in it)` of a weight in a block.
fn in_block(weight: &str) -> Option<(usize, &str)> {
    let (index, rest) = weight.strip_prefix("model.layers.")?.split_once('.')?;
    Some((index.parse().ok()?, rest.split('.').next()?))
}

impl TrainedWeights {
    /// The weights that `freeze` names in a model of `config`. Where embedding and head are tied, `embed_tokens` is
    /// both.
    ///
    /// # Errors
    /// When there are no blocks to train, or a module does not exist.
    pub fn freeze(config: &ModelConfig, freeze: &Freeze) -> Result<Self> {
        let blocks = config.num_hidden_layers;
        let n = usize::try_from(freeze.layers.unsigned_abs()).unwrap_or(usize::MAX).min(blocks);
        let range = if freeze.layers > 0 { blocks - n..blocks } else { 0..n };
        for name in freeze.modules.iter().filter(|name| *name != "all") {
            if !BLOCK_MODULES.contains(&name.as_str()) {
                return Err(Error::Request(format!(
                    "freeze_trainable_modules: the model's blocks have no module `{name}`; they have {}, or give all",
                    BLOCK_MODULES.join(", ")
                )));
            }
        }
        let all = weight_names(config);
        let outside: Vec<&str> = all
            .iter()
            .filter(|name| in_block(name).is_none())
            .map(|name| module(name).rsplit('.').next().unwrap_or(name))
            .collect();
        for name in &freeze.extra {
            if !outside.contains(&name.as_str()) {
                let tied = match name.as_str() {
                    "lm_head" => " (its head is the embedding itself: embed_tokens trains both)",
                    _ => "",
                };
                return Err(Error::Request(format!(
                    "freeze_extra_modules: the model has no module `{name}` outside its blocks{tied}; it has {}",
                    outside.join(", ")
                )));
            }
        }
        let wanted = |name: &str| match in_block(name) {
            Some((block, part)) => {
                range.contains(&block) && freeze.modules.iter().any(|m| m == "all" || m == part)
            }
            None => freeze.extra.iter().any(|m| module(name).rsplit('.').next() == Some(m)),
        };
        let names: BTreeSet<String> = all.iter().filter(|name| wanted(name)).cloned().collect();
        if names.is_empty() {
            return Err(Error::Request(
                "freeze_trainable_layers is 0 and freeze_extra_modules names nothing: no weight would be trained"
                    .into(),
            ));
        }
        Ok(TrainedWeights { names, ..TrainedWeights::default() })
    }

    /// The weights of the modules whose path ends in one of `targets`, as PEFT's `modules_to_save` finds them:
    /// `norm` is every norm, `model.norm` the last one only.
    ///
    /// # Errors
    /// When a target names nothing, or a linear layer of a block, which an adapter trains.
    pub fn modules(config: &ModelConfig, targets: &[String]) -> Result<Self> {
        let mut all = weight_names(config);
        if config.tie_word_embeddings {
            all.push("lm_head.weight".into());
        }
        let mut names = BTreeSet::new();
        for target in targets {
            let found: Vec<&String> =
                all.iter().filter(|name| module(name).ends_with(target.as_str())).collect();
            let linear =
                found.iter().any(|name| in_block(name).is_some_and(|(_, part)| !part.ends_with("layernorm")));
            if target.is_empty() || found.is_empty() || linear {
                return Err(Error::Request(format!(
                    "additional_target: `{target}` is no module that can be trained in full beside an adapter; \
                     expected embed_tokens, lm_head, or norms (norm for all of them, model.norm for the last). The \
                     linear layers of the blocks are chosen by lora_target"
                )));
            }
            names.extend(found.into_iter().cloned());
        }
        let untie = config.tie_word_embeddings
            && ["model.embed_tokens.weight", "lm_head.weight"].iter().any(|name| names.contains(*name));
        Ok(TrainedWeights { names, untie, category: Category::Adapters })
    }
}

/// Every weight of a model of `config` by name; a tied head is not one of its own.
fn weight_names(config: &ModelConfig) -> Vec<String> {
    let mut names = vec!["model.embed_tokens.weight".to_string()];
    for layer in 0..config.num_hidden_layers {
        let linear = |group: &str, kinds: &[&str], bias: bool| -> Vec<String> {
            let parts: &[&str] = if bias { &["weight", "bias"] } else { &["weight"] };
            let of = |kind: &&str| {
                parts.iter().map(|p| format!("model.layers.{layer}.{group}.{kind}.{p}")).collect()
            };
            kinds.iter().flat_map::<Vec<String>, _>(of).collect()
        };
        names.push(format!("model.layers.{layer}.input_layernorm.weight"));
        names.extend(linear("self_attn", &["q_proj", "k_proj", "v_proj", "o_proj"], config.attention_bias));
        names.push(format!("model.layers.{layer}.post_attention_layernorm.weight"));
        names.extend(linear("mlp", &["gate_proj", "up_proj", "down_proj"], config.mlp_bias));
    }
    names.push("model.norm.weight".into());
    if !config.tie_word_embeddings {
        names.push("lm_head.weight".into());
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn config(tied: bool) -> ModelConfig {
        let text = format!(
            r#"{{"architectures":["LlamaForCausalLM"],"model_type":"llama","hidden_act":"silu","hidden_size":8,
            "intermediate_size":16,"num_hidden_layers":3,"num_attention_heads":2,"num_key_value_heads":1,
            "vocab_size":11,"max_position_embeddings":32,"rms_norm_eps":1e-5,"tie_word_embeddings":{tied}}}"#
        );
        ModelConfig::parse(Path::new("config.json"), &text).unwrap()
    }

    fn freeze(layers: i64, modules: &[&str], extra: &[&str]) -> Freeze {
        let owned = |names: &[&str]| names.iter().map(|n| n.to_string()).collect();
        Freeze { layers, modules: owned(modules), extra: owned(extra) }
    }

    fn names(result: Result<TrainedWeights>) -> Vec<String> {
        result.unwrap().names.into_iter().collect()
    }

    #[test]
    fn blocks_are_counted_from_either_end() {
        let blocks = |layers| {
            let all = names(TrainedWeights::freeze(&config(false), &freeze(layers, &["all"], &[])));
            let blocks: BTreeSet<usize> = all.iter().map(|n| in_block(n).unwrap().0).collect();
            assert_eq!(all.len(), 9 * blocks.len());
            blocks.into_iter().collect::<Vec<_>>()
        };
        assert_eq!(blocks(1), [2]);
        assert_eq!(blocks(2), [1, 2]);
        assert_eq!(blocks(-1), [0]);
        assert_eq!(blocks(99), [0, 1, 2]);
        assert_eq!(blocks(i64::MIN), [0, 1, 2]);
    }

    #[test]
    fn modules_are_chosen_by_name() {
        let got = names(TrainedWeights::freeze(&config(false), &freeze(1, &["mlp"], &["norm", "lm_head"])));
        let mlp = ["down_proj", "gate_proj", "up_proj"].map(|k| format!("model.layers.2.mlp.{k}.weight"));
        assert_eq!(got, [&["lm_head.weight".to_string()][..], &mlp, &["model.norm.weight".into()]].concat());
        let got = names(TrainedWeights::freeze(&config(true), &freeze(0, &["all"], &["embed_tokens"])));
        assert_eq!(got, ["model.embed_tokens.weight"]);
    }

    #[test]
    fn what_is_not_there_is_refused() {
        let refused = |f: &Freeze| TrainedWeights::freeze(&config(true), f).unwrap_err().to_string();
        assert!(refused(&freeze(1, &["attention"], &[])).contains("no module `attention`"));
        assert!(refused(&freeze(1, &["all"], &["lm_head"])).contains("embed_tokens trains both"));
        assert!(refused(&freeze(0, &["all"], &[])).contains("no weight would be trained"));
        for wrong in ["q_proj", "wte", "", "proj"] {
            let e = TrainedWeights::modules(&config(true), &[wrong.to_string()]).unwrap_err().to_string();
            assert!(e.contains(&format!("`{wrong}`")) && e.contains("embed_tokens"), "{e}");
        }
    }

    #[test]
    fn modules_to_save_match_by_the_end_of_the_path_and_untie() {
        let get = |tied, target: &str| TrainedWeights::modules(&config(tied), &[target.to_string()]).unwrap();
        assert_eq!(get(true, "model.norm").names.into_iter().collect::<Vec<_>>(), ["model.norm.weight"]);
        assert_eq!(get(true, "norm").names.len(), 7);
        assert!(get(true, "lm_head").untie && get(true, "embed_tokens").untie);
        assert!(!get(true, "norm").untie && !get(false, "lm_head").untie);
        assert_eq!(get(true, "lm_head").names.into_iter().collect::<Vec<_>>(), ["lm_head.weight"]);
    }
}
