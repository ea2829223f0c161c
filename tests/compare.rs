//! `medley compare` as a whole: one budget on both sides, runs that are taken, one that was interrupted.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

// Shared by several test programs, none of which uses all of it.
#[allow(dead_code)]
mod workplace;

use std::process::{Command, Stdio};
use workplace::{TASKS, Workplace, json, run};

fn command(place: &Workplace, extra: &[&str]) -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin("medley"));
    command.current_dir(place.path(".")).args([
        "compare",
        "--model_name_or_path",
        "model",
        "--dataset_dir",
        ".",
        "--data_files",
        "qa.jsonl,summarization.jsonl,classification.jsonl",
        "--template",
        "alpaca",
        "--sampling_strategy",
        "balanced",
        "--per_device_train_batch_size",
        "4",
        "--save_strategy",
        "no",
        "--seeds",
        "1,2",
        "--compare_samples",
        "6",
        "--compare_requests",
        "2",
        "--max_new_tokens",
        "4",
        "--num_threads",
        "1",
        "--output_dir",
        "out",
    ]);
    command.args(extra).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

#[test]
fn both_sides_train_on_the_same_examples_and_finished_runs_are_taken() {
    let place = Workplace::new();
    let first = run(&mut command(&place, &["--max_steps", "6"]));
    assert_eq!(first.code, Some(0), "{}", first.stderr);
    let result = json(&place.path("out/comparison.json"));
    assert_eq!(result["joint_steps"], 6);
    assert_eq!(result["single_steps"], 6);
    let rows = result["tasks"].as_array().unwrap();
    assert_eq!(rows.len(), 3);
    for (row, (task, _)) in rows.iter().zip(TASKS) {
        assert_eq!(row["task"], task);
        // 24 examples in balanced steps.
        assert_eq!((row["trained_examples"].as_u64(), row["scored_examples"].as_u64()), (Some(8), Some(6)));
        let (joint, single) =
            (row["joint"]["mean"].as_f64().unwrap(), row["single"]["mean"].as_f64().unwrap());
        assert!((row["gain"]["mean"].as_f64().unwrap() - (joint - single)).abs() < 1e-12);
    }
    // Two labels, three examples of each: the metric of labels.
    assert_eq!(rows[2]["metric"], "macro_f1");
    assert!(rows[0]["metric"] == "f1" && rows[1]["metric"] == "f1");
    let serving = &result["deployment"];
    assert_eq!(serving["requests"], 6);
    let bytes = |side: &str| serving[side]["weight_bytes"].as_u64().unwrap();
    assert_eq!(bytes("separate"), 3 * bytes("joint"));
    assert!(
        bytes("joint") < bytes("adapters_on_one_base") && bytes("adapters_on_one_base") < bytes("separate")
    );
    for seed in [1, 2] {
        for run in ["joint", "qa", "summarization", "classification"] {
            let state = json(&place.path(&format!("out/seed-{seed}/{run}/trainer_state.json")));
            let steps = if run == "joint" { 6 } else { 2 };
            assert_eq!(state["global_step"], steps, "{run}");
        }
    }
    let weights =
        |run: &str| std::fs::read(place.path(&format!("out/{run}/adapter_model.safetensors"))).unwrap();
    assert_ne!(weights("seed-1/qa"), weights("seed-2/qa"));

    // Again, one run having been lost: it alone is trained anew, to the same result.
    let lost = weights("seed-2/qa");
    std::fs::remove_dir_all(place.path("out/seed-2/qa")).unwrap();
    let second = run(&mut command(&place, &["--max_steps", "6"]));
    assert_eq!(second.code, Some(0), "{}", second.stderr);
    assert_eq!(second.stderr.matches(" taken from ").count(), 7, "{}", second.stderr);
    assert!(!second.stderr.contains("other options"), "{}", second.stderr);
    assert_eq!(weights("seed-2/qa"), lost);
    assert_eq!(json(&place.path("out/comparison.json"))["tasks"], result["tasks"]);

    // Runs of other settings are taken too, and it is said in what they differ.
    let third = run(&mut command(&place, &["--max_steps", "6", "--learning_rate", "1e-3"]));
    assert!(third.stderr.contains("learning_rate was 0.00005, is 0.001"), "{}", third.stderr);
}

#[test]
fn data_of_one_task_is_nothing_to_compare() {
    let place = Workplace::new();
    let outcome = run(&mut command(&place, &["--max_steps", "2", "--only_tasks", "qa"]));
    assert_eq!(outcome.code, Some(1));
    assert!(outcome.stderr.contains("one task only (qa)"), "{}", outcome.stderr);
    let outcome = run(&mut command(&place, &["--max_steps", "2", "--only_tasks", "sentiment"]));
    assert!(
        outcome.stderr.contains("only_tasks: no example is of sentiment; the tasks of the data are"),
        "{}",
        outcome.stderr
    );
}
