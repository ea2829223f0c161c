//! FlashAttention-2 (Dao, arXiv 2307.08691) for one block of queries of one head.
//!
//! ```text
//! forward, a block of 48 queries        for blocks of 96 keys that it sees
//!   S [48, 96]  = Q·Kᵀ                    Kᵀ lies in panels of 16 keys × D, V and K as rows padded to 16
//!   P, m, l     = online softmax(S)       in place, in the first-level cache
//!   O          += P·V
//! backward                              P = 2^(S − lse); dP = dO·Vᵀ; dS = P∘(dP − rowsum(dO∘O))
//!                                       dV += Pᵀ·dO; dK += dSᵀ·Q; dQ += dS·K
//! ```
//! Tiles of 6 queries × 16 keys that lie wholly above the diagonal or left of the window are not computed.

use super::rows::{online_softmax, softmax_backward};
use super::tile::{MR, NR, Side, tile};
use crate::cpu::Isa;

/// Queries of a block: a multiple of [`MR`] and [`NR`].
pub(super) const BQ: usize = 48;
/// Keys of a block: a multiple of [`MR`] and [`NR`].
pub(super) const BK: usize = 96;

/// Which queries a block holds and what they see.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    /// Head dimension.
    pub d: usize,
    /// Head dimension rounded up to whole tiles: the length of a padded row.
    pub dp: usize,
    /// Queries in the block, at most [`BQ`].
    pub nq: usize,
    /// Position of the first query among the keys: it sees keys up to and including this one.
    pub position: usize,
    /// Keys there are.
    pub keys: usize,
    /// How many keys a query sees at most, its own included.
    pub window: Option<usize>,
}

impl Shape {
    /// Groups of [`MR`] queries.
    #[inline(always)]
    pub fn groups(&self) -> usize {
        self.nq.div_ceil(MR)
    }

    /// Keys `from .. to` that query `i` sees, over all keys; empty for rows that pad the last group.
    #[inline(always)]
    fn range(&self, i: usize) -> (usize, usize) {
        if i >= self.nq {
            return (0, 0);
        }
        let to = (self.position + i + 1).min(self.keys);
        (self.window.map_or(0, |w| (self.position + i + 1).saturating_sub(w)), to)
    }

    /// Columns `from .. to` of the block of keys from `kb` that query `i` sees.
    #[inline(always)]
    pub fn seen(&self, i: usize, kb: usize) -> (usize, usize) {
        let (from, to) = self.range(i);
        (from.saturating_sub(kb).min(BK), to.saturating_sub(kb).min(BK))
    }

    /// Columns that any query of group `group` sees.
    #[inline(always)]
    fn group_seen(&self, group: usize, kb: usize) -> (usize, usize) {
        let last = ((group + 1) * MR).min(self.nq) - 1;
        (self.seen(group * MR, kb).0, self.seen(last, kb).1)
    }

    /// Panels of [`NR`] keys that any query of group `group` sees, counted from `kb`.
    #[inline(always)]
    pub fn panels(&self, group: usize, kb: usize) -> (usize, usize) {
        let (from, to) = self.group_seen(group, kb);
        if from < to { (from / NR, to.div_ceil(NR)) } else { (0, 0) }
    }

    /// First keys of the blocks of keys to visit.
    fn key_blocks(&self) -> impl Iterator<Item = usize> + use<> {
        let (from, to) = (self.range(0).0 / NR * NR, self.range(self.nq - 1).1);
        (from..to).step_by(BK)
    }
}

/// Keys and values of one sequence and head, as the tiles read them.
#[derive(Clone, Copy)]
pub(super) struct Packed<'a> {
    /// Kᵀ: panels of [`NR`] keys, each `[D, NR]`, the last padded with zeros.
    pub k_panels: &'a [f32],
    /// Vᵀ in the same way (backward alone).
    pub v_panels: &'a [f32],
    /// K: rows of `dp` (backward alone).
    pub k_rows: &'a [f32],
    /// V: rows of `dp` (forward alone).
    pub v_rows: &'a [f32],
}

/// Buffers of a task, reused from block to block.
pub(super) struct Scratch {
    /// Queries times scale·log₂ e, rows of `dp`.
    pub q: Vec<f32>,
    s: Vec<f32>,
    ds: Vec<f32>,
    /// Output of the forward, gradient of Q of the backward: rows of `dp`.
    pub out: Vec<f32>,
    /// Gradient of the output, rows of `dp` (backward).
    pub d_out: Vec<f32>,
    m: Vec<f32>,
    l: Vec<f32>,
    /// Base-2 logarithm of the sum of the rows' `2^score`: the forward's result, the backward's input.
    pub lse: Vec<f32>,
    /// `rowsum(dO ∘ O)` (backward).
    pub delta: Vec<f32>,
}

