//! `medley train` as a whole: what it writes, and that whatever stops it, it goes on to the same result.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

// Shared by several test programs, none of which uses all of it.
#[allow(dead_code)]
mod workplace;

use medley_tensor::rng::Philox;
use medley_train::trainer::checkpoint;
use serde_json::Value;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;
use workplace::{Outcome, TASKS, Workplace, json, listing, step_entries};

/// What a finished run leaves, without what depends on the clock: weights and history.
fn result(output: &Path) -> (Vec<u8>, Vec<Value>) {
    let weights = ["adapter_model.safetensors", "model.safetensors"]
        .iter()
        .find_map(|name| std::fs::read(output.join(name)).ok())
        .unwrap();
    let state = json(&output.join("trainer_state.json"));
    let mut history = state["log_history"].as_array().unwrap().clone();
    for entry in &mut history {
        let entry = entry.as_object_mut().unwrap();
        for timing in ["tokens_per_second", "train_runtime", "eval_runtime"] {
            entry.remove(timing);
        }
    }
    (weights, history)
}

fn assert_same_result(got: &Path, expected: &Path) {
    let (got, expected) = (result(got), result(expected));
    assert!(got.0 == expected.0, "the weights differ");
    assert_eq!(got.1.len(), expected.1.len());
    for (got, expected) in got.1.iter().zip(&expected.1) {
        assert_eq!(got, expected);
    }
}

fn finished(outcome: Outcome) -> String {
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    outcome.stderr
}

/// Width and height of a PNG file.
fn png_size(bytes: &[u8]) -> (u32, u32) {
    assert_eq!(&bytes[..8], b"\x89PNG\r\n\x1a\n");
    assert_eq!(&bytes[12..16], b"IHDR");
    let number = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
    (number(16), number(20))
}

