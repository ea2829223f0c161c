//! SmolLM2-135M-Instruct: a real model, converted from GGUF, against transformers and PEFT.
//!
//! Needs `MEDLEY_SMOLLM2`, a folder with the GGUF file (`tests/real_model/fetch.sh` puts it there and prints its
//! path); without it every test here says on stderr that it is skipped. The model is converted anew by each run
//! of the tests, so that the converter is tested too. Reference values are those of `tests/reference/smollm2.py`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use medley_model::generate::{GenerateOptions, SamplingParams, generate, logits};
use medley_model::gguf::convert_gguf;
use medley_model::template::{Message, RenderOptions, Renderer};
use medley_model::tokenizer::Tokenizer;
use medley_model::{BaseStorage, Llama};
use medley_tensor::DType;
use medley_tensor::io::{Safetensors, SafetensorsWriter, StoredDType, TensorSpec};
use medley_train::config::DataArgs;
use medley_train::data::{LoadOptions, Split, Tasks, data_files, load_sft};
use serde_json::Value;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};

const GGUF: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";

/// The converted model, or `None` (loudly) where the GGUF file is not to be had.
fn model_folder(test: &str) -> Option<&'static Path> {
    static FOLDER: OnceLock<Option<PathBuf>> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let cache = std::env::var_os("MEDLEY_SMOLLM2")?;
        let gguf = Path::new(&cache).join(GGUF);
        assert!(
            gguf.is_file(),
            "MEDLEY_SMOLLM2: {} is missing; tests/real_model/fetch.sh gets it",
            gguf.display()
        );
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("smollm2");
        if folder.exists() {
            std::fs::remove_dir_all(&folder).unwrap();
        }
        let summary = convert_gguf(&gguf, &folder, DType::BF16, &mut |_, _| ()).unwrap();
        assert_eq!((summary.tensors, summary.parameters, summary.vocab_size), (272, 134_515_008, 49_152));
        assert!(summary.tie_word_embeddings);
        Some(folder)
    });
    if folder.is_none() {
        let text = format!(
            "\n*** real_model::{test} IS SKIPPED: MEDLEY_SMOLLM2 is not set. \
             Run tests/real_model/fetch.sh and set it to the folder of the file ***\n"
        );
        // Not with eprintln!, which the test harness keeps to itself.
        std::io::stderr().write_all(text.as_bytes()).unwrap();
    }
    folder.as_deref()
}

/// What was measured, for the record: seen under `--nocapture`.
fn measured(what: &str, value: f32) {
    println!("{what}: {value:.2e}");
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/smollm2").join(name)
}

fn f32s(file: &Safetensors, name: &str) -> Vec<f32> {
    file.info(name)
        .unwrap()
        .data()
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
        .collect()
}

fn u32s(file: &Safetensors, name: &str) -> Vec<u32> {
    file.info(name)
        .unwrap()
        .data()
        .chunks_exact(4)
        .map(|b| u32::from_le_bytes(b.try_into().unwrap()))
        .collect()
}

