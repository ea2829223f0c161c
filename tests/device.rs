//! `medley train --device sim`: the CUDA path as a whole, on the simulated card, against the CPU.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

// Shared by several test programs, none of which uses all of it.
#[allow(dead_code)]
mod workplace;

use medley_tensor::io::{Safetensors, StoredDType};
use workplace::{Outcome, Workplace, run, step_entries};

fn finished(outcome: Outcome) {
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
}

fn losses(work: &Workplace, output: &str) -> Vec<f64> {
    step_entries(&work.path(output)).iter().map(|entry| entry["loss"].as_f64().unwrap()).collect()
}

#[test]
fn ten_steps_on_the_card_follow_the_cpus_loss() {
    let work = Workplace::new();
    let methods: [(&str, &[&str]); 3] = [
        ("lora", &["--learning_rate", "1e-2"]),
        (
            "qlora",
            &["--learning_rate", "1e-2", "--quantization_bit", "4", "--gradient_checkpointing", "true"],
        ),
        ("full", &["--learning_rate", "2e-3", "--finetuning_type", "full"]),
    ];
    for (method, options) in methods {
        let mut options = options.to_vec();
        options.extend(["--max_steps", "10"]);
        let cpu = format!("{method}_cpu");
        finished(work.train(&cpu, &[&options[..], &["--device", "cpu"]].concat()));
        let want = losses(&work, &cpu);
        assert!(want[9] < want[0], "nothing was learned: {want:?}");
        // A step that loss scaling skips leaves the run one update behind.
        for (precision, bound) in [("--bf16", 0.03), ("--fp16", 0.03)] {
            let sim = format!("{method}{precision}");
            finished(work.train(&sim, &[&options[..], &["--device", "sim", precision, "true"]].concat()));
            let got = losses(&work, &sim);
            assert_eq!(got.len(), want.len());
            for (step, (got, want)) in got.iter().zip(&want).enumerate() {
                let error = (got - want).abs() / want;
                assert!(error < bound, "{sim}, step {}: {got}, on the CPU {want}", step + 1);
            }
        }
    }
}

/// Four steps at once, and as after a crash between steps 2 and 4, give the same `weights` file. The run at
/// once is `whole`.
fn resumes_to_the_bit(options: &[&str], weights: &str) -> Workplace {
    let work = Workplace::new();
    let options = [options, &["--max_steps", "4", "--save_strategy", "steps", "--save_steps", "2"]].concat();
    finished(work.train("whole", &options));
    finished(work.train("cut", &options));
    std::fs::remove_dir_all(work.path("cut/checkpoint-4")).unwrap();
    for file in [weights, "trainer_state.json"] {
        std::fs::remove_file(work.path("cut").join(file)).unwrap();
    }
    finished(work.train("cut", &[&options[..], &["--resume_from_checkpoint", "true"]].concat()));
    let read = |run: &str| std::fs::read(work.path(run).join(weights)).unwrap();
    assert!(read("whole") == read("cut"), "the weights differ: {options:?}");
    work
}

#[test]
fn a_run_on_the_card_resumes_to_the_bit() {
    // Weights that overflow f16 at the first scales: what is skipped must not count as an update.
    let weights = "qa=4,summarization=4,classification=4";
    let options = ["--device", "sim", "--fp16", "true", "--task_weights", weights];
    let work = resumes_to_the_bit(&options, "adapter_model.safetensors");
    let entries = step_entries(&work.path("whole"));
    let skipped: Vec<f64> = entries.iter().map(|entry| entry["skipped_steps"].as_f64().unwrap()).collect();
    assert!(skipped[1] == 1.0 && skipped[3] < 4.0, "one of two steps before the checkpoint: {skipped:?}");
    // Its loss scale cannot be carried on elsewhere.
    let elsewhere = ["--device", "cpu", "--max_steps", "4", "--resume_from_checkpoint", "true"];
    let refused = work.train("cut", &elsewhere);
    assert_eq!(refused.code, Some(1), "{}", refused.stderr);
    assert!(refused.stderr.contains("fp16"), "{}", refused.stderr);
}

#[test]
fn moments_in_8_bits_resume_to_the_bit() {
    for device in ["cpu", "sim"] {
        let options =
            ["--device", device, "--bf16", "true", "--optim", "adamw_8bit", "--finetuning_type", "full"];
        let work = resumes_to_the_bit(&options, "model.safetensors");
        let saved = Safetensors::open(work.path("whole/checkpoint-2/optimizer.safetensors")).unwrap();
        let codes = saved.info("exp_avg/model.embed_tokens.weight").unwrap();
        assert_eq!(codes.dtype, StoredDType::U8);
        // Rows of tokens that the data has not are never moved; those it has are.
        assert!(codes.data().iter().any(|code| *code != codes.data()[0]));
    }
}

