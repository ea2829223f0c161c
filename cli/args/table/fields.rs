//! The options that do something: each fills the field of its name.

use super::super::Cmd::{
    self, Chat, Compare, Convert, DataCheck, DataShow, DataStats, Eval, Export, Generate, Logits, Predict,
    Quickstart, Report, Train,
};
use super::super::option::Kind::{
    Choice, Flag, FlagOrPath, Float, Int, IntList, List, Numbers, Path, Shares, Structure, Text,
};
use super::super::option::{Opt, Section};

const OPENS_MODEL: &[Cmd] =
    &[Train, Compare, Eval, Predict, Generate, Chat, Export, Logits, DataCheck, DataShow, DataStats];
const RUNS_MODEL: &[Cmd] = &[Train, Compare, Eval, Predict, Generate, Chat, Logits];
const READS_DATA: &[Cmd] = &[Train, Compare, Eval, Predict, DataCheck, DataShow, DataStats];
const TOKENISES: &[Cmd] = &[Train, Compare, Eval, Predict, DataShow, DataStats];
const NAMES_EVAL_DATA: &[Cmd] = &[Train, Compare, Eval, Predict, DataCheck, DataShow, DataStats];
const RENDERS: &[Cmd] = &[Train, Compare, Eval, Predict, Generate, Chat, DataCheck, DataShow, DataStats];
const SCORES: &[Cmd] = &[Train, Compare, Eval, Predict];
const WRITES_TEXT: &[Cmd] = &[Train, Compare, Predict, Generate, Chat];
const TRAIN: &[Cmd] = &[Train, Compare];

pub const COMMAND: &[Opt] = &[
    Opt::field(Section::Command, "prompt", Text, "what the user says").on(&[Generate]),
    Opt::field(
        Section::Command,
        "task_name",
        Text,
        "the task: its header goes before the prompt (task_prefix); of data, show this one alone",
    )
    .on(&[Generate, Chat, DataShow]),
    Opt::field(Section::Command, "input", Path, "GGUF file to read").on(&[Convert]),
    Opt::field(
        Section::Command,
        "output",
        Path,
        "what to write: a folder, for logits a .safetensors file, for statistics a .json file",
    )
    .on(&[Convert, Logits, DataStats]),
    Opt::field(Section::Command, "input_ids", IntList, "tokens of one sequence").on(&[Logits]),
    Opt::field(Section::Command, "export_dir", Path, "folder to write").on(&[Export]),
    Opt::field(Section::Command, "export_size", Float, "largest size of one weight file, in GB")
        .on(&[Export]),
    Opt::field(Section::Command, "seeds", IntList, "seeds that each train every run once: 1,2,3")
        .on(&[Compare]),
    Opt::field(
        Section::Command,
        "compare_samples",
        Int,
        "evaluation examples of each task to answer; 0: all",
    )
    .on(&[Compare]),
    Opt::field(Section::Command, "compare_requests", Int, "requests of each task when latency is measured")
        .on(&[Compare]),
    Opt::field(Section::Command, "num_examples", Int, "examples to print").on(&[DataShow]),
    Opt::field(Section::Command, "max_problems", Int, "how many rows of each kind of problem to name")
        .on(&[DataCheck]),
];

pub const MODEL: &[Opt] = &[
    Opt::field(Section::Model, "model_name_or_path", Path, "Hugging Face folder of the base model")
        .on(OPENS_MODEL),
    Opt::field(Section::Model, "adapter_name_or_path", Path, "PEFT folder of a LoRA adapter to load")
        .on(&[Train, Eval, Predict, Generate, Chat, Export, Logits]),
    Opt::field(Section::Model, "quantization_bit", Int, "4: hold the frozen base in 4 bits (QLoRA)")
        .on(RUNS_MODEL),
    Opt::field(Section::Model, "quantization_type", Choice(&["nf4"]), "code book of the 4-bit weights")
        .on(RUNS_MODEL)
        .instead("fp4 is not available; nf4 is the more accurate of the two at the same size"),
    Opt::field(Section::Model, "double_quantization", Flag, "quantise the 4-bit blocks' scales too")
        .on(RUNS_MODEL),
    Opt::field(
        Section::Model,
        "train_from_scratch",
        Flag,
        "start from random weights instead of the stored ones",
    )
    .on(TRAIN),
];