impl Scratch {
    pub fn new(dp: usize) -> Self {
        let block = || vec![0.0; BQ * dp];
        let column = || vec![0.0; BQ];
        Scratch {
            q: block(),
            s: vec![0.0; BQ * BK],
            ds: vec![0.0; BQ * BK],
            out: block(),
            d_out: block(),
            m: column(),
            l: column(),
            lse: column(),
            delta: column(),
        }
    }
}

/// `s ← q · panelsᵀ` for the block of keys from `kb`, where anything is seen.
fn scores(isa: Isa, shape: &Shape, kb: usize, q: &[f32], panels: &[f32], s: &mut [f32]) {
    for panel in 0..BK / NR {
        for group in 0..shape.groups() {
            let (first, last) = shape.panels(group, kb);
            if (first..last).contains(&panel) {
                let b = &panels[(kb + panel * NR) * shape.d..];
                let a = (&q[group * MR * shape.dp..], shape.dp, Side::Rows);
                tile(isa, shape.d, a, (b, NR), (&mut s[group * MR * BK + panel * NR..], BK), false);
            }
        }
    }
}

/// `out += p · rows` for the block of keys from `kb`.
fn weighted_rows(isa: Isa, shape: &Shape, kb: usize, p: &[f32], rows: &[f32], out: &mut [f32]) {
    for column in (0..shape.dp).step_by(NR) {
        for group in 0..shape.groups() {
            let (from, to) = shape.group_seen(group, kb);
            if from < to {
                let a = (&p[group * MR * BK + from..], BK, Side::Rows);
                let b = (&rows[(kb + from) * shape.dp + column..], shape.dp);
                let c = (&mut out[group * MR * shape.dp + column..], shape.dp);
                tile(isa, to - from, a, b, c, true);
            }
        }
    }
}

/// `out[keys] += pᵀ · rows` for the block of keys from `kb`; `out` has rows of `dp` for all keys.
fn weighted_columns(isa: Isa, shape: &Shape, kb: usize, p: &[f32], rows: &[f32], out: &mut [f32]) {
    let to = shape.seen(shape.nq - 1, kb).1;
    for key in (shape.seen(0, kb).0 / MR * MR..to).step_by(MR) {
        // Queries that see any of these keys.
        let first = (kb + key).saturating_sub(shape.position);
        let end = shape.window.map_or(shape.nq, |w| (kb + key + MR - 1 + w).saturating_sub(shape.position));
        let end = end.min(shape.nq);
        if first >= end {
            continue;
        }
        for column in (0..shape.dp).step_by(NR) {
            let a = (&p[first * BK + key..], BK, Side::Columns);
            let b = (&rows[first * shape.dp + column..], shape.dp);
            let c = (&mut out[(kb + key) * shape.dp + column..], shape.dp);
            tile(isa, end - first, a, b, c, true);
        }
    }
}

/// Attention of the queries in `w.q`: fills `w.out` and `w.lse`.
pub(super) fn forward(isa: Isa, shape: &Shape, kv: Packed, w: &mut Scratch) {
    w.out.fill(0.0);
    w.m.fill(f32::NEG_INFINITY);
    w.l.fill(0.0);
    for kb in shape.key_blocks() {
        scores(isa, shape, kb, &w.q, kv.k_panels, &mut w.s);
        online_softmax(isa, shape, kb, &mut w.s, &mut w.out, &mut w.m, &mut w.l);
        weighted_rows(isa, shape, kb, &w.s, kv.v_rows, &mut w.out);
    }
    for i in 0..shape.nq {
        let scale = 1.0 / w.l[i];
        w.out[i * shape.dp..(i + 1) * shape.dp].iter_mut().for_each(|o| *o *= scale);
        w.lse[i] = w.m[i] + w.l[i].log2();
    }
}

/// Gradients from `w.q`, `w.d_out`, `w.lse` and `w.delta`: fills `w.out` with that of the queries divided by
/// scale, adds to `dk` that of the keys times log₂ e and to `dv` that of the values. These two have rows of
/// `dp` for all keys, and [`MR`] more.
pub(super) fn backward(
    isa: Isa,
    shape: &Shape,
    kv: Packed,
    w: &mut Scratch,
    dk: &mut [f32],
    dv: &mut [f32],
) {
    w.out.fill(0.0);
    for kb in shape.key_blocks() {
        scores(isa, shape, kb, &w.q, kv.k_panels, &mut w.s);
        scores(isa, shape, kb, &w.d_out, kv.v_panels, &mut w.ds);
        softmax_backward(isa, shape, kb, &mut w.s, &mut w.ds, &w.lse, &w.delta);
        weighted_columns(isa, shape, kb, &w.s, &w.d_out, dv);
        weighted_columns(isa, shape, kb, &w.ds, &w.q, dk);
        weighted_rows(isa, shape, kb, &w.ds, kv.k_rows, &mut w.out);
    }
}
