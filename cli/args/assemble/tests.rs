use medley_train::config::{
    LoraTarget, LossReduction, Optimizer, Resume, SamplingStrategy, SchedulerType, Stage,
};

use super::super::{line, yaml};
use super::*;

const BASE: &str = "--model_name_or_path m --data_files a.jsonl --output_dir o ";

fn assemble_text(cmd: Cmd, config: &str, words: &str) -> Result<Assembled, UsageError> {
    let path = Path::new("c.yaml");
    let file = yaml::parse_config(config, path)?;
    let words: Vec<String> = words.split_whitespace().map(str::to_string).collect();
    let line = line::read_line(&cmd.spec(), &words)?;
    assemble_entries(cmd, Some(path), file, line.entries)
}

fn train(config: &str, words: &str) -> Assembled {
    assemble_text(Cmd::Train, config, &format!("{BASE}{words}")).unwrap()
}

fn problem(config: &str, words: &str) -> String {
    assemble_text(Cmd::Train, config, &format!("{BASE}{words}")).unwrap_err().to_string()
}

#[test]
fn a_llamafactory_file_runs_unchanged() {
    // examples/train_lora/qwen3_lora_sft.yaml of LLaMA-Factory 0.9.5, with a local model.
    let file = "\
### model
model_name_or_path: models/llama3
trust_remote_code: true

### method
stage: sft
do_train: true
finetuning_type: lora
lora_rank: 8
lora_target: all

### dataset
dataset: identity,alpaca_en_demo
template: llama3
cutoff_len: 2048
max_samples: 1000
preprocessing_num_workers: 16
dataloader_num_workers: 4

### output
output_dir: saves/llama3/lora/sft
logging_steps: 10
save_steps: 500
plot_loss: true
overwrite_output_dir: true
save_only_model: false
report_to: none  # choices: [none, wandb, tensorboard, swanlab, mlflow]

### train
per_device_train_batch_size: 1
gradient_accumulation_steps: 8
learning_rate: 1.0e-4
num_train_epochs: 3.0
lr_scheduler_type: cosine
warmup_ratio: 0.1
bf16: true
ddp_timeout: 180000000
resume_from_checkpoint: null
device: cpu

### eval
# eval_dataset: alpaca_en_demo
# val_size: 0.1
";
    let assembled = assemble_text(Cmd::Train, file, "").unwrap();
    let config = &assembled.settings.config;
    assert_eq!(config.model.model_name_or_path, Some("models/llama3".into()));
    assert_eq!(config.data.dataset, ["identity", "alpaca_en_demo"]);
    assert_eq!(config.data.max_samples, Some(1000));
    assert_eq!(config.train.stage, Stage::Sft);
    assert!(config.train.do_train && config.output.plot_loss && config.output.overwrite_output_dir);
    assert_eq!(config.train.learning_rate, 1e-4);
    assert_eq!(config.train.lr_scheduler_type, SchedulerType::Cosine);
    assert_eq!(config.train.resume_from_checkpoint, Resume::No);
    assert_eq!(config.lora.lora_target, LoraTarget::All);
    let noted =
        ["trust_remote_code", "preprocessing_num_workers", "dataloader_num_workers", "ddp_timeout", "bf16"];
    assert_eq!(assembled.notes.len(), noted.len(), "{:?}", assembled.notes);
    for (note, name) in assembled.notes.iter().zip(noted) {
        assert!(note.contains(&format!("{name} has no effect here: ")), "{note}");
    }
    assert!(assembled.notes[0].starts_with("c.yaml:3: "), "{}", assembled.notes[0]);
}

