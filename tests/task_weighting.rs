//! Moving task weights, PCGrad and the conflict report through the binary.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

// Shared by several test programs, none of which uses all of it.
#[allow(dead_code)]
mod workplace;

use serde_json::Value;
use workplace::{Outcome, TASKS, Workplace, json, step_entries};

fn finished(outcome: Outcome) -> String {
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    outcome.stderr
}

/// Weights and history of a run, without what depends on the clock.
fn result(work: &Workplace, run: &str) -> (Vec<u8>, Vec<Value>) {
    let output = work.path(run);
    let mut history = json(&output.join("trainer_state.json"))["log_history"].as_array().unwrap().clone();
    for entry in &mut history {
        for timing in ["tokens_per_second", "train_runtime", "eval_runtime"] {
            entry.as_object_mut().unwrap().remove(timing);
        }
    }
    (std::fs::read(output.join("adapter_model.safetensors")).unwrap(), history)
}

fn weights(entry: &Value) -> Vec<f64> {
    TASKS.iter().map(|(task, _)| entry[format!("weight/{task}")].as_f64().unwrap()).collect()
}

/// Checkpoints fall between log entries, between CoBa's measurements and inside a block.
const RHYTHM: [&str; 10] = [
    "--logging_steps",
    "4",
    "--save_strategy",
    "steps",
    "--save_steps",
    "5",
    "--val_size",
    "0.2",
    "--sampling_strategy",
    "proportional",
];

#[test]
fn every_method_moves_the_weights_and_resumes_to_the_bit() {
    let kinds: [&[&str]; 7] = [
        &["--task_weighting", "uncertainty", "--task_weighting_lr", "0.05"],
        &["--task_weighting", "dwa", "--task_weighting_window", "3", "--conflict_steps", "3"],
        &["--task_weighting", "loss_rate", "--task_weighting_window", "2", "--task_weighting_warmup", "4"],
        &["--task_weighting", "famo", "--task_weights", "qa=2"],
        &["--task_weighting", "famo", "--task_weighting_reevaluate", "true"],
        &["--task_weighting", "coba", "--task_weighting_steps", "2", "--task_weighting_warmup", "2"],
        &["--gradient_surgery", "pcgrad", "--conflict_steps", "2"],
    ];
    let work = Workplace::new();
    for (n, kind) in kinds.iter().enumerate() {
        let extra = [&RHYTHM[..], kind].concat();
        let (whole, resumed) = (format!("whole{n}"), format!("resumed{n}"));
        finished(work.train(&whole, &extra));
        let checkpoint = format!("{whole}/checkpoint-5");
        let resume = [&extra[..], &["--resume_from_checkpoint", &checkpoint]].concat();
        let stderr = finished(work.train(&resumed, &resume));
        assert!(stderr.contains("going on after step 5") && !stderr.contains("starts anew"), "{stderr}");
        assert!(result(&work, &whole) == result(&work, &resumed), "{kind:?}: the resumed run differs");
        let report = |run: &str| std::fs::read(work.path(run).join("gradient_conflicts.json")).ok();
        assert!(report(&whole) == report(&resumed), "{kind:?}: the reports differ");

        let entries = step_entries(&work.path(&whole));
        let prior: Vec<f64> = vec![if kind.contains(&"qa=2") { 2.0 } else { 1.0 }, 1.0, 1.0];
        let moved = |entry: &Value| weights(entry).iter().zip(&prior).any(|(w, p)| (w - p).abs() > 1e-6);
        assert_eq!(moved(entries.last().unwrap()), kind.contains(&"--task_weighting"), "{kind:?}");
        let mean = weights(entries.last().unwrap()).iter().zip(&prior).map(|(w, p)| w / p).sum::<f64>() / 3.0;
        assert!((mean - 1.0).abs() < 1e-8, "{kind:?}: {mean}");
    }
    // Another method than the checkpoint's begins anew, and says so.
    let extra = [&RHYTHM[..], kinds[0], &["--resume_from_checkpoint", "whole1/checkpoint-5"]].concat();
    let stderr = finished(work.train("other", &extra));
    assert!(stderr.contains("moved by dwa: uncertainty starts anew"), "{stderr}");
    assert!(stderr.contains("task_weighting was \"dwa\", is \"uncertainty\""), "{stderr}");
}

