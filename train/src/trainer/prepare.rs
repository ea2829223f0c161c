//! Everything that is made and checked before the first step.

use super::best::Best;
use super::lock::OutputLock;
use super::progress::Progress;
use super::setup::{self, RunData};
use super::watch::LossWatch;
use super::{Trainer, checkpoint, evaluate, output_dir, resume, weigh};
use crate::config::{self, Resume, Stage, TrainConfig};
use crate::data::Dataset;
use crate::events::{Event, EventSink};
use crate::schedule::{Schedule, interval, total_steps};
use crate::state::TrainerState;
use crate::weighting::conflict::Conflicts;
use crate::{Error, Result};
use medley_autograd::optim::{AdafactorConfig, AdamWConfig, LionConfig, Optimizer, OptimizerConfig};
use medley_autograd::{GradScaler, ScalerConfig};
use medley_model::Llama;
use medley_model::tokenizer::Tokenizer;
use medley_tensor::DType;
use std::path::Path;

/// Makes the output folder and tries to write to it: better before the first step than after the last.
fn prepare_output(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).and_then(|()| tempfile::tempfile_in(folder)).map(drop).map_err(|source| {
        Error::Run(format!(
            "output_dir {} cannot be written: {source}; choose a folder that you may write to",
            folder.display()
        ))
    })
}

/// Refuses examples with ids that the embedding of `vocab` rows does not have. What the data uses
/// counts, not what the tokenizer knows: many have a padding token more than their model.
fn check_ids(data: &RunData, vocab: usize, model: &Path) -> Result<()> {
    // The largest is known: reading all would draw a large cache through memory.
    let largest = data.eval.iter().map(Dataset::largest_id).fold(data.train.largest_id(), u32::max);
    if (largest as usize) < vocab {
        return Ok(());
    }
    for example in data.train.iter().chain(data.eval.iter().flat_map(Dataset::iter)) {
        let labels = example.labels.iter().filter_map(|span| span.token);
        if let Some(id) = example.ids.iter().copied().chain(labels).find(|id| *id as usize >= vocab) {
            return Err(Error::Run(format!(
                "{}:{}: token {id} has no row in the model's embedding, which has {vocab}; the tokenizer and the \
                 weights in {} do not belong together",
                example.file.display(),
                example.line,
                model.display()
            )));
        }
    }
    Ok(())
}

/// Refuses a run that would write over, or remove, the model or adapter that it starts from.
fn spare_inputs(config: &TrainConfig, model: &Path, output_dir: &Path) -> Result<()> {
    // A folder that cannot be resolved does not exist, so nothing of it can be lost.
    let (Ok(model), Ok(output)) = (model.canonicalize(), output_dir.canonicalize()) else { return Ok(()) };
    if setup::lora_config(config).is_none() && model == output {
        return Err(Error::Run(format!(
            "output_dir {} is the folder of the model itself, which the trained weights would replace; choose \
             another folder",
            output_dir.display()
        )));
    }
    if config.output.overwrite_output_dir && config.train.resume_from_checkpoint == Resume::No {
        let adapter = config.model.adapter_name_or_path.as_deref().and_then(|a| a.canonicalize().ok());
        for (_, checkpoint) in checkpoint::list(&output)? {
            if model.starts_with(&checkpoint) || adapter.as_ref().is_some_and(|a| a.starts_with(&checkpoint))
            {
                return Err(Error::Run(format!(
                    "overwrite_output_dir would remove {}, from which this run starts; choose another output_dir",
                    checkpoint.display()
                )));
            }
        }
    }
    Ok(())
}

/// The optimizer of a configuration over everything that `model` trains.
pub(super) fn optimizer(config: &TrainConfig, model: &Llama) -> Result<Optimizer> {
    let args = &config.train;
    let (beta1, beta2, eps) = (args.adam_beta1, args.adam_beta2, args.adam_epsilon);
    let weight_decay = args.weight_decay;
    let adamw =
        |eight_bit| OptimizerConfig::AdamW(AdamWConfig { beta1, beta2, eps, weight_decay, eight_bit });
    let lion = |eight_bit| OptimizerConfig::Lion(LionConfig { beta1, beta2, weight_decay, eight_bit });
    let optimizer = match args.optim {
        config::Optimizer::AdamwTorch => adamw(false),
        config::Optimizer::Adamw8bit => adamw(true),
        config::Optimizer::Lion => lion(false),
        config::Optimizer::Lion8bit => lion(true),
        config::Optimizer::Adafactor => {
            OptimizerConfig::Adafactor(AdafactorConfig::with_weight_decay(weight_decay))
        }
    };
    let optimizer = Optimizer::new(optimizer, model.params())?;
    Ok(match config.lora.loraplus_lr_ratio {
        // PEFT's groups (`create_loraplus_optimizer`): B and all vectors, the magnitudes of DoRA and norms among them.
        Some(ratio) => optimizer.with_lr_scales(|p| {
            let fast = p.name().contains("lora_B") || p.value().rank() == 1;
            if fast { ratio } else { 1.0 }
        }),
        None => optimizer,
    })
}