#[test]
fn what_was_trained_on_the_card_is_used_on_the_cpu_and_back() {
    let work = Workplace::new();
    let trained = work.train("out", &["--device", "sim", "--bf16", "true", "--max_steps", "3"]);
    assert!(trained.stderr.contains("computing on sim in bf16, which"), "{}", trained.stderr);
    finished(trained);
    let medley = |arguments: &[&str]| {
        let mut command = std::process::Command::new(assert_cmd::cargo::cargo_bin("medley"));
        command.current_dir(work.path(".")).args(arguments);
        command.args(["--model_name_or_path", "model", "--adapter_name_or_path", "out"]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let logits = |device: &str| {
        let file = format!("{}.safetensors", device);
        medley(&["logits", "--input_ids", "5,6,7,8,9,60,61", "--output", &file, "--device", device]);
        let file = Safetensors::open(work.path(&file)).unwrap();
        let bytes = file.info("logits").unwrap().data();
        bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect::<Vec<f32>>()
    };
    let (got, want) = (logits("sim"), logits("cpu"));
    assert_eq!(got.len(), 7 * 320);
    let size = want.iter().map(|x| x.abs()).fold(0.0, f32::max);
    let error = got.iter().zip(&want).map(|(g, w)| (g - w).abs()).fold(0.0, f32::max);
    assert!(error < 0.03 * size, "off by {error} of {size}");

    let prompt = ["--template", "alpaca", "--prompt", "Which section?", "--do_sample", "false"];
    let text = |device: &str| {
        medley(&[&["generate", "--max_new_tokens", "6", "--device", device], &prompt[..]].concat())
    };
    assert_eq!(text("sim"), text("cpu"));
}

/// A run whose first checkpoint is good and whose card then fails, by `fault`.
fn fails_after_its_checkpoint(fault: (&str, &str), said: &[&str]) {
    let work = Workplace::new();
    let options = ["--device", "sim", "--bf16", "true", "--max_steps", "4", "--save_strategy", "steps"];
    let options = [&options[..], &["--save_steps", "1", "--lora_dropout", "0.0"]].concat();
    let mut command = work.command("out", &options);
    let outcome = run(command.env(fault.0, fault.1));
    assert_eq!(outcome.code, Some(1), "{}", outcome.stderr);
    for part in said {
        assert!(outcome.stderr.contains(part), "{part} is missing in: {}", outcome.stderr);
    }
    assert!(work.path("out/checkpoint-1").is_dir(), "{}", outcome.stderr);
    assert!(!work.path("out/checkpoint-4").exists());
    finished(work.train("out", &[&options[..], &["--resume_from_checkpoint", "true"]].concat()));
    finished(work.train("whole", &options));
    let adapter = |run: &str| std::fs::read(work.path(run).join("adapter_model.safetensors")).unwrap();
    assert!(adapter("whole") == adapter("out"), "the adapters differ");
}

#[test]
fn memory_that_runs_out_costs_no_finished_work() {
    fails_after_its_checkpoint(
        ("MEDLEY_SIM_FAIL_ALLOC", "1500"),
        &["error: ", "out of memory on sim", "per_device_train_batch_size"],
    );
}

#[test]
fn a_kernel_that_fails_costs_no_finished_work() {
    fails_after_its_checkpoint(("MEDLEY_SIM_FAIL_LAUNCH", "900"), &["error: ", "kernel"]);
}

#[test]
fn cards_that_are_too_small_or_too_old_are_told_from_others() {
    let work = Workplace::new();
    for (variable, value, said) in [
        ("MEDLEY_SIM_MEMORY", "60000", "out of memory on sim"),
        ("MEDLEY_SIM_SM", "75", "sm_75"),
        ("MEDLEY_SIM_SM", "new", "MEDLEY_SIM_SM"),
    ] {
        let outcome = run(work.command("out", &["--device", "sim"]).env(variable, value));
        assert_eq!(outcome.code, Some(1), "{}", outcome.stderr);
        assert!(outcome.stderr.contains("error: ") && outcome.stderr.contains(said), "{}", outcome.stderr);
        assert!(!work.path("out").exists());
    }
}

#[test]
fn a_card_that_is_not_there_is_named() {
    let work = Workplace::new();
    let outcome = work.train("out", &["--device", "cuda:9"]);
    assert_eq!(outcome.code, Some(1), "{}", outcome.stderr);
    let said = outcome.stderr;
    assert!(said.contains("error: ") && (said.contains("libcuda") || said.contains("cuda:9")), "{said}");
    assert!(said.contains("--device cpu"), "{said}");
    assert!(!work.path("out").exists());
}