#[test]
fn measuring_conflicts_changes_nothing() {
    let work = Workplace::new();
    let balanced = ["--sampling_strategy", "balanced", "--per_device_train_batch_size", "3"];
    finished(work.train("without", &balanced));
    let stderr = finished(work.train("with", &[&balanced[..], &["--conflict_steps", "4"]].concat()));
    let (without, with) = (result(&work, "without"), result(&work, "with"));
    assert!(with.0 == without.0, "the weights differ");
    let (measured, rest): (Vec<Value>, Vec<Value>) =
        with.1.into_iter().partition(|entry| entry.get("cos/qa/summarization").is_some());
    assert_eq!(rest, without.1);
    assert_eq!(measured.len(), 3);
    for (entry, step) in measured.iter().zip([4, 8, 12]) {
        assert_eq!(entry["step"], step);
        for (task, _) in TASKS {
            assert!(entry[format!("grad_norm/{task}")].as_f64().unwrap() > 0.0);
        }
        assert!(entry["cos/summarization/classification"].as_f64().unwrap().abs() <= 1.0);
    }
    let report = json(&work.path("with/gradient_conflicts.json"));
    assert_eq!(report["tasks"], serde_json::json!(["qa", "summarization", "classification"]));
    let mean: f64 = measured.iter().map(|e| e["cos/qa/summarization"].as_f64().unwrap()).sum::<f64>() / 3.0;
    let cosine = report["cosines"][1][0].as_f64().unwrap();
    assert!((cosine - mean).abs() < 1e-7, "{cosine} {mean}");
    assert_eq!(report["pairs"][0]["measurements"], 3);
    let svg = std::fs::read_to_string(work.path("with/gradient_conflicts.svg")).unwrap();
    assert!(svg.contains("Gradient conflicts") && svg.contains(&format!("{cosine:.2}")), "{svg}");
    assert!(stderr.contains("cosines between the tasks' gradients, every 4 steps"), "{stderr}");
    assert!(stderr.contains(report["advice"][0].as_str().unwrap()), "{stderr}");
    assert!(!work.path("without/gradient_conflicts.json").exists());
}

#[test]
fn the_simulated_card_projects_and_measures_as_the_cpu_does() {
    let work = Workplace::new();
    let options = [
        "--gradient_surgery",
        "pcgrad",
        "--conflict_steps",
        "1",
        "--max_steps",
        "2",
        "--sampling_strategy",
        "balanced",
        "--per_device_train_batch_size",
        "3",
    ];
    finished(work.train("cpu", &options));
    finished(work.train("sim", &[&options[..], &["--device", "sim"]].concat()));
    let cosines = |run: &str| json(&work.path(run).join("gradient_conflicts.json"))["cosines"].clone();
    let (cpu, sim) = (cosines("cpu"), cosines("sim"));
    for a in 0..3 {
        for b in 0..3 {
            let (cpu, sim) = (cpu[a][b].as_f64().unwrap(), sim[a][b].as_f64().unwrap());
            assert!((cpu - sim).abs() < 0.02, "{a} {b}: {sim} for {cpu}");
        }
    }
    let norms = |run: &str| -> Vec<f64> {
        let entries = step_entries(&work.path(run));
        entries.iter().map(|e| e["grad_norm"].as_f64().unwrap()).collect()
    };
    for (cpu, sim) in norms("cpu").iter().zip(norms("sim")) {
        assert!((cpu - sim).abs() < 0.02 * cpu, "{sim} for {cpu}");
    }
}

#[test]
fn dynamic_says_what_it_is_and_coba_what_it_lacks() {
    let work = Workplace::new();
    let dynamic = ["--task_weighting", "dynamic", "--max_steps", "2"];
    let stderr = finished(work.train("famo", &dynamic));
    assert!(stderr.contains("note: task_weighting dynamic is famo here: not every task has"), "{stderr}");
    let stderr = finished(work.train("coba", &[&dynamic[..], &["--val_size", "0.2"]].concat()));
    assert!(stderr.contains("dynamic is coba here: every task has evaluation examples"), "{stderr}");

    let refused = work.train("none", &["--task_weighting", "coba"]);
    assert_eq!(refused.code, Some(1));
    let parts = ["no evaluation examples of qa, summarization, classification", "val_size"];
    assert!(parts.iter().all(|part| refused.stderr.contains(part)), "{}", refused.stderr);
    assert!(!work.path("none").exists());
    for (options, part) in [
        (["--task_weighting", "dwa", "--task_weighting_lr", "0.1"], "task_weighting_lr"),
        (["--task_weighting", "fixed", "--task_weighting_window", "9"], "task_weighting_window"),
        (["--task_weighting", "coba", "--task_weighting_window", "1"], "at least 2 measurements"),
        (["--task_weighting", "famo", "--task_weighting_lr", "0"], "a number above 0"),
    ] {
        let refused = work.train("none", &options);
        assert_ne!(refused.code, Some(0), "{options:?}");
        assert!(refused.stderr.contains(part), "{options:?}: {}", refused.stderr);
    }
}
