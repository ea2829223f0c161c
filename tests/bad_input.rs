//! What `medley train` cannot use: each case names the file, line or key, exits with a code other than 0, and
//! leaves nothing half-written behind.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

// Shared by several test programs, none of which uses all of it.
#[allow(dead_code)]
mod workplace;

use medley_model::tokenizer::Tokenizer;
use medley_train::trainer::checkpoint;
use serde_json::{Value, json};
use std::process::Command;
use workplace::{Workplace, listing, row, run};

/// A run into `out` must fail, say all of `parts`, and not leave an output folder.
fn refused(work: &Workplace, extra: &[&str], parts: &[&str]) {
    let outcome = work.train("out", extra);
    assert!(matches!(outcome.code, Some(1 | 2)), "{extra:?}: {:?} {}", outcome.code, outcome.stderr);
    let error = outcome.stderr.lines().skip_while(|line| !line.starts_with("error: ")).collect::<Vec<_>>();
    let error = error.join("\n");
    for part in parts {
        assert!(error.contains(part), "{extra:?}: no {part:?} in: {}", outcome.stderr);
    }
    let left = work.path("out");
    assert!(!left.exists(), "{extra:?} left {:?}", listing(&left));
}

fn edit_config(work: &Workplace, key: &str, value: Value) {
    let path = work.path("model/config.json");
    let mut config: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    config[key] = value;
    work.write("model/config.json", config.to_string());
}

