//! Keys and values of the tokens seen so far, one cache a sequence.

use medley_kernels::ops::attention::{KeyValues, attention_with_cache};
use medley_tensor::{Result, Tensor};
use rayon::prelude::*;

/// Rotated keys and values of one sequence, `[tokens, kv_heads · head_dim]` a layer.
pub(super) struct KvCache {
    layers: Vec<(Vec<f32>, Vec<f32>)>,
    len: usize,
}

impl KvCache {
    pub(super) fn new(layers: usize) -> Self {
        KvCache { layers: vec![(vec![], vec![]); layers], len: 0 }
    }

    /// Tokens every layer has seen.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Notes that every layer has seen `len` tokens.
    pub(super) fn set_len(&mut self, len: usize) {
        self.len = len;
    }
}

/// Attention of the new tokens of several sequences, each over its own cache, to which their keys
/// and values are added. Rows `ends[i - 1]..ends[i]` of q `[T, Hq, D]`, k and v `[T, Hkv, D]`
/// belong to sequence `i`.
pub(super) fn attend(
    caches: &mut [&mut KvCache],
    ends: &[usize],
    layer: usize,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    scale: f32,
) -> Result<Tensor> {
    let (k, v) = (k.contiguous()?, v.contiguous()?);
    let (heads, head_dim) = (k.shape()[1], k.shape()[2]);
    let width = heads * head_dim;
    let (keys, values) = (k.as_slice::<f32>()?, v.as_slice::<f32>()?);
    let outputs: Vec<Tensor> = caches
        .par_iter_mut()
        .enumerate()
        .map(|(i, cache)| {
            let (start, end) = (if i == 0 { 0 } else { ends[i - 1] }, ends[i]);
            let seen = cache.len;
            let (cached_k, cached_v) = &mut cache.layers[layer];
            cached_k.extend_from_slice(&keys[start * width..end * width]);
            cached_v.extend_from_slice(&values[start * width..end * width]);
            let view = KeyValues {
                k: cached_k,
                v: cached_v,
                len: seen + end - start,
                heads,
                token_stride: width,
                head_stride: head_dim,
            };
            attention_with_cache(&q.narrow(0, start, end - start)?, &view, scale, None, seen)
        })
        .collect::<Result<_>>()?;
    let mut all = Vec::with_capacity(q.numel());
    for o in &outputs {
        all.extend_from_slice(o.as_slice::<f32>()?);
    }
    Tensor::from_vec(all, q.shape())
}
