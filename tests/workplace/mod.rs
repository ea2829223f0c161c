//! A folder with a tiny model and three small tasks, and the `medley` binary run in it.

use medley_model::tokenizer::{BpeOptions, train_bpe};
use medley_model::{Llama, ModelConfig, Placement};
use medley_tensor::DType;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// Examples of each task.
pub const TASKS: [(&str, usize); 3] = [("qa", 30), ("summarization", 18), ("classification", 8)];

/// `model/`: two layers of width 32 with a byte-level vocabulary; `qa.jsonl`, …: the tasks.
pub struct Workplace {
    dir: TempDir,
}

/// What a run of the binary left behind.
pub struct Outcome {
    pub code: Option<i32>,
    pub stderr: String,
}

impl Workplace {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let model = dir.path().join("model");
        std::fs::create_dir(&model).unwrap();
        let mut texts = vec![];
        for (task, count) in TASKS {
            let rows: Vec<String> = (0..count).map(|i| row(task, i).to_string()).collect();
            std::fs::write(dir.path().join(format!("{task}.jsonl")), rows.join("\n") + "\n").unwrap();
            texts.extend(rows);
        }
        let options = BpeOptions { vocab_size: 320, ..BpeOptions::default() };
        train_bpe(texts.iter(), &options, &model).unwrap();
        std::fs::write(model.join("config.json"), config().to_string()).unwrap();
        let config = ModelConfig::from_folder(&model).unwrap();
        Llama::from_scratch(config, 5, Placement::default())
            .unwrap()
            .save(&model, DType::BF16, usize::MAX)
            .unwrap();
        Workplace { dir }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), bytes).unwrap();
    }

    /// `medley train` on the three tasks: 12 steps of 4 examples into `output`. Options in `extra` replace those
    /// given here.
    pub fn command(&self, output: &str, extra: &[&str]) -> Command {
        let mut options = vec![
            ("--model_name_or_path", "model"),
            ("--do_train", "true"),
            ("--dataset_dir", "."),
            ("--data_files", "qa.jsonl,summarization.jsonl,classification.jsonl"),
            ("--template", "alpaca"),
            ("--finetuning_type", "lora"),
            ("--lora_rank", "4"),
            ("--lora_dropout", "0.1"),
            ("--per_device_train_batch_size", "2"),
            ("--gradient_accumulation_steps", "2"),
            ("--learning_rate", "1e-2"),
            ("--max_steps", "12"),
            ("--logging_steps", "1"),
            ("--save_strategy", "no"),
            ("--num_threads", "1"),
            ("--output_dir", output),
        ];
        options.retain(|(name, _)| !extra.contains(name));
        let mut command = Command::new(assert_cmd::cargo::cargo_bin("medley"));
        command.current_dir(self.dir.path()).arg("train");
        command.args(options.iter().flat_map(|(name, value)| [name, value])).args(extra);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }

    pub fn train(&self, output: &str, extra: &[&str]) -> Outcome {
        run(&mut self.command(output, extra))
    }
}

pub fn run(command: &mut Command) -> Outcome {
    let output = command.output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(!stderr.contains("panicked"), "{stderr}");
    Outcome { code: output.status.code(), stderr }
}

/// A JSON file.
pub fn json(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap()
}

/// The entries of a run that log training steps.
pub fn step_entries(output: &Path) -> Vec<Value> {
    let state = json(&output.join("trainer_state.json"));
    let history = state["log_history"].as_array().unwrap().clone();
    history.into_iter().filter(|entry| entry.get("loss").is_some()).collect()
}

/// Every file and folder below `folder`, relative to it, sorted.
pub fn listing(folder: &Path) -> Vec<String> {
    let mut found = vec![];
    let mut todo = vec![folder.to_path_buf()];
    while let Some(next) = todo.pop() {
        for entry in std::fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            found.push(path.strip_prefix(folder).unwrap().to_str().unwrap().to_string());
            if path.is_dir() {
                todo.push(path);
            }
        }
    }
    found.sort();
    found
}

/// An example whose answer follows from its question, so that there is something to learn.
pub fn row(task: &str, i: usize) -> Value {
    let nouns = ["a parser", "a library", "a game", "a font", "an editor", "a daemon", "a compiler"];
    let noun = nouns[i % nouns.len()];
    let (instruction, input, output) = match task {
        "qa" => ("What is it?", format!("Package {i} is {noun} for testing."), noun.to_string()),
        "summarization" => (
            "Say it in one line.",
            format!("This package number {i} holds {noun}. It has {} parts and does much more.", i % 5 + 2),
            format!("{noun}, {} parts", i % 5 + 2),
        ),
        _ => ("Which section?", format!("It is {noun}."), ["text", "libs"][i % 2].to_string()),
    };
    json!({"instruction": instruction, "input": input, "output": output, "task_name": task})
}

fn config() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "bos_token_id": 0,
        "eos_token_id": 0,
        "dtype": "bfloat16",
        "hidden_act": "silu",
        "hidden_size": 32,
        "initializer_range": 0.08,
        "intermediate_size": 64,
        "max_position_embeddings": 512,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": true,
        "vocab_size": 320,
    })
}
