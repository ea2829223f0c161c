//! One optimizer step's loss and gradients, whatever micro-batches it is cut into.
//!
//! `task_mean`: `L = Σ_i α_i · L_i`, `L_i` the mean negative log-likelihood over task i's labelled
//! tokens *in the step*. `token_mean`: `L = Σ_t α_task(t)·nll_t / Σ_t 1`. Both are sums over tokens
//! with a weight that depends on the whole step, so each micro-batch adds its part and the result
//! does not depend on the cut.

use crate::Result;
use crate::config::LossReduction;
use crate::data::Example;
use medley_autograd::no_grad;
use medley_model::{Labels, Llama, Pass, Sequences};

/// What a step (or an evaluation) measured.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StepLoss {
    /// `L` as above.
    pub loss: f64,
    /// Sum of negative log-likelihoods, by task.
    pub nll: Vec<f64>,
    /// Labelled tokens, by task.
    pub labelled: Vec<u64>,
    /// All tokens.
    pub tokens: u64,
    /// Examples, by task.
    pub examples: Vec<u64>,
}

impl StepLoss {
    /// Zeros for `tasks` tasks.
    pub fn new(tasks: usize) -> Self {
        StepLoss {
            nll: vec![0.0; tasks],
            labelled: vec![0; tasks],
            examples: vec![0; tasks],
            ..StepLoss::default()
        }
    }

    /// Mean negative log-likelihood of a task, `None` when it had no labelled token.
    pub fn task_loss(&self, task: usize) -> Option<f64> {
        (self.labelled[task] > 0).then(|| self.nll[task] / self.labelled[task] as f64)
    }

    /// Adds another measurement's sums (not its `loss`, which is no sum).
    pub fn add(&mut self, other: &StepLoss) {
        for (a, b) in self.nll.iter_mut().zip(&other.nll) {
            *a += b;
        }
        for (a, b) in self.labelled.iter_mut().zip(&other.labelled) {
            *a += b;
        }
        for (a, b) in self.examples.iter_mut().zip(&other.examples) {
            *a += b;
        }
        self.tokens += other.tokens;
    }
}

/// How a step's tokens are weighed.
#[derive(Debug, Clone)]
pub struct Weighing {
    /// α of each task.
    pub alpha: Vec<f64>,
    /// How the sum is normalised.
    pub reduction: LossReduction,
}

/// The labels of one example as `(row, target)`: `row` predicts `target` at `row + 1`.
fn labels_of(example: &Example) -> impl Iterator<Item = (u32, u32)> + '_ {
    example.labels.iter().flat_map(|span| {
        // Position 0 has nothing before it to predict it from.
        (span.positions.start.max(1)..span.positions.end)
            .map(move |p| (p - 1, span.token.unwrap_or(example.ids[p as usize])))
    })
}

/// Labelled tokens by task over `examples`.
pub fn count_labels(examples: &[&Example], tasks: usize) -> Vec<u64> {
    let mut counts = vec![0; tasks];
    for e in examples {
        counts[e.task as usize] += labels_of(e).count() as u64;
    }
    counts
}

/// Runs `examples` through the model in micro-batches of at most `micro_batch_size` examples.
/// With `train`, gradients are accumulated into the parameters; `first_micro_batch` numbers the
/// micro-batches over the run (dropout depends on it).
///
/// # Errors
/// When an id is out of range or an op refuses; a non-finite loss is reported by the caller.
pub fn run_examples(
    model: &Llama,
    examples: &[&Example],
    micro_batch_size: usize,
    weighing: &Weighing,
    train: Option<Training>,
) -> Result<StepLoss> {
    let tasks = weighing.alpha.len();
    let labelled = count_labels(examples, tasks);
    let total: u64 = labelled.iter().sum();
    let weight_of = |task: usize| match weighing.reduction {
        LossReduction::TaskMean => weighing.alpha[task] / labelled[task].max(1) as f64,
        LossReduction::TokenMean => weighing.alpha[task] / total.max(1) as f64,
    };
    let mut out = StepLoss::new(tasks);
    for (i, batch) in examples.chunks(micro_batch_size.max(1)).enumerate() {
        let sequences = Sequences::pack(batch.iter().map(|e| &e.ids[..]));
        let (mut rows, mut targets, mut weights, mut row_tasks) = (vec![], vec![], vec![], vec![]);
        for (e, start) in batch.iter().zip(sequences.cu_seqlens.iter()) {
            let task = e.task as usize;
            out.examples[task] += 1;
            for (row, target) in labels_of(e) {
                rows.push(start + row);
                targets.push(target);
                weights.push(weight_of(task) as f32);
                row_tasks.push(task);
            }
        }
        out.tokens += sequences.ids.len() as u64;
        if rows.is_empty() {
            continue;
        }
        let labels = Labels { rows: rows.into(), targets: targets.into(), weights: weights.into() };
        let nll = match &train {
            Some(training) => {
                let pass = training.pass(i as u64);
                let hidden = model.hidden(&sequences, &pass)?;
                let (loss, nll) = model.loss(&hidden, &labels)?;
                drop(hidden);
                loss.backward()?;
                nll
            }
            None => no_grad(|| -> Result<_> {
                let hidden = model.hidden(&sequences, &Pass::default())?;
                Ok(model.loss(&hidden, &labels)?.1)
            })?,
        };
        for (nll, task) in nll.as_slice::<f32>()?.iter().zip(row_tasks) {
            out.nll[task] += f64::from(*nll);
            out.labelled[task] += 1;
        }
    }
    // From the f64 sums: the reported loss does not depend on the cut either.
    out.loss = (0..tasks).map(|t| weight_of(t) * out.nll[t]).sum();
    Ok(out)
}

/// Settings of a pass that trains.
#[derive(Debug, Clone, Copy)]
pub struct Training {
    /// Seeds dropout.
    pub seed: u64,
    /// Number of the step's first micro-batch over the whole run.
    pub first_micro_batch: u64,
    /// Recompute activations in the backward pass.
    pub checkpoint: bool,
}

impl Training {
    fn pass(&self, micro_batch: u64) -> Pass {
        Pass {
            dropout: Some((self.seed, self.first_micro_batch + micro_batch)),
            checkpoint: self.checkpoint,
        }
    }
}
