//! Evaluation by generation, the best checkpoint and early stopping, through the command line.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

// Shared by several test programs, none of which uses all of it.
#[allow(dead_code)]
mod workplace;

use medley_train::trainer::checkpoint;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use workplace::{Outcome, Workplace, json, run};

const EVALUATED: [&str; 8] =
    ["--val_size", "0.3", "--eval_strategy", "steps", "--eval_steps", "2", "--max_steps", "16"];

fn finished(outcome: Outcome) -> String {
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    outcome.stderr
}

fn refused(outcome: Outcome) -> String {
    assert_ne!(outcome.code, Some(0), "{}", outcome.stderr);
    outcome.stderr
}

fn with<'a>(parts: &[&[&'a str]]) -> Vec<&'a str> {
    parts.concat()
}

fn weights(folder: &Path) -> Vec<u8> {
    std::fs::read(folder.join("adapter_model.safetensors")).unwrap()
}

fn history(output: &Path) -> Vec<Value> {
    let mut state = json(&output.join("trainer_state.json"));
    let history = state["log_history"].as_array_mut().unwrap();
    for entry in history.iter_mut() {
        for timing in ["tokens_per_second", "train_runtime", "eval_runtime"] {
            entry.as_object_mut().unwrap().remove(timing);
        }
    }
    history.clone()
}

fn steps(output: &Path) -> Vec<u64> {
    checkpoint::list(output).unwrap().into_iter().map(|(step, _)| step).collect()
}

#[test]
fn a_resumed_run_stops_early_where_an_uninterrupted_one_does() {
    let work = Workplace::new();
    // No evaluation improves by so much: the third in a row without improvement ends the run, at step 8.
    let patience = ["--early_stopping_steps", "3", "--early_stopping_threshold", "100"];
    let rhythm = ["--save_strategy", "steps", "--save_steps", "3", "--logging_steps", "5"];
    let extra = with(&[&EVALUATED, &patience, &rhythm]);
    let stderr = finished(work.train("whole", &extra));
    let said = "step 8/16  early stopping: eval_loss has not improved by more than 100 for 3 evaluations; best eval_loss ";
    assert!(stderr.contains(said), "{stderr}");
    let whole = history(&work.path("whole"));
    let last = whole.iter().rev().find(|entry| entry.get("loss").is_some()).unwrap();
    assert_eq!(last["step"], 8, "the steps before the end are logged, whatever logging_steps");
    assert_eq!(json(&work.path("whole/train_results.json"))["train_steps"], 8);

    // Killed between evaluations, after the second.
    for from in ["whole/checkpoint-3", "whole/checkpoint-6"] {
        let resume = with(&[&extra, &["--resume_from_checkpoint", from]]);
        let stderr = finished(work.train("resumed", &with(&[&resume, &["--overwrite_output_dir", "true"]])));
        assert!(stderr.contains(said), "{stderr}");
        assert_eq!(history(&work.path("resumed")), whole, "{from}");
        assert!(weights(&work.path("resumed")) == weights(&work.path("whole")));
    }

    // Every task has to stop improving; here each does at once.
    let tasks = ["--early_stopping_tasks", "all"];
    let stderr = finished(work.train("tasks", &with(&[&extra, &tasks])));
    assert!(
        stderr.contains("step 8/16  early stopping: qa, summarization, classification have all not"),
        "{stderr}"
    );
}

#[test]
fn the_best_checkpoint_is_kept_and_its_weights_are_the_result() {
    let work = Workplace::new();
    // The loss falls, so that the highest one is the first: a best that is long gone at the end.
    let best =
        ["--metric_for_best_model", "0.5*qa/loss+0.5*summarization/loss", "--greater_is_better", "true"];
    let keep = ["--load_best_model_at_end", "true", "--save_total_limit", "1"];
    for (output, save) in [
        ("steps", &["--save_strategy", "steps", "--save_steps", "5"][..]),
        ("model_only", &["--save_strategy", "steps", "--save_steps", "5", "--save_only_model", "true"]),
        ("none", &["--save_strategy", "no"]),
    ] {
        let stderr = finished(work.train(output, &with(&[&EVALUATED, &best, &keep, save])));
        let folder = work.path(output);
        let state = json(&folder.join("trainer_state.json"));
        let step = state["best_global_step"].as_u64().unwrap();
        let losses: Vec<f64> = history(&folder)
            .iter()
            .filter(|entry| entry.get("eval_loss").is_some())
            .map(|entry| {
                entry["eval_qa_loss"].as_f64().unwrap() + entry["eval_summarization_loss"].as_f64().unwrap()
            })
            .collect();
        let highest = losses.iter().copied().fold(f64::MIN, f64::max);
        assert_eq!(losses[step as usize / 2 - 1], highest);
        assert!(step < 15, "{losses:?}");
        let expected = if output == "none" { vec![step] } else { vec![step, 15] };
        assert_eq!(steps(&folder), expected, "{output}: {stderr}");
        assert_eq!(state["best_model_checkpoint"], format!("{output}/checkpoint-{step}"));
        assert!(weights(&folder) == weights(&folder.join(format!("checkpoint-{step}"))), "{output}");
        assert!(
            stderr.contains(&format!("took the best weights, those of step {step}: 0.5*qa/loss+")),
            "{stderr}"
        );
        let results = json(&folder.join("train_results.json"));
        assert_eq!(results["best_metric"]["step"], step);
    }
}

