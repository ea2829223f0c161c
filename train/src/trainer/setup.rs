//! From a configuration to everything a run needs: tokenizer, data, tasks, model.

use super::step::Weighing;
use crate::config::{EvalContamination, FinetuningType, LoraTarget, Stage, TaskArgs, TrainConfig};
use crate::data::{self, CacheOptions, Dataset, LoadOptions, PtOptions, Split, Tasks};
use crate::mix::Sampler;
use crate::predict::evaluation_split;
use crate::{Error, Result};
use medley_model::adapter::{LoraConfig, Pissa, Targets};
use medley_model::template::{RenderOptions, Renderer};
use medley_model::tokenizer::Tokenizer;
use medley_model::{BaseStorage, Freeze, Llama, ModelConfig, Placement, TrainedWeights};
use medley_tensor::{DType, Device};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The model folder a configuration names.
///
/// # Errors
/// When it names none, or the folder does not exist.
pub fn model_folder(config: &TrainConfig) -> Result<PathBuf> {
    let folder = config.model.model_name_or_path.clone().ok_or_else(|| {
        Error::Run(
            "model_name_or_path is not set; give the folder of a model (config.json, model.safetensors)"
                .into(),
        )
    })?;
    if !folder.is_dir() {
        return Err(Error::Run(format!(
            "model_name_or_path: {} is not a folder; give the path of a downloaded model, with config.json and \
             model.safetensors in it",
            folder.display()
        )));
    }
    Ok(folder)
}

/// Tokenizer and prompt format of a configuration.
///
/// # Errors
/// When the tokenizer cannot be read or the template does not fit it.
pub fn renderer(config: &TrainConfig) -> Result<Renderer> {
    let tokenizer = Arc::new(Tokenizer::from_folder(&model_folder(config)?)?);
    let options = RenderOptions {
        train_on_prompt: config.data.train_on_prompt,
        mask_history: config.data.mask_history,
        task_prefix: config.data.task_prefix,
        default_system: config.data.default_system.clone(),
        enable_thinking: config.data.enable_thinking,
        preserve_thinking: config.data.preserve_thinking,
        cutoff_len: Some(config.data.cutoff_len),
    };
    Ok(Renderer::new(config.data.template.as_deref(), tokenizer, options)?)
}

/// Training and evaluation examples, with one numbering of tasks.
pub struct RunData {
    /// The tasks.
    pub tasks: Tasks,
    /// What is learned.
    pub train: Dataset,
    /// What is held out, if anything.
    pub eval: Option<Dataset>,
}

/// Reads and tokenises the data of a configuration.
///
/// # Errors
/// The first row that cannot be used, with file and line; a split that leaves one side empty.
pub fn load_data(
    config: &TrainConfig,
    renderer: Option<&Renderer>,
    tokenizer: &Tokenizer,
) -> Result<RunData> {
    let mut tasks = Tasks::default();
    let all = load(config, Split::Train, renderer, tokenizer, &mut tasks)?;
    let mut eval = match evaluation_split(config) {
        Split::Eval => Some(load(config, Split::Eval, renderer, tokenizer, &mut tasks)?),
        Split::Train => None,
    };
    let notes = all.warnings();
    let mut train = if config.data.val_size > 0.0 {
        let (mut train, held_out) = all.split(config.data.val_size, data_seed(config))?;
        // A part does not know what happened to the whole.
        notes.into_iter().for_each(|note| train.note(note));
        eval = Some(held_out);
        train
    } else {
        all
    };
    if let Some(eval) = &eval {
        train = without_contamination(config, train, eval)?;
    }
    Ok(RunData { tasks, train, eval })
}

/// Looks for training rows that the evaluation data has too, and does with them as
/// `eval_contamination` says.
fn without_contamination(config: &TrainConfig, mut train: Dataset, eval: &Dataset) -> Result<Dataset> {
    let action = config.data.eval_contamination;
    if action == EvalContamination::Off {
        return Ok(train);
    }
    let found = data::contamination(&train, eval);
    if action == EvalContamination::Drop && !found.tasks.is_empty() {
        train = train.keep(&found.clean);
        if train.is_empty() {
            return Err(Error::Run(
                "eval_contamination: drop leaves nothing to train on: the prompt of every training row is \
                 in the evaluation data; name other files to evaluate on"
                    .into(),
            ));
        }
    }
    for task in &found.tasks {
        let (done, advice) = match action {
            EvalContamination::Drop => ("left out of training: ", ""),
            _ => ("", "; eval_contamination: drop leaves them out"),
        };
        train.note(format!(
            "{}: {done}{} of {} training rows have a prompt of the evaluation data, {} with the same reply \
             ({}){advice}",
            task.task,
            task.repeated,
            task.rows,
            task.same_reply,
            task.examples()
        ));
    }
    Ok(train)
}