pub const DATA: &[Opt] = &[
    Opt::field(
        Section::Data,
        "data_files",
        List,
        "JSON, JSONL, CSV, TSV, Parquet, Arrow or text files (.gz, .zst), folders or patterns; NAME=FILE names the task of rows without task_name",
    )
    .on(READS_DATA),
    Opt::field(Section::Data, "eval_data_files", List, "files to evaluate or predict on").on(NAMES_EVAL_DATA),
    Opt::field(Section::Data, "dataset", List, "names of entries in dataset_info.json").on(READS_DATA),
    Opt::field(Section::Data, "eval_dataset", List, "names of entries to evaluate or predict on")
        .on(NAMES_EVAL_DATA),
    Opt::field(Section::Data, "dataset_dir", Path, "folder of dataset_info.json and of relative data_files")
        .on(READS_DATA),
    Opt::field(
        Section::Data,
        "template",
        Text,
        "alpaca, chatml, llama3, … (docs/templates.md) or a .yaml file; unset: the model's own",
    )
    .on(RENDERS),
    Opt::field(
        Section::Data,
        "enable_thinking",
        Choice(&["true", "false", "none"]),
        "with qwen3, deepseekr1, …: think, do not think, or both as the data has it",
    )
    .on(RENDERS),
    Opt::field(
        Section::Data,
        "preserve_thinking",
        Flag,
        "keep the thoughts of earlier turns under mask_history",
    )
    .on(RENDERS),
    Opt::field(Section::Data, "task_prefix", Flag, "put `### Task: QA` before the instruction (alpaca)")
        .on(RENDERS),
    Opt::field(Section::Data, "default_system", Text, "system message where an example has none").on(RENDERS),
    Opt::field(Section::Data, "cutoff_len", Int, "longest example in tokens; longer ones are cut")
        .on(READS_DATA),
    Opt::field(Section::Data, "max_samples", Int, "keep the first N examples of each file").on(READS_DATA),
    Opt::field(Section::Data, "val_size", Float, "hold out a share (0.1) or a number (200) of examples")
        .on(SCORES),
    Opt::field(Section::Data, "packing", Flag, "fill each sequence with examples up to cutoff_len")
        .on(&[Train, Compare, DataShow, DataStats]),
    Opt::field(Section::Data, "train_on_prompt", Flag, "learn the prompt's tokens too")
        .on(&[Train, Compare, Eval, DataShow, DataStats]),
    Opt::field(Section::Data, "mask_history", Flag, "learn only a conversation's last turn")
        .on(&[Train, Compare, Eval, DataShow, DataStats]),
    Opt::field(Section::Data, "only_tasks", List, "use the examples of these tasks alone").on(READS_DATA),
    Opt::field(Section::Data, "disable_shuffling", Flag, "keep the examples in file order").on(TRAIN),
    Opt::field(
        Section::Data,
        "drop_duplicates",
        Flag,
        "leave out rows that repeat an earlier one of their task exactly",
    )
    .on(READS_DATA),
    Opt::field(
        Section::Data,
        "eval_contamination",
        Choice(&["warn", "drop", "off"]),
        "training rows whose prompt is in the evaluation data",
    )
    .on(&[Train, Compare, DataCheck, DataStats]),
    Opt::field(
        Section::Data,
        "tokenized_path",
        Path,
        "folder to store tokenised data in and load it from; unset: a cache folder, for large data",
    )
    .on(TOKENISES),
    Opt::field(Section::Data, "overwrite_cache", Flag, "tokenise again what is stored").on(TOKENISES),
];

