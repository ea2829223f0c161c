//! Features of LLaMA-Factory and of Hugging Face's trainer that are not here: asking for one is an error that
//! says what to do instead; spelling out that it is off is not.

use super::super::option::Opt;

const OFF: &[&str] = &["false", "none", "no"];
const UNSET: &[&str] = &["false", "none", "no", "0"];

const ADAMW_ONLY: &str = "AdamW is the one optimizer here; drop it";
const FIXED_VOCABULARY: &str =
    "the vocabulary is fixed; add tokens to the model folder beforehand and drop it";
const BASE_LORA: &str = "plain and rank-stabilised LoRA are available: use lora_rank, lora_alpha, use_rslora";
const WEIGHTED_LOSS: &str = "the loss is cross-entropy with a weight a task; use task_weights";
const ONE_PROCESS: &str =
    "training runs in one process; drop it (4-bit weights and gradient_checkpointing save memory)";
const NO_BEAMS: &str = "completions are greedy or sampled, without beams; use 1";
const BEST: &str = "trainer_state.json names the checkpoint with the lowest eval_loss (best_model_checkpoint); take it from there";
const SHARES: &str =
    "shares of tasks are set by sampling_strategy (proportional, balanced, temperature); drop it";

pub const REFUSED: &[Opt] = &[
    Opt::refused("adapter_folder", UNSET, "name the adapter by adapter_name_or_path"),
    Opt::refused("resize_vocab", OFF, FIXED_VOCABULARY),
    Opt::refused("add_tokens", UNSET, FIXED_VOCABULARY),
    Opt::refused("add_special_tokens", UNSET, FIXED_VOCABULARY),
    Opt::refused("split_special_tokens", OFF, "special tokens are kept whole; drop it"),
    Opt::refused("rope_scaling", UNSET, "set rope_scaling in the model folder's config.json"),
    Opt::refused("shift_attn", OFF, "attention is exact; drop it"),
    Opt::refused("mixture_of_depths", UNSET, "every block runs for every token; drop it"),
    Opt::refused("moe_aux_loss_coef", UNSET, "models here are dense; drop it"),
    Opt::refused("use_kt", OFF, "experts are not offloaded; drop it"),
    Opt::refused(
        "quantization_method",
        &["bnb", "bitsandbytes"],
        "4-bit weights are in bitsandbytes' NF4 form; use bnb",
    ),
    Opt::refused("export_quantization_bit", UNSET, "merged models are written unquantised; drop it"),
    Opt::refused("export_legacy_format", OFF, "weights are written as safetensors; drop it"),
    Opt::refused("export_hub_model_id", UNSET, "nothing is uploaded; write to export_dir"),
    Opt::refused("media_dir", UNSET, "models here read text only; drop it"),
    Opt::refused("mix_strategy", &["concat"], SHARES),
    Opt::refused("interleave_probs", UNSET, SHARES),
    Opt::refused("eval_num_beams", &["1", "none"], NO_BEAMS),
    Opt::refused("num_beams", &["1"], NO_BEAMS),
    Opt::refused("generation_num_beams", &["1", "none"], NO_BEAMS),
    Opt::refused("generation_config", UNSET, "give do_sample, temperature, top_p, top_k, max_new_tokens"),
    Opt::refused("tool_format", UNSET, "examples with tool calls are not read; drop it"),
    Opt::refused("freeze_extra_modules", UNSET, "choose layers by lora_target"),
    Opt::refused("freeze_language_model", OFF, "there would be nothing to train; drop it"),
    Opt::refused(
        "additional_target",
        UNSET,
        "only linear layers can be trained beside a frozen base; use lora_target",
    ),
    Opt::refused(
        "create_new_adapter",
        OFF,
        "merge the first adapter with `medley export`, then train on the result",
    ),
    Opt::refused("loraplus_lr_ratio", UNSET, "both LoRA matrices learn at learning_rate; drop it"),
    Opt::refused("use_dora", OFF, BASE_LORA),
    Opt::refused("pissa_init", OFF, BASE_LORA),
    Opt::refused("use_llama_pro", OFF, "no blocks are added; use finetuning_type: lora or full"),
    Opt::refused("use_galore", OFF, ADAMW_ONLY),
    Opt::refused("use_apollo", OFF, ADAMW_ONLY),
    Opt::refused("use_badam", OFF, ADAMW_ONLY),
    Opt::refused("use_adam_mini", OFF, ADAMW_ONLY),
    Opt::refused("use_muon", OFF, ADAMW_ONLY),
    Opt::refused("adafactor", OFF, ADAMW_ONLY),
    Opt::refused("optim_args", UNSET, "use adam_beta1, adam_beta2, adam_epsilon, weight_decay"),
    Opt::refused("optim_target_modules", UNSET, ADAMW_ONLY),
    Opt::refused("use_dft_loss", OFF, WEIGHTED_LOSS),
    Opt::refused("use_asft_loss", OFF, WEIGHTED_LOSS),
    Opt::refused("use_eaft_loss", OFF, WEIGHTED_LOSS),
    Opt::refused("label_smoothing_factor", UNSET, WEIGHTED_LOSS),
    Opt::refused("neftune_noise_alpha", UNSET, "embeddings get no noise; use lora_dropout or weight_decay"),
    Opt::refused("compute_accuracy", OFF, "run `medley predict`, which scores each task's answers"),
    Opt::refused("early_stopping_steps", UNSET, BEST),
    Opt::refused("load_best_model_at_end", OFF, BEST),
    Opt::refused("metric_for_best_model", &["loss", "eval_loss", "none"], BEST),
    Opt::refused("greater_is_better", OFF, BEST),
    Opt::refused("eval_delay", UNSET, "the first evaluation comes after eval_steps; drop it"),
    Opt::refused("dataloader_drop_last", OFF, "the last, short step of an epoch is trained on too; drop it"),
    Opt::refused("train_sampling_strategy", &["random"], SHARES),
    Opt::refused("ignore_data_skip", OFF, "a resumed run goes on exactly where it stopped; drop it"),
    Opt::refused(
        "auto_find_batch_size",
        OFF,
        "set per_device_train_batch_size and gradient_accumulation_steps",
    ),
    Opt::refused("past_index", &["-1", "none"], "models here have no memory between batches; drop it"),
    Opt::refused("save_safetensors", &["true"], "weights are written as safetensors only; drop it"),
    Opt::refused("push_to_hub", OFF, "nothing is uploaded; drop it"),
    Opt::refused("deepspeed", UNSET, ONE_PROCESS),
    Opt::refused("fsdp", &["", "false", "none", "no"], ONE_PROCESS),
    Opt::refused("parallelism_config", UNSET, ONE_PROCESS),
    Opt::refused("use_mca", OFF, ONE_PROCESS),
    Opt::refused("use_hyper_parallel", OFF, ONE_PROCESS),
    Opt::refused("fp8", OFF, "the CPU computes in f32; drop it"),
    Opt::refused(
        "enable_torch_profiler",
        OFF,
        "use a sampling profiler such as `perf` on the medley process",
    ),
];
