//! The LLaMA model: embedding, blocks, final norm, head.

mod block;
#[cfg(test)]
mod device_tests;
#[cfg(test)]
mod tests;

use crate::config::ModelConfig;
use crate::placement::Placement;
use crate::projection::{Pass, Projection, Weight};
use crate::rope::Rope;
use crate::trained::TrainedWeights;
use crate::weights::{BaseStorage, WeightReader};
use crate::{Error, Result};
use block::{Block, Rotary};
use medley_autograd::{Param, Var, checkpoint};
use medley_kernels::ops::{AddRmsNorm, Attention, Embedding, IndexSelect, Linear, LinearCrossEntropy};
use medley_tensor::Tensor;
use std::path::Path;
use std::sync::Arc;

/// Sequences packed one after another, without padding.
#[derive(Debug, Clone)]
pub struct Sequences {
    /// Token ids `[T]`.
    pub ids: Arc<[u32]>,
    /// Position of each token in its sequence `[T]`.
    pub positions: Arc<[u32]>,
    /// Where each sequence starts, and T at the end `[B + 1]`.
    pub cu_seqlens: Arc<[u32]>,
}

impl Sequences {
    /// Packs sequences in the given order.
    pub fn pack<'a>(sequences: impl IntoIterator<Item = &'a [u32]>) -> Self {
        let (mut ids, mut positions, mut cu_seqlens) = (vec![], vec![], vec![0]);
        for sequence in sequences {
            ids.extend_from_slice(sequence);
            positions.extend(0..sequence.len() as u32);
            cu_seqlens.push(ids.len() as u32);
        }
        Sequences { ids: ids.into(), positions: positions.into(), cu_seqlens: cu_seqlens.into() }
    }
}

/// Which rows of a batch are predicted, what, and how much each counts.
#[derive(Debug, Clone)]
pub struct Labels {
    /// Rows of the hidden states whose next token counts.
    pub rows: Arc<[u32]>,
    /// The token each of them should predict.
    pub targets: Arc<[u32]>,
    /// The weight of each in the loss.
    pub weights: Arc<[f32]>,
    /// The gradient that will reach the loss: 1, or the factor of loss scaling. The gradients of the hidden
    /// states are formed with it, so that f16 does not round them to zero.
    pub loss_scale: f32,
}

/// A LLaMA-architecture causal language model.
pub struct Llama {
    config: ModelConfig,
    embed_tokens: Weight,
    layers: Vec<Arc<Block>>,
    norm: Weight,
    /// `None` when tied to the embedding.
    lm_head: Option<Weight>,
    rope: Rope,
    placement: Placement,
}

/// Computes attention for layer `.0` from rotated queries and keys and from values.
pub(crate) type Attend<'a> = dyn FnMut(usize, &Var, &Var, &Var) -> medley_tensor::Result<Var> + 'a;

impl Llama {
    /// Opens a Hugging Face folder. Weights stay in the mapped file unless `storage` says otherwise.
    ///
    /// # Errors
    /// When the folder, its config or a weight is missing, damaged or of the wrong shape.
    pub fn open(folder: &Path, storage: BaseStorage) -> Result<Self> {
        Self::open_on(folder, storage, Placement::default())
    }

    /// As [`Llama::open`], with the weights on a device.
    ///
    /// # Errors
    /// As [`Llama::open`]; when device memory runs out.
    pub fn open_on(folder: &Path, storage: BaseStorage, placement: Placement) -> Result<Self> {
        Self::open_trained(folder, storage, placement, TrainedWeights::default())
    }

    /// As [`Llama::open_on`], with some weights of the base trained.
    ///
    /// # Errors
    /// As [`Llama::open_on`].
    pub fn open_trained(
        folder: &Path,
        storage: BaseStorage,
        placement: Placement,
        trained: TrainedWeights,
    ) -> Result<Self> {
        let config = ModelConfig::from_folder(folder)?;
        let reader = WeightReader::open(folder, storage)?.on(placement).training(trained);
        Self::build(config, &reader)
    }

    /// A model of `config` with fresh weights, everything trained.
    ///
    /// # Errors
    /// When device memory runs out.
    pub fn from_scratch(config: ModelConfig, seed: u64, placement: Placement) -> Result<Self> {
        let std = config.raw.get("initializer_range").and_then(serde_json::Value::as_f64).unwrap_or(0.02);
        Self::build(config, &WeightReader::random(seed, std as f32).on(placement))
    }

