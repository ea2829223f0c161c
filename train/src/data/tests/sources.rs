//! What `data_files` and `file_name` may name: files, tasks, patterns, folders.

use super::*;

/// Task and reply of every row.
fn replies(args: &DataArgs, split: Split) -> Result<Vec<(String, String)>, DataError> {
    let rows = read_conversations(&data_files(args, split)?, &LoadOptions::default())?;
    Ok(rows.into_iter().map(|mut r| (r.task, r.messages.pop().unwrap().content)).collect())
}

fn named(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(task, reply)| (task.to_string(), reply.to_string())).collect()
}

/// A folder with `files` in folders of their own.
fn tree(files: &[(&str, &str)]) -> TempDir {
    let dir = folder(&[]);
    for (name, text) in files {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    dir
}

#[test]
fn a_file_may_be_given_the_name_of_its_task() {
    let dir = tree(&[("sub/train.jsonl", &row(1)), ("b=c.jsonl", &row(2)), ("split=train/x.jsonl", &row(3))]);
    let all = replies(
        &args(
            dir.path(),
            &["qa=sub/train.jsonl", "b=c.jsonl", "split=train/x.jsonl", "t=split=train/x.jsonl"],
        ),
        Split::Train,
    );
    assert_eq!(all.unwrap(), named(&[("qa", "1"), ("b=c", "2"), ("x", "3"), ("t", "3")]));
    let message = replies(&args(dir.path(), &["qa=no.jsonl"]), Split::Train).unwrap_err().to_string();
    assert!(message.starts_with("no.jsonl: ") && message.contains("dataset_dir"), "{message}");
}

#[test]
fn a_pattern_names_each_file_that_matches() {
    let dir = tree(&[("data/b.jsonl", &row(2)), ("data/a.jsonl", &row(1)), ("data/a.csv", "x")]);
    let all = |name: &str| replies(&args(dir.path(), &[name]), Split::Train);
    assert_eq!(all("data/*.jsonl").unwrap(), named(&[("a", "1"), ("b", "2")]));
    assert_eq!(all("both=**/[ab].jsonl").unwrap(), named(&[("both", "1"), ("both", "2")]));
    let absolute = dir.path().join("data/?.jsonl");
    assert_eq!(all(absolute.to_str().unwrap()).unwrap().len(), 2);
    let message = all("data/*.parquet").unwrap_err().to_string();
    assert!(message.contains("data/*.parquet: no file matches this pattern"), "{message}");
    let message = all("data/[.jsonl").unwrap_err().to_string();
    assert!(message.contains("not a pattern"), "{message}");
}

#[test]
fn a_folder_is_one_source_of_files_of_one_type() {
    let dir = tree(&[
        ("qa/2.jsonl", &row(2)),
        ("qa/1.json", &format!("[{}]", row(1))),
        ("qa/README.md", "about"),
        ("qa/.hidden", "x"),
        ("qa/dataset_infos.json", "{}"),
        ("mixed/a.jsonl", &row(1)),
        ("mixed/b.csv", "instruction,output\nq,a\n"),
        ("odd/a.jsonl", &row(1)),
        ("odd/b.xlsx", "x"),
        ("none/LICENSE", "x"),
    ]);
    let all = |name: &str| replies(&args(dir.path(), &[name]), Split::Train);
    assert_eq!(all("qa").unwrap(), named(&[("qa", "1"), ("qa", "2")]));
    for (name, wanted) in [
        ("mixed", &["mixed: a folder of one type", "a.jsonl and b.csv", "*.json"][..]),
        ("odd", &["b.xlsx: expected a file of the kind"]),
        ("none", &["none: there are no data files"]),
    ] {
        let message = all(name).unwrap_err().to_string();
        for part in wanted {
            assert!(message.contains(part), "{message}");
        }
    }
}

#[test]
fn shards_are_taken_by_split() {
    let dir = tree(&[
        ("hub/train-00001-of-00002.jsonl", &row(2)),
        ("hub/train-00000-of-00002.jsonl", &row(1)),
        ("hub/test-00000-of-00001.jsonl", &row(3)),
        ("hub/validation-00000-of-00001.jsonl", &row(4)),
        ("en/x/only-00000-of-00001.jsonl", &row(5)),
        (
            "dataset_info.json",
            r#"{"test": {"file_name": "hub", "split": "test"}, "plain": {"file_name": "hub"},
                "inside": {"file_name": "en", "subset": "x"}, "folder": {"file_name": ".", "subset": "en", "folder": "x"},
                "glob": {"file_name": "hub/t*.jsonl", "num_samples": 3}, "wrong": {"file_name": "hub", "split": "dev"}}"#,
        ),
    ]);
    let mut args = args(dir.path(), &["hub"]);
    args.eval_data_files = vec!["hub".into()];
    assert_eq!(replies(&args, Split::Train).unwrap(), named(&[("hub", "1"), ("hub", "2")]));
    assert_eq!(replies(&args, Split::Eval).unwrap(), named(&[("hub", "4")]));
    let one = |name: &str| replies(&with_datasets(dir.path(), &[name]), Split::Train);
    assert_eq!(one("test").unwrap(), named(&[("test", "3")]));
    assert_eq!(one("plain").unwrap(), named(&[("plain", "1"), ("plain", "2")]));
    assert_eq!(one("inside").unwrap(), named(&[("inside", "5")]));
    assert_eq!(one("folder").unwrap(), named(&[("folder", "5")]));
    let mut drawn = one("glob").unwrap();
    drawn.sort();
    assert_eq!(drawn, named(&[("glob", "1"), ("glob", "2"), ("glob", "3")]));
    let message = one("wrong").unwrap_err().to_string();
    assert!(message.contains("no split dev; the folder has test, train, validation"), "{message}");
    // Named by itself, a shard gives its task the split's name.
    let shard = super::args(dir.path(), &["hub/test-00000-of-00001.jsonl"]);
    assert_eq!(replies(&shard, Split::Train).unwrap(), named(&[("test", "3")]));
}

