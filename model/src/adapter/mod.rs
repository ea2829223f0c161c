//! Low-rank adapters: their settings, attaching them (LoRA, rsLoRA, DoRA, PiSSA), and the folder format of PEFT
//! (`adapter_config.json`, `adapter_model.safetensors`), read and written.

mod config;
mod folder;
mod pissa;
mod svd;
#[cfg(test)]
mod tests;

use crate::llama::Llama;
use crate::projection::{Lora, Magnitude, Projection};
use crate::{Error, Result};
use medley_autograd::Param;
use medley_tensor::ledger::{self, Category};
use medley_tensor::rng::Philox;
use medley_tensor::{DType, Tensor};

pub(crate) use folder::write_json;
pub use pissa::Pissa;

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
    /// Train a magnitude an output feature beside the direction (DoRA, arXiv 2402.09353).
    pub dora: bool,
    /// Blocks that get adapters (PEFT's `layers_to_transform`); `None`: all.
    pub layers: Option<Vec<usize>>,
    /// Ranks of single layers, by module path or its end (PEFT's `rank_pattern`); the first that matches counts.
    pub rank_pattern: Vec<(String, usize)>,
    /// The same for alpha (PEFT's `alpha_pattern`).
    pub alpha_pattern: Vec<(String, f64)>,
    /// Modules of the base trained in full and kept in the adapter's file (PEFT's `modules_to_save`), by the end of
    /// their path: `embed_tokens`, `lm_head`, `norm`.
    pub modules_to_save: Vec<String>,
}

impl Default for LoraConfig {
    /// PEFT's defaults, on all linear layers.
    fn default() -> Self {
        LoraConfig {
            rank: 8,
            alpha: 8.0,
            dropout: 0.0,
            targets: Targets::All,
            rslora: false,
            dora: false,
            layers: None,
            rank_pattern: vec![],
            alpha_pattern: vec![],
            modules_to_save: vec![],
        }
    }
}

/// The value of the first pattern that is the path, or its end after a dot; `^` in front asks for the whole path.
fn matching<T: Copy>(patterns: &[(String, T)], path: &str) -> Option<T> {
    let fits = |pattern: &str| match pattern.strip_prefix('^') {
        Some(whole) => path == whole,
        None => path.strip_suffix(pattern).is_some_and(|before| before.is_empty() || before.ends_with('.')),
    };
    patterns.iter().find(|(pattern, _)| fits(pattern)).map(|(_, value)| *value)
}

impl LoraConfig {
    /// The rank of the layer under a module path.
    pub fn rank_of(&self, path: &str) -> usize {
        matching(&self.rank_pattern, path).unwrap_or(self.rank)
    }

    /// The factor on `B·A` of the layer under a module path.
    pub fn scale_of(&self, path: &str) -> f32 {
        let rank = self.rank_of(path) as f64;
        let alpha = matching(&self.alpha_pattern, path).unwrap_or(self.alpha);
        (alpha / if self.rslora { rank.sqrt() } else { rank }) as f32
    }

    fn targets(&self, p: &Projection) -> bool {
        let kind = match &self.targets {
            Targets::All => true,
            Targets::Kinds(kinds) => kinds.iter().any(|k| k == p.kind()),
        };
        kind && self.in_layers(&p.path)
    }

    /// Whether the block of a module path (`model.layers.3.…`) is among [`LoraConfig::layers`].
    fn in_layers(&self, path: &str) -> bool {
        let Some(layers) = &self.layers else { return true };
        let index = path.strip_prefix("model.layers.").and_then(|rest| rest.split('.').next());
        index.and_then(|index| index.parse().ok()).is_some_and(|index: usize| layers.contains(&index))
    }

    /// Refuses what no model can have.
    fn check(&self) -> Result<()> {
        if self.rank == 0 || self.rank_pattern.iter().any(|(_, rank)| *rank == 0) {
            return Err(Error::Request("lora_rank is 0; expected a positive rank such as 8".into()));
        }
        if let Targets::Kinds(kinds) = &self.targets {
            for kind in kinds {
                if !KINDS.contains(&kind.as_str()) {
                    return Err(Error::Request(format!(
                        "lora_target: the model has no layer `{kind}`; it has {}",
                        KINDS.join(", ")
                    )));
                }
            }
        }
        Ok(())
    }
}

/// Linear layers of a block, in the file format's order.
pub const KINDS: [&str; 7] = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

const PREFIX: &str = "base_model.model.";

/// The names PEFT gives a layer's tensors.
struct Names {
    a: String,
    b: String,
    magnitude: String,
}

impl Names {
    fn of(p: &Projection) -> Names {
        let name = |part: &str| format!("{PREFIX}{}.{part}", p.path);
        Names { a: name("lora_A.weight"), b: name("lora_B.weight"), magnitude: name("lora_magnitude_vector") }
    }
}

/// What an adapter starts from: A `[r, in]`, B `[out, r]`, and for DoRA the magnitudes `[out]`, which without a
/// value are the norms of the updated weight's rows.
struct Start {
    a: Tensor,
    b: Tensor,
    magnitude: Option<Tensor>,
}

impl Start {
    /// Attaches the adapter to a layer, on the device of its weight.
    fn attach(self, p: &mut Projection, config: &LoraConfig) -> Result<()> {
        let device = p.weight.tensor().device();
        let names = Names::of(p);
        let scale = config.scale_of(&p.path);
        let a = Param::new(names.a, self.a.to_device(&device)?)?;
        let b = Param::new(names.b, self.b.to_device(&device)?)?;
        let magnitude = if config.dora {
            if p.weight.param().is_some() {
                let message = format!("use_dora: {} is trained itself; DoRA needs a frozen weight", p.path);
                return Err(Error::Request(message));
            }
            let weight = p.weight.tensor();
            Some(Magnitude::new(names.magnitude, &weight, &a.value(), &b.value(), scale, self.magnitude)?)
        } else {
            None
        };
        p.lora = Some(Lora { a, b, scale, dropout: config.dropout as f32, magnitude, initial: None });
        Ok(())
    }
}

impl Llama {
    fn blocks_mut(&mut self) -> Result<Vec<&mut Projection>> {
        self.projections_mut().ok_or_else(|| {
            Error::Request("adapters cannot be attached while a forward pass is under way".into())
        })
    }

    /// Attaches fresh adapters: A uniform in ±1/√in (Kaiming, a = √5, as PEFT does), B zero, DoRA's magnitudes the
    /// norms of the weight's rows, so that training starts from the base model. The values depend on `seed` alone.
    ///
    /// # Errors
    /// When a target names no layer of the model, or the rank is zero.
    pub fn attach_lora(&mut self, config: &LoraConfig, seed: u64) -> Result<()> {
        config.check()?;
        let _scope = ledger::scope(Category::Adapters);
        for p in self.blocks_mut()?.into_iter().filter(|p| config.targets(p)) {
            let ((out, input), r) = (p.size(), config.rank_of(&p.path));
            let bound = 1.0 / (input as f32).sqrt();
            let mut rng = Philox::new(seed, 0x4C6F_5241 << 32 | p.index);
            let a = (0..r * input).map(|_| (2.0 * rng.uniform_f32() - 1.0) * bound).collect::<Vec<f32>>();
            let a = Tensor::from_vec(a, &[r, input])?;
            let b = Tensor::zeros(&[out, r], DType::F32)?;
            Start { a, b, magnitude: None }.attach(p, config)?;
        }
        Ok(())
    }
}