#[test]
fn weights_that_are_cut_short_or_lie() {
    let work = Workplace::new();
    let good = std::fs::read(work.path("model/model.safetensors")).unwrap();
    let name = "model/model.safetensors: ";
    let header = u64::from_le_bytes(good[..8].try_into().unwrap()) as usize;
    // Cut in the data, in the header, in the length; a length beyond the file.
    for length in [good.len() - 1, 8 + header / 2, 5, 0] {
        work.write("model/model.safetensors", &good[..length]);
        refused(&work, &[], &[name]);
    }
    let mut lying = good.clone();
    lying[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    work.write("model/model.safetensors", &lying);
    refused(&work, &[], &[name]);
    // A header whose offsets point past the end, or whose shape does not fill its bytes.
    let text = String::from_utf8(good[8..8 + header].to_vec()).unwrap();
    for (find, replace) in [("\"data_offsets\":[0,", "\"data_offsets\":[9,"), ("[320,32]", "[320,33]")] {
        assert!(text.contains(find), "{text}");
        let mut bytes = good.clone();
        bytes[8..8 + header].copy_from_slice(text.replacen(find, replace, 1).as_bytes());
        work.write("model/model.safetensors", &bytes);
        refused(&work, &[], &[name]);
    }
    std::fs::remove_file(work.path("model/model.safetensors")).unwrap();
    refused(&work, &[], &["model: no weights found", "model.safetensors"]);
}

#[test]
fn a_missing_shard_is_named() {
    let work = Workplace::new();
    let names = ["model.embed_tokens.weight", "model.norm.weight"];
    let map: Value = names
        .iter()
        .zip(["one", "two"])
        .map(|(n, f)| (n.to_string(), json!(format!("{f}.safetensors"))))
        .collect();
    work.write("model/model.safetensors.index.json", json!({"weight_map": map}).to_string());
    std::fs::rename(work.path("model/model.safetensors"), work.path("model/one.safetensors")).unwrap();
    refused(&work, &[], &["two.safetensors"]);
}

#[test]
fn shapes_and_architectures_that_do_not_fit() {
    let work = Workplace::new();
    let original = std::fs::read(work.path("model/config.json")).unwrap();
    edit_config(&work, "intermediate_size", json!(65));
    let parts = ["model/model.safetensors: ", "model.layers.0.mlp.gate_proj.weight", "[64, 32]", "[65, 32]"];
    refused(&work, &[], &parts);
    work.write("model/config.json", &original);
    edit_config(&work, "num_hidden_layers", json!(3));
    refused(&work, &[], &["model/model.safetensors", "model.layers.2."]);
    work.write("model/config.json", &original);
    edit_config(&work, "model_type", json!("gpt2"));
    refused(&work, &[], &["model/config.json", "gpt2", "llama"]);
    work.write("model/config.json", &original);
    edit_config(&work, "hidden_act", json!("quick_gelu"));
    refused(&work, &[], &["model/config.json", "quick_gelu"]);
    work.write("model/config.json", "{\"model_type\": \"llama\",");
    refused(&work, &[], &["model/config.json"]);
    refused(&work, &["--model_name_or_path", "nowhere"], &["model_name_or_path: nowhere is not a folder"]);
}

#[test]
fn tokenizers_that_do_not_fit() {
    let work = Workplace::new();
    // Names what the template asks for and the vocabulary lacks.
    refused(&work, &["--template", "llama3"], &["\"llama3\"", "the token \"<|eot_id|>\""]);
    refused(&work, &["--template", "no_such"], &["no_such"]);
    let config = std::fs::read_to_string(work.path("model/tokenizer_config.json")).unwrap();
    let mut fields: Value = serde_json::from_str(&config).unwrap();
    fields["eos_token"] = json!("<|no_such_token|>");
    work.write("model/tokenizer_config.json", fields.to_string());
    refused(&work, &[], &["tokenizer_config.json", "eos_token", "<|no_such_token|>"]);
    work.write("model/tokenizer_config.json", &config);
    let tokenizer = std::fs::read(work.path("model/tokenizer.json")).unwrap();
    work.write("model/tokenizer.json", &tokenizer[..tokenizer.len() / 2]);
    refused(&work, &[], &["model/tokenizer.json"]);
    std::fs::remove_file(work.path("model/tokenizer.json")).unwrap();
    refused(&work, &[], &["model: no tokenizer.json in this folder"]);
}

#[test]
fn data_that_cannot_be_used_is_named_by_line() {
    let work = Workplace::new();
    let with = |row: Value| {
        let good = row_text(0);
        format!("{good}\n\n{good}\n{row}\n{good}\n")
    };
    let refuse = |name: &str, bytes: &[u8], parts: &[&str]| {
        work.write(name, bytes);
        refused(&work, &["--data_files", name], parts);
    };
    refuse("empty.jsonl", b"", &["./empty.jsonl: the file is empty"]);
    refuse("blank.jsonl", b"\n \n", &["./blank.jsonl: the file is empty"]);
    let no_output = json!({"instruction": "What is it?", "task_name": "qa"});
    refuse("a.jsonl", with(no_output).as_bytes(), &["./a.jsonl:4: ", "output"]);
    let number = json!({"instruction": "What is it?", "output": 3});
    refuse("b.jsonl", with(number).as_bytes(), &["./b.jsonl:4: ", "output", "the number 3"]);
    refuse("c.jsonl", b"{\"instruction\": \"x\", \n", &["./c.jsonl:1: not valid JSON"]);
    let mut bytes = with(json!({"instruction": "caf?", "output": "x"})).into_bytes();
    let at = 3 + bytes.windows(4).position(|w| w == b"caf?").unwrap();
    bytes[at] = 0xE9;
    let line = 1 + bytes[..at].iter().filter(|b| **b == b'\n').count();
    refuse("d.jsonl", &bytes, &[&format!("./d.jsonl:{line}: invalid UTF-8 at byte {at} of the file")]);
    refuse(
        "e.csv",
        b"instruction,output\n",
        &["./e.csv: the file is empty; expected a record that names the columns"],
    );
    // The system's reason once, though errors are nested.
    let missing = "error: no_such.jsonl: No such file or directory (os error 2) \
                   (looked there and, in dataset_dir, at ./no_such.jsonl)";
    let outcome = work.train("out", &["--data_files", "no_such.jsonl"]);
    assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(1), format!("{missing}\n").as_str()));
}

fn row_text(i: usize) -> String {
    row("qa", i).to_string()
}

#[test]
fn rows_beyond_the_cutoff_are_cut_and_counted() {
    let work = Workplace::new();
    let long = json!({
        "instruction": "What is it?", "input": "", "output": "a library ".repeat(400), "task_name": "long",
    });
    work.write("long.jsonl", format!("{long}\n{}\n", row_text(1)));
    let extra = ["--data_files", "long.jsonl", "--cutoff_len", "200", "--max_steps", "1"];
    let outcome = work.train("cut", &extra);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("warning: long: 1 of 1 rows cut to cutoff_len"), "{}", outcome.stderr);
    let path = work.path("cut/trainer_state.json");
    let state: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    assert!(state["num_input_tokens_seen"].as_u64().unwrap() <= 400, "{state}");

    // Where nothing of any reply is left, there is nothing to train on.
    let parts = ["no example is left of 56 rows", "cutoff_len 1"];
    refused(&work, &["--cutoff_len", "1"], &parts);
}

