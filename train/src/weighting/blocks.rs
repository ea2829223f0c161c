//! Mean losses over blocks of steps, the last two of them: what a loss *falls by* is read from blocks, since
//! two single steps differ mostly by their examples.

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Blocks {
    /// Steps in the block under way.
    steps: u64,
    /// By task, over the block under way.
    sums: Vec<f64>,
    counts: Vec<u64>,
    /// Means of the last whole block in which the task occurred, and of the one before.
    last: Vec<Option<f64>>,
    before: Vec<Option<f64>>,
}

impl Blocks {
    pub fn new(tasks: usize) -> Self {
        Blocks {
            steps: 0,
            sums: vec![0.0; tasks],
            counts: vec![0; tasks],
            last: vec![None; tasks],
            before: vec![None; tasks],
        }
    }

    pub fn tasks(&self) -> usize {
        self.sums.len()
    }

    /// Adds a step; after `window` of them a block ends. A task that did not occur in it keeps its means.
    pub fn add(&mut self, losses: &[Option<f64>], window: u64) {
        for ((sum, count), loss) in self.sums.iter_mut().zip(&mut self.counts).zip(losses) {
            if let Some(loss) = loss {
                *sum += loss;
                *count += 1;
            }
        }
        self.steps += 1;
        if self.steps < window {
            return;
        }
        for task in 0..self.tasks() {
            if self.counts[task] > 0 {
                self.before[task] = self.last[task];
                self.last[task] = Some(self.sums[task] / self.counts[task] as f64);
            }
        }
        *self = Blocks { last: self.last.clone(), before: self.before.clone(), ..Blocks::new(self.tasks()) };
    }

    /// Mean of the last block over that of the one before, by task; `None` until there are two.
    pub fn ratios(&self) -> impl Iterator<Item = Option<f64>> {
        self.last.iter().zip(&self.before).map(|(last, before)| match (last, before) {
            (Some(last), Some(before)) if *before > 0.0 => Some(last / before),
            _ => None,
        })
    }
}
