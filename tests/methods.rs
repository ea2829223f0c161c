//! Optimizers and ways of fine-tuning as a whole: each trains, goes on from a checkpoint to the bit, and leaves what other
//! programs read.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

// Shared by several test programs, none of which uses all of it.
#[allow(dead_code)]
mod workplace;

use safetensors::SafeTensors;
use serde_json::Value;
use std::path::Path;
use workplace::{Outcome, Workplace, json, step_entries};

fn finished(outcome: Outcome) -> String {
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    outcome.stderr
}

/// The weights a run wrote and the losses it logged.
fn result(output: &Path) -> (Vec<u8>, Vec<Value>) {
    let files = ["adapter_model.safetensors", "model.safetensors"];
    let weights = files.iter().find_map(|name| std::fs::read(output.join(name)).ok()).unwrap();
    (weights, step_entries(output).iter().map(|e| e["loss"].clone()).collect())
}

const STEPS: [&str; 6] = ["--max_steps", "6", "--save_strategy", "steps", "--save_steps", "3"];

/// Six steps, and the last three again from the checkpoint between: the same weights and losses, and learning.
fn resumes(work: &Workplace, output: &str, kind: &[&str]) {
    let extra = [&STEPS[..], kind].concat();
    finished(work.train(output, &extra));
    let (checkpoint, resumed) = (format!("{output}/checkpoint-3"), format!("{output}_resumed"));
    finished(work.train(&resumed, &[&extra[..], &["--resume_from_checkpoint", &checkpoint]].concat()));
    let (whole, again) = (result(&work.path(output)), result(&work.path(&resumed)));
    assert!(whole.0 == again.0, "{kind:?}: the weights differ");
    assert_eq!(whole.1, again.1, "{kind:?}");
    let [first, last] = [0, 5].map(|i| whole.1[i].as_f64().unwrap());
    assert!(last < first, "{kind:?}: {first} {last}");
}

#[test]
fn every_optimizer_goes_on_to_the_bit() {
    let work = Workplace::new();
    for (optim, rate) in [("lion", "1e-3"), ("lion_8bit", "1e-3"), ("adafactor", "1e-2")] {
        resumes(&work, optim, &["--optim", optim, "--learning_rate", rate, "--weight_decay", "0.01"]);
    }
    let full = ["--optim", "adafactor", "--finetuning_type", "full", "--learning_rate", "1e-3"];
    resumes(&work, "full", &full);
    // Another optimizer's state is no state of this one.
    let other = ["--optim", "lion", "--resume_from_checkpoint", "full/checkpoint-3"];
    let refused = work.train("other", &[&STEPS[..], &full[2..], &other].concat());
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("exp_avg/"), "{}", refused.stderr);
}

#[test]
fn lora_plus_and_noise_go_on_to_the_bit() {
    let work = Workplace::new();
    resumes(
        &work,
        "plus",
        &["--loraplus_lr_ratio", "8", "--learning_rate", "1e-3", "--neftune_noise_alpha", "5"],
    );
    finished(work.train("plain", &["--max_steps", "6", "--learning_rate", "1e-3"]));
    let [plus, plain] = ["plus", "plain"].map(|o| result(&work.path(o)).1);
    assert!(plus[0] != plain[0], "noise changes the first loss");
}

/// Names and values of a folder's weights, as bf16 bits.
fn weights(file: &Path) -> Vec<(String, Vec<u8>)> {
    let bytes = std::fs::read(file).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut all: Vec<_> = file.iter().map(|(name, t)| (name.to_string(), t.data().to_vec())).collect();
    all.sort();
    all
}