/// What an evaluation without training scores: the evaluation files; where none are named, what
/// `val_size` holds out of the training files, the same examples as in training; else all of them.
///
/// # Errors
/// As [`load_data`].
pub fn load_evaluation_data(
    config: &TrainConfig,
    renderer: Option<&Renderer>,
    tokenizer: &Tokenizer,
) -> Result<(Tasks, Dataset)> {
    let mut tasks = Tasks::default();
    let split = evaluation_split(config);
    let data = load(config, split, renderer, tokenizer, &mut tasks)?;
    if split == Split::Train && config.data.val_size > 0.0 {
        let (_, held_out) = data.split(config.data.val_size, data_seed(config))?;
        return Ok((tasks, held_out));
    }
    Ok((tasks, data))
}

/// The rows of a configuration's files, tokenised, and without a look at what repeats.
///
/// # Errors
/// As [`load_data`].
pub fn tokenised(
    config: &TrainConfig,
    split: Split,
    renderer: Option<&Renderer>,
    tokenizer: &Tokenizer,
    tasks: &mut Tasks,
) -> Result<Dataset> {
    let options = LoadOptions::of(config);
    let files = data::data_files(&config.data, split)?;
    let cache = CacheOptions::new(config.data.tokenized_path.as_deref(), config.data.overwrite_cache);
    Ok(match (config.train.stage, renderer) {
        (Stage::Sft, Some(renderer)) => data::load_sft_cached(&files, renderer, &options, &cache, tasks)?,
        _ => data::load_pt_cached(&files, tokenizer, pt_options(config, split), &options, &cache, tasks)?,
    })
}

fn load(
    config: &TrainConfig,
    split: Split,
    renderer: Option<&Renderer>,
    tokenizer: &Tokenizer,
    tasks: &mut Tasks,
) -> Result<Dataset> {
    let loaded = tokenised(config, split, renderer, tokenizer, tasks)?;
    Ok(match split {
        Split::Train => without_duplicates(config, loaded),
        Split::Eval => loaded,
    })
}

/// How text becomes examples in the `pt` stage.
pub fn pt_options(config: &TrainConfig, split: Split) -> PtOptions {
    PtOptions {
        cutoff_len: config.data.cutoff_len,
        packing: config.data.packing.unwrap_or(true),
        drop_duplicates: config.data.drop_duplicates && split == Split::Train,
    }
}

/// Leaves out the rows that repeat an earlier one where `drop_duplicates` says so, else says how many
/// there are.
fn without_duplicates(config: &TrainConfig, loaded: Dataset) -> Dataset {
    let found = data::duplicates(&loaded);
    if !config.data.drop_duplicates {
        let mut loaded = loaded;
        for task in &found.tasks {
            loaded.note(format!(
                "{}: {} of {} rows repeat an earlier one ({}); drop_duplicates: true leaves them out",
                task.task,
                task.repeated,
                task.rows,
                task.examples()
            ));
        }
        return loaded;
    }
    let mut kept = loaded.keep(&found.distinct);
    for task in &found.tasks {
        kept.note(format!(
            "{}: {} of {} rows repeat an earlier one and are left out ({})",
            task.task,
            task.repeated,
            task.rows,
            task.examples()
        ));
    }
    for (name, report) in loaded.tasks().names().iter().zip(loaded.reports()).filter(|(_, r)| r.repeated > 0)
    {
        kept.note(format!(
            "{name}: {} of {} documents repeat an earlier one and are left out",
            report.repeated, report.rows
        ));
    }
    kept
}

/// The order of `data`'s examples that a configuration asks for, and what the user should know about it.
///
/// # Errors
/// No examples, or shares that cannot be drawn.
pub fn sampler(config: &TrainConfig, data: &Dataset) -> Result<(Sampler, Vec<String>)> {
    let (step_size, shuffle) = (super::step_size(config), !config.data.disable_shuffling);
    Sampler::from_config(&config.tasks, data, step_size, shuffle, data_seed(config))
        .map_err(|e| Error::Run(e.to_string()))
}

/// `data_seed`, else `seed`.
pub fn data_seed(config: &TrainConfig) -> u64 {
    config.run.data_seed.unwrap_or(config.run.seed)
}

/// α of each task, 1 where `task_weights` names none.
///
/// # Errors
/// When `task_weights` names a task that the data does not have, or leaves every task at 0.
pub fn weighing(args: &TaskArgs, tasks: &Tasks) -> Result<Weighing> {
    let mut alpha = vec![1.0; tasks.len()];
    for (name, weight) in &args.task_weights {
        let id = tasks.find(name).ok_or_else(|| {
            Error::Run(format!(
                "task_weights: there is no task `{name}` in the data; its tasks are {}",
                tasks.names().join(", ")
            ))
        })?;
        alpha[id.index()] = *weight;
    }
    if !alpha.is_empty() && alpha.iter().all(|weight| *weight == 0.0) {
        return Err(Error::Run("task_weights: every weight is 0, so nothing would be learned".into()));
    }
    Ok(Weighing { alpha, reduction: args.loss_reduction })
}