    /// Builds the model of `config` from the weights of `reader`.
    ///
    /// # Errors
    /// When a weight is missing or of the wrong shape.
    pub fn build(mut config: ModelConfig, reader: &WeightReader) -> Result<Self> {
        let (vocab, hidden) = (config.vocab_size, config.hidden_size);
        let embed_tokens = reader.plain("model.embed_tokens.weight", &[vocab, hidden])?;
        if !config.raw.contains_key("dtype") && !config.raw.contains_key("torch_dtype") {
            config.dtype = reader.stored_dtype("model.embed_tokens.weight")?;
        }
        let layers = (0..config.num_hidden_layers)
            .map(|i| Block::read(&config, i, reader).map(Arc::new))
            .collect::<Result<_>>()?;
        let norm = reader.plain("model.norm.weight", &[hidden])?;
        let head = |stored: &str| reader.plain_from("lm_head.weight", stored, &[vocab, hidden]).map(Some);
        let lm_head = match (config.tie_word_embeddings, reader.unties()) {
            (true, false) => None,
            (true, true) => head("model.embed_tokens.weight")?,
            (false, _) => head("lm_head.weight")?,
        };
        if lm_head.is_some() {
            config.untie();
        }
        let rope = Rope::new(config.rope_theta, config.head_dim, config.rope_scaling.clone());
        let placement = reader.placement().clone();
        Ok(Llama { config, embed_tokens, layers, norm, lm_head, rope, placement })
    }

    /// What the model looks like.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Where the weights live.
    pub fn placement(&self) -> &Placement {
        &self.placement
    }

    /// Every linear layer of every block, in order.
    pub fn projections(&self) -> impl Iterator<Item = &Projection> {
        self.layers.iter().flat_map(|l| l.projections())
    }

    /// Every linear layer, to attach adapters. `None` while a forward pass still holds a block.
    pub(crate) fn projections_mut(&mut self) -> Option<Vec<&mut Projection>> {
        self.layers
            .iter_mut()
            .map(Arc::get_mut)
            .collect::<Option<Vec<_>>>()
            .map(|blocks| blocks.into_iter().flat_map(|b| b.projections_mut()).collect())
    }

    /// Weights outside the linear layers by name: embedding, norms, head, biases.
    pub fn plain_weights(&self) -> Vec<(String, &Weight)> {
        let mut out = vec![("model.embed_tokens.weight".to_string(), &self.embed_tokens)];
        for layer in &self.layers {
            out.extend(layer.plain_weights());
        }
        out.push(("model.norm.weight".to_string(), &self.norm));
        out.extend(self.lm_head.as_ref().map(|w| ("lm_head.weight".to_string(), w)));
        out
    }

    /// Makes the weights of `trained` trainable, with the values that `read(name, shape)` gives, which lie on the host.
    ///
    /// # Errors
    /// Those of `read`; when a forward pass is under way, or device memory runs out.
    pub(crate) fn replace_plain(
        &mut self,
        trained: &TrainedWeights,
        mut read: impl FnMut(&str, &[usize]) -> Result<Tensor>,
    ) -> Result<()> {
        if trained.untie && self.lm_head.is_none() {
            self.lm_head = Some(Weight::Frozen(self.embed_tokens.tensor()));
            self.config.untie();
        }
        let placement = self.placement.clone();
        let mut replace = |name: &str, weight: &mut Weight| -> Result<()> {
            if trained.names.contains(name) {
                let value = read(name, weight.tensor().shape())?;
                *weight = Weight::Trainable(Param::new(name, placement.trained(value)?)?);
            }
            Ok(())
        };
        replace("model.embed_tokens.weight", &mut self.embed_tokens)?;
        for (i, layer) in self.layers.iter_mut().enumerate() {
            let block = Arc::get_mut(layer).ok_or_else(|| {
                Error::Request("weights cannot be replaced while a forward pass is under way".into())
            })?;
            for (part, weight) in block.norms_mut() {
                replace(&format!("model.layers.{i}.{part}.weight"), weight)?;
            }
        }
        replace("model.norm.weight", &mut self.norm)?;
        if let Some(head) = &mut self.lm_head {
            replace("lm_head.weight", head)?;
        }
        Ok(())
    }

    /// Everything trained, in a fixed order.
    pub fn params(&self) -> Vec<Arc<Param>> {
        let mut params: Vec<Arc<Param>> =
            self.plain_weights().iter().filter_map(|(_, w)| w.param().cloned()).collect();
        for p in self.projections() {
            params.extend(p.weight.param().cloned());
            if let Some(lora) = &p.lora {
                params.extend(lora.params().cloned());
            }
        }
        params
    }

    /// Number of weights: `(trained, all)`.
    pub fn parameter_counts(&self) -> (usize, usize) {
        let trained = self.params().iter().map(|p| p.value().numel()).sum();
        let plain: usize = self.plain_weights().iter().map(|(_, w)| w.tensor().numel()).sum();
        let linear: usize = self
            .projections()
            .map(|p| {
                let lora: usize = p.lora.iter().flat_map(|l| l.params()).map(|p| p.value().numel()).sum();
                p.weight.tensor().numel() + lora
            })
            .sum();
        (trained, plain + linear)
    }

