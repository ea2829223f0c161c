//! What it takes to serve K tasks: one jointly trained model, or one model a task.

use super::score::model;
use super::{Role, Run};
use crate::data::Conversation;
use crate::trainer::setup;
use crate::{Error, Result};
use medley_model::Llama;
use medley_model::generate::{GenerateOptions, SamplingParams, generate};
use medley_model::template::Renderer;
use medley_tensor::Tensor;
use serde::{Deserialize, Serialize};
use std::time::Instant;

/// Tokens generated for a request of the measurement: as many for each, so that only the way of serving differs.
const TOKENS: usize = 24;

/// How a set of models serves requests of every task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Serving {
    /// Models loaded.
    pub models: usize,
    /// Bytes of all their weights, base and adapters.
    pub weight_bytes: u64,
    /// Bytes of trained files to ship: adapters, or whole models.
    pub trained_bytes: u64,
    /// Milliseconds of one request alone, mean over the tasks.
    pub single_request_ms: f64,
    /// Milliseconds until all requests of a mixed batch are answered.
    pub mixed_batch_ms: f64,
}

/// One model against one a task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Deployment {
    /// Requests in the mixed batch, equally many of each task.
    pub requests: usize,
    /// Tokens generated for each.
    pub tokens: usize,
    /// A model for each task, each batching only its own requests.
    pub separate: Serving,
    /// With adapters: one base and an adapter for each task. Requests of different adapters share no batch, so it
    /// answers as fast as separate models in turn do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapters_on_one_base: Option<Serving>,
    /// The joint model, all requests in one batch.
    pub joint: Serving,
}

/// Loads the models of the first seed and answers `requests` requests of each task.
pub(super) fn measure(
    runs: &[Run],
    renderer: &Renderer,
    questions: &[Conversation],
    requests: usize,
) -> Result<Deployment> {
    let first = runs.first().map(|r| r.seed);
    let runs: Vec<&Run> = runs.iter().filter(|r| Some(r.seed) == first).collect();
    let prompts = |task: &str| -> Result<Vec<Vec<u32>>> {
        questions
            .iter()
            .filter(|q| q.task == task)
            .take(requests)
            .map(|q| {
                let asked = q.messages.split_last().map_or(&[][..], |(_, asked)| asked);
                Ok(renderer.render_prompt(asked, Some(&q.task))?)
            })
            .collect()
    };
    let mut separate = Serving::none();
    let mut joint = Serving::none();
    let mut all: Vec<Vec<Vec<u32>>> = vec![];
    let (mut base, mut lora) = (0, false);
    for run in &runs {
        if let Role::Single(task) = &run.role {
            let own = prompts(task)?;
            let model = model(run)?;
            separate.add(&model, run)?;
            separate.single_request_ms += seconds(&model, &own[..own.len().min(1)])? * 1e3;
            separate.mixed_batch_ms += seconds(&model, &own)? * 1e3;
            all.push(own);
        }
    }
    let tasks = all.len().max(1);
    separate.single_request_ms /= tasks as f64;
    for run in runs.iter().filter(|r| r.role == Role::Joint) {
        let model = model(run)?;
        (base, lora) = (base_bytes(&model), setup::lora_config(&run.config).is_some());
        joint.add(&model, run)?;
        for own in &all {
            joint.single_request_ms += seconds(&model, &own[..own.len().min(1)])? * 1e3 / tasks as f64;
        }
        joint.mixed_batch_ms = seconds(&model, &all.concat())? * 1e3;
    }
    let adapters_on_one_base = lora.then(|| Serving {
        models: 1,
        weight_bytes: separate.weight_bytes - base * (separate.models as u64).saturating_sub(1),
        ..separate.clone()
    });
    let requests = all.iter().map(Vec::len).sum();
    Ok(Deployment { requests, tokens: TOKENS, separate, adapters_on_one_base, joint })
}

impl Serving {
    fn none() -> Self {
        Serving { models: 0, weight_bytes: 0, trained_bytes: 0, single_request_ms: 0.0, mixed_batch_ms: 0.0 }
    }

    fn add(&mut self, model: &Llama, run: &Run) -> Result<()> {
        self.models += 1;
        let adapter: usize = model.params().iter().map(|p| held(&p.value())).sum();
        self.weight_bytes += base_bytes(model) + adapter as u64;
        let folder = run.folder();
        for entry in std::fs::read_dir(&folder).map_err(Error::io(&folder))? {
            let entry = entry.map_err(Error::io(&folder))?;
            if entry.path().extension().is_some_and(|e| e == "safetensors") {
                self.trained_bytes += entry.metadata().map_err(Error::io(&entry.path()))?.len();
            }
        }
        Ok(())
    }
}

/// Bytes of a base model's weights as they are held.
fn base_bytes(model: &Llama) -> u64 {
    let plain: usize = model.plain_weights().iter().map(|(_, w)| held(&w.tensor())).sum();
    let linear: usize = model.projections().map(|p| held(&p.weight.tensor())).sum();
    (plain + linear) as u64
}

/// Bytes of a tensor, block scales of 4-bit ones included.
fn held(tensor: &Tensor) -> usize {
    match (tensor.nf4(), tensor.nf4_on_device()) {
        (Some(matrix), _) => matrix.bytes(),
        (_, Some(matrix)) => matrix.bytes(),
        _ => tensor.dtype().bytes_for(tensor.numel()),
    }
}

/// Seconds until every prompt has [`TOKENS`] tokens, all of them in one batch; the better of two, the first of
/// which also reads the mapped weights in.
fn seconds(model: &Llama, prompts: &[Vec<u32>]) -> Result<f64> {
    let options = GenerateOptions {
        sampling: SamplingParams {
            do_sample: false,
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            repetition_penalty: 1.0,
        },
        max_new_tokens: TOKENS,
        stop_ids: vec![],
        batch_size: prompts.len(),
        seed: 0,
    };
    let mut best = f64::INFINITY;
    for _ in 0..2 {
        let started = Instant::now();
        generate(model, prompts, &options, &mut |_, _| true)?;
        best = best.min(started.elapsed().as_secs_f64());
    }
    Ok(best)
}
