//! A linear layer of the model: a weight of any storage, frozen or trainable, a bias, and a
//! low-rank adapter beside it.

use medley_autograd::{Param, Var};
use medley_kernels::ops::lora_linear::{Dropout, LoraLinear};
use medley_kernels::ops::{Binary, BinaryKind, Dora, Linear, Neftune, dora};
use medley_tensor::{DType, Device, Result, Tensor};
use std::sync::{Arc, Mutex, PoisonError};

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
    /// DoRA's magnitudes, when the adapter has them.
    pub magnitude: Option<Magnitude>,
    /// Where PiSSA started, when it is to be taken off again.
    pub initial: Option<Initial>,
}

impl Lora {
    /// What is trained, in a fixed order: A, B, the magnitudes.
    pub fn params(&self) -> impl Iterator<Item = &Arc<Param>> {
        [&self.a, &self.b].into_iter().chain(self.magnitude.as_ref().map(Magnitude::param))
    }
}

/// A and B as they were when training began, on the CPU.
pub struct Initial {
    /// `[r, in]`.
    pub a: Tensor,
    /// `[out, r]`.
    pub b: Tensor,
}

/// DoRA's magnitudes (Liu et al., arXiv 2402.09353): row n of the updated weight has the length m_n.
pub struct Magnitude {
    /// `[out]`.
    m: Arc<Param>,
    /// `‖W‖²` of the frozen weight's rows `[out]`.
    squares: Tensor,
    /// The norms of the updated weight's rows, with the versions of A and B that they belong to.
    norms: Mutex<Option<([u64; 2], Tensor)>>,
}

impl Magnitude {
    /// Magnitudes over `weight + scale·B·A`, under a name; without a value the norms of its rows, so that the layer
    /// is unchanged.
    ///
    /// # Errors
    /// When shapes do not fit or device memory runs out.
    pub(crate) fn new(
        name: String,
        weight: &Tensor,
        a: &Tensor,
        b: &Tensor,
        scale: f32,
        value: Option<Tensor>,
    ) -> Result<Self> {
        let squares = dora::squared_rows(weight)?;
        let value = match value {
            Some(value) => value.to_device(&weight.device())?,
            None => dora::row_norms(weight, a, b, scale, &squares, DType::F32)?,
        };
        Ok(Magnitude { m: Param::new(name, value)?, squares, norms: Mutex::new(None) })
    }

    /// The trained vector `[out]`.
    pub fn param(&self) -> &Arc<Param> {
        &self.m
    }

    /// The norms of the rows of `weight + scale·B·A`, made anew when A or B was written to: once an optimizer step,
    /// however many micro-batches, recomputed segments or generated tokens it has.
    fn norms(&self, weight: &Tensor, lora: &Lora, compute: DType) -> Result<Tensor> {
        let versions = [lora.a.version(), lora.b.version()];
        let mut kept = self.norms.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, norms)) = &*kept
            && *known == versions
        {
            return Ok(norms.clone());
        }
        let (a, b) = (lora.a.value(), lora.b.value());
        let norms = dora::row_norms(weight, &a, &b, lora.scale, &self.squares, compute)?;
        *kept = Some((versions, norms.clone()));
        Ok(norms)
    }

    /// [`Projection::forward`] with magnitudes, as PEFT computes it:
    ///
    /// `g ∘ (x·Wᵀ + s·x·Aᵀ·Bᵀ) + bias` with `g = m / ‖W + s·B·A‖`; with dropout the base's part is made of the
    /// dropped x' too, and what it lost comes back unscaled:
    /// `x·Wᵀ + (g − 1)∘(x'·Wᵀ) + g∘(s·x'·Aᵀ·Bᵀ) + bias`, here `g ∘ (x'·Wᵀ + s·x'·Aᵀ·Bᵀ) + (x − x')·Wᵀ + bias`.
    fn forward(
        &self,
        x: &Var,
        lora: &Lora,
        weight: &Var,
        bias: Option<&Var>,
        dropout: Option<Dropout>,
    ) -> Result<Var> {
        let norms = Var::from(self.norms(weight.value(), lora, x.value().dtype())?);
        let (a, b, m) = (lora.a.var(), lora.b.var(), self.m.var());
        let op = LoraLinear { scale: lora.scale, dropout: None };
        let dropped = match dropout {
            Some(dropout) => Some(x.dropout(dropout, &[])?),
            None => None,
        };
        let source = dropped.as_ref().map_or(x, |[dropped]| dropped);
        let [z] = source.lora_linear(op, &[weight, &a, &b])?;
        let [y] = match bias {
            None => z.dora(Dora {}, &[&m, &norms])?,
            Some(bias) => z.dora(Dora {}, &[&m, &norms, bias])?,
        };
        let Some([dropped]) = &dropped else { return Ok(y) };
        let [lost] = x.binary(Binary { kind: BinaryKind::Sub }, &[dropped])?;
        let [back] = lost.linear(Linear {}, &[weight])?;
        let [y] = y.binary(Binary { kind: BinaryKind::Add }, &[&back])?;
        Ok(y)
    }
}

/// NEFTune's noise in a pass that trains (Jain et al., arXiv 2310.05914).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Noise {
    /// α of the paper.
    pub alpha: f32,
    /// Seed of the run.
    pub seed: u64,
    /// The optimizer step.
    pub step: u64,
    /// Which of the step's sequences is the first of the pass.
    pub first_sequence: u64,
}

impl Noise {
    /// The noise of the sequences that `cu_seqlens` cuts. It depends on seed, step, and the sequence's number in the
    /// step, not on the micro-batch.
    pub(crate) fn op(&self, cu_seqlens: Arc<[u32]>) -> Neftune {
        // Not the key of the dropout masks, whose streams are numbered otherwise.
        let seed = self.seed ^ 0x4E45_4654_756E_6521;
        Neftune { alpha: self.alpha, seed, stream: self.step << 32 | self.first_sequence, cu_seqlens }
    }
}

/// What a forward pass is for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pass {
    /// `Some((seed, micro-batch))` while training: seeds dropout.
    pub dropout: Option<(u64, u64)>,
    /// Noise on the embeddings while training.
    pub noise: Option<Noise>,
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
                if let Some(magnitude) = &lora.magnitude {
                    return magnitude.forward(x, lora, &weight, bias.as_ref(), dropout);
                }
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

    /// The weight with the adapter folded in, f32 `[out, in]`: `W + scale·B·A`, its rows brought to DoRA's magnitudes.
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
            if let Some(magnitude) = &lora.magnitude {
                let m = magnitude.m.value().to_vec_f32()?;
                for (row, m) in w.chunks_exact_mut(input.max(1)).zip(m) {
                    let square: f64 = row.iter().map(|v| f64::from(*v) * f64::from(*v)).sum();
                    let factor = (f64::from(m) / square.sqrt()) as f32;
                    row.iter_mut().for_each(|v| *v *= factor);
                }
            }
        }
        Ok(w)
    }
}