#[test]
fn ids_beyond_the_embedding() {
    let work = Workplace::new();
    let known = Tokenizer::from_folder(&work.path("model")).unwrap().vocab_size();
    let path = work.path("model/tokenizer_config.json");
    let mut config: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    for id in known..=320 {
        let token = json!({"content": format!("<extra_{id}>"), "special": false});
        config["added_tokens_decoder"][id.to_string()] = token;
    }
    work.write("model/tokenizer_config.json", config.to_string());
    // A token that no text uses does no harm.
    assert_eq!(work.train("unused", &["--max_steps", "1"]).code, Some(0));
    let mut used = row("qa", 1);
    used["input"] = json!("What is <extra_320>?");
    work.write("used.jsonl", format!("{}\n{used}\n", row("qa", 0)));
    let parts = ["used.jsonl:2: token 320 has no row", "model"];
    refused(&work, &["--data_files", "used.jsonl"], &parts);
}

#[test]
fn a_weight_for_a_task_that_is_not_there() {
    let work = Workplace::new();
    let parts = ["task_weights: there is no task `summary`", "qa, summarization, classification"];
    refused(&work, &["--task_weights", "qa=1.0,summary=0.5"], &parts);
    refused(&work, &["--task_weights", "qa=-1"], &["task_weights"]);
    let zeros = "qa=0,summarization=0,classification=0";
    refused(&work, &["--task_weights", zeros], &["task_weights", "every weight is 0"]);
    // The tasks that are not named keep a weight of 1.
    assert_eq!(work.train("without_qa", &["--task_weights", "qa=0", "--max_steps", "1"]).code, Some(0));
}