#[test]
fn a_run_on_three_tasks_writes_everything() {
    let work = Workplace::new();
    let extra = [
        "--max_steps",
        "60",
        "--task_weights",
        "qa=1.0,summarization=0.8,classification=0.6",
        "--val_size",
        "0.2",
        "--do_eval",
        "--eval_strategy",
        "steps",
        "--eval_steps",
        "20",
        "--save_strategy",
        "steps",
        "--save_steps",
        "25",
        "--plot_loss",
    ];
    let stderr = finished(work.train("out", &extra));
    let output = work.path("out");
    for name in [
        "adapter_model.safetensors",
        "adapter_config.json",
        "trainer_state.json",
        "train_results.json",
        "eval_results.json",
        "all_results.json",
        "medley_config.json",
        "training_loss.png",
        "training_loss.svg",
        "checkpoint-25/manifest.json",
        "checkpoint-50/optimizer.safetensors",
        "checkpoint-50/adapter_model.safetensors",
    ] {
        assert!(output.join(name).is_file(), "{name} is missing: {:?}", listing(&output));
    }
    let hidden: Vec<String> =
        listing(&output).into_iter().filter(|p| p.split('/').any(|n| n.starts_with('.'))).collect();
    assert!(hidden.is_empty(), "{hidden:?}");

    // The adapter is PEFT's: r x in and out x r for all seven layers of both blocks.
    let config = json(&output.join("adapter_config.json"));
    assert_eq!(config["peft_type"], "LORA");
    assert_eq!(config["r"], 4);
    assert_eq!(config["base_model_name_or_path"], "model");
    let adapter = std::fs::read(output.join("adapter_model.safetensors")).unwrap();
    let adapter = safetensors::SafeTensors::deserialize(&adapter).unwrap();
    assert_eq!(adapter.len(), 28);
    let b = adapter.tensor("base_model.model.model.layers.1.mlp.gate_proj.lora_B.weight").unwrap();
    assert_eq!(b.shape(), [64, 4]);
    assert!(b.data().iter().any(|byte| *byte != 0), "it learned something");

    let entries = step_entries(&output);
    assert_eq!(entries.len(), 60);
    let number = |entry: &Value, key: &str| entry.get(key).and_then(Value::as_f64);
    for (i, entry) in entries.iter().enumerate() {
        assert_eq!(entry["step"], i as u64 + 1);
        for key in ["epoch", "loss", "grad_norm", "learning_rate", "tokens_per_second"] {
            assert!(number(entry, key).is_some_and(f64::is_finite), "{key}: {entry}");
        }
        let weights =
            ["qa", "summarization", "classification"].map(|t| number(entry, &format!("weight/{t}")));
        assert_eq!(weights, [Some(1.0), Some(0.8), Some(0.6)]);
        // The step's loss is the weighted sum of its tasks' means.
        let mut weighted = 0.0;
        for (task, alpha) in [("qa", 1.0), ("summarization", 0.8), ("classification", 0.6)] {
            assert_eq!(number(entry, &format!("weight/{task}")), Some(alpha));
            weighted += alpha * number(entry, &format!("loss/{task}")).unwrap_or(0.0);
        }
        assert!((weighted - number(entry, "loss").unwrap()).abs() < 1e-6, "{entry}");
        for kind in ["share", "share_tokens", "share_asked"] {
            let shares: f64 =
                TASKS.iter().filter_map(|(task, _)| number(entry, &format!("{kind}/{task}"))).sum();
            assert!((shares - 1.0).abs() < 1e-6, "{kind}: {entry}");
        }
    }
    let mean = |entries: &[Value], task: &str| {
        let losses: Vec<f64> = entries.iter().filter_map(|e| number(e, &format!("loss/{task}"))).collect();
        losses.iter().sum::<f64>() / losses.len() as f64
    };
    for (task, _) in TASKS {
        let (first, last) = (mean(&entries[..15], task), mean(&entries[45..], task));
        assert!(last < first - 0.2, "{task} went from {first} to {last}");
    }
    let results = json(&output.join("train_results.json"));
    for key in ["train_loss", "train_runtime", "train_tokens_per_second", "peak_memory_bytes"] {
        assert!(number(&results, key).is_some_and(|n| n > 0.0), "{key}: {results}");
    }
    let losses: f64 = entries.iter().map(|e| number(e, "loss").unwrap()).sum();
    assert!((losses / 60.0 - number(&results, "train_loss").unwrap()).abs() < 1e-6);
    let evaluated = json(&output.join("eval_results.json"));
    for key in ["eval_loss", "eval_qa_loss", "eval_summarization_loss", "eval_classification_loss"] {
        assert!(number(&evaluated, key).is_some_and(|n| n > 0.0), "{key}: {evaluated}");
    }

    let plot = std::fs::read(output.join("training_loss.png")).unwrap();
    let (width, height) = png_size(&plot);
    assert!(width >= 640 && height >= 400 && plot.len() > 10_000, "{width}×{height}, {} bytes", plot.len());
    let svg = std::fs::read_to_string(output.join("training_loss.svg")).unwrap();
    for (task, _) in TASKS {
        assert!(svg.contains(task), "the plot names {task}");
    }
    assert!(stderr.contains("60 steps of 4 sequences"), "{stderr}");
    assert!(stderr.contains("step 25/60  saved out/checkpoint-25"), "{stderr}");
    assert!(stderr.lines().last().unwrap().contains("results in out"), "{stderr}");
}

#[test]
fn balanced_steps_hold_every_task() {
    let work = Workplace::new();
    let tasks_of =
        |entry: &Value| TASKS.iter().filter(|(task, _)| entry.get(format!("loss/{task}")).is_some()).count();
    finished(work.train("balanced", &["--sampling_strategy", "balanced", "--max_steps", "23"]));
    let balanced = step_entries(&work.path("balanced"));
    assert!(balanced[..22].iter().all(|entry| tasks_of(entry) == 3), "{balanced:?}");
    // An epoch has 3 · 30 places, 4 a step; the last step is short.
    assert_eq!(tasks_of(&balanced[22]), 2);
    assert_eq!(balanced[22]["epoch"], 1.0);
    let shares = json(&work.path("balanced").join("train_results.json"))["shares"].clone();
    for share in shares.as_array().unwrap() {
        assert_eq!(share["examples"], 30, "{share}");
        assert_eq!(share["asked"], 1.0 / 3.0, "{share}");
    }
    finished(work.train("proportional", &["--max_steps", "14"]));
    let proportional = step_entries(&work.path("proportional"));
    assert!(proportional.iter().any(|entry| tasks_of(entry) < 3), "{proportional:?}");
    assert_eq!(proportional[13]["epoch"], 1.0);
}

