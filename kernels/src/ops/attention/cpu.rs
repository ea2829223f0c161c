//! Attention on the CPU: packs keys and values once, then cuts the work into independent tasks.
//!
//! Forward tasks are (key-value head, sequence, block of queries), backward tasks (key-value head,
//! sequence), so that one task sums the gradients of K and V over all query heads of its group, in one
//! order whatever the number of threads. Results are written head by head, where a task owns a contiguous
//! piece, and interleaved at the end.

use super::block::{self, BQ, Packed, Scratch, Shape};
use super::tile::{MR, NR};
use crate::cpu::isa;
use crate::cpu::lanes::dot8;
use medley_tensor::alloc;
use rayon::prelude::*;
use std::f32::consts::{LN_2, LOG2_E};

/// Keys or values: element (token, head, i) at `token·token_stride + head·head_stride + i`.
#[derive(Clone, Copy)]
pub(super) struct Heads<'a> {
    pub data: &'a [f32],
    pub token_stride: usize,
    pub head_stride: usize,
}

impl<'a> Heads<'a> {
    /// Contiguous `[T, heads, d]`.
    pub fn contiguous(data: &'a [f32], heads: usize, d: usize) -> Self {
        Heads { data, token_stride: heads * d, head_stride: d }
    }

    pub fn row(&self, token: usize, head: usize, d: usize) -> &'a [f32] {
        &self.data[token * self.token_stride + head * self.head_stride..][..d]
    }
}

/// Queries that see the keys of one sequence.
#[derive(Debug, Clone, Copy)]
pub(super) struct Segment {
    /// First query, a row of Q.
    pub q: usize,
    /// How many queries.
    pub q_len: usize,
    /// First key, a row of K and V.
    pub k: usize,
    /// How many keys.
    pub k_len: usize,
    /// Position of the first query among the keys.
    pub position: usize,
}

/// Sizes and settings of a call.
#[derive(Debug, Clone)]
pub(super) struct Problem {
    pub d: usize,
    pub hq: usize,
    pub hkv: usize,
    pub scale: f32,
    pub window: Option<usize>,
    pub segments: Vec<Segment>,
}

impl Problem {
    /// Query heads that share a key-value head.
    fn group(&self) -> usize {
        self.hq / self.hkv
    }

    fn padded(&self) -> usize {
        self.d.next_multiple_of(NR)
    }

    fn shape(&self, segment: &Segment, q0: usize) -> Shape {
        Shape {
            d: self.d,
            dp: self.padded(),
            nq: BQ.min(segment.q_len - q0),
            position: segment.position + q0,
            keys: segment.k_len,
            window: self.window,
        }
    }

    /// Runs `pack(head, segment, piece)` over pieces of `size(segment)` elements.
    fn packed(
        &self,
        size: impl Fn(&Segment) -> usize,
        pack: impl Fn(usize, &Segment, &mut [f32]) + Sync,
    ) -> Pieces {
        let sizes: Vec<usize> = (0..self.hkv).flat_map(|_| self.segments.iter().map(&size)).collect();
        let mut data = alloc::take(sizes.iter().sum());
        let mut tasks: Vec<_> = split(&mut data, sizes.iter().copied()).into_iter().enumerate().collect();
        tasks.par_iter_mut().for_each(|(task, piece)| {
            let n = self.segments.len();
            pack(*task / n, &self.segments[*task % n], piece);
        });
        let starts = sizes
            .iter()
            .scan(0, |at, size| {
                *at += size;
                Some(*at - size)
            })
            .collect();
        Pieces { data, starts }
    }

    /// Transposed: panels of 16 tokens, each `[D, 16]`, the last padded with zeros.
    fn panels(&self, x: Heads) -> Pieces {
        let d = self.d;
        self.packed(
            |s| s.k_len.next_multiple_of(NR) * d,
            |head, s, out| {
                for (p, panel) in out.chunks_exact_mut(NR * d).enumerate() {
                    let first = p * NR;
                    let there = NR.min(s.k_len - first);
                    let rows: [&[f32]; NR] =
                        std::array::from_fn(|j| x.row(s.k + first + j.min(there - 1), head, d));
                    for (i, column) in panel.chunks_exact_mut(NR).enumerate() {
                        for (j, (to, row)) in column.iter_mut().zip(&rows).enumerate() {
                            *to = if j < there { row[i] } else { 0.0 };
                        }
                    }
                }
            },
        )
    }

