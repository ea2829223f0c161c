//! PiSSA (Meng et al., arXiv 2404.02948): the adapter starts as the principal part of the weight and the base keeps
//! the rest.
//!
//! `W ≈ U·S·Vᵀ` cut to rank r gives `A = √(S/s)·Vᵀ`, `B = U·√(S/s)` and the base `W − s·B·A`, s being the adapter's
//! scale, so that training starts from the base model's output, but moves its principal directions.
//!
//! What is trained belongs on the residual base. The update is also that of a plain adapter of rank 2r on the
//! original base, `s·(B·A − B₀·A₀) = s·[B | −B₀]·[A ; A₀]`, which is what is saved when the start is kept
//! (PEFT's `path_initial_model_for_weight_conversion`).

use super::{LoraConfig, Start, svd};
use crate::llama::Llama;
use crate::projection::{Initial, Projection, Weight};
use crate::weights::{BaseStorage, WeightReader};
use crate::{Error, Result};
use medley_kernels::cpu::gemm::{MatData, MatMut, MatRef, gemm};
use medley_kernels::updates::nf4;
use medley_tensor::ledger::{self, Category};
use medley_tensor::rng::Philox;
use medley_tensor::{DType, Tensor};
use std::path::Path;

/// How a PiSSA start is computed and whether it is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pissa {
    /// Power iterations of the randomised decomposition; `None`: an exact one.
    pub iterations: Option<usize>,
    /// Remember A and B as they started, so that the adapter can be saved for the original base.
    pub convert: bool,
}

impl Initial {
    /// `[A ; A₀]` `[2r, in]` and `[B | −B₀]` `[out, 2r]`: the change since the start as one adapter.
    pub(super) fn difference(&self, now: &[Tensor; 2]) -> medley_tensor::Result<[Tensor; 2]> {
        let [a, b] = now;
        let (r, input, out) = (a.shape()[0], a.shape()[1], b.shape()[0]);
        let both = [a.as_slice::<f32>()?, self.a.as_slice::<f32>()?].concat();
        let mut wide = Vec::with_capacity(out * 2 * r);
        if r > 0 {
            for (b, b0) in b.as_slice::<f32>()?.chunks_exact(r).zip(self.b.as_slice::<f32>()?.chunks_exact(r))
            {
                wide.extend_from_slice(b);
                wide.extend(b0.iter().map(|v| -v));
            }
        }
        Ok([Tensor::from_vec(both, &[2 * r, input])?, Tensor::from_vec(wide, &[out, 2 * r])?])
    }
}

impl LoraConfig {
    /// The same scale at another rank.
    pub(super) fn widen(&mut self, rank: usize) {
        let ratio = rank as f64 / self.rank as f64;
        self.alpha *= if self.rslora { ratio.sqrt() } else { ratio };
        self.rank = rank;
    }
}

/// The residual: `w −= scale·B·A`.
fn subtract(w: &mut [f32], a: &Tensor, b: &Tensor, scale: f32) -> medley_tensor::Result<()> {
    let (out, r, input) = (b.shape()[0], a.shape()[0], a.shape()[1]);
    let b = MatRef::row_major(MatData::F32(b.as_slice()?), out, r)?;
    let a = MatRef::row_major(MatData::F32(a.as_slice()?), r, input)?;
    gemm(-scale, b, a, 1.0, &mut MatMut::row_major(w, out, input)?)?;
    Ok(())
}

/// `values` `[out, in]` as the base keeps its weights.
fn stored(values: Vec<f32>, like: &Tensor, storage: BaseStorage) -> Result<Tensor> {
    let shape = like.shape();
    match storage {
        BaseStorage::Nf4 { double_quantization } => {
            let matrix = nf4::quantize(&values, shape[0], shape[1], double_quantization)
                .map_err(medley_tensor::Error::from)?;
            Ok(Tensor::from_nf4(matrix))
        }
        _ => Ok(Tensor::from_vec(values, shape)?.to_dtype(like.dtype())?),
    }
}

impl Llama {
    /// Attaches adapters that start as the principal part of their layers' weights, and leaves the base the residual,
    /// in the storage the base has. `folder` is the model's own: decomposed are the weights as it holds them, not
    /// their 4-bit versions. The values depend on `seed` alone.
    ///
    /// # Errors
    /// As [`Llama::attach_lora`]; when the folder's weights are quantised already, a rank is larger than a layer, or
    /// the scale is not positive.
    pub fn attach_pissa(
        &mut self,
        config: &LoraConfig,
        pissa: Pissa,
        seed: u64,
        folder: &Path,
        storage: BaseStorage,
    ) -> Result<()> {
        config.check()?;
        let reader = WeightReader::open(folder, BaseStorage::Mapped)?;
        let placement = self.placement().clone();
        for p in self.blocks_mut()?.into_iter().filter(|p| config.targets(p)) {
            let (out, input) = p.size();
            let name = format!("{}.weight", p.path);
            let original = reader.tensor(&name, &[out, input])?;
            check(p, config, &original, storage)?;
            let (rank, scale) = (config.rank_of(&p.path), config.scale_of(&p.path));
            let mut w = original.to_vec_f32()?;
            let rng = Philox::new(seed, 0x5069_5353 << 32 | p.index);
            let parts = match pissa.iterations {
                Some(iterations) => svd::randomized(&w, [out, input], rank, iterations, rng)?,
                None => svd::exact(&w, [out, input], rank)?,
            };
            let _scope = ledger::scope(Category::Adapters);
            let [a, b] = parts.factors(scale)?;
            subtract(&mut w, &a, &b, scale)?;
            {
                let _scope = ledger::scope(Category::Weights);
                p.weight = Weight::Frozen(placement.frozen(stored(w, &original, storage)?)?);
            }
            let initial = pissa.convert.then(|| Initial { a: a.clone(), b: b.clone() });
            // Copies: training writes to them.
            let own = |t: &Tensor| Tensor::from_vec(t.to_vec_f32()?, t.shape());
            Start { a: own(&a)?, b: own(&b)?, magnitude: None }.attach(p, config)?;
            if let Some(lora) = &mut p.lora {
                lora.initial = initial;
            }
        }
        Ok(())
    }
}

fn check(p: &Projection, config: &LoraConfig, original: &Tensor, storage: BaseStorage) -> Result<()> {
    let path = &p.path;
    let (rank, most) = (config.rank_of(path), original.shape().iter().copied().min().unwrap_or(0));
    let problem = if storage == BaseStorage::Trainable || p.weight.param().is_some() {
        format!("{path} is trained itself; PiSSA needs a frozen base")
    } else if original.dtype() == DType::Nf4 {
        format!(
            "the file holds {path} in 4 bits; PiSSA decomposes the unquantised weights: give that model and quantization_bit: 4"
        )
    } else if rank > most {
        format!("lora_rank is {rank}, and {path} has {most} singular values at most; use a rank up to {most}")
    } else if config.scale_of(path) <= 0.0 {
        format!(
            "lora_alpha is {}; the singular values are divided by the scale: use a positive one",
            config.alpha
        )
    } else {
        return Ok(());
    };
    Err(Error::Request(format!("pissa_init: {problem}")))
}
