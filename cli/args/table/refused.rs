//! Features of LLaMA-Factory and of Hugging Face's trainer that are not here: asking for one is an error that
//! says what to do instead; spelling out that it is off is not.

use super::super::option::Opt;

const OFF: &[&str] = &["false", "none", "no"];
const UNSET: &[&str] = &["false", "none", "no", "0"];

const OPTIMIZERS: &str = "AdamW, Lion and Adafactor are the optimizers here; use optim";
const FIXED_VOCABULARY: &str =
    "the vocabulary is fixed; add tokens to the model folder beforehand and drop it";
const WEIGHTED_LOSS: &str = "the loss is cross-entropy with a weight a task; use task_weights";
const ONE_PROCESS: &str =
    "training runs in one process; drop it (4-bit weights and gradient_checkpointing save memory)";
const NO_BEAMS: &str = "completions are greedy or sampled, without beams; use 1";
const SHARES: &str = "the order of examples is set by sampling_strategy and mix_strategy; drop it";

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
    Opt::refused("eval_num_beams", &["1", "none"], NO_BEAMS),
    Opt::refused("num_beams", &["1"], NO_BEAMS),
    Opt::refused("generation_num_beams", &["1", "none"], NO_BEAMS),
    Opt::refused("generation_config", UNSET, "give do_sample, temperature, top_p, top_k, max_new_tokens"),
    Opt::refused("tool_format", UNSET, "examples with tool calls are not read; drop it"),
    Opt::refused("freeze_language_model", OFF, "there would be nothing to train; drop it"),
    Opt::refused(
        "create_new_adapter",
        OFF,
        "merge the first adapter with `medley export`, then train on the result",
    ),
    Opt::refused("use_llama_pro", OFF, "no blocks are added; use finetuning_type: lora or full"),
    Opt::refused("use_galore", OFF, OPTIMIZERS),
    Opt::refused("use_apollo", OFF, OPTIMIZERS),
    Opt::refused("use_badam", OFF, OPTIMIZERS),
    Opt::refused("use_adam_mini", OFF, OPTIMIZERS),
    Opt::refused("use_muon", OFF, OPTIMIZERS),
    Opt::refused("adafactor", OFF, "use optim: adafactor"),
    Opt::refused("optim_args", UNSET, "use adam_beta1, adam_beta2, adam_epsilon, weight_decay"),
    Opt::refused("optim_target_modules", UNSET, OPTIMIZERS),
    Opt::refused("use_dft_loss", OFF, WEIGHTED_LOSS),
    Opt::refused("use_asft_loss", OFF, WEIGHTED_LOSS),
    Opt::refused("use_eaft_loss", OFF, WEIGHTED_LOSS),
    Opt::refused("label_smoothing_factor", UNSET, WEIGHTED_LOSS),
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