#[test]
fn threads_do_not_change_the_result() {
    let work = Workplace::new();
    finished(work.train("one", &["--num_threads", "1"]));
    finished(work.train("two", &["--num_threads", "2"]));
    assert_same_result(&work.path("two"), &work.path("one"));
    finished(work.train("other_seed", &["--seed", "43"]));
    assert!(result(&work.path("other_seed")) != result(&work.path("one")));
}

const SCHEDULE: &str =
    "[{at: 0, strategy: balanced}, {at: 0.7, shares: {qa: 3, summarization: 1, classification: 0}}]";

/// Checkpoints fall between log entries here, so that what is not yet logged has to be kept too.
const RHYTHM: [&str; 8] =
    ["--logging_steps", "4", "--save_strategy", "steps", "--save_steps", "5", "--val_size", "0.1"];

#[test]
fn a_resumed_run_ends_where_an_uninterrupted_one_does() {
    let kinds: [&[&str]; 3] = [
        &[
            "--lora_target",
            "q_proj,v_proj",
            "--use_rslora",
            "--weight_decay",
            "0.1",
            "--sampling_schedule",
            SCHEDULE,
        ],
        &["--quantization_bit", "4", "--sampling_strategy", "balanced", "--lr_scheduler_type", "cosine"],
        &["--finetuning_type", "full", "--learning_rate", "1e-3", "--eval_strategy", "steps"],
    ];
    for kind in kinds {
        let work = Workplace::new();
        let extra = [&RHYTHM[..], kind].concat();
        finished(work.train("whole", &extra));
        let resume = ["--resume_from_checkpoint", "whole/checkpoint-5"];
        let stderr = finished(work.train("resumed", &[&extra[..], &resume].concat()));
        assert!(stderr.contains("going on after step 5"), "{stderr}");
        assert_same_result(&work.path("resumed"), &work.path("whole"));
        let results =
            |output: &str| json(&work.path(output).join("train_results.json"))["train_loss"].clone();
        assert_eq!(results("resumed"), results("whole"));

        // Another run's checkpoint is refused.
        let other = [&extra[..], &resume, &["--max_steps", "13"]].concat();
        let refused = work.train("other", &other);
        assert_eq!(refused.code, Some(1));
        assert!(refused.stderr.contains("whole/checkpoint-5: it belongs to a run with other settings"));
    }
}

/// Reads lines of a run's progress until one begins with `start`.
fn read_until(lines: &mut impl BufRead, start: &str) -> String {
    let mut seen = String::new();
    loop {
        let begin = seen.len();
        assert!(lines.read_line(&mut seen).unwrap() > 0, "ended before {start:?}: {seen}");
        if seen[begin..].starts_with(start) {
            return seen;
        }
    }
}

#[cfg(unix)]
fn interrupt(child: &Child) {
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
}

#[cfg(unix)]
#[test]
fn ctrl_c_finishes_the_step_and_says_how_to_go_on() {
    let work = Workplace::new();
    let extra = ["--max_steps", "300", "--logging_steps", "7"];
    finished(work.train("whole", &extra));

    let mut child = work.command("stopped", &extra).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap());
    read_until(&mut lines, "step 14/300");
    interrupt(&child);
    let mut rest = String::new();
    lines.read_to_string(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1), "{rest}");
    assert!(rest.contains("stopping after this step"), "{rest}");
    assert!(rest.contains("error: interrupted after step "), "{rest}");
    let output = work.path("stopped");
    assert!(!output.join("train_results.json").exists(), "an interrupted run has no results");

    // Done as told.
    let (_, told) = rest.split_once("go on with --resume_from_checkpoint ").unwrap();
    let path = told.lines().next().unwrap();
    let resume = [&extra[..], &["--resume_from_checkpoint", path]].concat();
    let stderr = finished(work.train("stopped", &resume));
    assert!(stderr.contains("going on after step "), "{stderr}");
    assert_same_result(&output, &work.path("whole"));
}

