//! One optimizer step's loss and gradients, whatever micro-batches it is cut into.
//!
//! `task_mean`: `L = Σ_i α_i · L_i`, `L_i` the mean negative log-likelihood over task i's labelled
//! tokens *in the step*. `token_mean`: `L = Σ_t α_task(t)·nll_t / Σ_t 1`. Both are sums over tokens
//! with a weight that depends on the whole step, so each micro-batch adds its part and the result
//! does not depend on the cut.

use crate::Result;
use crate::config::LossReduction;
use crate::data::{Dataset, TaskId};
use crate::mix::{PackedBatch, label_counts, pack};
use medley_autograd::no_grad;
use medley_model::{Labels, Llama, Noise, Pass};
use medley_tensor::Tensor;

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
#[derive(Debug, Clone, PartialEq)]
pub struct Weighing {
    /// α of each task.
    pub alpha: Vec<f64>,
    /// How the sum is normalised.
    pub reduction: LossReduction,
}

impl Weighing {
    /// The weight of one token of each task in a step with these many labelled tokens a task.
    pub(super) fn token_weights(&self, labelled: &[u64]) -> Vec<f64> {
        let total: u64 = labelled.iter().sum();
        self.alpha
            .iter()
            .zip(labelled)
            .map(|(alpha, n)| match self.reduction {
                LossReduction::TaskMean => alpha / (*n).max(1) as f64,
                LossReduction::TokenMean => alpha / total.max(1) as f64,
            })
            .collect()
    }
}

/// Runs the examples `indices` of `data` through the model in micro-batches of at most
/// `micro_batch_size` examples. With `train`, gradients are accumulated into the parameters.
///
/// # Errors
/// When an id is out of range or an op refuses; a non-finite loss is reported by the caller.
pub fn run_examples(
    model: &Llama,
    data: &Dataset,
    indices: &[u32],
    micro_batch_size: usize,
    weighing: &Weighing,
    train: Option<Training>,
) -> Result<StepLoss> {
    let tasks = weighing.alpha.len();
    let batches: Vec<PackedBatch> = indices.chunks(micro_batch_size.max(1)).map(|c| pack(data, c)).collect();
    let labelled = label_counts(&batches, tasks);
    let mut sums = Sums::new(weighing.token_weights(&labelled), labelled);
    sums.count_examples(data, indices);
    sums.run(model, batches, train.as_ref())?;
    sums.finish()
}

/// The sums of a step while its micro-batches run.
pub(super) struct Sums {
    /// The weight of one token of each task.
    token_weights: Vec<f64>,
    out: StepLoss,
    /// Micro-batches run so far.
    micro_batches: u64,
    /// Sequences in them.
    sequences: u64,
    /// Results still on the device, and the task of each of their labels.
    measured: Vec<(Tensor, Vec<TaskId>)>,
}

impl Sums {
    /// For a step with these many labelled tokens and these token weights, by task.
    pub fn new(token_weights: Vec<f64>, labelled: Vec<u64>) -> Self {
        let out = StepLoss { labelled, ..StepLoss::new(token_weights.len()) };
        Sums { token_weights, out, micro_batches: 0, sequences: 0, measured: vec![] }
    }

    pub fn count_examples(&mut self, data: &Dataset, indices: &[u32]) {
        for &i in indices {
            if let Some(example) = data.get(i as usize) {
                self.out.examples[example.task.index()] += 1;
            }
        }
    }

    /// Forward, and with `train` backward, of some of the step's micro-batches.
    pub fn run(&mut self, model: &Llama, batches: Vec<PackedBatch>, train: Option<&Training>) -> Result<()> {
        for batch in batches {
            let number = self.micro_batches;
            self.micro_batches += 1;
            let first_sequence = self.sequences;
            self.sequences += batch.tasks.len() as u64;
            self.out.tokens += batch.sequences.ids.len() as u64;
            if batch.label_rows.is_empty() {
                continue;
            }
            let weights: Vec<f32> =
                batch.label_tasks.iter().map(|t| self.token_weights[t.index()] as f32).collect();
            let sequences = batch.sequences;
            let loss_scale = train.map_or(1.0, |t| t.loss_scale);
            let labels = Labels {
                rows: batch.label_rows,
                targets: batch.targets,
                weights: weights.into(),
                loss_scale,
            };
            let nll = match train {
                Some(training) => {
                    let hidden = model.hidden(&sequences, &training.pass(number, first_sequence))?;
                    let (loss, nll) = model.loss(&hidden, &labels)?;
                    drop(hidden);
                    loss.backward_scaled(loss_scale)?;
                    nll
                }
                None => no_grad(|| -> Result<_> {
                    let hidden = model.hidden(&sequences, &Pass::default())?;
                    Ok(model.loss(&hidden, &labels)?.1)
                })?,
            };
            self.measured.push((nll, batch.label_tasks));
        }
        Ok(())
    }

    /// Only now: reading a result waits for the device, which has the next micro-batch to go on with.
    pub fn finish(mut self) -> Result<StepLoss> {
        for (nll, tasks) in self.measured {
            for (nll, task) in nll.to_vec_f32()?.iter().zip(&tasks) {
                self.out.nll[task.index()] += f64::from(*nll);
            }
        }
        // From the f64 sums: the reported loss does not depend on the cut either.
        self.out.loss = self.token_weights.iter().zip(&self.out.nll).map(|(w, nll)| w * nll).sum();
        Ok(self.out)
    }
}

/// Settings of a pass that trains.
#[derive(Debug, Clone, Copy)]
pub struct Training {
    /// Seeds dropout and noise.
    pub seed: u64,
    /// Number of the step, from 0.
    pub step: u64,
    /// Number of the step's first micro-batch over the whole run.
    pub first_micro_batch: u64,
    /// Recompute activations in the backward pass.
    pub checkpoint: bool,
    /// Multiplies every gradient (loss scaling in f16); 1 otherwise.
    pub loss_scale: f32,
    /// α of NEFTune's noise on the embeddings, where there is any.
    pub neftune_alpha: Option<f64>,
}

impl Training {
    /// The pass of one micro-batch, whose first sequence has this number in the step.
    fn pass(&self, micro_batch: u64, first_sequence: u64) -> Pass {
        let noise = self.neftune_alpha.filter(|alpha| *alpha > 0.0).map(|alpha| Noise {
            alpha: alpha as f32,
            seed: self.seed,
            step: self.step,
            first_sequence,
        });
        let dropout = Some((self.seed, self.first_micro_batch + micro_batch));
        Pass { dropout, noise, checkpoint: self.checkpoint }
    }
}