#[test]
fn the_articles_command_runs() {
    let words = "--stage sft --model_name_or_path DIR --do_train --dataset_dir ./datasets/ \
        --data_files qa.jsonl,summarization.jsonl,classification.jsonl --template llama2 --finetuning_type lora \
        --lora_rank 64 --lora_alpha 16 --output_dir ./outputs/multitask_v1 --per_device_train_batch_size 4 \
        --gradient_accumulation_steps 8 --learning_rate 1e-4 --num_train_epochs 3.0 --fp16 --plot_loss --device cpu";
    let assembled = assemble_text(Cmd::Train, "", words).unwrap();
    let config = assembled.settings.config;
    assert_eq!(config.data.data_files.len(), 3);
    assert_eq!(config.lora.alpha(), 16.0);
    assert_eq!(config.train.gradient_accumulation_steps, 8);
    assert_eq!(assembled.notes.len(), 1);
    assert!(assembled.notes[0].starts_with("--fp16: fp16 has no effect here"), "{}", assembled.notes[0]);
    let on_sim = assemble_text(Cmd::Train, "", &words.replace("--device cpu", "--device sim")).unwrap();
    assert!(on_sim.notes.is_empty() && on_sim.settings.config.run.fp16, "{:?}", on_sim.notes);
    let both = assemble_text(Cmd::Train, "", &format!("{words} --bf16")).unwrap_err();
    assert!(both.to_string().contains("bf16 is set too"), "{both}");
}

#[test]
fn options_win_over_the_file() {
    let config =
        train("lora_rank: 8\nlearning_rate: 1e-4\ntemplate: llama2\n", "--lora_rank 16 learning_rate=2e-4");
    let config = config.settings.config;
    assert_eq!(config.lora.lora_rank, 16);
    assert_eq!(config.train.learning_rate, 2e-4);
    assert_eq!(config.data.template.as_deref(), Some("llama2"));
    let reset = train("lora_rank: 16\ntemplate: llama2\n", "--template null");
    assert_eq!(reset.settings.config.data.template, None);
}

#[test]
fn our_own_options_arrive() {
    let words = "--task_weights qa=1.0,summarization=0.8 --sampling_strategy temperature --sampling_temperature 3 \
        --loss_reduction token_mean --task_prefix --optim adamw_torch_fused --lora_target q_proj,v_proj";
    let config = train("", words).settings.config;
    assert_eq!(config.tasks.task_weights["summarization"], 0.8);
    assert_eq!(config.tasks.sampling_strategy, SamplingStrategy::Temperature);
    assert_eq!(config.tasks.sampling_temperature, 3.0);
    assert_eq!(config.tasks.loss_reduction, LossReduction::TokenMean);
    assert_eq!(config.train.optim, Optimizer::AdamwTorch);
    assert_eq!(config.lora.lora_target, LoraTarget::Modules(vec!["q_proj".into(), "v_proj".into()]));
    assert!(config.data.task_prefix);
    let file = train("task_weights:\n  qa: 1\n  classification: 0.6\n", "").settings.config;
    assert_eq!(file.tasks.task_weights["classification"], 0.6);
}

#[test]
fn unknown_options_get_the_nearest_name_and_their_place() {
    assert_eq!(
        problem("a: 1\nlora_rnak: 8\n", "").lines().nth(1).map(str::trim),
        Some("c.yaml:2: unknown option `lora_rnak`; did you mean `lora_rank`?")
    );
    assert_eq!(
        problem("", "--lerning_rate 1"),
        "--lerning_rate: unknown option `lerning_rate`; did you mean `--learning_rate`?"
    );
    let far = problem("zzz_qqq: 1\n", "");
    assert!(far.starts_with("c.yaml:1: unknown option `zzz_qqq`; `medley help train`"), "{far}");
}

#[test]
fn every_problem_is_reported_at_once() {
    let all = problem("lora_rnak: 8\nlearning_rate: fast\n", "--stage dpo");
    assert_eq!(all.lines().count(), 3, "{all}");
    assert!(all.contains("c.yaml:2: learning_rate: expected a number, got `fast`"), "{all}");
    assert!(
        all.contains("--stage: expected one of sft, pt, got `dpo`; preference and reward stages"),
        "{all}"
    );
}

#[test]
fn wrong_types_and_ranges_say_what_was_expected_and_found() {
    assert_eq!(
        problem("lora_rank: -1\n", ""),
        "c.yaml:1: lora_rank: expected a whole number of at least 0, got `-1`"
    );
    assert_eq!(problem("lora_rank: 0\n", ""), "c.yaml:1: lora_rank: expected a rank from 1 to 65536, got 0");
    assert_eq!(problem("", "--lora_rank 0"), "--lora_rank: expected a rank from 1 to 65536, got 0");
    assert_eq!(problem("", "--do_sample=maybe"), "--do_sample: expected true or false, got `maybe`");
    assert_eq!(problem("", "--device gpu"), "--device: expected auto, cpu, cuda, cuda:N or sim, got `gpu`");
    let weights = problem("task_weights: {qa: high}\n", "");
    assert_eq!(
        weights,
        "c.yaml:1: task_weights: expected numbers by name such as `qa=1.0,summarization=0.8`, got `{qa: high}`"
    );
}

