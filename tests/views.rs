//! What a run leaves to look at, through the binary: the log, event files, samples, the report.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

// Shared by several test programs, none of which uses all of it.
#[allow(dead_code)]
mod workplace;

use serde_json::Value;
use std::path::Path;
use std::process::Command;
use workplace::{TASKS, Workplace, json, listing, run, step_entries};

/// The lines of a `.jsonl` file.
fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.ends_with('\n'), "{text}");
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The log without what a clock says.
fn timeless(output: &Path) -> Vec<Value> {
    let mut all = lines(&output.join("trainer_log.jsonl"));
    for line in &mut all {
        let line = line.as_object_mut().unwrap();
        for key in ["elapsed_time", "remaining_time", "throughput"] {
            assert!(line.remove(key).is_some(), "{key}: {line:?}");
        }
        for key in ["tokens_per_second", "eval_runtime", "train_runtime"] {
            line.remove(key);
        }
    }
    all
}

fn medley(work: &Workplace, words: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin("medley"));
    let output = command.args(words).current_dir(work.path("")).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

const VIEWS: [&str; 15] = [
    "--val_size",
    "0.2",
    "--eval_strategy",
    "steps",
    "--eval_steps",
    "6",
    "--save_strategy",
    "steps",
    "--save_steps",
    "5",
    "--report_to",
    "tensorboard,wandb",
    "--report_samples",
    "1",
    "--plot_loss",
];

#[test]
fn a_run_can_be_looked_at_and_a_resumed_one_repeats_nothing() {
    let work = Workplace::new();
    let outcome = work.train("out", &VIEWS);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let stderr = outcome.stderr;
    assert!(stderr.contains("report_to: wandb has no effect"), "{stderr}");
    assert!(stderr.contains("to look at: out/training_loss.png, out/report.html"), "{stderr}");
    let output = work.path("out");

    // A line for every entry of the history, with LLaMA-Factory's keys.
    let log = timeless(&output);
    let history = json(&output.join("trainer_state.json"))["log_history"].as_array().unwrap().clone();
    assert_eq!(log.len(), history.len());
    assert_eq!(log.iter().filter(|line| line.get("loss").is_some()).count(), step_entries(&output).len());
    for (line, entry) in log.iter().zip(&history) {
        assert_eq!(line["current_steps"], entry["step"]);
        assert_eq!(line["total_steps"], 12);
        for key in ["loss", "eval_loss", "loss/qa", "weight/qa"] {
            assert_eq!(line.get(key), entry.get(key), "{key}");
        }
        assert_eq!(line.get("lr"), entry.get("learning_rate"));
    }

    let events: Vec<String> =
        listing(&output).into_iter().filter(|name| name.starts_with("runs/events.out.tfevents.")).collect();
    assert_eq!(events.len(), 1, "{events:?}");
    let bytes = std::fs::read(output.join(&events[0])).unwrap();
    for tag in ["train/loss/qa", "eval/qa_loss", "args/text_summary", "brain.Event:2"] {
        assert!(bytes.windows(tag.len()).any(|part| part == tag.as_bytes()), "{tag}");
    }

    let samples = lines(&output.join("sample_predictions.jsonl"));
    assert_eq!(samples.len(), TASKS.len());
    for sample in &samples {
        assert_eq!(sample["source"], "evaluation");
        assert!(sample["before"].is_string() && sample["after"].is_string(), "{sample}");
        let label = sample["label"].as_str().unwrap();
        assert!(!label.is_empty() && !label.contains("Instruction"), "{sample}");
        assert!(sample["prompt"].as_str().unwrap().ends_with("### Response:\n"), "{sample}");
    }
    let page = std::fs::read_to_string(output.join("report.html")).unwrap();
    for text in ["summarization", "data-plot=", "What the model writes", "learning_rate", "peak memory"] {
        assert!(page.contains(text), "{text}");
    }

    // The report is made from the files alone: made again, it is the same.
    std::fs::remove_file(output.join("report.html")).unwrap();
    let (code, stdout, stderr) = medley(&work, &["report", "--output_dir", "out"]);
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(stdout, "out/report.html\nout/training_loss.png\n");
    assert!(std::fs::read_to_string(output.join("report.html")).unwrap() == page, "the same page");

    // As after a kill at step 12: the log is ahead of the checkpoint, and its last line is torn.
    let path = output.join("trainer_log.jsonl");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text + "{\"current_st").unwrap();
    let outcome =
        work.train("out", &[&VIEWS[..], &["--resume_from_checkpoint", "out/checkpoint-5"]].concat());
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    assert_eq!(timeless(&output), log);
    assert_eq!(lines(&output.join("sample_predictions.jsonl")), samples);
}

#[test]
fn views_that_fail_or_are_off_cost_no_results() {
    let work = Workplace::new();
    // Folders stand where the files should be.
    for name in
        ["out/report.html", "out/trainer_log.jsonl", "out/training_loss.png", "out/sample_predictions.jsonl"]
    {
        std::fs::create_dir_all(work.path(name)).unwrap();
    }
    work.write("out/runs", "a file");
    let outcome = work.train("out", &["--report_to", "all", "--plot_loss"]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    for part in [
        "trainer_log.jsonl",
        "TensorBoard",
        "training_loss.png is not drawn",
        "report.html is not written",
        "sample_predictions.jsonl",
    ] {
        let warned = outcome.stderr.lines().any(|line| line.starts_with("warning: ") && line.contains(part));
        assert!(warned, "{part}: {}", outcome.stderr);
    }
    for name in ["adapter_model.safetensors", "train_results.json", "trainer_state.json"] {
        assert!(work.path("out").join(name).is_file(), "{name}");
    }

    let outcome = work.train("off", &["--report", "false"]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    for name in ["report.html", "sample_predictions.jsonl", "runs", "training_loss.png"] {
        assert!(!work.path("off").join(name).exists(), "{name}");
    }
    let outcome = run(&mut work.command("off2", &["--report_to", "tensorbord"]));
    assert_eq!(outcome.code, Some(2), "{}", outcome.stderr);
    assert!(
        outcome.stderr.contains("report_to") && outcome.stderr.contains("`tensorbord`"),
        "{}",
        outcome.stderr
    );
    let (code, _, stderr) = medley(&work, &["report", "--output_dir", "model"]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("model holds no run"), "{stderr}");
}