impl<'a> Trainer<'a> {
    pub(super) fn prepare(config: &'a TrainConfig, sink: &mut dyn EventSink) -> Result<Self> {
        let output_dir = output_dir(config)?.to_path_buf();
        let resume = resume::source(config, &output_dir, sink)?;
        let folder = setup::model_folder(config)?;
        spare_inputs(config, &folder, &output_dir)?;
        prepare_output(&output_dir)?;
        let lock = OutputLock::take(&output_dir, sink)?;
        checkpoint::sweep(&output_dir)?;

        let tokenizer = Tokenizer::from_folder(&folder)?;
        let renderer = match config.train.stage {
            Stage::Sft => Some(setup::renderer(config)?),
            Stage::Pt => None,
        };
        for note in renderer.iter().flat_map(|r| r.notes()) {
            sink.event(&Event::Warning(note.clone()));
        }
        let data = setup::load_data(config, renderer.as_ref(), &tokenizer)?;
        for warning in data.train.warnings() {
            sink.event(&Event::Warning(warning));
        }
        let weighing = setup::weighing(&config.tasks, &data.tasks)?;
        let (answers, logged) = evaluate::prepare(config, &data)?;
        let best = Best::new(&config.evaluation, &logged, data.tasks.names())?;
        let (model, lora) = setup::training_model(config)?;
        check_ids(&data, model.config().vocab_size, &folder)?;
        super::pissa::prepare(config, &model, &tokenizer, &output_dir, sink)?;
        let context = model.config().max_position_embeddings;
        let longest = data.train.longest();
        if longest > context {
            sink.event(&Event::Warning(format!(
                "the longest example has {longest} tokens, the model was made for {context}: a cutoff_len of {context} is safer"
            )));
        }
        let (mut sampler, notes) = setup::sampler(config, &data.train)?;
        notes.into_iter().for_each(|note| sink.event(&Event::Warning(note)));
        let total_steps = total_steps(&config.train, sampler.steps_per_epoch() as u64);
        sampler.for_run(total_steps);
        let (weigher, probe) = weigh::weigher(config, &data, &weighing.alpha, total_steps, sink)?;
        let conflicts = Conflicts::new(data.tasks.len());
        let args = &config.train;
        let optimizer = optimizer(config, &model)?;
        let scaler = match model.placement().compute {
            DType::F16 => Some(GradScaler::new(ScalerConfig::default())?),
            _ => None,
        };
        let schedule = Schedule::new(args, total_steps);
        let state = TrainerState {
            max_steps: total_steps,
            logging_steps: interval(config.output.logging_steps, total_steps),
            save_steps: interval(config.output.save_steps, total_steps),
            eval_steps: interval(config.train.eval_steps.unwrap_or(config.output.logging_steps), total_steps),
            num_train_epochs: (total_steps as f64 / sampler.steps_per_epoch().max(1) as f64).ceil() as u64,
            train_batch_size: args.per_device_train_batch_size,
            ..TrainerState::default()
        };
        let mut trainer = Trainer {
            config,
            model,
            lora,
            tokenizer,
            data,
            weighing,
            weigher,
            probe,
            conflicts,
            sampler,
            optimizer,
            scaler,
            schedule,
            state,
            progress: Progress::default(),
            watch: LossWatch::default(),
            best,
            answers,
            output_dir,
            total_steps,
            stop_ids: renderer.as_ref().map(|r| r.stop_ids().to_vec()).unwrap_or_default(),
            recorder: None,
            _lock: lock,
        };
        match resume {
            Some(checkpoint) => trainer.restore(&checkpoint, sink)?,
            // Only now: a run that cannot start leaves the old one alone.
            None if config.output.overwrite_output_dir => {
                for (_, old) in checkpoint::list(&trainer.output_dir)? {
                    checkpoint::remove(&old)?;
                }
            }
            None => {}
        }
        Ok(trainer)
    }
}
