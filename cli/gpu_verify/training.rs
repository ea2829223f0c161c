//! A short training run of the example model, on the CPU and on the device: their losses must agree.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::report::{Table, number};

/// Largest difference between the losses of one step, as a share of the loss: bfloat16 keeps eight bits.
const BOUND: f64 = 0.02;

/// How a run is cut to size.
struct Size {
    steps: usize,
    cutoff: usize,
    batch: usize,
}

/// Trains with the `medley` binary and compares; the table, and the faults found.
///
/// # Errors
/// When a run cannot be started or fails.
pub fn verify(device: &str, quick: bool) -> Result<(Table, Vec<String>)> {
    let size = if quick {
        Size { steps: 2, cutoff: 24, batch: 1 }
    } else {
        Size { steps: 20, cutoff: 512, batch: 8 }
    };
    let medley = medley()?;
    let work = WorkFolder::new()?;
    let mut table = Table::new(
        "Training run",
        "LoRA on every linear layer of the example model in bf16; loss a step on the CPU (f32) and on the device.",
        &[
            "method",
            "steps",
            "first loss",
            "last loss, CPU",
            "last loss, device",
            "worst difference",
            "tokens/s",
        ],
    );
    let mut faults = vec![];
    for method in ["lora", "qlora"] {
        let cpu = train(&medley, &work, "cpu", method, &size)?;
        let got = train(&medley, &work, device, method, &size)?;
        ensure!(
            !cpu.is_empty() && cpu.len() == got.len(),
            "{} steps on the CPU, {} on {device}",
            cpu.len(),
            got.len()
        );
        let differences = cpu.iter().zip(&got).map(|(c, g)| (c.loss - g.loss).abs() / c.loss.abs().max(1e-6));
        let worst =
            differences.fold(0.0, |worst: f64, d| if d.is_nan() { f64::INFINITY } else { worst.max(d) });
        if worst > BOUND {
            faults.push(format!("training with {method}: losses differ by {:.1} %", 100.0 * worst));
        }
        let (first, last) = (&cpu[0], &cpu[cpu.len() - 1]);
        let end = &got[got.len() - 1];
        table.rows.push(vec![
            method.into(),
            cpu.len().to_string(),
            number(first.loss),
            number(last.loss),
            number(end.loss),
            format!("{} %", number(100.0 * worst)),
            number(end.tokens_per_second),
        ]);
    }
    Ok((table, faults))
}

/// A step as `trainer_state.json` logs it.
#[derive(Debug, PartialEq)]
struct Step {
    loss: f64,
    tokens_per_second: f64,
}

fn train(medley: &Path, work: &WorkFolder, device: &str, method: &str, size: &Size) -> Result<Vec<Step>> {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let output = work.0.join(format!("{}-{method}", device.replace(':', "")));
    let mut command = Command::new(medley);
    command
        .arg("train")
        .arg("--model_name_or_path")
        .arg(examples.join("base-model"))
        .arg("--dataset_dir")
        .arg(examples.join("data"))
        .arg("--output_dir")
        .arg(&output)
        .args([
            "--do_train",
            "true",
            "--stage",
            "sft",
            "--data_files",
            "qa.jsonl.zst",
            "--template",
            "alpaca",
        ])
        .args(["--finetuning_type", "lora", "--lora_rank", "8", "--lora_target", "all"])
        .args(["--learning_rate", "1e-3", "--logging_steps", "1", "--save_strategy", "no"])
        .args(["--max_steps", &size.steps.to_string(), "--cutoff_len", &size.cutoff.to_string()])
        .args(["--per_device_train_batch_size", &size.batch.to_string(), "--device", device]);
    if method == "qlora" {
        command.args(["--quantization_bit", "4"]);
    }
    if device != "cpu" {
        command.args(["--bf16", "true"]);
    }
    let run = command.output().with_context(|| format!("{} does not start", medley.display()))?;
    if !run.status.success() {
        let words = String::from_utf8_lossy(&run.stderr).trim_end().to_owned();
        bail!("medley train --device {device} ({method}) fails:\n{words}");
    }
    let state = output.join("trainer_state.json");
    let text = std::fs::read_to_string(&state).with_context(|| state.display().to_string())?;
    steps(&text).with_context(|| state.display().to_string())
}

/// The training steps of a `trainer_state.json`.
fn steps(text: &str) -> Result<Vec<Step>> {
    let state: Value = serde_json::from_str(text)?;
    let history = state["log_history"].as_array().context("it has no log_history")?;
    let entries = history.iter().filter(|entry| entry.get("loss").is_some());
    Ok(entries
        .map(|entry| Step {
            loss: entry["loss"].as_f64().unwrap_or(f64::NAN),
            tokens_per_second: entry["tokens_per_second"].as_f64().unwrap_or(f64::NAN),
        })
        .collect())
}

/// The `medley` binary beside this one; built first where `cargo run` runs this one, so that it is as new.
fn medley() -> Result<PathBuf> {
    let here = std::env::current_exe().context("where this program lies")?;
    let medley = here.with_file_name(format!("medley{}", std::env::consts::EXE_SUFFIX));
    if let Some(cargo) = std::env::var_os("CARGO").filter(|_| !medley.exists()) {
        eprintln!("building the medley binary");
        let mut build = Command::new(cargo);
        build.args([
            "build",
            "--bin",
            "medley",
            "--manifest-path",
            concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"),
        ]);
        if !cfg!(debug_assertions) {
            build.arg("--release");
        }
        ensure!(
            build.status().context("cargo does not start")?.success(),
            "the medley binary does not build"
        );
    }
    ensure!(medley.exists(), "{} is missing: cargo build --release", medley.display());
    Ok(medley)
}

/// A folder that goes away with its owner.
struct WorkFolder(PathBuf);

impl WorkFolder {
    fn new() -> Result<WorkFolder> {
        let folder = std::env::temp_dir().join(format!("medley-gpu-verify-{}", std::process::id()));
        std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        Ok(WorkFolder(folder))
    }
}

impl Drop for WorkFolder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("warning: {} stays behind: {error}", self.0.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_of_a_trainer_state() {
        let text = r#"{"log_history": [{"step": 1, "loss": 2.5, "tokens_per_second": 10.0},
            {"step": 1, "eval_loss": 2.0}, {"step": 2, "loss": null}]}"#;
        let found = steps(text).unwrap();
        assert_eq!(found[0], Step { loss: 2.5, tokens_per_second: 10.0 });
        assert!(found.len() == 2 && found[1].loss.is_nan(), "a loss that is no number is not a loss of zero");
        assert!(steps("{}").is_err());
    }
}
