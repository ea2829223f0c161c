//! Attention of new tokens over a cache of keys and values, for generation. Not differentiable.

use super::cpu::{self, Heads, Problem, Segment};
use super::rows::{dispatch, exp2, multiply_add};
use super::tile::dot;
use crate::cpu::lanes::fold8;
use crate::cpu::{Isa, isa};
use medley_tensor::{Error, Result, Tensor, alloc};
use rayon::prelude::*;
use std::f32::consts::LOG2_E;

/// Fewer queries than this are computed by reading keys and values where they lie: packing them would cost
/// more than it brings.
const FEW_QUERIES: usize = 6;

/// Keys and values of one sequence, as they lie in a cache: element (token, head, i) at
/// `token·token_stride + head·head_stride + i` of `k` and of `v`.
#[derive(Debug, Clone, Copy)]
pub struct KeyValues<'a> {
    /// Keys.
    pub k: &'a [f32],
    /// Values.
    pub v: &'a [f32],
    /// Tokens in the cache, the new ones included.
    pub len: usize,
    /// Key-value heads.
    pub heads: usize,
    /// Distance of tokens, in elements.
    pub token_stride: usize,
    /// Distance of heads, in elements.
    pub head_stride: usize,
}

/// Causal attention of `q` `[Tq, Hq, D]` (f32) over a cache; query `i` stands at position `q_offset + i` and
/// sees the keys up to that position, `window` of them at most. Returns `[Tq, Hq, D]`.
///
/// # Errors
/// When `q` is not of that shape, Hq is no multiple of the cache's heads, the cache's slices are shorter
/// than its strides say, a query stands past the cache's end, or the window is 0.
pub fn attention_with_cache(
    q: &Tensor,
    cache: &KeyValues,
    scale: f32,
    window: Option<usize>,
    q_offset: usize,
) -> Result<Tensor> {
    const NAME: &str = "attention_with_cache";
    let (tq, hq, d) = super::heads(NAME, q)?;
    super::check_settings(NAME, hq, cache.heads, window)?;
    if q_offset + tq > cache.len {
        let message = format!(
            "{tq} queries from position {q_offset} on do not fit a cache of {} tokens; add the new keys first",
            cache.len
        );
        return Err(Error::value(NAME, message));
    }
    if tq == 0 {
        return Ok(q.clone());
    }
    let end = (cache.len - 1) * cache.token_stride + (cache.heads - 1) * cache.head_stride + d;
    for (name, data) in [("k", cache.k), ("v", cache.v)] {
        if data.len() < end {
            let message = format!("{name} of the cache has {} elements, its strides need {end}", data.len());
            return Err(Error::value(NAME, message));
        }
    }
    let view = |data| Heads { data, token_stride: cache.token_stride, head_stride: cache.head_stride };
    let (k, v) = (view(cache.k), view(cache.v));
    let contiguous = q.contiguous()?;
    let rows = contiguous.as_slice::<f32>()?;
    let out = if tq < FEW_QUERIES {
        few_queries(&Few { rows, hq, d, group: hq / cache.heads, k, v, scale, window, q_offset })
    } else {
        let segments = vec![Segment { q: 0, q_len: tq, k: 0, k_len: q_offset + tq, position: q_offset }];
        cpu::forward(&Problem { d, hq, hkv: cache.heads, scale, window, segments }, rows, k, v).0
    };
    Tensor::from_vec(out, q.shape())
}

/// What [`few_queries`] reads.
pub(super) struct Few<'a> {
    rows: &'a [f32],
    hq: usize,
    d: usize,
    group: usize,
    k: Heads<'a>,
    v: Heads<'a>,
    scale: f32,
    window: Option<usize>,
    q_offset: usize,
}

/// Keys whose probabilities are formed before their values are summed: K and V of these stay in the
/// first-level cache while the heads of a group pass by.
const KEYS: usize = 64;
/// Columns of the output that are summed in registers.
const COLUMNS: usize = 32;

/// Bound by reading the keys and values, each once for all heads of a group.
fn few_queries(few: &Few) -> Vec<f32> {
    let mut out = alloc::take(few.rows.len());
    let isa = isa();
    out.par_chunks_mut(few.d * few.group).enumerate().for_each(|(task, out)| group(isa, few, task, out));
    out
}

dispatch! {
    /// Output of one query for the heads that share a key-value head; `task` counts such groups.
    group = group_body(few: &Few, task: usize, out: &mut [f32])
}

#[inline(always)]
fn group_body<const FMA: bool>(few: &Few, task: usize, out: &mut [f32]) {
    let d = few.d;
    let (query, head) = (task * few.group / few.hq, task * few.group % few.hq / few.group);
    let to = few.q_offset + query + 1;
    let from = few.window.map_or(0, |w| to.saturating_sub(w));
    let q = &few.rows[(query * few.hq + head * few.group) * d..][..few.group * d];
    let scale = few.scale * LOG2_E;
    let mut p = vec![0.0f32; (to - from) * few.group];
    for t in from..to {
        let k = few.k.row(t, head, d);
        for (q, p) in q.chunks_exact(d).zip(p.chunks_exact_mut(to - from)) {
            p[t - from] = dot::<FMA>(q, k) * scale;
        }
    }
    for p in p.chunks_exact_mut(to - from) {
        let max = fold8(p, f32::NEG_INFINITY, |a, b| if b > a { b } else { a });
        p.iter_mut().for_each(|x| *x = exp2::<FMA>(*x - max));
        let scale = 1.0 / fold8(p, 0.0, |a, b| a + b);
        p.iter_mut().for_each(|x| *x *= scale);
    }
    out.fill(0.0);
    for block in (from..to).step_by(KEYS) {
        let keys = block..(block + KEYS).min(to);
        for (out, p) in out.chunks_exact_mut(d).zip(p.chunks_exact(to - from)) {
            let p = &p[keys.start - from..keys.end - from];
            let mut strips = out.chunks_exact_mut(COLUMNS);
            let mut column = 0;
            for strip in &mut strips {
                let mut sums = [0.0f32; COLUMNS];
                for (p, t) in p.iter().zip(keys.clone()) {
                    let v = &few.v.row(t, head, d)[column..column + COLUMNS];
                    for (sum, v) in sums.iter_mut().zip(v) {
                        *sum = multiply_add::<FMA>(*p, *v, *sum);
                    }
                }
                strip.iter_mut().zip(sums).for_each(|(out, sum)| *out += sum);
                column += COLUMNS;
            }
            let rest = strips.into_remainder();
            for (p, t) in p.iter().zip(keys.clone()) {
                for (out, v) in rest.iter_mut().zip(&few.v.row(t, head, d)[column..]) {
                    *out = multiply_add::<FMA>(*p, *v, *out);
                }
            }
        }
    }
}