/// The adapter a configuration asks for, `None` for full fine-tuning.
pub fn lora_config(config: &TrainConfig) -> Option<LoraConfig> {
    (config.lora.finetuning_type == FinetuningType::Lora).then(|| LoraConfig {
        rank: config.lora.lora_rank,
        alpha: config.lora.alpha(),
        dropout: config.lora.lora_dropout,
        targets: match &config.lora.lora_target {
            LoraTarget::All => Targets::All,
            LoraTarget::Modules(kinds) => Targets::Kinds(kinds.clone()),
        },
        rslora: config.lora.use_rslora,
        dora: config.lora.use_dora,
        modules_to_save: config.lora.additional_target.clone(),
        ..LoraConfig::default()
    })
}

/// The weights of the base that are trained although it is frozen: the blocks of `freeze`, the modules of
/// `additional_target`.
///
/// # Errors
/// When config.json of `folder` cannot be read, or names belong to no weight of the model.
fn trained_weights(config: &TrainConfig, folder: &Path) -> Result<TrainedWeights> {
    let args = &config.lora;
    Ok(match args.finetuning_type {
        FinetuningType::Freeze => {
            let freeze = Freeze {
                layers: args.freeze_trainable_layers,
                modules: args.freeze_trainable_modules.clone(),
                extra: args.freeze_extra_modules.clone(),
            };
            TrainedWeights::freeze(&ModelConfig::from_folder(folder)?, &freeze)?
        }
        FinetuningType::Lora if !args.additional_target.is_empty() => {
            TrainedWeights::modules(&ModelConfig::from_folder(folder)?, &args.additional_target)?
        }
        FinetuningType::Lora | FinetuningType::Full => TrainedWeights::default(),
    })
}

/// How the base model's weights are held.
pub fn storage(config: &TrainConfig, full: bool) -> BaseStorage {
    match config.model.quantization_bit {
        Some(_) => BaseStorage::Nf4 { double_quantization: config.model.double_quantization },
        None if full => BaseStorage::Trainable,
        None => BaseStorage::Mapped,
    }
}

/// Where a configuration computes, and in which dtype: `fp16` and `bf16` say it, else the weights do (bf16
/// for f16 weights too, which trains without loss scaling; f32 for f32 weights). The CPU computes in f32.
///
/// # Errors
/// When the device is not there, or config.json of `folder` cannot be read.
pub fn placement(config: &TrainConfig, folder: &Path) -> Result<Placement> {
    let device = config.run.device.open()?;
    let compute = match &device {
        Device::Cpu => DType::F32,
        _ if config.run.fp16 => DType::F16,
        _ if config.run.bf16 => DType::BF16,
        _ => match ModelConfig::from_folder(folder)?.dtype {
            DType::F32 => DType::F32,
            _ => DType::BF16,
        },
    };
    Ok(Placement { device, compute })
}

/// The model to train, with its adapter's settings (`None`: everything is trained).
///
/// # Errors
/// When the model or the adapter to go on from cannot be read.
pub fn training_model(config: &TrainConfig) -> Result<(Llama, Option<LoraConfig>)> {
    let folder = model_folder(config)?;
    let lora = lora_config(config);
    let placement = placement(config, &folder)?;
    if config.model.train_from_scratch {
        let model = Llama::from_scratch(ModelConfig::from_folder(&folder)?, config.run.seed, placement)?;
        return Ok((model, None));
    }
    let full = config.lora.finetuning_type == FinetuningType::Full;
    let storage = storage(config, full);
    let trained = trained_weights(config, &folder)?;
    let mut model = Llama::open_trained(&folder, storage, placement, trained)?;
    let Some(mut lora) = lora else { return Ok((model, None)) };
    match &config.model.adapter_name_or_path {
        Some(adapter) if config.lora.pissa_init => {
            return Err(Error::Run(format!(
                "pissa_init begins a new adapter, and adapter_name_or_path goes on with {}; give one of the two",
                adapter.display()
            )));
        }
        Some(adapter) => {
            let mut loaded = model.load_lora(adapter)?;
            loaded.dropout = lora.dropout;
            lora = loaded;
        }
        None if config.lora.pissa_init => {
            let (iterations, convert) =
                (usize::try_from(config.lora.pissa_iter).ok(), config.lora.pissa_convert);
            model.attach_pissa(&lora, Pissa { iterations, convert }, config.run.seed, &folder, storage)?;
        }
        None => model.attach_lora(&lora, config.run.seed)?,
    }
    Ok((model, Some(lora)))
}

/// The model to evaluate or talk to: base and, where one is named, its adapter.
///
/// # Errors
/// When either cannot be read.
pub fn inference_model(config: &TrainConfig) -> Result<Llama> {
    let folder = model_folder(config)?;
    let placement = placement(config, &folder)?;
    open_model(&folder, config.model.adapter_name_or_path.as_deref(), storage(config, false), placement)
}

/// A base model with an optional adapter.
///
/// # Errors
/// When either cannot be read.
pub fn open_model(
    folder: &Path,
    adapter: Option<&Path>,
    storage: BaseStorage,
    placement: Placement,
) -> Result<Llama> {
    let mut model = Llama::open_on(folder, storage, placement)?;
    if let Some(adapter) = adapter {
        model.load_lora(adapter)?;
    }
    Ok(model)
}