#[test]
fn chats_are_told_by_the_first_row() {
    let openai = r#"[{"role": "user", "content": "1"}, {"role": "assistant", "content": "2"}]"#;
    let sharegpt = r#"[{"from": "human", "value": "1"}, {"from": "gpt", "value": "2"}]"#;
    for (column, messages) in
        [("messages", openai), ("conversations", sharegpt), ("messages", sharegpt), ("conversations", openai)]
    {
        let dir = tree(&[(
            "a.jsonl",
            &format!("{{\"{column}\": {messages}, \"system\": \"S\", \"text\": \"t\"}}\n"),
        )]);
        let rows = conversations(&args(dir.path(), &["a.jsonl"])).unwrap();
        let wanted = [Message::system("S"), Message::user("1"), Message::assistant("2")];
        assert_eq!(rows[0].messages, wanted, "{column}");
        let files = data_files(&args(dir.path(), &["a.jsonl"]), Split::Train).unwrap();
        assert_eq!(read_documents(&files, &LoadOptions::default()).unwrap()[0].text, "t");
    }
    // A row with an instruction is no chat, whatever else it has.
    let both = r#"{"instruction": "I", "output": "O", "messages": []}"#;
    let dir = tree(&[("a.jsonl", both)]);
    assert_eq!(replies(&args(dir.path(), &["a.jsonl"]), Split::Train).unwrap(), named(&[("a", "O")]));
}

#[cfg(feature = "parquet")]
#[test]
fn saved_datasets_are_read_by_their_own_lists() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/data_formats");
    let mut args = args(&fixtures, &["splits"]);
    args.eval_data_files = vec!["splits".into()];
    let count = |split| replies(&args, split).unwrap().len();
    assert_eq!((count(Split::Train), count(Split::Eval)), (4, 2));
    let saved =
        ["data-00000-of-00002.arrow", "data-00001-of-00002.arrow"].map(|f| fixtures.join("saved").join(f));
    let dir = tree(&[("s/README.md", "")]);
    let state = |text: &str| std::fs::write(dir.path().join("s/state.json"), text).unwrap();
    let read = || replies(&super::args(dir.path(), &["s"]), Split::Train);
    for file in &saved {
        std::fs::copy(file, dir.path().join("s").join(file.file_name().unwrap())).unwrap();
    }
    // The list's order counts, and only what it lists.
    let (first, second) = ("data-00000-of-00002.arrow", "data-00001-of-00002.arrow");
    state(&format!(r#"{{"_data_files": [{{"filename": "{second}"}}, {{"filename": "{first}"}}]}}"#));
    let swapped: Vec<String> = read().unwrap().into_iter().map(|r| r.1).collect();
    let all: Vec<String> = replies(&super::args(&fixtures, &["saved"]), Split::Train)
        .unwrap()
        .into_iter()
        .map(|r| r.1)
        .collect();
    assert_eq!(swapped, [&all[3..], &all[..3]].concat());
    state(&format!(r#"{{"_data_files": [{{"filename": "{first}"}}]}}"#));
    assert_eq!(read().unwrap().len(), 3);
    for (text, wanted) in [
        (r#"{"_data_files": [{"filename": "gone.arrow"}]}"#, "gone.arrow: "),
        (r#"{"_data_files": []}"#, "state.json: expected a list"),
        ("{", "state.json: not valid JSON"),
        (r#"{"_indices_data_files": [1], "_data_files": []}"#, "state.json: the dataset has an index"),
    ] {
        state(text);
        let message = read().unwrap_err().to_string();
        assert!(message.contains(wanted), "{message}");
    }
}