fn furthest(got: &[f32], want: &[f32]) -> f32 {
    assert_eq!(got.len(), want.len());
    // A NaN must not be lost in the maximum.
    assert!(got.iter().all(|x| x.is_finite()));
    got.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// Logits: transformers computes in f32 from the same bf16 weights; the bound is an absolute error of 2e-3.
#[test]
fn logits_are_those_of_transformers() {
    let Some(folder) = model_folder("logits_are_those_of_transformers") else { return };
    let model = Llama::open(folder, BaseStorage::Mapped).unwrap();
    let reference = Safetensors::open(fixture("logits.safetensors")).unwrap();
    let columns = u32s(&reference, "columns");
    for prompt in ["capital", "prose", "code"] {
        let ids = u32s(&reference, &format!("{prompt}/input_ids"));
        let all = logits(&model, &ids).unwrap();
        let all = all.as_slice::<f32>().unwrap();
        let rows: Vec<&[f32]> = all.chunks_exact(49_152).collect();
        assert_eq!(rows.len(), ids.len());
        let top_ids = u32s(&reference, &format!("{prompt}/top_ids"));
        let at_top: Vec<f32> = rows
            .iter()
            .zip(top_ids.chunks_exact(8))
            .flat_map(|(row, ids)| ids.iter().map(|id| row[*id as usize]))
            .collect();
        let at_columns: Vec<f32> =
            rows.iter().flat_map(|row| columns.iter().map(|c| row[*c as usize])).collect();
        let logsumexp: Vec<f32> = rows
            .iter()
            .map(|row| {
                let top = row.iter().copied().fold(f32::MIN, f32::max);
                let sum: f64 = row.iter().map(|x| f64::from(x - top).exp()).sum();
                top + sum.ln() as f32
            })
            .collect();
        for (name, got) in [("top_logits", at_top), ("column_logits", at_columns), ("logsumexp", logsumexp)] {
            let name = format!("{prompt}/{name}");
            let off = furthest(&got, &f32s(&reference, &name));
            measured(&name, off);
            assert!(off < 2e-3, "{name}: off by {off:e}");
        }
        for (row, ids) in rows.iter().zip(top_ids.chunks_exact(8)) {
            let likeliest = (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap();
            assert_eq!(likeliest as u32, ids[0], "{prompt}");
        }
    }
}

/// The tokenizer, the model's own chat template and greedy generation, to the token.
#[test]
fn it_says_that_the_capital_of_france_is_paris() {
    let Some(folder) = model_folder("it_says_that_the_capital_of_france_is_paris") else { return };
    let model = Llama::open(folder, BaseStorage::Mapped).unwrap();
    let tokenizer = Arc::new(Tokenizer::from_folder(folder).unwrap());
    let renderer = Renderer::new(None, tokenizer.clone(), RenderOptions::default()).unwrap();
    let chats: Value = serde_json::from_str(&std::fs::read_to_string(fixture("chat.json")).unwrap()).unwrap();
    let chats = chats.as_array().unwrap();
    let ids = |value: &Value| -> Vec<u32> {
        value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
    };
    let prompts: Vec<Vec<u32>> = chats
        .iter()
        .map(|chat| {
            renderer.render_prompt(&[Message::user(chat["question"].as_str().unwrap())], None).unwrap()
        })
        .collect();
    for (prompt, chat) in prompts.iter().zip(chats) {
        assert_eq!(*prompt, ids(&chat["prompt_ids"]), "{}", chat["prompt"]);
    }
    // Together in one batch and one after the other.
    for batch_size in [2, 1] {
        let options = GenerateOptions {
            sampling: SamplingParams::GREEDY,
            max_new_tokens: 40,
            stop_ids: renderer.stop_ids().to_vec(),
            batch_size,
            seed: 0,
        };
        let answers = generate(&model, &prompts, &options, &mut |_, _| true).unwrap();
        for (answer, chat) in answers.iter().zip(chats) {
            let text = tokenizer.decode(&answer.ids, true).unwrap();
            assert_eq!(text, chat["answer"].as_str().unwrap());
            let expected = ids(&chat["answer_ids"]);
            assert_eq!(answer.ids, expected[..expected.len() - 1], "without the stop id");
        }
    }
    // And through the binary, whose stdout holds the answer alone.
    let mut command = Command::new(assert_cmd::cargo::cargo_bin("medley"));
    command.args(["generate", "--do_sample", "false", "--prompt", "What is the capital of France?"]);
    let run = command.arg("--model_name_or_path").arg(folder).output().unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    assert_eq!(String::from_utf8(run.stdout).unwrap(), "The capital of France is Paris.\n");
}

/// Rows of the real tasks through the alpaca template, as LLaMA-Factory tokenises them.
#[test]
fn examples_are_tokenised_as_by_llama_factory() {
    let Some(folder) = model_folder("examples_are_tokenised_as_by_llama_factory") else { return };
    let tokenizer = Arc::new(Tokenizer::from_folder(folder).unwrap());
    let renderer = Renderer::new(Some("alpaca"), tokenizer, RenderOptions::default()).unwrap();
    let args = DataArgs {
        data_files: vec!["examples.jsonl".into()],
        dataset_dir: fixture(""),
        ..DataArgs::default()
    };
    let files = data_files(&args, Split::Train).unwrap();
    let data = load_sft(&files, &renderer, &LoadOptions::default(), &mut Tasks::default()).unwrap();
    let reference = Safetensors::open(fixture("lora_training.safetensors")).unwrap();
    let (mut ids, mut labelled, mut ends) = (vec![], vec![], vec![0]);
    for example in data.iter() {
        let mut mask = vec![0; example.ids.len()];
        for span in example.labels {
            mask[span.positions.start as usize..span.positions.end as usize].fill(1);
        }
        labelled.extend(mask);
        ids.extend_from_slice(example.ids);
        ends.push(ids.len() as u32);
    }
    assert_eq!(ids, u32s(&reference, "input_ids"));
    assert_eq!(ends, u32s(&reference, "cu_seqlens"));
    assert_eq!(labelled, reference.info("labelled").unwrap().data());
}

/// The adapter that PEFT's run started from, written into `folder`: its configuration is PEFT's own, its values
/// follow the formula of `write_adapter` in `tests/reference/smollm2.py` (B zero).
fn starting_adapter(folder: &Path) {
    std::fs::create_dir(folder).unwrap();
    std::fs::copy(fixture("lora_qv/adapter_config.json"), folder.join("adapter_config.json")).unwrap();
    let mut tensors: Vec<(String, [usize; 2], Vec<f32>)> = vec![];
    let modules = (0..30).flat_map(|layer| [(layer, "q_proj", 576), (layer, "v_proj", 192)]);
    for (m, (layer, module, out)) in modules.enumerate() {
        let a = |i: usize, j: usize| (((16381 * m + 977 * i + 131 * j) % 509 % 64) as f32 - 31.5) / 1024.0;
        let name = format!("base_model.model.model.layers.{layer}.self_attn.{module}");
        let values = (0..8 * 576).map(|n| a(n / 576, n % 576)).collect();
        tensors.push((format!("{name}.lora_A.weight"), [8, 576], values));
        tensors.push((format!("{name}.lora_B.weight"), [out, 8], vec![0.0; out * 8]));
    }
    let specs: Vec<TensorSpec> = tensors
        .iter()
        .map(|(name, shape, _)| TensorSpec::new(name.clone(), StoredDType::F32, shape))
        .collect();
    let mut writer = SafetensorsWriter::create(folder.join("adapter_model.safetensors"), &specs).unwrap();
    for (name, _, values) in &tensors {
        writer.append(name, bytemuck::cast_slice(values)).unwrap();
    }
    writer.finish().unwrap();
}

/// Five steps of `medley train` on those rows from PEFT's adapter: the losses are PEFT's to 1e-3.
#[test]
fn a_lora_run_has_the_losses_of_peft() {
    let Some(folder) = model_folder("a_lora_run_has_the_losses_of_peft") else { return };
    let work = tempfile::tempdir().unwrap();
    let output = work.path().join("out");
    let adapter = work.path().join("adapter");
    starting_adapter(&adapter);
    let paths = [
        ("--model_name_or_path", folder.to_path_buf()),
        ("--adapter_name_or_path", adapter),
        ("--dataset_dir", fixture("")),
        ("--output_dir", output.clone()),
    ];
    let options = [
        ("--data_files", "examples.jsonl"),
        ("--template", "alpaca"),
        ("--loss_reduction", "token_mean"),
        ("--per_device_train_batch_size", "2"),
        ("--gradient_accumulation_steps", "2"),
        ("--max_steps", "5"),
        ("--learning_rate", "1e-3"),
        ("--lr_scheduler_type", "constant"),
        ("--logging_steps", "1"),
        ("--save_strategy", "no"),
    ];
    let mut command = Command::new(assert_cmd::cargo::cargo_bin("medley"));
    command.args(["train", "--do_train"]);
    for (name, value) in &options {
        command.args([name, value]);
    }
    for (name, value) in &paths {
        command.arg(name).arg(value);
    }
    let run = command.output().unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));

    let read = |name: &str| -> Value {
        serde_json::from_str(&std::fs::read_to_string(output.join(name)).unwrap()).unwrap()
    };
    let state = read("trainer_state.json");
    let entries: Vec<&Value> =
        state["log_history"].as_array().unwrap().iter().filter(|e| e.get("loss").is_some()).collect();
    let column =
        |key: &str| -> Vec<f32> { entries.iter().map(|e| e[key].as_f64().unwrap() as f32).collect() };
    let reference = Safetensors::open(fixture("lora_training.safetensors")).unwrap();
    let examples = f32s(&reference, "example_losses");
    let example = |i: usize| -> Vec<f32> { examples.chunks_exact(4).map(|row| row[i]).collect() };
    for (name, got, want, tolerance) in [
        ("losses", column("loss"), f32s(&reference, "losses"), 1e-3),
        // The tasks with one row each.
        ("qa", column("loss/qa"), example(0), 1e-3),
        ("classification", column("loss/classification"), example(2), 1e-3),
        ("grad_norms", column("grad_norm"), f32s(&reference, "grad_norms"), 1e-2),
    ] {
        let off = furthest(&got, &want);
        measured(name, off);
        assert!(off < tolerance, "{name}: {got:?}, PEFT has {want:?}");
    }
    let results = read("train_results.json");
    let peak = results["peak_memory_bytes"].as_f64().unwrap() / 1e9;
    println!("{:.0} tokens/s, peak {peak:.2} GB", results["train_tokens_per_second"].as_f64().unwrap());
    assert!(peak < 2.5, "{peak} GB");
}