#[test]
fn killed_at_any_instant_a_run_goes_on_to_the_same_weights() {
    let work = Workplace::new();
    let rhythm = ["--max_steps", "240", "--logging_steps", "3", "--save_strategy", "steps"];
    let extra = [&rhythm[..], &["--save_steps", "4", "--save_total_limit", "2"]].concat();
    finished(work.train("whole", &extra));

    let resume = [&extra[..], &["--resume_from_checkpoint", "true"]].concat();
    let output = work.path("killed");
    let mut rng = Philox::new(std::process::id().into(), 0);
    for round in 0..5 {
        let mut child = work.command("killed", &resume).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        // Some way into the run, then at no particular moment of a step or of the writing of a checkpoint.
        let passed =
            lines.by_ref().filter(|line| line.as_ref().unwrap().contains("saved killed/")).nth(rng.below(4));
        std::thread::sleep(Duration::from_micros(rng.below(20_000) as u64));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(passed.is_some(), "round {round}: the run ended before it was killed");
        let checkpoints = checkpoint::list(&output).unwrap();
        assert!(!checkpoints.is_empty());
        for (step, folder) in checkpoints {
            assert_eq!(checkpoint::verify(&folder).unwrap(), step, "round {round}");
        }
    }
    let stderr = finished(work.train("killed", &resume));
    assert!(stderr.contains("going on after step "), "{stderr}");
    assert_same_result(&output, &work.path("whole"));
    let left = listing(&output);
    assert!(left.iter().all(|path| !path.contains(".tmp")), "{left:?}");
}

#[test]
fn a_damaged_checkpoint_is_passed_over() {
    let work = Workplace::new();
    let extra = ["--save_strategy", "steps", "--save_steps", "4"];
    finished(work.train("out", &extra));
    let output = work.path("out");
    let before = result(&output);

    let damaged = "out/checkpoint-12/optimizer.safetensors";
    let mut bytes = std::fs::read(work.path(damaged)).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    work.write(damaged, bytes);
    std::fs::remove_file(output.join("checkpoint-8/manifest.json")).unwrap();
    let resume = [&extra[..], &["--resume_from_checkpoint", "true"]].concat();
    let stderr = finished(work.train("out", &resume));
    for part in [
        "checkpoint out/checkpoint-12: optimizer.safetensors is damaged",
        "checkpoint out/checkpoint-8: manifest.json cannot be read",
        "going on after step 4",
    ] {
        assert!(stderr.contains(part), "{stderr}");
    }
    assert!(result(&output) == before);
    checkpoint::verify(&output.join("checkpoint-12")).unwrap();

    // Named, it is refused: whoever names one wants that one.
    std::fs::remove_file(output.join("checkpoint-12/run.json")).unwrap();
    let named = [&extra[..], &["--resume_from_checkpoint", "out/checkpoint-12"]].concat();
    let refused = work.train("new", &named);
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("out/checkpoint-12: run.json is missing"), "{}", refused.stderr);
    assert!(!work.path("new").exists());
}

#[test]
fn only_the_newest_checkpoints_are_kept() {
    let work = Workplace::new();
    let extra = ["--save_strategy", "steps", "--save_steps", "3", "--save_total_limit", "2"];
    finished(work.train("out", &extra));
    let steps: Vec<u64> =
        checkpoint::list(&work.path("out")).unwrap().into_iter().map(|(step, _)| step).collect();
    assert_eq!(steps, [9, 12]);
}
