use serde_json::json;

use super::*;

fn config(value: serde_json::Value) -> TrainConfig {
    serde_json::from_value(value).unwrap()
}

fn refusal(value: serde_json::Value) -> (&'static str, String) {
    let error = config(value).validate().unwrap_err();
    (error.key, error.problem)
}

#[test]
fn defaults_are_valid_and_survive_a_round_trip() {
    let defaults = TrainConfig::default();
    defaults.validate().unwrap();
    let text = serde_json::to_string(&defaults).unwrap();
    assert_eq!(serde_json::from_str::<TrainConfig>(&text).unwrap(), defaults);
}

#[test]
fn unknown_fields_are_errors() {
    let error = serde_json::from_value::<TrainConfig>(json!({"lora": {"lora_rnak": 4}})).unwrap_err();
    assert!(error.to_string().contains("lora_rnak"), "{error}");
}

#[test]
fn out_of_range_values_name_their_option_and_the_value() {
    let cases = [
        (json!({"lora": {"lora_rank": 0}}), "lora_rank", "0"),
        (json!({"lora": {"lora_dropout": 1.0}}), "lora_dropout", "1"),
        (json!({"lora": {"lora_alpha": -1.0}}), "lora_alpha", "-1"),
        (json!({"lora": {"lora_target": ["all", "q_proj"]}}), "lora_target", "alone"),
        (json!({"data": {"val_size": 1.5}}), "val_size", "1.5"),
        (json!({"data": {"val_size": -0.1}}), "val_size", "-0.1"),
        (json!({"data": {"cutoff_len": 0}}), "cutoff_len", "0"),
        (json!({"data": {"max_samples": 0}}), "max_samples", "0"),
        (json!({"tasks": {"sampling_temperature": 0.0}}), "sampling_temperature", "0"),
        (json!({"tasks": {"task_weights": {"qa": -1.0}}}), "task_weights", "`qa`"),
        (json!({"tasks": {"sampling_cap": 0}}), "sampling_cap", "0"),
        (json!({"tasks": {"sampling_cap": 10}}), "sampling_cap", "capped"),
        (json!({"tasks": {"sampling_strategy": "capped"}}), "sampling_cap", "3000"),
        (
            json!({"tasks": {"sampling_strategy": "balanced", "interleave_probs": [1.0, 2.0]}}),
            "sampling_strategy",
            "interleave_probs",
        ),
        (json!({"tasks": {"interleave_probs": {"qa": -1.0}}}), "interleave_probs", "-1"),
        (json!({"tasks": {"interleave_probs": [0.0, 0.0]}}), "interleave_probs", "above 0"),
        (
            json!({"tasks": {"sampling_schedule": [{"at": 0.5, "strategy": "balanced"}, {"at": 0.5, "strategy": "balanced"}]}}),
            "sampling_schedule",
            "ascending",
        ),
        (json!({"tasks": {"sampling_schedule": [{"at": 0.5}]}}), "sampling_schedule", "either"),
        (
            json!({"tasks": {"mix_strategy": "interleave_over", "sampling_schedule": [{"at": 0, "strategy": "balanced"}]}}),
            "sampling_schedule",
            "drop",
        ),
        (json!({"train": {"learning_rate": -1e-4}}), "learning_rate", "-0.0001"),
        (json!({"train": {"max_steps": 0}}), "max_steps", "0"),
        (json!({"train": {"num_train_epochs": 0.0}}), "num_train_epochs", "0"),
        (json!({"train": {"gradient_accumulation_steps": 0}}), "gradient_accumulation_steps", "0"),
        (json!({"train": {"adam_beta2": 1.0}}), "adam_beta2", "1"),
        (json!({"train": {"warmup_steps": 2.5}}), "warmup_steps", "2.5"),
        (json!({"output": {"logging_steps": 0.0}}), "logging_steps", "0"),
        (json!({"output": {"save_steps": 1.5}}), "save_steps", "1.5"),
        (json!({"output": {"save_total_limit": 0}}), "save_total_limit", "0"),
        (json!({"generate": {"temperature": 0.0}}), "temperature", "do_sample: false"),
        (json!({"generate": {"top_p": 1.1}}), "top_p", "1.1"),
        (json!({"run": {"num_threads": 0}}), "num_threads", "0"),
        (json!({"model": {"quantization_bit": 8}}), "quantization_bit", "8"),
    ];
    for (value, key, part) in cases {
        let (found, problem) = refusal(value.clone());
        assert_eq!(found, key, "{value}");
        assert!(problem.contains(part), "{value}: {problem}");
    }
}