    /// Rows of a whole number of tiles, padded with zeros.
    fn rows(&self, x: Heads) -> Pieces {
        let (d, dp) = (self.d, self.padded());
        self.packed(
            |s| s.k_len * dp,
            |head, s, out| {
                for (t, row) in out.chunks_exact_mut(dp).enumerate() {
                    row[..d].copy_from_slice(x.row(s.k + t, head, d));
                    row[d..].fill(0.0);
                }
            },
        )
    }
}

/// One buffer cut into a piece for each (key-value head, segment).
struct Pieces {
    data: Vec<f32>,
    starts: Vec<usize>,
}

impl Pieces {
    fn get(&self, task: usize) -> &[f32] {
        &self.data[self.starts[task]..]
    }
}

impl Drop for Pieces {
    fn drop(&mut self) {
        alloc::recycle(std::mem::take(&mut self.data));
    }
}

/// Cuts `data` into pieces of the given sizes.
fn split(data: &mut [f32], sizes: impl Iterator<Item = usize>) -> Vec<&mut [f32]> {
    let mut rest = data;
    sizes
        .map(|size| {
            let (piece, tail) = std::mem::take(&mut rest).split_at_mut(size);
            rest = tail;
            piece
        })
        .collect()
}

/// `[heads, tokens, width] → [tokens, heads, width]`.
fn interleave(x: Vec<f32>, heads: usize, width: usize) -> Vec<f32> {
    let row = heads * width;
    if heads == 1 || x.is_empty() {
        return x;
    }
    let tokens = x.len() / row;
    let mut out = alloc::take(x.len());
    out.par_chunks_mut(row).with_min_len(16).enumerate().for_each(|(t, out)| {
        for (head, out) in out.chunks_exact_mut(width).enumerate() {
            out.copy_from_slice(&x[(head * tokens + t) * width..][..width]);
        }
    });
    alloc::recycle(x);
    out
}

/// The output `[Tq, Hq, D]` and the log-sum-exp of the scores in base 2, `[Hkv, Tq, Hq / Hkv]`. `q` is
/// `[Tq, Hq, D]`; the segments cover its rows in order, and none is empty.
pub(super) fn forward(p: &Problem, q: &[f32], k: Heads, v: Heads) -> (Vec<f32>, Vec<f32>) {
    let (isa, d, dp, group) = (isa(), p.d, p.padded(), p.group());
    let (k_panels, v_rows) = (p.panels(k), p.rows(v));
    let q = Heads::contiguous(q, p.hq, d);
    let mut out = alloc::take(q.data.len());
    let mut lse = vec![0.0; q.data.len() / d];

    let mut blocks = Vec::new();
    for head in 0..p.hkv {
        for (n, s) in p.segments.iter().enumerate() {
            blocks.extend((0..s.q_len).step_by(BQ).map(|q0| (head, n, q0, p.shape(s, q0))));
        }
    }
    let outs = split(&mut out, blocks.iter().map(|b| b.3.nq * group * d));
    let lses = split(&mut lse, blocks.iter().map(|b| b.3.nq * group));
    (blocks.par_iter(), outs, lses).into_par_iter().for_each_init(
        || Scratch::new(dp),
        |w, ((head, n, q0, shape), out, lse)| {
            let s = &p.segments[*n];
            let task = head * p.segments.len() + n;
            let kv = Packed { k_panels: k_panels.get(task), v_panels: &[], k_rows: &[], v_rows: v_rows.get(task) };
            for g in 0..group {
                load(&mut w.q, dp, shape, p.scale * LOG2_E, |i| q.row(s.q + q0 + i, head * group + g, d));
                block::forward(isa, shape, kv, w);
                for i in 0..shape.nq {
                    out[(i * group + g) * d..][..d].copy_from_slice(&w.out[i * dp..][..d]);
                    lse[i * group + g] = w.lse[i];
                }
            }
        },
    );
    (interleave(out, p.hkv, group * d), lse)
}

