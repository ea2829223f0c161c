//! Causal attention over packed sequences, with grouped queries and a sliding window:
//! `o = softmax(scale · q·kᵀ + mask) · v`.
//!
//! FlashAttention-2: scores exist for a block of 48 queries × 96 keys at a time, in the first-level cache;
//! the backward pass keeps the output and one log-sum-exp a query and head, and computes the scores again.
//! Sequences lie one after the other without padding, `cu_seqlens` says where each begins.
//!
//! Floor: compute-bound, 4·T²/2·D operations a query head and sequence forward (10·T²/2·D backward), at one
//! fused multiply-add of 16 floats a cycle on two AVX2 pipes.

mod block;
mod cached;
pub(crate) mod cpu;
pub(crate) mod cuda;
mod cuda_cached;
#[cfg(test)]
mod cuda_tests;
mod rows;
#[cfg(test)]
pub(crate) mod tests;
mod tile;

use medley_tensor::{Cost, DType, Error, Op, Result, Tensor};
use std::ops::RangeInclusive;
use std::sync::Arc;

pub use cached::{KeyValues, attention_with_cache};
pub use cuda_cached::{DeviceKeyValues, attention_with_device_caches};
use cpu::{Heads, Problem, Segment, Tape};

/// `(q [T, Hq, D], k [T, Hkv, D], v [T, Hkv, D]) → o [T, Hq, D]`, all f32, on a GPU all of one of f32, bf16
/// and f16 with D up to 256; Hq is a multiple of Hkv, and query head h reads key-value head `h / (Hq / Hkv)`.
#[derive(Debug, Clone)]
pub struct Attention {
    /// Where each sequence starts, then T: `[0, len₀, len₀ + len₁, …, T]`. A token sees its own sequence
    /// alone.
    pub cu_seqlens: Arc<[u32]>,
    /// Factor of the scores, `1/√D` in LLaMA.
    pub scale: f32,
    /// Sliding window: a token sees this many tokens at most, itself included (Mistral 7B, arXiv
    /// 2310.06825).
    pub window: Option<usize>,
}

/// What the backward pass reads.
pub enum Saved {
    /// Of the CPU kernel.
    Cpu(CpuSaved),
    /// Of the CUDA kernels.
    Cuda(cuda::Saved),
}

/// What the backward pass reads on the CPU.
pub struct CpuSaved {
    q: Tensor,
    k: Tensor,
    v: Tensor,
    o: Tensor,
    /// `[Hkv, T, Hq / Hkv]`.
    lse: Vec<f32>,
}

/// `(T, heads, D)` of a tensor `[T, heads, D]`, f32 on the CPU, f32, bf16 or f16 on a GPU.
fn heads(op: &'static str, x: &Tensor) -> Result<(usize, usize, usize)> {
    if x.cuda_device().is_some() {
        crate::cuda::suffix(op, x.dtype())?;
    } else if x.dtype() != DType::F32 {
        return Err(Error::dtype(op, "f32", x.dtype()));
    }
    match *x.shape() {
        [t, h, d] if h > 0 && d > 0 => Ok((t, h, d)),
        _ => Err(Error::shape(op, "[T, heads, D]", x.shape())),
    }
}

fn check_settings(op: &'static str, hq: usize, hkv: usize, window: Option<usize>) -> Result<()> {
    if hkv == 0 || !hq.is_multiple_of(hkv) {
        let message = format!("{hq} query heads are no multiple of {hkv} key-value heads");
        return Err(Error::value(op, message));
    }
    if window == Some(0) {
        return Err(Error::value(op, "a window of 0 lets no token see anything; give 1 or more, or none"));
    }
    Ok(())
}

impl Attention {
    fn problem(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Problem> {
        let (t, hq, d) = heads(Self::NAME, q)?;
        let (tk, hkv, dk) = heads(Self::NAME, k)?;
        heads(Self::NAME, v)?;
        if (t, d) != (tk, dk) {
            return Err(Error::shape(Self::NAME, format!("k [{t}, heads, {d}]"), k.shape()));
        }
        if k.shape() != v.shape() {
            return Err(Error::shape(Self::NAME, format!("v {:?} as k", k.shape()), v.shape()));
        }
        check_settings(Self::NAME, hq, hkv, self.window)?;
        let cu = &*self.cu_seqlens;
        let ends = (cu.first(), cu.last().map(|end| *end as usize));
        if ends != (Some(&0), Some(t)) || cu.windows(2).any(|w| w[0] > w[1]) {
            let message = format!("cu_seqlens must rise from 0 to the number of tokens, {t}; it is {cu:?}");
            return Err(Error::value(Self::NAME, message));
        }
        let segments = cu.windows(2).filter(|w| w[0] < w[1]).map(|w| {
            let (start, len) = (w[0] as usize, (w[1] - w[0]) as usize);
            Segment { q: start, q_len: len, k: start, k_len: len, position: 0 }
        });
        let segments = segments.collect();
        Ok(Problem { d, hq, hkv, scale: self.scale, window: self.window, segments })
    }
}

impl Op for Attention {
    const NAME: &'static str = "attention";
    const ARITY: RangeInclusive<usize> = 3..=3;
    const OUTPUTS: usize = 1;
    const COST: Cost = Cost::Compute;
    type Saved = Option<Saved>;

    fn forward(&self, inputs: &[&Tensor], needs: &[bool]) -> Result<(Vec<Tensor>, Self::Saved)> {
        let p = self.problem(inputs[0], inputs[1], inputs[2])?;
        if let Some(device) = inputs[0].cuda_device() {
            let (o, saved) = cuda::forward(device, &p, inputs[0], inputs[1], inputs[2])?;
            return Ok((vec![o], needs.contains(&true).then_some(Saved::Cuda(saved))));
        }
        let (q, k, v) = (inputs[0].contiguous()?, inputs[1].contiguous()?, inputs[2].contiguous()?);
        let view = |x| Heads::contiguous(x, p.hkv, p.d);
        let (o, lse) = cpu::forward(&p, q.as_slice()?, view(k.as_slice()?), view(v.as_slice()?));
        let o = Tensor::from_vec(o, q.shape())?;
        let saved = needs.contains(&true).then(|| Saved::Cpu(CpuSaved { q, k, v, o: o.clone(), lse }));
        Ok((vec![o], saved))
    }

    fn backward(
        &self,
        saved: Self::Saved,
        grads: &[Option<Tensor>],
        needs: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let (Some(saved), Some(d_out)) = (saved, &grads[0]) else { return Ok(vec![None; 3]) };
        let CpuSaved { q, k, v, o, lse } = match &saved {
            Saved::Cpu(saved) => saved,
            Saved::Cuda(saved) => return Ok(cuda::backward(saved, d_out, needs)?.into()),
        };
        let p = self.problem(q, k, v)?;
        let tape = Tape { q: q.as_slice()?, k: k.as_slice()?, v: v.as_slice()?, o: o.as_slice()?, lse };
        let gradients = cpu::backward(&p, &tape, d_out.contiguous()?.as_slice()?);
        let mut out = Vec::with_capacity(3);
        for ((gradient, like), needed) in gradients.into_iter().zip([q, k, v]).zip(needs) {
            out.push(if *needed { Some(Tensor::from_vec(gradient, like.shape())?) } else { None });
        }
        Ok(out)
    }
}
