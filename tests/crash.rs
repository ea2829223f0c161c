//! What stops a run, or should not: kill -9 at any instant, signals, a folder that cannot be written, losses that
//! leap or are no numbers. Nothing finished is lost, and what goes on ends where an undisturbed run does.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

// Shared by several test programs, none of which uses all of it.
#[allow(dead_code)]
mod workplace;

use medley_tensor::rng::Philox;
use medley_train::trainer::checkpoint;
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use workplace::{Workplace, json, listing, run};

/// What a finished run leaves, without what depends on the clock: weights and history.
fn result(output: &Path) -> (Vec<u8>, Vec<Value>) {
    let weights = std::fs::read(output.join("adapter_model.safetensors")).unwrap();
    let mut history = json(&output.join("trainer_state.json"))["log_history"].as_array().unwrap().clone();
    for entry in &mut history {
        for timing in ["tokens_per_second", "train_runtime", "eval_runtime"] {
            entry.as_object_mut().unwrap().remove(timing);
        }
    }
    (weights, history)
}

fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill").args([name, &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

/// Kills over all runs of the test.
const KILLS: usize = 100;

#[test]
fn a_hundred_kills_change_nothing() {
    let work = Workplace::new();
    let extra = [
        "--max_steps",
        "400",
        "--logging_steps",
        "7",
        "--save_strategy",
        "steps",
        "--save_steps",
        "5",
        "--save_total_limit",
        "2",
        "--sampling_strategy",
        "balanced",
        "--resume_from_checkpoint",
        "true",
    ];
    let whole = work.train("whole", &extra);
    assert_eq!(whole.code, Some(0), "{}", whole.stderr);
    let expected = result(&work.path("whole"));

    let seed = u64::from(std::process::id());
    let mut rng = Philox::new(seed, 0);
    let (mut kills, mut finished, mut steps) = (0, 0, vec![]);
    while kills < KILLS {
        let output = format!("killed-{finished}");
        let mut child = work.command(&output, &extra).stderr(Stdio::null()).spawn().unwrap();
        // From before the folder exists to some way behind the next checkpoints.
        std::thread::sleep(Duration::from_micros(rng.below(250_000) as u64));
        if kills % 10 == 9 {
            // As a laptop that sleeps for a moment.
            signal(&child, "-STOP");
            std::thread::sleep(Duration::from_millis(20));
            signal(&child, "-CONT");
        }
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success(), "seed {seed}");
            assert!(result(&work.path(&output)) == expected, "seed {seed}, {output}");
            finished += 1;
            continue;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
        let found = checkpoint::list(&work.path(&output)).unwrap();
        for (step, folder) in &found {
            assert_eq!(checkpoint::verify(folder).unwrap(), *step, "seed {seed}, kill {kills}");
        }
        steps.push(found.last().map_or(0, |(step, _)| *step));
    }
    assert!(steps.iter().any(|s| *s > 0), "every kill came before the first checkpoint: {steps:?}");
    let output = format!("killed-{finished}");
    let last = work.train(&output, &extra);
    assert_eq!(last.code, Some(0), "seed {seed}: {}", last.stderr);
    assert!(result(&work.path(&output)) == expected, "seed {seed}");
    let left = listing(&work.path(&output));
    assert!(left.iter().all(|path| !path.contains(".tmp") && !path.contains(".lock")), "{left:?}");
}