pub const TASKS: &[Opt] = &[
    Opt::field(Section::Tasks, "task_weights", Numbers, "weight of each task in the loss; 1 where not named")
        .on(&[Train, Compare, Eval]),
    Opt::field(
        Section::Tasks,
        "task_weighting",
        Choice(&["fixed", "uncertainty", "dwa", "famo", "coba", "loss_rate", "dynamic"]),
        "how the weights move in training; dynamic: coba where tasks have evaluation data, else famo",
    )
    .on(TRAIN),
    Opt::field(
        Section::Tasks,
        "task_weighting_temperature",
        Float,
        "T of dwa (2) and loss_rate (1), τ of coba (5)",
    )
    .on(TRAIN),
    Opt::field(
        Section::Tasks,
        "task_weighting_lr",
        Float,
        "rate of the weights of uncertainty (0.01) and famo (0.025)",
    )
    .on(TRAIN),
    Opt::field(
        Section::Tasks,
        "task_weighting_window",
        Int,
        "steps a block of dwa and loss_rate (20); measurements in coba's window",
    )
    .on(TRAIN),
    Opt::field(Section::Tasks, "task_weighting_warmup", Int, "observations before the weights move")
        .on(TRAIN),
    Opt::field(Section::Tasks, "task_weighting_steps", Int, "steps between coba's held-out measurements")
        .on(TRAIN),
    Opt::field(
        Section::Tasks,
        "task_weighting_reevaluate",
        Flag,
        "famo: evaluate the batch before and after each update, as the paper does",
    )
    .on(TRAIN),
    Opt::field(
        Section::Tasks,
        "gradient_surgery",
        Choice(&["none", "pcgrad"]),
        "pcgrad: project conflicting parts out of the tasks' gradients",
    )
    .on(TRAIN),
    Opt::field(
        Section::Tasks,
        "conflict_steps",
        Int,
        "steps between measurements of the cosines between tasks' gradients; 0: never",
    )
    .on(TRAIN),
    Opt::field(
        Section::Tasks,
        "sampling_strategy",
        Choice(&["proportional", "balanced", "temperature", "stratified", "capped"]),
        "a task's share of a step: by its examples, equal, between, or by examples up to a cap",
    )
    .on(TRAIN),
    Opt::field(
        Section::Tasks,
        "sampling_temperature",
        Float,
        "T of p(task) ∝ examples^(1/T); larger is more even",
    )
    .on(TRAIN),
    Opt::field(Section::Tasks, "sampling_cap", Int, "cap of p(task) ∝ min(examples, cap), with capped")
        .on(TRAIN),
    Opt::field(
        Section::Tasks,
        "sampling_unit",
        Choice(&["examples", "tokens"]),
        "what is shared: examples, or labelled tokens",
    )
    .on(TRAIN),
    Opt::field(
        Section::Tasks,
        "sampling_schedule",
        Structure,
        "shares that change over the run: [{at: 0, strategy: balanced}, {at: 1, shares: {qa: 2, sum: 1}}]",
    )
    .on(TRAIN),
    Opt::field(
        Section::Tasks,
        "mix_strategy",
        Choice(&["concat", "interleave_under", "interleave_over", "interleave_once"]),
        "end an epoch at the first dataset's end, at the last one's, or use each example once",
    )
    .on(TRAIN),
    Opt::field(
        Section::Tasks,
        "interleave_probs",
        Shares,
        "shares of the datasets in their order, or of tasks by name",
    )
    .on(TRAIN),
    Opt::field(
        Section::Tasks,
        "loss_reduction",
        Choice(&["task_mean", "token_mean"]),
        "mean over each task's tokens then weighted sum, or over all tokens",
    )
    .on(&[Train, Compare, Eval]),
];

