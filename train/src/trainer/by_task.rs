//! The gradient of each task by itself: for PCGrad and for the conflict report.
//!
//! A step's examples are cut into micro-batches a task at a time instead of in the sampler's order; token
//! weights still come from the whole step. So the K backward passes together see every example once, and cost
//! about what the plain step does (more where micro-batches become smaller). What is held on top of a plain
//! step is K sets of gradients instead of one. Dropout masks differ from the plain step's, since they follow the
//! number of the micro-batch.

use super::step::{StepLoss, Sums, Training, Weighing};
use crate::Result;
use crate::data::Dataset;
use crate::mix::{PackedBatch, label_counts, pack};
use crate::weighting::conflict::Measurement;
use crate::weighting::pcgrad;
use medley_autograd::{GradientSet, Param};
use medley_model::Llama;
use medley_tensor::rng::Philox;
use std::sync::Arc;

/// The gradients of one step, a task each.
pub(super) struct TaskGradients {
    tasks: Vec<usize>,
    sets: Vec<GradientSet>,
    /// `g_i·g_j` of `sets`, as they are.
    gram: Vec<Vec<f64>>,
    /// What the gradient of each task's mean loss was multiplied with: α, reduction and loss scale.
    factors: Vec<f64>,
}

impl TaskGradients {
    /// Runs the step `indices` task by task; leaves no gradient in `params`.
    pub fn run(
        model: &Llama,
        params: &[Arc<Param>],
        data: &Dataset,
        indices: &[u32],
        micro_batch_size: usize,
        weighing: &Weighing,
        training: &Training,
    ) -> Result<(StepLoss, Self)> {
        let count = weighing.alpha.len();
        let mut members: Vec<Vec<u32>> = vec![vec![]; count];
        for &i in indices {
            if let Some(example) = data.get(i as usize) {
                members[example.task.index()].push(i);
            }
        }
        let mut labelled = vec![0; count];
        let mut batches: Vec<Vec<PackedBatch>> = vec![];
        for members in &members {
            let cut: Vec<PackedBatch> =
                members.chunks(micro_batch_size.max(1)).map(|c| pack(data, c)).collect();
            for (sum, n) in labelled.iter_mut().zip(label_counts(&cut, count)) {
                *sum += n;
            }
            batches.push(cut);
        }
        let token_weights = weighing.token_weights(&labelled);
        let mut sums = Sums::new(token_weights.clone(), labelled.clone());
        sums.count_examples(data, indices);
        let (mut tasks, mut sets, mut factors) = (vec![], vec![], vec![]);
        for (task, cut) in batches.into_iter().enumerate() {
            sums.run(model, cut, Some(training))?;
            if labelled[task] > 0 {
                tasks.push(task);
                sets.push(GradientSet::take(params));
                factors.push(token_weights[task] * labelled[task] as f64 * f64::from(training.loss_scale));
            }
        }
        let mut gram = vec![vec![0.0; sets.len()]; sets.len()];
        for a in 0..sets.len() {
            gram[a][a] = sets[a].norm()?.powi(2);
            for b in a + 1..sets.len() {
                gram[a][b] = sets[a].dot(&sets[b])?;
                gram[b][a] = gram[a][b];
            }
        }
        Ok((sums.finish()?, TaskGradients { tasks, sets, gram, factors }))
    }

    /// Norms and cosines.
    pub fn measure(&self) -> Measurement {
        let mut measured = Measurement::new(&self.gram, &self.factors);
        for (task, _) in &mut measured.norms {
            *task = self.tasks[*task];
        }
        for (a, b, _) in &mut measured.cosines {
            (*a, *b) = (self.tasks[*a], self.tasks[*b]);
        }
        measured
    }

    /// Leaves PCGrad's sum in `params`; `rng` draws the orders of projection.
    pub fn project(self, params: &[Arc<Param>], rng: Philox) -> Result<()> {
        let orders = pcgrad::random_orders(self.sets.len(), rng);
        let factors = pcgrad::factors(&self.gram, &orders);
        Ok(GradientSet::combine(self.sets, &factors)?.put(params)?)
    }
}
