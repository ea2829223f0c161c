//! How well a model answers the evaluation examples of the tasks.

use super::{CompareSink, Role, Run, Stage};
use crate::config::{FinetuningType, TrainConfig};
use crate::data::Conversation;
use crate::metrics::TaskReport;
use crate::predict::{conversations, generate_options, predict, score, write_predictions};
use crate::state::write_json;
use crate::trainer::setup;
use crate::{Error, Result};
use medley_model::Llama;
use medley_model::template::Renderer;
use std::collections::BTreeMap;
use std::path::Path;

/// Every task's scores by its name.
pub type Scores = BTreeMap<String, TaskReport>;

const SCORES: &str = "compare_scores.json";

/// The first `samples` evaluation examples of each task.
pub(super) fn questions(
    config: &TrainConfig,
    renderer: &Renderer,
    samples: Option<usize>,
) -> Result<Vec<Conversation>> {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let mut all = conversations(config, renderer)?;
    all.retain(|c| {
        let n = seen.entry(c.task.clone()).or_default();
        *n += 1;
        samples.is_none_or(|most| *n <= most)
    });
    Ok(all)
}

/// The model of a finished run.
pub(super) fn model(run: &Run) -> Result<Llama> {
    let mut config = run.config.clone();
    match config.lora.finetuning_type {
        FinetuningType::Lora => config.model.adapter_name_or_path = Some(run.folder()),
        _ => config.model.model_name_or_path = Some(run.folder()),
    }
    setup::inference_model(&config)
}

/// The base model's scores, kept in `output`.
pub(super) fn base(
    config: &TrainConfig,
    output: &Path,
    renderer: &Renderer,
    questions: &[Conversation],
    sink: &mut dyn CompareSink,
) -> Result<Scores> {
    let folder = output.join("base");
    answered(&folder, config, || setup::inference_model(config), "base", renderer, questions, sink)
}

/// The scores of a run's model on the tasks that it learned, kept in its folder.
pub(super) fn run(
    run: &Run,
    renderer: &Renderer,
    questions: &[Conversation],
    sink: &mut dyn CompareSink,
) -> Result<Scores> {
    let own: Vec<Conversation> = match &run.role {
        Role::Joint => questions.to_vec(),
        Role::Single(task) => questions.iter().filter(|q| q.task == *task).cloned().collect(),
    };
    let name = format!("seed {} {}", run.seed, run.role.name());
    answered(&run.folder(), &run.config, || model(run), &name, renderer, &own, sink)
}

/// Greedy answers, so that a score says something of the model alone. Scores of the same number of examples that
/// are already there are taken.
fn answered(
    folder: &Path,
    config: &TrainConfig,
    model: impl FnOnce() -> Result<Llama>,
    name: &str,
    renderer: &Renderer,
    questions: &[Conversation],
    sink: &mut dyn CompareSink,
) -> Result<Scores> {
    let path = folder.join(SCORES);
    let mut wanted: BTreeMap<&str, usize> = BTreeMap::new();
    for question in questions {
        *wanted.entry(&question.task).or_default() += 1;
    }
    if path.is_file() && !config.output.overwrite_output_dir {
        let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
        let there: Scores = serde_json::from_str(&text)
            .map_err(|e| Error::Run(format!("{}: not the scores of a comparison: {e}", path.display())))?;
        let same = wanted.len() == there.len()
            && wanted.iter().all(|(task, n)| there.get(*task).is_some_and(|r| r.examples == *n));
        if same {
            return Ok(there);
        }
    }
    let mut generation = config.generate.clone();
    generation.do_sample = false;
    let batch = config.train.per_device_eval_batch_size;
    let options = generate_options(&generation, renderer.stop_ids(), config.run.seed, batch);
    let total = questions.len();
    sink.stage(&Stage::Scoring(name, 0, total));
    let predictions = predict(&model()?, renderer, questions, &options, true, &mut |n| {
        sink.stage(&Stage::Scoring(name, n, total));
    })?;
    write_predictions(folder, &predictions)?;
    let scores = score(&predictions);
    write_json(&path, &scores)?;
    Ok(scores)
}