#[test]
fn sigterm_ends_a_run_as_ctrl_c_does() {
    let work = Workplace::new();
    let mut child =
        work.command("out", &["--max_steps", "100000", "--logging_steps", "1000"]).spawn().unwrap();
    while !work.path("out").exists() {
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(Duration::from_millis(150));
    signal(&child, "-TERM");
    assert_eq!(child.wait().unwrap().code(), Some(1));
    let found = checkpoint::list(&work.path("out")).unwrap();
    let [(step, folder)] = &found[..] else { panic!("{found:?}") };
    assert_eq!(checkpoint::verify(folder).unwrap(), *step);
}

#[test]
fn a_second_run_is_kept_out_of_the_folder() {
    let work = Workplace::new();
    let mut first =
        work.command("out", &["--max_steps", "100000", "--logging_steps", "1000"]).spawn().unwrap();
    while !work.path("out/.medley.lock").exists() {
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(Duration::from_millis(50));
    let second = work.train("out", &["--overwrite_output_dir", "true"]);
    first.kill().unwrap();
    first.wait().unwrap();
    assert_eq!(second.code, Some(1));
    assert!(second.stderr.contains("another run is writing into output_dir out"), "{}", second.stderr);
    let third = work.train("out", &["--overwrite_output_dir", "true"]);
    assert_eq!(third.code, Some(0), "{}", third.stderr);
}

/// Puts a folder where a file of the results should go: to write it fails, whoever tries.
#[test]
fn what_cannot_be_written_at_the_end_is_saved_elsewhere() {
    let work = Workplace::new();
    let extra = ["--max_steps", "8"];
    let whole = work.train("whole", &extra);
    assert_eq!(whole.code, Some(0), "{}", whole.stderr);
    std::fs::create_dir_all(work.path("out/adapter_model.safetensors/in_the_way")).unwrap();
    let temporary = work.path("tmp");
    std::fs::create_dir(&temporary).unwrap();
    let outcome = run(work.command("out", &extra).env("TMPDIR", &temporary));
    assert_eq!(outcome.code, Some(1));
    let (_, told) = outcome.stderr.split_once("go on with --resume_from_checkpoint ").unwrap();
    let path = told.lines().next().unwrap();
    assert!(path.starts_with(temporary.to_str().unwrap()), "{}", outcome.stderr);
    // Done as told, once the way is free.
    std::fs::remove_dir_all(work.path("out")).unwrap();
    let resumed = work.train("out", &[&extra[..], &["--resume_from_checkpoint", path]].concat());
    assert_eq!(resumed.code, Some(0), "{}", resumed.stderr);
    assert!(result(&work.path("out")).0 == result(&work.path("whole")).0);
}

#[test]
fn a_checkpoint_that_cannot_be_written_does_not_end_the_run() {
    let work = Workplace::new();
    let extra = ["--max_steps", "12", "--save_strategy", "steps", "--save_steps", "4"];
    let whole = work.train("whole", &extra);
    assert_eq!(whole.code, Some(0), "{}", whole.stderr);
    // A file stands where the second checkpoint is written.
    std::fs::create_dir(work.path("out")).unwrap();
    std::fs::write(work.path("out/.checkpoint-8.tmp"), "").unwrap();
    let outcome = work.train("out", &extra);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("step 8: the checkpoint could not be saved"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("the run goes on"), "{}", outcome.stderr);
    let steps: Vec<u64> = checkpoint::list(&work.path("out")).unwrap().into_iter().map(|(s, _)| s).collect();
    assert_eq!(steps, [4, 12]);
    assert!(result(&work.path("out")) == result(&work.path("whole")));
}

/// 320 rows of one task in file order; row 281, in step 71, is nothing like the others.
fn poisoned() -> Workplace {
    let work = Workplace::new();
    let row = |i: usize| {
        let output = match i {
            281 => "Zq#7~Vx@0!Kw%9^Jy&Q*(Bz)".repeat(3),
            _ => ["a parser", "a game"][i % 2].to_string(),
        };
        json!({"instruction": "What is it?", "input": format!("It is {i}."), "output": output}).to_string()
    };
    let rows: Vec<String> = (1..=320).map(row).collect();
    work.write("odd.jsonl", rows.join("\n"));
    work
}

const IN_ORDER: [&str; 12] = [
    "--data_files",
    "odd.jsonl",
    "--disable_shuffling",
    "true",
    "--max_steps",
    "78",
    "--lora_dropout",
    "0.1",
    "--save_strategy",
    "steps",
    "--save_steps",
    "6",
];

fn odd(work: &Workplace, output: &str, more: &[&str]) -> workplace::Outcome {
    let outcome = work.train(output, &[&IN_ORDER[..], more].concat());
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    outcome
}

#[test]
fn a_loss_that_leaps_is_reported_with_its_example() {
    let work = poisoned();
    let leap = "step 71: the loss of odd leapt to ";
    let warned = odd(&work, "warned", &[]);
    assert!(warned.stderr.contains(leap), "{}", warned.stderr);
    let (_, report) = warned.stderr.split_once(leap).unwrap();
    assert!(
        report.split_once("Among its examples: ").unwrap().1.starts_with("./odd.jsonl:281 (loss "),
        "{report}"
    );
    // A warning changes nothing.
    let off = odd(&work, "off", &["--loss_spike_threshold", "0"]);
    assert!(!off.stderr.contains("leapt"), "{}", off.stderr);
    assert!(result(&work.path("off")) == result(&work.path("warned")));

    let skipped = odd(&work, "skipped", &["--loss_spike_action", "skip"]);
    assert!(skipped.stderr.contains("the step was left out"), "{}", skipped.stderr);
    let history = result(&work.path("skipped")).1;
    let at = |step: u64| history.iter().find(|e| e["step"] == step && e.get("train_loss").is_none()).unwrap();
    assert!(at(71).get("loss").is_none() && at(71)["left_out_steps"] == 1.0, "{}", at(71));
    assert!(at(72)["loss"].as_f64().unwrap() < 2.0 * at(70)["loss"].as_f64().unwrap());

    let stopped = work.train("stopped", &[&IN_ORDER[..], &["--loss_spike_action", "stop"]].concat());
    assert_eq!(stopped.code, Some(1));
    assert!(stopped.stderr.contains("odd.jsonl:281"), "{}", stopped.stderr);
}

#[test]
fn a_run_that_was_rolled_back_can_be_resumed() {
    let work = poisoned();
    let rolled = odd(&work, "rolled", &["--loss_spike_action", "rollback"]);
    assert!(
        rolled.stderr.contains("the run went back to rolled/checkpoint-66 and goes on with the data after"),
        "{}",
        rolled.stderr
    );
    let whole = result(&work.path("rolled"));
    let last = whole.1.iter().rfind(|e| e.get("loss").is_some()).unwrap();
    assert_eq!((&last["step"], &last["rollbacks"]), (&json!(78), &json!(1.0)));
    let from = ["--loss_spike_action", "rollback", "--resume_from_checkpoint", "rolled/checkpoint-72"];
    odd(&work, "resumed", &from);
    assert!(result(&work.path("resumed")) == whole);

    let refused = work.train("no", &["--loss_spike_action", "rollback"]);
    assert_eq!(refused.code, Some(2));
    assert!(refused.stderr.contains("rolling back needs checkpoints"), "{}", refused.stderr);
}