#[test]
fn features_we_lack_are_refused_unless_they_are_off() {
    let refused = [
        ("use_galore: true\n", "`use_galore: true` is not available: AdamW, Lion"),
        ("deepspeed: ds_z3.json\n", "`deepspeed: ds_z3.json` is not available"),
        ("quantization_bit: 8\n", "quantization_bit: expected 4 (NF4)"),
        ("train_sampling_strategy: sequential\n", "sampling_strategy"),
        ("freeze_language_model: true\n", "nothing to train"),
        ("num_beams: 4\n", "use 1"),
        ("finetuning_type: oft\n", "use lora, freeze or full"),
    ];
    for (file, part) in refused {
        let problem = problem(file, "");
        assert!(problem.starts_with("c.yaml:1: ") && problem.contains(part), "{file}: {problem}");
    }
    let off = "use_galore: false\ndeepspeed: null\nmix_strategy: concat\nnum_beams: 1\nlabel_smoothing_factor: 0.0\n\
        use_dora: no\nneftune_noise_alpha:\nfsdp: ''\nsave_safetensors: true\n";
    assert_eq!(train(off, "").notes, Vec::<String>::new());
}

#[test]
fn older_names_are_understood() {
    let config =
        train("evaluation_strategy: steps\nval_size: 0.1\nper_gpu_train_batch_size: 3\n", "").settings.config;
    assert_eq!(config.train.eval_strategy, medley_train::config::IntervalStrategy::Steps);
    assert_eq!(config.train.per_device_train_batch_size, 3);
    assert_eq!(
        problem("", "--per_gpu_train_batch_size x"),
        "--per_gpu_train_batch_size: expected a whole number, got `x`"
    );
}

#[test]
fn one_file_serves_several_commands() {
    let file =
        "model_name_or_path: m\nlora_rank: 8\nlearning_rate: 1e-4\ndata_files: a.jsonl\ntemplate: alpaca\n";
    let assembled = assemble_text(Cmd::Eval, file, "").unwrap();
    assert_eq!(assembled.settings.config.data.template.as_deref(), Some("alpaca"));
    assert_eq!(assembled.notes, ["c.yaml: not used by `medley eval`: lora_rank, learning_rate"]);
    let error = assemble_text(Cmd::Eval, file, "--lora_rank 4").unwrap_err().to_string();
    assert_eq!(
        error,
        "--lora_rank: `medley eval` has no such option; it belongs to `medley train`, `medley compare`"
    );
}

#[test]
fn missing_options_are_asked_for() {
    let error = assemble_text(Cmd::Train, "", "").unwrap_err().to_string();
    assert_eq!(error.lines().count(), 3, "{error}");
    assert!(error.contains("needs --model_name_or_path (Hugging Face folder of the base model)"), "{error}");
    assert!(error.contains("--data_files or --dataset"), "{error}");
    let logits =
        assemble_text(Cmd::Logits, "", "--model_name_or_path m --input_ids 1,2,3 --output f").unwrap();
    assert_eq!(logits.settings.command.input_ids, [1, 2, 3]);
    let error =
        assemble_text(Cmd::Logits, "", "--model_name_or_path m --input_ids 1,-2 --output f").unwrap_err();
    assert_eq!(
        error.to_string(),
        "--input_ids: expected whole numbers such as `1,2,3` of at least 0, got `[1,-2]`"
    );
}

#[test]
fn contradictions_are_reported_where_they_were_written() {
    let file = problem("eval_strategy: steps\n", "");
    assert!(file.starts_with("c.yaml:1: eval_strategy: there is nothing to evaluate on"), "{file}");
    let line = problem("", "--train_on_prompt --mask_history");
    assert!(line.starts_with("--mask_history: train_on_prompt learns every turn"), "{line}");
}