/// Copies the rows of a block, times `scale`, to rows of `dp`.
fn load<'a>(to: &mut [f32], dp: usize, shape: &Shape, scale: f32, row: impl Fn(usize) -> &'a [f32]) {
    for (i, to) in to.chunks_exact_mut(dp).enumerate().take(shape.nq) {
        to.iter_mut().zip(row(i)).for_each(|(to, x)| *to = x * scale);
    }
}

/// What the backward pass of [`backward`] reads.
pub(super) struct Tape<'a> {
    pub q: &'a [f32],
    pub k: &'a [f32],
    pub v: &'a [f32],
    /// The output.
    pub o: &'a [f32],
    /// As [`forward`] returned it.
    pub lse: &'a [f32],
}

/// Gradients of q, k and v.
pub(super) fn backward(p: &Problem, tape: &Tape, d_out: &[f32]) -> [Vec<f32>; 3] {
    let (isa, d, dp, group) = (isa(), p.d, p.padded(), p.group());
    let (k, v) = (Heads::contiguous(tape.k, p.hkv, d), Heads::contiguous(tape.v, p.hkv, d));
    let (k_panels, v_panels, k_rows) = (p.panels(k), p.panels(v), p.rows(k));
    let heads = |x| Heads::contiguous(x, p.hq, d);
    let (q, o, d_out) = (heads(tape.q), heads(tape.o), heads(d_out));
    let tokens = tape.k.len() / (p.hkv * d);

    let mut dq = alloc::take(tape.q.len());
    let (mut dk, mut dv) = (alloc::take(tape.k.len()), alloc::take(tape.v.len()));
    let sizes = |width: usize| (0..p.hkv).flat_map(move |_| p.segments.iter().map(move |s| s.q_len * width));
    let pieces = (split(&mut dq, sizes(group * d)), split(&mut dk, sizes(d)), split(&mut dv, sizes(d)));
    // The longest sequences first, or one of them may be left to a single thread at the end.
    let mut tasks: Vec<_> =
        pieces.0.into_iter().zip(pieces.1).zip(pieces.2).enumerate().collect();
    tasks.sort_by_key(|(_, ((dq, _), _))| std::cmp::Reverse(dq.len()));
    tasks.into_par_iter().with_max_len(1).for_each(|(task, ((dq, dk), dv))| {
        let (head, s) = (task / p.segments.len(), &p.segments[task % p.segments.len()]);
        let kv = Packed {
            k_panels: k_panels.get(task),
            v_panels: v_panels.get(task),
            k_rows: k_rows.get(task),
            v_rows: &[],
        };
        let mut w = Scratch::new(dp);
        let mut sum_dk = alloc::take_zeroed((s.k_len + MR) * dp);
        let mut sum_dv = alloc::take_zeroed((s.k_len + MR) * dp);
        for q0 in (0..s.q_len).step_by(BQ) {
            let shape = p.shape(s, q0);
            for g in 0..group {
                let h = head * group + g;
                load(&mut w.q, dp, &shape, p.scale * LOG2_E, |i| q.row(s.q + q0 + i, h, d));
                load(&mut w.d_out, dp, &shape, 1.0, |i| d_out.row(s.q + q0 + i, h, d));
                for i in 0..shape.nq {
                    let t = s.q + q0 + i;
                    w.delta[i] = dot8(d_out.row(t, h, d), o.row(t, h, d));
                    w.lse[i] = tape.lse[(head * tokens + t) * group + g];
                }
                block::backward(isa, &shape, kv, &mut w, &mut sum_dk, &mut sum_dv);
                for i in 0..shape.nq {
                    let to = &mut dq[((q0 + i) * group + g) * d..][..d];
                    to.iter_mut().zip(&w.out[i * dp..]).for_each(|(to, x)| *to = x * p.scale);
                }
            }
        }
        for (to, from, factor) in [(dk, sum_dk, LN_2), (dv, sum_dv, 1.0)] {
            for (to, from) in to.chunks_exact_mut(d).zip(from.chunks_exact(dp)) {
                to.iter_mut().zip(from).for_each(|(to, x)| *to = x * factor);
            }
            alloc::recycle(from);
        }
    });
    [interleave(dq, p.hkv, group * d), interleave(dk, p.hkv, d), interleave(dv, p.hkv, d)]
}