#[test]
fn freeze_changes_what_it_names_and_nothing_else() {
    let work = Workplace::new();
    let freeze = [
        "--finetuning_type",
        "freeze",
        "--freeze_trainable_layers",
        "1",
        "--freeze_trainable_modules",
        "mlp",
        "--freeze_extra_modules",
        "norm",
        "--gradient_checkpointing",
    ];
    resumes(&work, "frozen", &freeze);
    let before = weights(&work.path("model/model.safetensors"));
    let after = weights(&work.path("frozen/model.safetensors"));
    assert_eq!(before.len(), after.len());
    let changed: Vec<&str> =
        before.iter().zip(&after).filter(|(b, a)| b != a).map(|(b, _)| b.0.as_str()).collect();
    let mlp = ["down_proj", "gate_proj", "up_proj"].map(|k| format!("model.layers.1.mlp.{k}.weight"));
    assert_eq!(changed, [mlp[0].as_str(), &mlp[1], &mlp[2], "model.norm.weight"]);

    // A checkpoint holds the base as it is stored, and the trained weights in full precision beside it.
    let size = |file: &str| std::fs::metadata(work.path(file)).unwrap().len();
    assert!(size("frozen/checkpoint-3/model.safetensors") < size("model/model.safetensors") + 1024);
    let kept = weights(&work.path("frozen/checkpoint-3/optimizer.safetensors"));
    assert_eq!(kept.iter().filter(|(name, _)| name.starts_with("param/")).count(), 4);

    for (options, part) in [
        (&["--quantization_bit", "4"][..], "4-bit weights cannot be trained"),
        (&["--freeze_extra_modules", "lm_head"], "embed_tokens trains both"),
        (&["--freeze_trainable_modules", "q_proj"], "no module `q_proj`"),
        (&["--loraplus_lr_ratio", "4"], "belongs to adapters"),
    ] {
        let kept = freeze.iter().filter(|o| !options.contains(o)).copied();
        let names: Vec<&str> = kept.take(2).chain(options.iter().copied()).collect();
        let refused = work.train("refused", &names);
        assert!(refused.code != Some(0) && refused.stderr.contains(part), "{options:?}: {}", refused.stderr);
    }
}

#[test]
fn modules_beside_an_adapter_are_in_its_file_and_merge() {
    let work = Workplace::new();
    resumes(
        &work,
        "saved",
        &["--additional_target", "embed_tokens,lm_head", "--lora_target", "q_proj,v_proj"],
    );
    let output = work.path("saved");
    let config = json(&output.join("adapter_config.json"));
    assert_eq!(config["modules_to_save"], serde_json::json!(["embed_tokens", "lm_head"]));
    let adapter = weights(&output.join("adapter_model.safetensors"));
    let [embedding, head] = ["model.embed_tokens", "lm_head"].map(|module| {
        let name = format!("base_model.model.{module}.weight");
        adapter.iter().find(|(n, _)| *n == name).unwrap_or_else(|| panic!("{name} is missing")).1.clone()
    });
    assert!(embedding.len() == 4 * 320 * 32 && embedding != head, "both are trained, apart");

    // The merged model gives the adapter's logits.
    let medley = |args: &[&str]| {
        let mut command = std::process::Command::new(assert_cmd::cargo::cargo_bin("medley"));
        finished(workplace::run(command.current_dir(work.path("")).args(args)));
    };
    let of = ["logits", "--model_name_or_path"];
    let ids = ["--device", "cpu", "--input_ids", "5,60,17,200", "--output"];
    medley(&[&of[..], &["model", "--adapter_name_or_path", "saved"], &ids, &["a.safetensors"]].concat());
    medley(&[
        "export",
        "--model_name_or_path",
        "model",
        "--adapter_name_or_path",
        "saved",
        "--export_dir",
        "merged",
    ]);
    medley(&[&of[..], &["merged"], &ids, &["b.safetensors"]].concat());
    medley(&[&of[..], &["model"], &ids, &["c.safetensors"]].concat());
    let logits = |file: &str| -> Vec<f32> {
        let all = weights(&work.path(file));
        all[0].1.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    };
    let (adapted, merged, base) = (logits("a.safetensors"), logits("b.safetensors"), logits("c.safetensors"));
    let apart = |x: &[f32]| x.iter().zip(&adapted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(apart(&merged) < 0.05 && apart(&base) > 0.1, "{} {}", apart(&merged), apart(&base));
    assert_eq!(json(&work.path("merged/config.json"))["tie_word_embeddings"], false);

    // Going on with the adapter trains its modules too; naming them twice is refused.
    finished(work.train("more", &["--adapter_name_or_path", "saved", "--max_steps", "2"]));
    assert!(
        weights(&work.path("more/adapter_model.safetensors"))
            .iter()
            .any(|(n, v)| { n == "base_model.model.lm_head.weight" && *v != head })
    );
    let twice = work.train("twice", &["--adapter_name_or_path", "saved", "--additional_target", "lm_head"]);
    assert!(twice.code != Some(0) && twice.stderr.contains("additional_target"), "{}", twice.stderr);
}
