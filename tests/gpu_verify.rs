//! `gpu-verify` as a whole, on the simulator.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;
use std::process::{Command, Output};

fn gpu_verify(args: &[&str]) -> Output {
    Command::new(assert_cmd::cargo::cargo_bin("gpu-verify")).args(args).output().unwrap()
}

fn words(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn reports() -> Vec<std::ffi::OsString> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/gpu");
    let mut names: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    names
}

/// Every kernel against the CPU, and a report where it was asked for and nowhere else.
#[test]
fn kernels_agree_on_the_simulator() {
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("report.md");
    let before = reports();
    let run = gpu_verify(&["--device", "sim", "--only", "ops", "--output", report.to_str().unwrap()]);
    assert_eq!(run.status.code(), Some(0), "{}{}", words(&run.stdout), words(&run.stderr));
    let text = std::fs::read_to_string(report).unwrap();
    assert!(text.contains("- everything agrees") && !text.contains("FAULT"), "{text}");
    for op in medley_kernels::ops::NAMES {
        assert!(text.contains(&format!("\n| {op} | ")), "no row for {op} in\n{text}");
    }
    assert_eq!(reports(), before, "a simulated card's report is no document");
}

#[test]
fn training_agrees_on_the_simulator() {
    let run = gpu_verify(&["--device", "sim", "--only", "train"]);
    let text = words(&run.stdout);
    assert_eq!(run.status.code(), Some(0), "{text}{}", words(&run.stderr));
    assert!(text.contains("\nlora ") && text.contains("\nqlora "), "{text}");
}

/// A prediction for every chosen bench and every card, each of them a time.
#[test]
fn benches_are_predicted_on_the_simulator() {
    let run = gpu_verify(&["--device", "sim", "--only", "bench", "--filter", "bf16"]);
    let text = words(&run.stdout);
    assert_eq!(run.status.code(), Some(0), "{text}{}", words(&run.stderr));
    for card in ["RTX 3090", "RTX 4090", "A100", "H100", "L4"] {
        assert!(text.contains(card), "{text}");
    }
    let rows: Vec<&str> = text.lines().filter(|line| line.contains(" bf16 ")).collect();
    for (family, count) in [("gemm ", 12), ("lora ", 2), ("layer ", 1)] {
        assert_eq!(rows.iter().filter(|row| row.starts_with(family)).count(), count, "{text}");
    }
    for row in rows {
        let times: Vec<f64> =
            row.split_whitespace().rev().take(5).map(|cell| cell.parse().unwrap()).collect();
        assert!(times.iter().all(|ms| *ms > 0.0), "{row}");
    }
}

#[test]
fn without_a_driver_it_says_what_is_missing() {
    if Path::new("/dev/nvidia0").exists() {
        return;
    }
    let run = gpu_verify(&["--only", "ops"]);
    assert_eq!(run.status.code(), Some(2));
    let text = words(&run.stderr);
    assert!(text.starts_with("gpu-verify: ") && text.contains("driver"), "{text}");
    assert!(!text.contains("panicked"), "{text}");
}