pub const LORA: &[Opt] = &[
    Opt::field(
        Section::Lora,
        "finetuning_type",
        Choice(&["lora", "freeze", "full"]),
        "adapters on a frozen base, some blocks, or all weights",
    )
    .on(TRAIN)
    .instead("oft is not available; use lora, freeze or full"),
    Opt::field(Section::Lora, "lora_rank", Int, "rank of the low-rank update").on(TRAIN),
    Opt::field(Section::Lora, "lora_alpha", Float, "scale: the update counts alpha / rank; unset: 2 · rank")
        .on(TRAIN),
    Opt::field(Section::Lora, "lora_dropout", Float, "share of the adapter's input dropped").on(TRAIN),
    Opt::field(Section::Lora, "lora_target", List, "all, or layers such as q_proj,v_proj").on(TRAIN),
    Opt::field(Section::Lora, "use_rslora", Flag, "scale by alpha / √rank").on(TRAIN),
    Opt::field(
        Section::Lora,
        "loraplus_lr_ratio",
        Float,
        "learning rate of B over that of A (LoRA+), e.g. 16",
    )
    .on(TRAIN),
    Opt::field(
        Section::Lora,
        "additional_target",
        List,
        "modules trained in full beside the adapter: embed_tokens,lm_head,norm",
    )
    .on(TRAIN),
    Opt::field(
        Section::Lora,
        "freeze_trainable_layers",
        Int,
        "blocks that freeze trains: the last N; -N: the first N",
    )
    .on(TRAIN),
    Opt::field(Section::Lora, "freeze_trainable_modules", List, "their modules: all, or e.g. mlp,self_attn")
        .on(TRAIN),
    Opt::field(
        Section::Lora,
        "freeze_extra_modules",
        List,
        "modules outside the blocks: embed_tokens,norm,lm_head",
    )
    .on(TRAIN),
    Opt::field(Section::Lora, "use_dora", Flag, "train a magnitude an output feature too (DoRA)").on(TRAIN),
    Opt::field(Section::Lora, "pissa_init", Flag, "start from the weights' principal directions (PiSSA)")
        .on(TRAIN),
    Opt::field(Section::Lora, "pissa_iter", Int, "its power iterations; -1: an exact decomposition")
        .on(TRAIN),
    Opt::field(Section::Lora, "pissa_convert", Flag, "save it as plain LoRA of twice the rank").on(TRAIN),
];

