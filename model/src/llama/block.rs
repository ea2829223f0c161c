//! One transformer block: attention and MLP, each behind an RMSNorm and added to the residual.

use super::Attend;
use crate::Result;
use crate::config::ModelConfig;
use crate::projection::{Pass, Projection, Weight};
use crate::weights::WeightReader;
use medley_autograd::Var;
use medley_kernels::ops::rope::RopeTable;
use medley_kernels::ops::{AddRmsNorm, Reshape, RmsNorm, Rope, Swiglu};
use std::sync::Arc;

/// Rotary table and the position of each token.
#[derive(Clone)]
pub(crate) struct Rotary {
    pub(crate) table: Arc<RopeTable>,
    pub(crate) positions: Arc<[u32]>,
}

/// The weights of one block.
pub(crate) struct Block {
    layer: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    eps: f32,
    input_layernorm: Weight,
    q_proj: Projection,
    k_proj: Projection,
    v_proj: Projection,
    o_proj: Projection,
    post_attention_layernorm: Weight,
    gate_proj: Projection,
    up_proj: Projection,
    down_proj: Projection,
}

impl Block {
    pub(crate) fn read(config: &ModelConfig, layer: usize, reader: &WeightReader) -> Result<Self> {
        let prefix = format!("model.layers.{layer}");
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let (q, kv) = (config.q_size(), config.kv_size());
        let projection = |module: &str, out: usize, input: usize, bias: bool| -> Result<Projection> {
            let path = format!("{prefix}.{module}");
            Ok(Projection {
                index: reader.next_index(),
                weight: reader.linear(&format!("{path}.weight"), out, input)?,
                bias: if bias { Some(reader.plain(&format!("{path}.bias"), &[out])?) } else { None },
                lora: None,
                path,
            })
        };
        let (attention_bias, mlp_bias) = (config.attention_bias, config.mlp_bias);
        Ok(Block {
            layer,
            heads: config.num_attention_heads,
            kv_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
            eps: config.rms_norm_eps,
            input_layernorm: reader.plain(&format!("{prefix}.input_layernorm.weight"), &[hidden])?,
            q_proj: projection("self_attn.q_proj", q, hidden, attention_bias)?,
            k_proj: projection("self_attn.k_proj", kv, hidden, attention_bias)?,
            v_proj: projection("self_attn.v_proj", kv, hidden, attention_bias)?,
            o_proj: projection("self_attn.o_proj", hidden, q, attention_bias)?,
            post_attention_layernorm: reader
                .plain(&format!("{prefix}.post_attention_layernorm.weight"), &[hidden])?,
            gate_proj: projection("mlp.gate_proj", inner, hidden, mlp_bias)?,
            up_proj: projection("mlp.up_proj", inner, hidden, mlp_bias)?,
            down_proj: projection("mlp.down_proj", hidden, inner, mlp_bias)?,
        })
    }

    /// The linear layers in the order of the file format.
    pub(crate) fn projections(&self) -> [&Projection; 7] {
        [
            &self.q_proj,
            &self.k_proj,
            &self.v_proj,
            &self.o_proj,
            &self.gate_proj,
            &self.up_proj,
            &self.down_proj,
        ]
    }

    pub(crate) fn projections_mut(&mut self) -> [&mut Projection; 7] {
        [
            &mut self.q_proj,
            &mut self.k_proj,
            &mut self.v_proj,
            &mut self.o_proj,
            &mut self.gate_proj,
            &mut self.up_proj,
            &mut self.down_proj,
        ]
    }

    /// The norms, by the module's name.
    pub(crate) fn norms_mut(&mut self) -> [(&'static str, &mut Weight); 2] {
        [
            ("input_layernorm", &mut self.input_layernorm),
            ("post_attention_layernorm", &mut self.post_attention_layernorm),
        ]
    }

    /// Whether any weight or adapter of the block is trained.
    pub(crate) fn trains(&self) -> bool {
        self.plain_weights().iter().any(|(_, w)| w.param().is_some())
            || self.projections().iter().any(|p| p.lora.is_some() || p.weight.param().is_some())
    }

    pub(crate) fn plain_weights(&self) -> Vec<(String, &Weight)> {
        let prefix = format!("model.layers.{}", self.layer);
        let mut out = vec![
            (format!("{prefix}.input_layernorm.weight"), &self.input_layernorm),
            (format!("{prefix}.post_attention_layernorm.weight"), &self.post_attention_layernorm),
        ];
        for p in self.projections() {
            out.extend(p.bias.as_ref().map(|b| (format!("{}.bias", p.path), b)));
        }
        out
    }

    /// `(residual, delta)` in and out: the residual stream is `residual + delta`, and the addition
    /// is fused into the next norm. The first block has no delta.
    pub(crate) fn forward(
        &self,
        residual: &Var,
        delta: Option<&Var>,
        rotary: &Rotary,
        pass: &Pass,
        attend: &mut Attend<'_>,
    ) -> medley_tensor::Result<(Var, Var)> {
        let eps = self.eps;
        let norm = self.input_layernorm.var();
        let (x, residual) = match delta {
            Some(delta) => {
                let [x, sum] = residual.add_rms_norm(AddRmsNorm { eps }, &[delta, &norm])?;
                (x, sum)
            }
            None => {
                let [x] = residual.rms_norm(RmsNorm { eps }, &[&norm])?;
                (x, residual.clone())
            }
        };
        let tokens = x.shape()[0];
        let heads = |x: Var, heads: usize| -> medley_tensor::Result<Var> {
            let [x] = x.reshape(Reshape { shape: vec![tokens, heads, self.head_dim] }, &[])?;
            Ok(x)
        };
        let rotate = |x: Var| -> medley_tensor::Result<Var> {
            let op = Rope { table: rotary.table.clone(), positions: rotary.positions.clone() };
            let [x] = x.rope(op, &[])?;
            Ok(x)
        };
        let q = rotate(heads(self.q_proj.forward(&x, pass)?, self.heads)?)?;
        let k = rotate(heads(self.k_proj.forward(&x, pass)?, self.kv_heads)?)?;
        let v = heads(self.v_proj.forward(&x, pass)?, self.kv_heads)?;
        let o = attend(self.layer, &q, &k, &v)?;
        let [o] = o.reshape(Reshape { shape: vec![tokens, self.heads * self.head_dim] }, &[])?;
        let delta = self.o_proj.forward(&o, pass)?;

        let norm = self.post_attention_layernorm.var();
        let [x, residual] = residual.add_rms_norm(AddRmsNorm { eps }, &[&delta, &norm])?;
        let gate = self.gate_proj.forward(&x, pass)?;
        let up = self.up_proj.forward(&x, pass)?;
        let [inner] = gate.swiglu(Swiglu {}, &[&up])?;
        Ok((residual, self.down_proj.forward(&inner, pass)?))
    }
}
