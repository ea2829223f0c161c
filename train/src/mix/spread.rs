//! Spreading the draws of several sources evenly: which source each slot belongs to.
//!
//! A schedule of shares says how much of each source *should* have been drawn at every moment: source i's
//! cumulative share Fᵢ(t), with Σ Fᵢ(t) = t after t slots. Plain shuffling of slots strays from it like
//! √t. Here the j-th draw of source i (from 0) may take only the slots
//!
//! ```text
//! ⌊ sup{t : Fᵢ(t) ≤ j} ⌋  ≤  slot  <  ⌈ inf{t : Fᵢ(t) ≥ j + 1} ⌉
//! ```
//!
//! which is the same as demanding |draws of i before t − Fᵢ(t)| < 1 for every t. One draw a slot always
//! fits, and *earliest deadline first* finds it: proportionate-fair scheduling (Baruah, Cohen, Plaxton and
//! Varvel, "Proportionate progress: a notion of fairness in resource allocation", Algorithmica 15, 1996).
//! So every step holds, of each source, its share of the step plus what the steps before left over,
//! give or take less than one example.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// The slots that one draw may take: from `release` up to but without `deadline`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Window {
    pub release: u64,
    pub deadline: u64,
}

/// Cumulative shares, by the windows of the draws they give.
pub(super) trait Flow {
    /// The window of draw `unit` (from 0) of a source; `None` when it has no such draw.
    fn window(&self, source: usize, unit: u64) -> Option<Window>;
}

/// Draws quotas qᵢ of N slots at an even pace: Fᵢ(t) = t · qᵢ / N, in whole numbers.
#[derive(Debug)]
pub(super) struct Even<'a> {
    quotas: &'a [u64],
    slots: u64,
}

impl<'a> Even<'a> {
    pub fn new(quotas: &'a [u64]) -> Self {
        Even { quotas, slots: quotas.iter().sum() }
    }
}

impl Flow for Even<'_> {
    fn window(&self, source: usize, unit: u64) -> Option<Window> {
        let quota = u128::from(self.quotas[source]);
        let (unit, slots) = (u128::from(unit), u128::from(self.slots));
        (unit < quota).then(|| Window {
            release: (unit * slots / quota) as u64,
            deadline: ((unit + 1) * slots).div_ceil(quota) as u64,
        })
    }
}

/// Draws each source once, at shares pᵢ of those that are not exhausted yet: `interleave_once`.
///
/// With V the *virtual time* in which source i has drawn min(pᵢ · V, nᵢ), slots and virtual time are
/// related by t(V) = Σᵢ min(pᵢ · V, nᵢ), piecewise linear with a break where a source ends.
#[derive(Debug)]
pub(super) struct UntilExhausted {
    shares: Vec<f64>,
    sizes: Vec<u64>,
    /// V, t and slope after it, at 0 and where each source ends; ascending.
    breaks: Vec<[f64; 3]>,
}

impl UntilExhausted {
    /// Sources with a share of 0 are left out.
    pub fn new(shares: &[f64], sizes: &[u64]) -> Self {
        let drawn = |i: &usize| shares[*i] > 0.0;
        let mut order: Vec<usize> = (0..shares.len()).filter(drawn).collect();
        let end = |i: usize| sizes[i] as f64 / shares[i];
        order.sort_by(|&a, &b| end(a).total_cmp(&end(b)));
        // Summed from the back, so that the slope after the last break is exactly 0.
        let mut slopes = vec![0.0; order.len() + 1];
        for at in (0..order.len()).rev() {
            slopes[at] = slopes[at + 1] + shares[order[at]];
        }
        let mut breaks = vec![[0.0, 0.0, slopes[0]]];
        for (&source, &slope) in order.iter().zip(&slopes[1..]) {
            let [v, t, before] = breaks[breaks.len() - 1];
            breaks.push([end(source), t + before * (end(source) - v), slope]);
        }
        UntilExhausted { shares: shares.to_vec(), sizes: sizes.to_vec(), breaks }
    }

    fn slot(&self, virtual_time: f64) -> f64 {
        let after = self.breaks.partition_point(|b| b[0] <= virtual_time).max(1);
        let [v, t, slope] = self.breaks[after - 1];
        t + slope * (virtual_time - v)
    }

    /// Fᵢ(t) for every source.
    pub fn drawn(&self, slots: f64) -> Vec<f64> {
        let after = self.breaks.partition_point(|b| b[1] <= slots).max(1);
        let [v, t, slope] = self.breaks[after - 1];
        let now = if slope > 0.0 { v + (slots - t) / slope } else { f64::INFINITY };
        let each = self.shares.iter().zip(&self.sizes);
        each.map(|(&p, &n)| if p > 0.0 { (p * now).min(n as f64) } else { 0.0 }).collect()
    }
}

impl Flow for UntilExhausted {
    fn window(&self, source: usize, unit: u64) -> Option<Window> {
        let share = self.shares[source];
        (share > 0.0 && unit < self.sizes[source]).then(|| Window {
            release: whole(self.slot(unit as f64 / share)).floor() as u64,
            deadline: whole(self.slot((unit + 1) as f64 / share)).ceil() as u64,
        })
    }
}

/// A number that rounding has moved off a whole one, put back on it.
pub(super) fn whole(value: f64) -> f64 {
    let nearest = value.round();
    if (value - nearest).abs() < 1e-6 { nearest } else { value }
}

/// Gives out the slots one after another, earliest deadline first.
#[derive(Debug, Clone)]
pub(super) struct Spread {
    slot: u64,
    /// Draws given to each source so far.
    units: Vec<u64>,
    /// Who comes first among equal deadlines.
    ranks: Vec<u32>,
    /// (release, rank, deadline, source) of draws not released yet.
    waiting: BinaryHeap<Reverse<(u64, u32, u64, usize)>>,
    /// (deadline, rank, source) of the released ones.
    ready: BinaryHeap<Reverse<(u64, u32, usize)>>,
}

impl Spread {
    /// `ranks`: a permutation of the sources that settles ties.
    pub fn new(flow: &dyn Flow, ranks: Vec<u32>) -> Self {
        let mut spread = Spread {
            slot: 0,
            units: vec![0; ranks.len()],
            ranks,
            waiting: BinaryHeap::new(),
            ready: BinaryHeap::new(),
        };
        (0..spread.ranks.len()).for_each(|source| spread.announce(flow, source));
        spread
    }

    fn announce(&mut self, flow: &dyn Flow, source: usize) {
        if let Some(Window { release, deadline }) = flow.window(source, self.units[source]) {
            self.waiting.push(Reverse((release, self.ranks[source], deadline, source)));
        }
    }

    /// The source of the next slot and the number of its draw; `None` when no source has a draw left.
    pub fn next(&mut self, flow: &dyn Flow) -> Option<(usize, u64)> {
        while let Some(&Reverse((release, rank, deadline, source))) = self.waiting.peek() {
            // Where rounding has released nothing in time, the next draw comes early.
            if release > self.slot && !self.ready.is_empty() {
                break;
            }
            self.waiting.pop();
            self.ready.push(Reverse((deadline, rank, source)));
        }
        let Reverse((_, _, source)) = self.ready.pop()?;
        let unit = self.units[source];
        self.units[source] += 1;
        self.slot += 1;
        self.announce(flow, source);
        Some((source, unit))
    }
}
