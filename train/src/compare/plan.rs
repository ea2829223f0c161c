//! Which runs a comparison consists of.

use crate::config::{Resume, SamplingStrategy, TaskArgs, TrainConfig};
use crate::trainer::checkpoint;
use crate::trainer::setup::{self, RunData};
use crate::{Error, Result};
use medley_model::tokenizer::Tokenizer;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

/// What a run learns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// Every task.
    Joint,
    /// One task.
    Single(String),
}

impl Role {
    /// `joint`, or the task's name.
    pub fn name(&self) -> &str {
        match self {
            Role::Joint => "joint",
            Role::Single(task) => task,
        }
    }
}

/// One training run of a comparison.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// Its seed.
    pub seed: u64,
    /// What it learns.
    pub role: Role,
    /// What it is trained with; its `output_dir` is where it is found.
    pub config: TrainConfig,
    /// Optimizer steps.
    pub steps: u64,
    /// Examples of each task trained on, repeats counted.
    pub examples: Vec<(String, u64)>,
}

/// The joint run of a seed, and a single run for each task with the examples of that task that the joint run
/// sees, in steps of the same size: both sides train on the same number of examples in all, and of each task.
///
/// # Errors
/// Data that cannot be read, or that has one task only.
pub(super) fn runs(config: &TrainConfig, output: &Path, seed: u64) -> Result<Vec<Run>> {
    let folder = output.join(format!("seed-{seed}"));
    let mut joint = config.clone();
    joint.run.seed = seed;
    joint.train.do_train = true;
    joint.train.do_eval = false;
    joint.train.do_predict = false;
    // The comparison has tables of its own.
    joint.output.report = false;
    joint.output.output_dir = Some(folder.join("joint"));
    let data = load(&joint)?;
    let names = data.tasks.names();
    if names.len() < 2 {
        return Err(Error::Run(format!(
            "there is nothing to compare: the data has one task only ({}); name the task of each example by \
             task_name, or give a file a task",
            names.join(", ")
        )));
    }
    let (steps, counts) = budget(&joint, &data)?;
    let step_size = crate::trainer::step_size(config) as u64;
    let examples = |i: usize| (names[i].clone(), counts[i]);
    let mut runs = vec![Run {
        seed,
        role: Role::Joint,
        config: resumable(joint.clone())?,
        steps,
        examples: (0..names.len()).map(examples).collect(),
    }];
    for (i, name) in names.iter().enumerate() {
        let mut single = joint.clone();
        single.data.only_tasks = vec![name.clone()];
        single.tasks = TaskArgs {
            sampling_strategy: SamplingStrategy::Proportional,
            loss_reduction: joint.tasks.loss_reduction,
            ..TaskArgs::default()
        };
        let steps = counts[i].div_ceil(step_size).max(1);
        single.train.max_steps = steps as i64;
        single.output.output_dir = Some(folder.join(name));
        runs.push(Run {
            seed,
            role: Role::Single(name.clone()),
            config: resumable(single)?,
            steps,
            examples: vec![examples(i)],
        });
    }
    Ok(runs)
}

fn load(config: &TrainConfig) -> Result<RunData> {
    let tokenizer = Tokenizer::from_folder(&setup::model_folder(config)?)?;
    let renderer = setup::renderer(config)?;
    setup::load_data(config, Some(&renderer), &tokenizer)
}

/// Steps of the joint run, and how many examples of each task they hold.
fn budget(config: &TrainConfig, data: &RunData) -> Result<(u64, Vec<u64>)> {
    // The joint run itself tells what there is to note.
    let (mut sampler, _) = setup::sampler(config, &data.train)?;
    let steps = crate::schedule::total_steps(&config.train, sampler.steps_per_epoch() as u64);
    sampler.for_run(steps);
    let tasks = data.train.task_ids();
    let mut counts = vec![0; data.tasks.len()];
    for step in 0..steps {
        for &example in sampler.step(step) {
            if let Some(task) = tasks.get(example as usize) {
                counts[task.index()] += 1;
            }
        }
    }
    Ok((steps, counts))
}

/// Goes on from the run's own last checkpoint where one is left of an interrupted comparison.
fn resumable(mut config: TrainConfig) -> Result<TrainConfig> {
    let begun = match &config.output.output_dir {
        Some(folder) => !checkpoint::list(folder)?.is_empty(),
        None => false,
    };
    if begun && !config.output.overwrite_output_dir {
        config.train.resume_from_checkpoint = Resume::Latest;
    }
    Ok(config)
}

impl Run {
    /// Its output folder.
    pub fn folder(&self) -> PathBuf {
        self.config.output.output_dir.clone().unwrap_or_default()
    }

    /// Where a finished run is in the folder: the options that it was trained with and that differ from those
    /// asked for, as `key was …, is …`. `None` where it is still to be trained.
    ///
    /// # Errors
    /// The run's own files cannot be read.
    pub(super) fn finished(&self) -> Result<Option<Vec<String>>> {
        let folder = self.folder();
        let path = folder.join("medley_config.json");
        if self.config.output.overwrite_output_dir
            || !folder.join("train_results.json").is_file()
            || !path.is_file()
        {
            return Ok(None);
        }
        let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
        let was: Value = serde_json::from_str(&text)
            .map_err(|e| Error::Run(format!("{}: expected a JSON object: {e}", path.display())))?;
        let (was, now) = (flat(&was), flat(&json!(self.config)));
        let differences = now
            .iter()
            .filter(|(key, value)| was.get(*key).is_some_and(|old| old != *value))
            .map(|(key, value)| format!("{key} was {}, is {value}", was.get(key).unwrap_or(&Value::Null)))
            .collect();
        Ok(Some(differences))
    }
}

/// The options that shape training, without their sections.
fn flat(config: &Value) -> Map<String, Value> {
    let mut all = Map::new();
    for section in ["model", "data", "tasks", "lora", "train", "run"] {
        if let Some(Value::Object(options)) = config.get(section) {
            all.extend(options.clone());
        }
    }
    // Where, when and whether; not how.
    for key in [
        "resume_from_checkpoint",
        "eval_dataset",
        "eval_data_files",
        "dataset_dir",
        "per_device_eval_batch_size",
        "eval_strategy",
        "eval_steps",
        "eval_on_start",
        "do_train",
        "do_eval",
        "do_predict",
        "gradient_checkpointing",
        "num_train_epochs",
        "num_threads",
        "device",
    ] {
        all.remove(key);
    }
    all
}
