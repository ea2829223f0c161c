//! A linear layer of the model: a weight of any storage, frozen or trainable, a bias, and a
//! low-rank adapter beside it.

use medley_autograd::{Param, Var};
use medley_kernels::ops::Linear;
use medley_kernels::ops::lora_linear::{Dropout, LoraLinear};
use medley_tensor::{Device, Result, Tensor};
use std::sync::Arc;

/// A weight, used in place or trained in f32.
pub enum Weight {
    /// No gradient; bf16, f16, f32 or NF4, often mapped from the file.
    Frozen(Tensor),
    /// Trained; f32.
    Trainable(Arc<Param>),
}

impl Weight {
    /// The weight as a variable.
    pub fn var(&self) -> Var {
        match self {
            Weight::Frozen(t) => Var::from(t.clone()),
            Weight::Trainable(p) => p.var(),
        }
    }

    /// The present value.
    pub fn tensor(&self) -> Tensor {
        match self {
            Weight::Frozen(t) => t.clone(),
            Weight::Trainable(p) => p.value(),
        }
    }

    /// The parameter, when trained.
    pub fn param(&self) -> Option<&Arc<Param>> {
        match self {
            Weight::Frozen(_) => None,
            Weight::Trainable(p) => Some(p),
        }
    }
}

/// A low-rank adapter: `scale · dropout(x)·Aᵀ·Bᵀ` is added to the layer's output
/// (Hu et al., arXiv 2106.09685).
pub struct Lora {
    /// `[r, in]`.
    pub a: Arc<Param>,
    /// `[out, r]`.
    pub b: Arc<Param>,
    /// `alpha / r`, or `alpha / √r` for rsLoRA.
    pub scale: f32,
    /// Probability that an input of A is dropped while training.
    pub dropout: f32,
}

/// What a forward pass is for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pass {
    /// `Some((seed, micro-batch))` while training: seeds dropout.
    pub dropout: Option<(u64, u64)>,
    /// Recompute each block's activations in the backward pass instead of keeping them.
    pub checkpoint: bool,
}

/// A linear layer under its full module path (`model.layers.0.self_attn.q_proj`).
pub struct Projection {
    /// The module path.
    pub path: String,
    /// A number of its own, so that no two layers drop the same inputs.
    pub index: u64,
    /// `[out, in]`.
    pub weight: Weight,
    /// `[out]`.
    pub bias: Option<Weight>,
    /// The adapter, when one is attached.
    pub lora: Option<Lora>,
}

impl Projection {
    /// The last part of the path: `q_proj`.
    pub fn kind(&self) -> &str {
        self.path.rsplit('.').next().unwrap_or(&self.path)
    }

    /// `(out, in)`.
    pub fn size(&self) -> (usize, usize) {
        match self.weight.tensor().shape() {
            [out, input] => (*out, *input),
            _ => (0, 0),
        }
    }

    /// x `[T, in]` → `[T, out]`.
    pub(crate) fn forward(&self, x: &Var, pass: &Pass) -> Result<Var> {
        let weight = self.weight.var();
        let bias = self.bias.as_ref().map(Weight::var);
        let [y] = match &self.lora {
            None => match &bias {
                None => x.linear(Linear {}, &[&weight])?,
                Some(bias) => x.linear(Linear {}, &[&weight, bias])?,
            },
            Some(lora) => {
                let dropout = match pass.dropout {
                    // Counter-based: the mask depends on seed, layer and micro-batch alone.
                    Some((seed, micro_batch)) if lora.dropout > 0.0 => {
                        Some(Dropout { p: lora.dropout, seed, stream: micro_batch << 24 | self.index })
                    }
                    _ => None,
                };
                let (a, b) = (lora.a.var(), lora.b.var());
                let op = LoraLinear { scale: lora.scale, dropout };
                match &bias {
                    None => x.lora_linear(op, &[&weight, &a, &b])?,
                    Some(bias) => x.lora_linear(op, &[&weight, &a, &b, bias])?,
                }
            }
        };
        Ok(y)
    }

    /// The weight with the adapter folded in, f32 `[out, in]`: `W + scale·B·A`.
    pub(crate) fn merged(&self) -> Result<Vec<f32>> {
        let mut w = self.weight.tensor().to_vec_f32()?;
        if let Some(lora) = &self.lora {
            use medley_kernels::cpu::gemm::{MatData, MatMut, MatRef, gemm};
            let (out, input) = self.size();
            let (a, b) = (lora.a.value().to_device(&Device::Cpu)?, lora.b.value().to_device(&Device::Cpu)?);
            let r = a.shape()[0];
            let b = MatRef::row_major(MatData::F32(b.as_slice()?), out, r)?;
            let a = MatRef::row_major(MatData::F32(a.as_slice()?), r, input)?;
            gemm(lora.scale, b, a, 1.0, &mut MatMut::row_major(&mut w, out, input)?)?;
        }
        Ok(w)
    }
}