#[test]
fn contradictions_say_what_to_drop() {
    let cases = [
        (json!({"train": {"eval_strategy": "steps"}}), "eval_strategy", "val_size"),
        (
            json!({"lora": {"finetuning_type": "full"}, "model": {"quantization_bit": 4}}),
            "quantization_bit",
            "finetuning_type: lora",
        ),
        (json!({"model": {"train_from_scratch": true}}), "train_from_scratch", "finetuning_type: full"),
        (json!({"data": {"val_size": 0.1, "eval_data_files": ["dev.jsonl"]}}), "val_size", "drop one"),
        (json!({"data": {"train_on_prompt": true, "mask_history": true}}), "mask_history", "drop one"),
        (json!({"run": {"bf16": true, "fp16": true}}), "fp16", "bf16 is set too"),
        (json!({"train": {"lr_scheduler_type": "cosine_with_min_lr"}}), "lr_scheduler_kwargs", "min_lr_rate"),
        (
            json!({"train": {"stage": "pt"}, "data": {"eval_contamination": "drop"}}),
            "eval_contamination",
            "use `warn`",
        ),
        (json!({"train": {"lr_scheduler_kwargs": {"min_lr": 0.1}}}), "lr_scheduler_kwargs", "`min_lr`"),
    ];
    for (value, key, part) in cases {
        let (found, problem) = refusal(value.clone());
        assert_eq!(found, key, "{value}");
        assert!(problem.contains(part), "{value}: {problem}");
    }
}

#[test]
fn evaluation_at_steps_is_valid_with_something_to_evaluate_on() {
    config(json!({"train": {"eval_strategy": "steps"}, "data": {"val_size": 0.1}})).validate().unwrap();
    config(json!({"train": {"eval_strategy": "epoch"}, "data": {"eval_dataset": ["dev"]}}))
        .validate()
        .unwrap();
    config(json!({"data": {"val_size": 200.0}})).validate().unwrap();
}

#[test]
fn lora_target_is_a_word_or_a_list() {
    assert_eq!(config(json!({"lora": {"lora_target": "all"}})).lora.lora_target, LoraTarget::All);
    assert_eq!(config(json!({"lora": {"lora_target": ["all"]}})).lora.lora_target, LoraTarget::All);
    let two = LoraTarget::Modules(vec!["q_proj".into(), "v_proj".into()]);
    assert_eq!(config(json!({"lora": {"lora_target": "q_proj, v_proj"}})).lora.lora_target, two);
    assert_eq!(config(json!({"lora": {"lora_target": ["q_proj", "v_proj"]}})).lora.lora_target, two);
}

#[test]
fn resume_is_a_flag_or_a_folder() {
    let resume =
        |value| config(json!({"train": {"resume_from_checkpoint": value}})).train.resume_from_checkpoint;
    assert_eq!(resume(json!(false)), Resume::No);
    assert_eq!(resume(json!(true)), Resume::Latest);
    assert_eq!(resume(json!("out/checkpoint-5")), Resume::From("out/checkpoint-5".into()));
}

#[test]
fn devices_parse_and_print_alike() {
    for text in ["auto", "cpu", "cuda:0", "cuda:3", "sim"] {
        assert_eq!(text.parse::<Device>().unwrap().to_string(), text);
    }
    assert_eq!("cuda".parse::<Device>().unwrap(), Device::Cuda(0));
    for text in ["gpu", "cuda:", "cuda:x", ""] {
        assert!(text.parse::<Device>().unwrap_err().contains("cuda:N"), "{text}");
    }
}

#[test]
fn alpha_defaults_to_twice_the_rank() {
    assert_eq!(config(json!({"lora": {"lora_rank": 64}})).lora.alpha(), 128.0);
    assert_eq!(config(json!({"lora": {"lora_rank": 64, "lora_alpha": 16.0}})).lora.alpha(), 16.0);
}