    /// Final hidden states `[T, H]` of packed sequences, after the last norm.
    ///
    /// # Errors
    /// When an id is not in the vocabulary, or a shape does not fit.
    pub fn hidden(&self, input: &Sequences, pass: &Pass) -> Result<Var> {
        let longest = input.positions.iter().max().map_or(0, |p| *p as usize + 1);
        let rotary = Rotary { table: self.rope.table(longest)?, positions: input.positions.clone() };
        let scale = 1.0 / (self.config.head_dim as f32).sqrt();
        let cu_seqlens = input.cu_seqlens.clone();
        let attend = move |_: usize, q: &Var, k: &Var, v: &Var| {
            let [o] =
                q.attention(Attention { cu_seqlens: cu_seqlens.clone(), scale, window: None }, &[k, v])?;
            Ok(o)
        };
        let mut residual = self.embed(input.ids.clone())?;
        if let Some(noise) = pass.noise {
            let op = noise.op(input.cu_seqlens.clone());
            [residual] = residual.neftune(op, &[])?;
        }
        let mut delta: Option<Var> = None;
        for layer in &self.layers {
            // Below the lowest trained weight nothing is recorded, so there is nothing to run again.
            let recorded = layer.trains() || residual.requires_grad();
            let (r, d) = if pass.checkpoint && recorded {
                let (layer, rotary, pass, attend) = (layer.clone(), rotary.clone(), *pass, attend.clone());
                let segment = move |v: &[Var]| {
                    let (r, d) = layer.forward(&v[0], v.get(1), &rotary, &pass, &mut attend.clone())?;
                    Ok(vec![r, d])
                };
                let inputs: Vec<&Var> = std::iter::once(&residual).chain(&delta).collect();
                let mut outputs = checkpoint(&inputs, segment)?.into_iter();
                match (outputs.next(), outputs.next()) {
                    (Some(r), Some(d)) => (r, d),
                    _ => return Err(Error::Request("a block returned no outputs".into())),
                }
            } else {
                layer.forward(&residual, delta.as_ref(), &rotary, pass, &mut attend.clone())?
            };
            (residual, delta) = (r, Some(d));
        }
        self.final_norm(&residual, delta.as_ref())
    }

    /// Final hidden states `[T, H]` with attention computed by `attend` (a cache, for generation).
    pub(crate) fn hidden_with(
        &self,
        ids: Arc<[u32]>,
        positions: Arc<[u32]>,
        attend: &mut Attend<'_>,
    ) -> Result<Var> {
        let longest = positions.iter().max().map_or(0, |p| *p as usize + 1);
        let rotary = Rotary { table: self.rope.table(longest)?, positions };
        let mut residual = self.embed(ids)?;
        let mut delta: Option<Var> = None;
        for layer in &self.layers {
            let (r, d) = layer.forward(&residual, delta.as_ref(), &rotary, &Pass::default(), attend)?;
            (residual, delta) = (r, Some(d));
        }
        self.final_norm(&residual, delta.as_ref())
    }

    fn embed(&self, ids: Arc<[u32]>) -> Result<Var> {
        let op = Embedding { ids, output: Some(self.placement.compute) };
        let [x] = self.embed_tokens.var().embedding(op, &[])?;
        Ok(x)
    }

    fn final_norm(&self, residual: &Var, delta: Option<&Var>) -> Result<Var> {
        let (norm, eps) = (self.norm.var(), self.config.rms_norm_eps);
        match delta {
            Some(delta) => {
                let [y, _] = residual.add_rms_norm(AddRmsNorm { eps }, &[delta, &norm])?;
                Ok(y)
            }
            None => {
                let [y] = residual.rms_norm(medley_kernels::ops::RmsNorm { eps }, &[&norm])?;
                Ok(y)
            }
        }
    }

    fn head(&self) -> Var {
        self.lm_head.as_ref().unwrap_or(&self.embed_tokens).var()
    }

    /// `(Σ weight·nll, nll of each labelled row)`; logits are never kept.
    ///
    /// # Errors
    /// When a row or target is out of range.
    pub fn loss(&self, hidden: &Var, labels: &Labels) -> Result<(Var, Tensor)> {
        let op = LinearCrossEntropy {
            rows: labels.rows.clone(),
            targets: labels.targets.clone(),
            weights: labels.weights.clone(),
            expected_upstream: labels.loss_scale,
        };
        let [loss, nll] = hidden.linear_cross_entropy(op, &[&self.head()])?;
        Ok((loss, nll.value().clone()))
    }

    /// Logits `[T, vocab]` of hidden states `[T, H]`.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn logits(&self, hidden: &Var) -> Result<Tensor> {
        let [y] = hidden.linear(Linear {}, &[&self.head()])?;
        Ok(y.value().clone())
    }

    /// Logits `[rows, vocab]` of the hidden states `[T, H]` at these positions only.
    ///
    /// # Errors
    /// When a row is not there or the shapes do not fit.
    pub fn logits_at(&self, hidden: &Var, rows: &[u32]) -> Result<Tensor> {
        let [rows] = hidden.index_select(IndexSelect { indices: rows.into() }, &[])?;
        self.logits(&rows)
    }
}