#[test]
fn a_loss_that_is_not_a_number_ends_the_run() {
    let work = Workplace::new();
    // Poisoned before it starts: a NaN in the last norm.
    let good = std::fs::read(work.path("model/model.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&good).unwrap();
    let norm = tensors.tensor("model.norm.weight").unwrap().data();
    let at = norm.as_ptr() as usize - good.as_ptr() as usize;
    let mut poisoned = good.clone();
    poisoned[at..at + 2].copy_from_slice(&half::bf16::NAN.to_le_bytes());
    work.write("model/model.safetensors", &poisoned);
    let parts = ["step 1: the loss of ", "is not a number", ".jsonl:", "learning_rate"];
    refused(&work, &[], &parts);
    work.write("model/model.safetensors", &good);

    // Or driven there: what was saved before stays, and there is no result.
    let extra = ["--finetuning_type", "full", "--learning_rate", "1e30", "--save_strategy", "steps"];
    let extra = [&extra[..], &["--save_steps", "1", "--lr_scheduler_type", "constant"]].concat();
    let outcome = work.train("out", &extra);
    assert_eq!(outcome.code, Some(1), "{}", outcome.stderr);
    assert!(
        outcome.stderr.contains("The step was not taken, checkpoints before it are good"),
        "{}",
        outcome.stderr
    );
    let output = work.path("out");
    let kept = checkpoint::list(&output).unwrap();
    assert!(!kept.is_empty());
    for (step, folder) in kept {
        assert_eq!(checkpoint::verify(&folder).unwrap(), step);
    }
    for name in ["model.safetensors", "train_results.json", "trainer_state.json"] {
        assert!(!output.join(name).exists(), "{name}");
    }
}

#[test]
fn an_output_folder_that_cannot_be_written() {
    let work = Workplace::new();
    work.write("file", "mine");
    for output in ["file", "file/below"] {
        let outcome = work.train(output, &[]);
        assert_eq!(outcome.code, Some(1), "{}", outcome.stderr);
        let expected = format!("error: output_dir {output} cannot be written: ");
        assert!(outcome.stderr.contains(&expected), "{}", outcome.stderr);
    }
    assert_eq!(std::fs::read_to_string(work.path("file")).unwrap(), "mine");
    let before = listing(&work.path("."));
    refused(&work, &["--output_dir", "/proc/medley"], &["output_dir /proc/medley cannot be written"]);
    assert_eq!(listing(&work.path(".")), before);
}

/// A full disk, acted by a limit on the size of files: a write beyond it fails, as the disk's last block would.
#[cfg(unix)]
#[test]
fn a_disk_that_fills_up() {
    let work = Workplace::new();
    let extra = ["--save_strategy", "steps", "--save_steps", "4", "--lora_rank", "16"];
    let full = work.command("out", &extra);
    // Ignoring SIGXFSZ turns the signal into an error of the write.
    let mut limited = Command::new("sh");
    limited.args(["-c", "trap '' XFSZ; ulimit -f 100; exec \"$@\"", "sh"]).arg(full.get_program());
    limited.args(full.get_args()).current_dir(work.path("."));
    let outcome = run(&mut limited);
    assert_eq!(outcome.code, Some(1), "{}", outcome.stderr);
    // No checkpoint fits, which does not end the run; then neither does the result, here or elsewhere.
    for step in [4, 8, 12] {
        let warning = format!("step {step}: the checkpoint could not be saved (out/.checkpoint-{step}.tmp/");
        assert!(outcome.stderr.contains(&warning), "{}", outcome.stderr);
    }
    assert!(outcome.stderr.contains("error: out/.adapter_model.safetensors."), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("File too large"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("It could not be saved elsewhere either"), "{}", outcome.stderr);
    let left = listing(&work.path("out"));
    assert_eq!(left, ["sample_predictions.jsonl", "trainer_log.jsonl"], "the small files did fit");
}

#[test]
fn a_folder_that_holds_a_run_is_not_overwritten_unasked() {
    let work = Workplace::new();
    let extra = ["--save_strategy", "steps", "--save_steps", "6"];
    assert_eq!(work.train("out", &extra).code, Some(0));
    let output = work.path("out");
    let state = || (listing(&output), std::fs::read(output.join("trainer_state.json")).unwrap());
    let before = state();
    let outcome = work.train("out", &["--max_steps", "4"]);
    assert_eq!(outcome.code, Some(1));
    for part in ["output_dir out already holds a run", "--resume_from_checkpoint", "--overwrite_output_dir"] {
        assert!(outcome.stderr.contains(part), "{}", outcome.stderr);
    }
    assert!(state() == before);
    // Allowed to, but unable to start: the old run is left alone.
    let outcome = work.train("out", &["--overwrite_output_dir", "--data_files", "no_such.jsonl"]);
    assert_eq!(outcome.code, Some(1));
    assert!(state() == before);
    // The run's own starting point is not removed, nor a model replaced by what was made of it.
    let outcome =
        work.train("out", &["--overwrite_output_dir", "--adapter_name_or_path", "out/checkpoint-6"]);
    assert_eq!(outcome.code, Some(1));
    assert!(outcome.stderr.contains("from which this run starts"), "{}", outcome.stderr);
    assert!(state() == before);
    let tokenizer = std::fs::read(work.path("model/tokenizer.json")).unwrap();
    let outcome = work.train("model", &["--finetuning_type", "full"]);
    assert_eq!(outcome.code, Some(1));
    assert!(outcome.stderr.contains("the folder of the model itself"), "{}", outcome.stderr);
    assert_eq!(std::fs::read(work.path("model/tokenizer.json")).unwrap(), tokenizer);
    let outcome = work.train("out", &["--overwrite_output_dir", "--max_steps", "4"]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    assert_eq!(checkpoint::list(&output).unwrap(), []);
}

#[test]
fn adapters_of_another_model() {
    let work = Workplace::new();
    assert_eq!(work.train("adapter", &["--max_steps", "1"]).code, Some(0));
    let good = std::fs::read(work.path("adapter/adapter_model.safetensors")).unwrap();
    work.write("adapter/adapter_model.safetensors", &good[..good.len() - 4]);
    let from = ["--adapter_name_or_path", "adapter"];
    refused(&work, &from, &["adapter/adapter_model.safetensors: "]);
    work.write("adapter/adapter_model.safetensors", &good);
    let config = work.path("adapter/adapter_config.json");
    let mut fields: Value = serde_json::from_str(&std::fs::read_to_string(&config).unwrap()).unwrap();
    fields["use_dora"] = json!(true);
    work.write("adapter/adapter_config.json", fields.to_string());
    refused(&work, &from, &["adapter/adapter_model.safetensors", "lora_magnitude_vector"]);
    fields["use_qalora"] = json!(true);
    work.write("adapter/adapter_config.json", fields.to_string());
    refused(&work, &from, &["adapter/adapter_config.json", "\"use_qalora\""]);
    std::fs::remove_file(config).unwrap();
    refused(&work, &from, &["adapter/adapter_config.json"]);
}