pub const OPTIMISATION: &[Opt] = &[
    Opt::field(
        Section::Train,
        "stage",
        Choice(&["sft", "pt"]),
        "instruction / response pairs, or plain text",
    )
    .on(READS_DATA)
    .instead("preference and reward stages (rm, ppo, dpo, kto) are not available; use sft or pt"),
    Opt::field(Section::Train, "do_train", Flag, "train (implied by `medley train`)").on(TRAIN),
    Opt::field(Section::Train, "do_eval", Flag, "evaluate after training").on(TRAIN),
    Opt::field(Section::Train, "do_predict", Flag, "predict after training").on(TRAIN),
    Opt::field(Section::Train, "per_device_train_batch_size", Int, "sequences in a micro-batch").on(TRAIN),
    Opt::field(Section::Train, "gradient_accumulation_steps", Int, "micro-batches in an optimizer step")
        .on(TRAIN),
    Opt::field(Section::Train, "learning_rate", Float, "peak learning rate").on(TRAIN),
    Opt::field(Section::Train, "num_train_epochs", Float, "passes over the data").on(TRAIN),
    Opt::field(
        Section::Train,
        "max_steps",
        Int,
        "optimizer steps; a positive number overrides num_train_epochs",
    )
    .on(TRAIN),
    Opt::field(
        Section::Train,
        "lr_scheduler_type",
        Choice(&["linear", "cosine", "constant", "constant_with_warmup", "cosine_with_min_lr"]),
        "shape of the learning rate",
    )
    .on(TRAIN)
    .instead("cosine_with_min_lr comes nearest to a decay with a floor or restarts"),
    Opt::field(
        Section::Train,
        "lr_scheduler_kwargs",
        Numbers,
        "min_lr, min_lr_rate or num_cycles of the schedule",
    )
    .on(TRAIN),
    Opt::field(Section::Train, "warmup_ratio", Float, "share of the steps that warm up").on(TRAIN),
    Opt::field(Section::Train, "warmup_steps", Float, "steps that warm up; overrides warmup_ratio").on(TRAIN),
    Opt::field(
        Section::Train,
        "optim",
        Choice(&[
            "adamw_torch",
            "adamw_torch_fused",
            "adamw_hf",
            "adamw_8bit",
            "adamw_bnb_8bit",
            "paged_adamw_8bit",
            "lion_32bit",
            "lion",
            "lion_8bit",
            "paged_lion_32bit",
            "paged_lion_8bit",
            "adafactor",
        ]),
        "AdamW, Lion or Adafactor, under Hugging Face's names",
    )
    .on(TRAIN)
    .instead("AdamW and Lion, in f32 or 8 bits, and Adafactor are the optimizers here"),
    Opt::field(Section::Train, "weight_decay", Float, "decoupled weight decay").on(TRAIN),
    Opt::field(Section::Train, "adam_beta1", Float, "β₁ of AdamW and Lion").on(TRAIN),
    Opt::field(Section::Train, "adam_beta2", Float, "β₂ of AdamW and Lion").on(TRAIN),
    Opt::field(
        Section::Train,
        "neftune_noise_alpha",
        Float,
        "noise on the embeddings in training (NEFTune), 5 to 15",
    )
    .on(TRAIN),
    Opt::field(Section::Train, "adam_epsilon", Float, "AdamW's ε").on(TRAIN),
    Opt::field(Section::Train, "max_grad_norm", Float, "clip gradients to this global norm; 0: off")
        .on(TRAIN),
    Opt::field(
        Section::Train,
        "gradient_checkpointing",
        Flag,
        "recompute activations: less memory, a third slower",
    )
    .on(TRAIN),
    Opt::field(Section::Train, "eval_strategy", Choice(&["no", "steps", "epoch"]), "when to evaluate")
        .on(TRAIN),
    Opt::field(Section::Train, "eval_steps", Float, "steps between evaluations; unset: logging_steps")
        .on(TRAIN),
    Opt::field(Section::Train, "eval_on_start", Flag, "evaluate before the first step too").on(TRAIN),
    Opt::field(Section::Train, "per_device_eval_batch_size", Int, "sequences in an evaluation batch")
        .on(SCORES),
    Opt::field(
        Section::Train,
        "nonfinite_action",
        Choice(&["stop", "skip", "rollback"]),
        "when a loss or gradient is not a number: end, leave the step out, or go back to the last checkpoint",
    )
    .on(TRAIN),
    Opt::field(
        Section::Train,
        "loss_spike_action",
        Choice(&["warn", "stop", "skip", "rollback"]),
        "when a task's loss leaps up",
    )
    .on(TRAIN),
    Opt::field(
        Section::Train,
        "loss_spike_threshold",
        Float,
        "standard deviations above its mean that make a task's loss a spike; 0: look for none",
    )
    .on(TRAIN),
    Opt::field(
        Section::Train,
        "resume_from_checkpoint",
        FlagOrPath,
        "go on from a checkpoint folder; true: the newest of output_dir",
    )
    .on(TRAIN),
];