#[test]
fn evaluations_score_the_models_answers() {
    let work = Workplace::new();
    let answers =
        ["--predict_with_generate", "true", "--eval_generate_samples", "3", "--constrain_labels", "true"];
    let last = ["--do_eval", "true", "--compute_accuracy", "true", "--per_device_eval_batch_size", "4"];
    let best = ["--metric_for_best_model", "0.5*qa/f1+0.5*classification/macro_f1"];
    let stderr = finished(work.train("out", &with(&[&EVALUATED, &answers, &last, &best])));
    assert!(stderr.contains("classification accuracy "), "{stderr}");
    let output = work.path("out");
    let results = json(&output.join("eval_results.json"));
    let share = |name: &str| {
        let value = results[name].as_f64().unwrap_or_else(|| panic!("{name} in {results}"));
        assert!((0.0..=1.0).contains(&value), "{name}: {value}");
        value
    };
    for task in ["qa", "summarization", "classification"] {
        let loss = results[format!("{task}/loss")].as_f64().unwrap();
        let perplexity = results[format!("{task}/perplexity")].as_f64().unwrap();
        assert!((perplexity - loss.exp()).abs() < 1e-9 * perplexity);
        for score in ["exact_match", "f1", "rouge1", "rouge2", "rougeL", "bleu4", "token_accuracy"] {
            share(&format!("{task}/{score}"));
        }
        assert!(results[format!("{task}/examples")].as_u64().unwrap() <= 3);
    }
    share("classification/macro_f1");
    // One of two labels is always written, so one of the two scores is never 0.
    assert!(share("classification/accuracy") <= 1.0 && results.get("summarization/accuracy").is_none());
    let evaluated: Vec<Value> =
        history(&output).into_iter().filter(|e| e.get("eval_classification_accuracy").is_some()).collect();
    assert_eq!(evaluated.len(), 9, "eight in training, one at the end");
    let state = json(&output.join("trainer_state.json"));
    let of = |entry: &Value| {
        (entry["eval_qa_f1"].as_f64().unwrap() + entry["eval_classification_macro_f1"].as_f64().unwrap())
            / 2.0
    };
    let most = evaluated[..8].iter().map(of).fold(0.0, f64::max);
    assert!((state["best_metric"].as_f64().unwrap() - most).abs() < 1e-8);
    // Answers move no weight.
    let silent = finished(work.train("silent", &EVALUATED));
    assert!(!silent.contains("accuracy"), "{silent}");
    assert!(weights(&output) == weights(&work.path("silent")));

    // The same measurements from the saved adapter, by `medley eval`; all labels, by `medley predict`.
    let model = ["--model_name_or_path", "model", "--adapter_name_or_path", "out", "--dataset_dir", "."];
    let data = ["--data_files", "qa.jsonl,summarization.jsonl,classification.jsonl", "--template", "alpaca"];
    let held = ["--val_size", "0.3", "--num_threads", "1", "--per_device_eval_batch_size", "4"];
    let command = |name: &str, extra: &[&str]| {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin("medley"));
        command.current_dir(work.path("")).arg(name).args(with(&[&model, &data, &held, extra]));
        run(&mut command)
    };
    let extra = with(&[&answers, &["--compute_accuracy", "true", "--output_dir", "evaluated"]]);
    finished(command("eval", &extra));
    let again = json(&work.path("evaluated/eval_results.json"));
    for (name, value) in results.as_object().unwrap().iter().filter(|(name, _)| name.contains('/')) {
        let (got, expected) = (again[name].as_f64().unwrap(), value.as_f64().unwrap());
        assert!((got - expected).abs() < 1e-3 * expected.abs().max(1.0), "{name}: {got}, not {expected}");
    }
    let extra =
        ["--constrain_labels", "classification", "--max_new_tokens", "4", "--output_dir", "predicted"];
    finished(command("predict", &extra));
    let text = std::fs::read_to_string(work.path("predicted/generated_predictions.jsonl")).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let answers: BTreeSet<&str> = lines
        .iter()
        .filter(|line| line["task_name"] == "classification")
        .map(|line| line["predict"].as_str().unwrap())
        .collect();
    assert!(!answers.is_empty() && answers.is_subset(&["text", "libs"].into()), "{answers:?}");
    let tables = json(&work.path("predicted/label_scores.json"));
    let first = &tables["classification"]["labels"][0];
    assert!(["text", "libs"].contains(&first["label"].as_str().unwrap()), "{first}");
    assert!(tables.get("summarization").is_none());
}

#[test]
fn what_cannot_be_measured_is_refused_before_the_first_step() {
    let work = Workplace::new();
    let cases: [(&[&str], &[&str]); 7] = [
        (&["--answer_regex", "answer: (\\w+"], &["answer_regex", "unclosed group"]),
        (&["--metric_for_best_model", "qa/f1"], &["eval_qa_f1", "predict_with_generate: true"]),
        (&["--metric_for_best_model", "nope"], &["eval_nope_loss", "eval_classification_loss"]),
        (&["--metric_for_best_model", "qa/f1+loss"], &["mixes"]),
        (&["--early_stopping_tasks", "qa"], &["early_stopping_steps"]),
        (
            &["--predict_with_generate", "true", "--constrain_labels", "summarization"],
            &["constrain_labels", "summarization", "classification"],
        ),
        (&["--early_stopping_steps", "2", "--eval_strategy", "no"], &["eval_strategy: steps"]),
    ];
    for (options, parts) in cases {
        let base: &[&str] =
            if options.contains(&"--eval_strategy") { &["--val_size", "0.3"] } else { &EVALUATED };
        let stderr = refused(work.train("out", &with(&[base, options])));
        for part in parts {
            assert!(stderr.contains(part), "{options:?}: {stderr}");
        }
        assert!(!work.path("out").exists(), "{options:?}");
    }
}
