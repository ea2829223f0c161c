//! The binary's arguments, from outside: what it prints, where, and the exit code.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use assert_cmd::Command;

struct Outcome {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

fn medley(words: &[&str]) -> Outcome {
    let output = Command::cargo_bin("medley").unwrap().args(words).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Outcome { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

#[test]
fn help_and_version_go_to_stdout() {
    let version = medley(&["--version"]);
    assert_eq!(version.stdout, format!("medley {}\n", env!("CARGO_PKG_VERSION")));
    for words in [&[][..], &["help"], &["--help"]] {
        let help = medley(words);
        assert_eq!(help.code, Some(0));
        assert!(
            help.stdout.contains("Usage: medley COMMAND") && help.stdout.contains("  train "),
            "{}",
            help.stdout
        );
        assert_eq!(help.stderr, "");
    }
    let (long, short) = (medley(&["train", "--help"]), medley(&["help", "train"]));
    assert_eq!(long.stdout, short.stdout);
    assert!(long.stdout.contains("--task_weights NAME=X,…"), "{}", long.stdout);
    let compatibility = medley(&["help", "llamafactory"]);
    assert!(compatibility.stdout.contains("preprocessing_num_workers"), "{}", compatibility.stdout);
}

#[test]
fn wrong_words_exit_with_2_and_say_what_was_meant() {
    let cases = [
        (&["trian"][..], "there is no command `trian`; did you mean `train`?"),
        (
            &["train", "--lora_rnak", "8"],
            "--lora_rnak: unknown option `lora_rnak`; did you mean `--lora_rank`?",
        ),
        (&["train", "--stage", "dpo"], "--stage: expected one of sft, pt, got `dpo`"),
        (&["train", "--use_galore", "true"], "`use_galore: true` is not available"),
        (&["train", "--lora_rank"], "--lora_rank needs a value: a whole number"),
        (&["train"], "`medley train` needs --model_name_or_path"),
        (&["train", "/nowhere/run.yaml"], "/nowhere/run.yaml: cannot read the config file"),
    ];
    for (words, part) in cases {
        let outcome = medley(words);
        assert_eq!(outcome.code, Some(2), "{words:?}: {}", outcome.stderr);
        assert!(
            outcome.stderr.starts_with("error: ") && outcome.stderr.contains(part),
            "{words:?}: {}",
            outcome.stderr
        );
        assert_eq!(outcome.stdout, "", "{words:?}");
    }
}

#[test]
fn problems_of_a_file_name_its_lines_and_nothing_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("run.yaml");
    let output = dir.path().join("out");
    let text = format!(
        "model_name_or_path: /nowhere/model\ndata_files: /nowhere/a.jsonl\noutput_dir: {}\n\nlora_rank: 0\n",
        output.display()
    );
    std::fs::write(&file, text).unwrap();
    let path = file.to_str().unwrap();
    let outcome = medley(&["train", path]);
    assert_eq!(outcome.code, Some(2));
    assert_eq!(
        outcome.stderr,
        format!("error: {path}:5: lora_rank: expected a rank from 1 to 65536, got 0\n")
    );

    // The command line mends what the file has wrong; notes come before the run.
    let mended = medley(&["train", path, "--lora_rank", "4", "--bf16"]);
    assert_eq!(mended.code, Some(1), "{}", mended.stderr);
    let note = "note: --bf16: bf16 has no effect here: the CPU computes in f32";
    assert!(mended.stderr.starts_with(note), "{}", mended.stderr);
    assert!(mended.stderr.contains("error: ") && mended.stderr.contains("/nowhere/"), "{}", mended.stderr);
}