pub const OUTPUT: &[Opt] = &[
    Opt::field(Section::Output, "output_dir", Path, "folder of everything the run writes")
        .on(&[Train, Compare, Eval, Predict, Quickstart, Report]),
    Opt::field(Section::Output, "overwrite_output_dir", Flag, "start anew in a folder that holds a run")
        .on(&[Train, Compare, Quickstart]),
    Opt::field(Section::Output, "logging_strategy", Choice(&["no", "steps", "epoch"]), "when to log")
        .on(TRAIN),
    Opt::field(Section::Output, "logging_steps", Float, "steps between log entries; below 1: a share of all")
        .on(TRAIN),
    Opt::field(Section::Output, "logging_first_step", Flag, "log the first step too").on(TRAIN),
    Opt::field(
        Section::Output,
        "save_strategy",
        Choice(&["no", "steps", "epoch"]),
        "when to save a checkpoint",
    )
    .on(TRAIN)
    .instead("`best` is not available; load_best_model_at_end: true with save_strategy: no keeps the best checkpoint only"),
    Opt::field(Section::Output, "save_steps", Float, "steps between checkpoints; below 1: a share of all")
        .on(TRAIN),
    Opt::field(Section::Output, "save_total_limit", Int, "keep the newest N checkpoints").on(TRAIN),
    Opt::field(Section::Output, "save_only_model", Flag, "checkpoints without what a resume needs").on(TRAIN),
    Opt::field(Section::Output, "plot_loss", Flag, "draw training_loss.png and .svg").on(TRAIN),
    Opt::field(Section::Output, "report", Flag, "write report.html when training has finished").on(TRAIN),
    Opt::field(
        Section::Output,
        "report_samples",
        Int,
        "examples of each task completed before and after training, for the report; 0: none",
    )
    .on(TRAIN),
    Opt::field(
        Section::Output,
        "report_to",
        List,
        "tensorboard writes event files as the run goes; other trackers are not told",
    )
    .on(TRAIN),
    Opt::field(Section::Output, "logging_dir", Path, "folder of event files; unset: runs in output_dir")
        .on(TRAIN),
];

pub const GENERATE: &[Opt] = &[
    Opt::field(Section::Generate, "do_sample", Flag, "draw at random; false: always the likeliest token")
        .on(WRITES_TEXT),
    Opt::field(Section::Generate, "temperature", Float, "below 1 sharpens, above 1 flattens").on(WRITES_TEXT),
    Opt::field(Section::Generate, "top_p", Float, "keep the likeliest tokens up to this probability; 1: off")
        .on(WRITES_TEXT),
    Opt::field(Section::Generate, "top_k", Int, "keep the N likeliest tokens; 0: off").on(WRITES_TEXT),
    Opt::field(Section::Generate, "max_new_tokens", Int, "most tokens of a completion").on(WRITES_TEXT),
    Opt::field(Section::Generate, "repetition_penalty", Float, "above 1 discourages repeating; 1: off")
        .on(WRITES_TEXT),
    Opt::field(Section::Generate, "skip_special_tokens", Flag, "leave special tokens out of the text")
        .on(WRITES_TEXT),
];

const SEEDED: &[Cmd] = &[Train, Compare, Eval, Predict, Generate, Chat, Quickstart];

pub const RUN: &[Opt] = &[
    Opt::field(Section::Run, "seed", Int, "seed of initialisation, dropout and sampling").on(SEEDED),
    Opt::field(Section::Run, "data_seed", Int, "seed of the order of examples; unset: seed").on(SCORES),
    Opt::field(
        Section::Run,
        "device",
        Text,
        "cpu, cuda, cuda:N, or sim (a simulated GPU); unset: a GPU if there is one",
    )
    .on(RUNS_MODEL),
    Opt::field(Section::Run, "bf16", Flag, "compute in bfloat16 on the GPU").on(RUNS_MODEL),
    Opt::field(Section::Run, "fp16", Flag, "compute in half precision on the GPU, with loss scaling")
        .on(RUNS_MODEL),
    Opt::field(Section::Run, "num_threads", Int, "CPU threads; unset: one a core")
        .on(&[Train, Compare, Eval, Predict, Generate, Chat, Export, Convert, Logits, Quickstart]),
];

pub const RENAMED: &[Opt] = &[
    Opt::renamed("evaluation_strategy", "eval_strategy"),
    Opt::renamed("per_gpu_train_batch_size", "per_device_train_batch_size"),
    Opt::renamed("per_gpu_eval_batch_size", "per_device_eval_batch_size"),
];
