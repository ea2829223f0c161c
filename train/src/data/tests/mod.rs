use super::*;
use crate::config::DataArgs;
use medley_model::template::{Message, RenderOptions, Renderer, Role};
use medley_model::tokenizer::{BpeOptions, Tokenizer, train_bpe};
use proptest::prelude::*;
use std::path::Path;
use std::sync::Arc;
use tempfile::TempDir;

mod formats;
mod pre_training;
mod sources;
mod storing;

/// A folder with a byte-level tokenizer in it and the files given.
fn folder(files: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let options = BpeOptions { vocab_size: 259, ..BpeOptions::default() };
    train_bpe(["x"].iter(), &options, dir.path()).unwrap();
    for (name, text) in files {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    dir
}

fn tokenizer(dir: &Path) -> Arc<Tokenizer> {
    Arc::new(Tokenizer::from_folder(dir).unwrap())
}

fn args(dir: &Path, files: &[&str]) -> DataArgs {
    DataArgs {
        dataset_dir: dir.to_path_buf(),
        data_files: files.iter().map(Into::into).collect(),
        ..DataArgs::default()
    }
}

fn with_datasets(dir: &Path, names: &[&str]) -> DataArgs {
    DataArgs { dataset: names.iter().map(|n| n.to_string()).collect(), ..args(dir, &[]) }
}

fn conversations(args: &DataArgs) -> Result<Vec<Conversation>, DataError> {
    read_conversations(&data_files(args, Split::Train)?, &LoadOptions::default())
}

fn load(args: &DataArgs, options: RenderOptions, load: LoadOptions) -> Result<Dataset, DataError> {
    let renderer = Renderer::new(Some("default"), tokenizer(&args.dataset_dir), options).unwrap();
    load_sft(&data_files(args, Split::Train)?, &renderer, &load, &mut Tasks::default())
}

fn row(i: usize) -> String {
    format!("{{\"instruction\": \"say {i}\", \"output\": \"{i}\"}}\n")
}

#[test]
fn rows_become_conversations() {
    let text = concat!(
        r#"{"instruction": "I", "input": "X", "output": "O", "task_name": "summarization"}"#,
        "\n\r\n\n",
        r#"{"instruction": "I", "input": "", "output": "", "system": "S", "history": [["a", "b"]], "id": 7}"#,
        "\r\n",
        r#"{"input": "X", "output": "O", "system": null, "history": null, "task_name": null}"#,
    );
    let dir = folder(&[("qa.dev.jsonl", text)]);
    let rows = conversations(&args(dir.path(), &["qa.dev.jsonl"])).unwrap();
    let (user, reply) = (|s: &str| Message::user(s), |s: &str| Message::assistant(s));
    assert_eq!(rows[0].messages, [user("I\nX"), reply("O")]);
    assert_eq!(rows[1].messages, [Message::system("S"), user("a"), reply("b"), user("I"), reply("")]);
    assert_eq!(rows[2].messages, [user("X"), reply("O")]);
    let named: Vec<(&str, u64)> = rows.iter().map(|r| (r.task.as_str(), r.line)).collect();
    assert_eq!(named, [("summarization", 1), ("qa", 4), ("qa", 5)]);
}

#[test]
fn json_arrays_json_lines_and_a_byte_order_mark_read_alike() {
    let lines: String = (0..3).map(row).collect();
    let array = format!("[\n{}\n]\n", (0..3).map(row).collect::<Vec<_>>().join(","));
    let pretty = r#"[
  {
    "instruction": "say 0",
    "output": "0"
  }, {"instruction": "say 1", "output": "1"},

  {
    "instruction": "say 2", "output": "2" } ]"#;
    let marked = format!("\u{FEFF}{lines}");
    let dir = folder(&[
        ("a.jsonl", &lines),
        ("b.json", &array),
        ("c.json", pretty),
        ("d.json", &lines),
        ("e.jsonl", &marked),
    ]);
    let messages = |name: &str| {
        let rows = conversations(&args(dir.path(), &[name])).unwrap();
        rows.into_iter().map(|r| r.messages).collect::<Vec<_>>()
    };
    let wanted = messages("a.jsonl");
    assert_eq!(wanted.len(), 3);
    for name in ["b.json", "c.json", "d.json", "e.jsonl"] {
        assert_eq!(messages(name), wanted, "{name}");
    }
    let lines: Vec<u64> =
        conversations(&args(dir.path(), &["c.json"])).unwrap().iter().map(|r| r.line).collect();
    assert_eq!(lines, [2, 5, 7]);
}

#[test]
fn errors_name_file_line_and_what_to_do() {
    let good = row(1);
    let cases: &[(&str, &str, &[&str])] = &[
        (
            "a.jsonl",
            "{good}{\"instruction\": \"q\", \"outputs\": \"a\"}",
            &["a.jsonl:2:", "no \"output\"", "outputs"],
        ),
        ("a.jsonl", "{\"output\": \"a\"}", &["a.jsonl:1:", "no \"instruction\" and no \"input\""]),
        ("a.jsonl", "{good}\n[1]", &["a.jsonl:3:", "expected a JSON object, got an array", ".json file"]),
        (
            "a.jsonl",
            "{good}{\"instruction\": 3, \"output\": \"a\"}",
            &["a.jsonl:2:", "\"instruction\": expected a string, got the number 3"],
        ),
        (
            "a.jsonl",
            "{good}{\"instruction\": \"q\", \"output\": true}",
            &["a.jsonl:2:", "\"output\"", "the boolean true"],
        ),
        ("a.jsonl", "{good}{\"instruction\": \"q\", \"output\": null}", &["a.jsonl:2:", "no \"output\""]),
        (
            "a.jsonl",
            "{good}{\"instruction\": \"q\" \"output\": \"a\"}",
            &["a.jsonl:2:", "not valid JSON at column 21"],
        ),
        ("a.jsonl", "{good}{\"instruction\": \"q\",", &["a.jsonl:2:", "not valid JSON"]),
        (
            "a.jsonl",
            "{\"instruction\": \"q\", \"output\": \"a\", \"history\": [[\"a\"]]}",
            &["a.jsonl:1:", "history", "a list of 1"],
        ),
        (
            "a.jsonl",
            "{\"instruction\": \"q\", \"output\": \"a\", \"history\": [[\"a\", 1]]}",
            &["a.jsonl:1:", "the number 1"],
        ),
        (
            "a.jsonl",
            "{\"instruction\": \"q\", \"output\": \"a\", \"history\": \"x\"}",
            &["history", "got a string"],
        ),
        (
            "a.jsonl",
            "{\"instruction\": \"q\", \"output\": \"a\", \"task_name\": \"\"}",
            &["task_name", "empty"],
        ),
        ("a.jsonl", "{good}{\"messages\": []}", &["a.jsonl:2:", "dataset_info.json"]),
        (
            "a.jsonl",
            "{\"prompt\": \"q\", \"chosen\": \"a\", \"rejected\": \"b\"}",
            &["a.jsonl:1:", "preference data", "chosen reply as the output"],
        ),
        (
            "a.jsonl",
            "{\"messages\": [], \"chosen\": {}, \"rejected\": {}}",
            &["a.jsonl:1:", "preference data"],
        ),
        ("a.jsonl", "", &["a.jsonl: the file is empty"]),
        ("a.jsonl", " \n\n", &["a.jsonl: the file is empty"]),
        ("a.json", "[]", &["a.json: the file is empty"]),
        ("a.json", "[\n{good}", &["a.json:3:", "expected `,` or `]`", "the end of the file"]),
        ("a.json", "[\n{good},\n]", &["a.json:4:", "expected a row", "`]`"]),
        ("a.json", "[\n{good}, 5]", &["a.json:3:", "expected a row", "`5`"]),
        ("a.json", "[{good}] x", &["a.json:2:", "expected the end of the file"]),
        ("a.json", "[{good},\n{\"instruction\":\n 3x}]", &["a.json:4:", "not valid JSON"]),
        ("a.json", "[{good},\n{\"instruction\": \"q\",\n \"output\": 1}]", &["a.json:3:", "\"output\""]),
        ("a.xlsx", "q,a", &["a.xlsx: expected a file of the kind .json, .jsonl, .csv"]),
        ("a.txt", "q", &["a.txt: expected a file of the kind .json, .jsonl, .csv"]),
    ];
    for (name, text, wanted) in cases {
        let dir = folder(&[(name, &text.replace("{good}", &good))]);
        let message = conversations(&args(dir.path(), &[name])).unwrap_err().to_string();
        for part in *wanted {
            assert!(message.contains(part), "{text:?}: {message}");
        }
    }
    let dir = folder(&[]);
    let message = conversations(&args(dir.path(), &["no.jsonl"])).unwrap_err().to_string();
    assert!(message.contains("no.jsonl") && message.contains("dataset_dir"), "{message}");
    let message = conversations(&args(dir.path(), &[])).unwrap_err().to_string();
    assert!(message.contains("data_files"), "{message}");
}

#[test]
fn invalid_utf8_is_found_by_line_and_byte() {
    for (name, open, close) in [("a.jsonl", "", ""), ("a.json", "[", "]")] {
        let dir = folder(&[]);
        let mut bytes = format!("{open}{}", row(1)).into_bytes();
        if name == "a.json" {
            bytes.push(b',');
        }
        let offset = bytes.len() + 17;
        bytes.extend(b"{\"instruction\": \"\xFFx\", \"output\": \"a\"}");
        bytes.extend(close.bytes());
        std::fs::write(dir.path().join(name), bytes).unwrap();
        let message = conversations(&args(dir.path(), &[name])).unwrap_err().to_string();
        assert!(message.contains(&format!("{name}:2: invalid UTF-8 at byte {offset} ")), "{message}");
    }
}

#[test]
fn the_first_bad_row_is_reported_whatever_the_threads() {
    let mut text: String = (0..500).map(row).collect();
    text.push_str("{}\n");
    text.extend((0..500).map(row));
    text.push_str("[]\n");
    let dir = folder(&[("a.jsonl", &text)]);
    let args = args(dir.path(), &["a.jsonl"]);
    for threads in [1, 4] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let message =
            pool.install(|| load(&args, RenderOptions::default(), LoadOptions::default())).unwrap_err();
        assert!(message.to_string().contains("a.jsonl:501:"), "{message}");
    }
}

#[test]
fn examples_keep_the_order_of_the_rows_whatever_the_threads() {
    let text: String = (0..300).map(row).collect();
    let dir = folder(&[("qa.jsonl", &text), ("nli.jsonl", &row(0))]);
    let args = args(dir.path(), &["qa.jsonl", "nli.jsonl"]);
    let flat = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let data = pool.install(|| load(&args, RenderOptions::default(), LoadOptions::default())).unwrap();
        data.iter().map(|e| (e.ids.to_vec(), e.labels.to_vec(), e.task, e.line)).collect::<Vec<_>>()
    };
    let one = flat(1);
    assert_eq!(one, flat(4));
    assert_eq!(one.len(), 301);
    let data = load(&args, RenderOptions::default(), LoadOptions::default()).unwrap();
    assert_eq!(data.tasks().names(), ["qa", "nli"]);
    let example = data.get(41).unwrap();
    assert_eq!((example.line, example.task), (42, TaskId(0)));
    let tok = tokenizer(dir.path());
    let eos = "<|endoftext|>";
    assert_eq!(tok.decode(example.ids, false).unwrap(), format!("Human: say 41{eos}\nAssistant:41{eos}\n"));
    let labelled: Vec<u32> = example.labels.iter().flat_map(|s| s.positions.clone()).collect();
    let labels: Vec<u32> = labelled.iter().map(|&p| example.ids[p as usize]).collect();
    assert_eq!(tok.decode(&labels, false).unwrap(), format!("41{eos}\n"));
    let reports = data.reports();
    assert_eq!((reports[0].rows, reports[0].examples, reports[1].rows), (300, 300, 1));
    assert_eq!(reports[0].tokens, one[..300].iter().map(|e| e.0.len() as u64).sum::<u64>());
    assert!(data.get(301).is_none() && data.warnings().is_empty());
}

#[test]
fn cut_and_emptied_rows_are_counted_by_task() {
    let long = format!("{{\"instruction\": \"{}\", \"output\": \"yes\"}}\n", "w ".repeat(400));
    let reply = format!("{{\"instruction\": \"q\", \"output\": \"{}\"}}\n", "w ".repeat(400));
    let dir = folder(&[("a.jsonl", &format!("{}{long}{reply}", row(1))), ("b.jsonl", &row(2))]);
    let args = args(dir.path(), &["a.jsonl", "b.jsonl"]);
    let cut = |cutoff_len| {
        let options = RenderOptions { cutoff_len: Some(cutoff_len), ..RenderOptions::default() };
        load(&args, options, LoadOptions::default())
    };
    let data = cut(64).unwrap();
    assert!(data.iter().all(|e| e.ids.len() <= 64));
    assert_eq!(
        (data.reports()[0].truncated, data.reports()[0].dropped, data.reports()[1].truncated),
        (2, 0, 0)
    );
    assert_eq!(data.warnings(), ["a: 2 of 3 rows cut to cutoff_len"]);
    // 8 tokens: of the long prompt's reply, int(8 · 5 / 827) tokens are left.
    let data = cut(8).unwrap();
    assert_eq!((data.reports()[0].rows, data.reports()[0].dropped, data.reports()[0].examples), (3, 1, 2));
    assert!(data.warnings()[0].contains("a: 1 of 3 rows left out"), "{:?}", data.warnings());
    let message = cut(1).unwrap_err().to_string();
    assert!(message.contains("of 4 rows") && message.contains("cutoff_len 1"), "{message}");
}

#[test]
fn samples_are_the_first_rows_or_a_draw() {
    let text: String = (0..50).map(row).collect();
    let info = r#"{"drawn": {"file_name": "a.jsonl", "num_samples": 20}, "more": {"file_name": "a.jsonl", "num_samples": 120}}"#;
    let dir = folder(&[("a.jsonl", &text), ("dataset_info.json", info)]);
    let lines = |args: &DataArgs, options: LoadOptions| -> Vec<u64> {
        read_conversations(&data_files(args, Split::Train).unwrap(), &options)
            .unwrap()
            .iter()
            .map(|r| r.line)
            .collect()
    };
    let first = LoadOptions { max_samples: Some(3), seed: 1, ..LoadOptions::default() };
    assert_eq!(lines(&args(dir.path(), &["a.jsonl"]), first.clone()), [1, 2, 3]);
    let some = LoadOptions { max_samples: None, seed: 1, ..LoadOptions::default() };
    let drawn = lines(&with_datasets(dir.path(), &["drawn"]), some.clone());
    assert_eq!(drawn.len(), 20);
    assert_eq!(drawn, lines(&with_datasets(dir.path(), &["drawn"]), some.clone()));
    assert_ne!(drawn, lines(&with_datasets(dir.path(), &["drawn"]), LoadOptions { seed: 2, ..some.clone() }));
    let mut distinct = drawn.clone();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(distinct.len(), 20, "no row twice before all have come once");
    let more = lines(&with_datasets(dir.path(), &["more"]), some.clone());
    let mut firsts = more[..50].to_vec();
    firsts.sort_unstable();
    assert_eq!((more.len(), firsts), (120, (1..=50).collect()));
    // Both: drawn, then the first of those.
    assert_eq!(lines(&with_datasets(dir.path(), &["drawn"]), first.clone()), drawn[..3]);
}

#[test]
fn datasets_are_read_as_their_entries_say() {
    let info = r#"{
        "plain": {"file_name": "qa.json"},
        "renamed": {"file_name": "r.jsonl", "task_name": "nli",
                    "columns": {"prompt": "question", "response": "answer", "system": "persona"}},
        "chat": {"file_name": "chat.jsonl", "formatting": "sharegpt"},
        "openai": {"file_name": "openai.jsonl", "formatting": "openai", "split": "train", "ranking": false},
        "tagged": {"file_name": "tagged.jsonl", "formatting": "sharegpt", "columns": {"messages": "m"},
                   "tags": {"role_tag": "r", "content_tag": "c", "user_tag": "U", "assistant_tag": "A", "function_tag": "F"}},
        "folder": {"file_name": "parts"}
    }"#;
    let dir = folder(&[
        ("dataset_info.json", info),
        ("qa.json", &format!("[{}]", row(1))),
        (
            "r.jsonl",
            r#"{"question": "Q", "answer": "A", "input": "not read", "persona": "P", "history": [["x", "y"]]}"#,
        ),
        (
            "chat.jsonl",
            r#"{"conversations": [{"from": "human", "value": "1"}, {"from": "gpt", "value": "2"}], "system": "S", "task_name": "t"}"#,
        ),
        (
            "openai.jsonl",
            r#"{"messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "1"}, {"role": "assistant", "content": "2"}]}"#,
        ),
        ("tagged.jsonl", r#"{"m": [{"r": "U", "c": "1"}, {"r": "A", "c": "2"}]}"#),
    ]);
    std::fs::create_dir(dir.path().join("parts")).unwrap();
    std::fs::write(dir.path().join("parts/2.jsonl"), row(2)).unwrap();
    std::fs::write(dir.path().join("parts/1.json"), format!("[{}]", row(1))).unwrap();
    let one = |name: &str| conversations(&with_datasets(dir.path(), &[name])).unwrap().remove(0);
    assert_eq!(one("plain").task, "plain");
    let renamed = one("renamed");
    // Columns that are not listed are not read: LLaMA-Factory's rule.
    assert_eq!(renamed.messages, [Message::system("P"), Message::user("Q"), Message::assistant("A")]);
    assert_eq!(renamed.task, "nli");
    let chat = [Message::system("S"), Message::user("1"), Message::assistant("2")];
    assert_eq!((one("chat").messages.as_slice(), one("chat").task.as_str()), (&chat[..], "t"));
    assert_eq!(one("openai").messages, chat);
    assert_eq!(one("tagged").messages, chat[1..]);
    let parts = conversations(&with_datasets(dir.path(), &["folder"])).unwrap();
    assert_eq!(parts.iter().map(|r| r.messages[1].content.as_str()).collect::<Vec<_>>(), ["1", "2"]);
    // Names and files together.
    let mut both = with_datasets(dir.path(), &["plain", "chat"]);
    both.data_files = vec!["qa.json".into()];
    let tasks: Vec<String> = conversations(&both).unwrap().into_iter().map(|r| r.task).collect();
    assert_eq!(tasks, ["plain", "t", "qa"]);
}

#[test]
fn dataset_info_is_checked() {
    let cases = [
        (r#"{"d": {"file_name": "a.jsonl", "colums": {}}}"#, &["d.colums", "columns"][..]),
        (r#"{"d": {"hf_hub_url": "x/y"}}"#, &["d.hf_hub_url", "file_name"]),
        (r#"{"d": {"file_name": "a.jsonl", "ranking": true}}"#, &["d.ranking", "not supported"]),
        (r#"{"d": {"file_name": "a.jsonl", "columns": {"images": "i"}}}"#, &["d.columns.images"]),
        (r#"{"d": {"file_name": "a.jsonl", "columns": {"promt": "i"}}}"#, &["d.columns.promt", "prompt"]),
        (
            r#"{"d": {"file_name": "a.jsonl", "columns": {"prompt": 1}}}"#,
            &["d.columns.prompt", "the number 1"],
        ),
        (
            r#"{"d": {"file_name": "a.jsonl", "formatting": "alpacca"}}"#,
            &["d.formatting", "alpaca, sharegpt or openai"],
        ),
        (
            r#"{"d": {"file_name": "a.jsonl", "columns": {"messages": "m", "tools": "t"}}}"#,
            &["d.columns.tools", "not supported"],
        ),
        (r#"{"d": {"file_name": "a.jsonl", "split": "test"}}"#, &["a.jsonl", "no split \"test\""]),
        (r#"{"d": {"file_name": "a.jsonl", "split": "train[:5%]"}}"#, &["d.split", "num_samples"]),
        (r#"{"d": {"file_name": "a.jsonl", "subset": "en"}}"#, &["d.subset", "no folder"]),
        (r#"{"d": {"file_name": "*.csv"}}"#, &["d.file_name", "no file matches"]),
        (r#"{"d": {"file_name": "a.jsonl", "num_samples": 0}}"#, &["d.num_samples"]),
        (r#"{"d": {"file_name": 5}}"#, &["d.file_name", "the number 5"]),
        (r#"{"d": {}}"#, &["d.file_name", "missing"]),
        (r#"{"d": []}"#, &["d: expected an object"]),
        (r#"{"e": {}, "dd": {}}"#, &["no dataset \"d\"", "e, dd", "did you mean"]),
        (r#"["#, &["dataset_info.json", "expected a JSON object"]),
        (
            r#"{"d": {"file_name": "a.jsonl", "formatting": "sharegpt", "tags": {"role": "x"}}}"#,
            &["d.tags.role", "role_tag"],
        ),
    ];
    for (info, wanted) in cases {
        let dir = folder(&[("dataset_info.json", info), ("a.jsonl", &row(1))]);
        let message = conversations(&with_datasets(dir.path(), &["d"])).unwrap_err().to_string();
        for part in wanted {
            assert!(message.contains(part), "{info}: {message}");
        }
    }
    let dir = folder(&[]);
    let message = conversations(&with_datasets(dir.path(), &["d"])).unwrap_err().to_string();
    assert!(message.contains("dataset_info.json"), "{message}");
}

#[test]
fn chat_rows_are_checked() {
    let info = r#"{"d": {"file_name": "a.jsonl", "formatting": "openai"}}"#;
    let cases = [
        (
            r#"{"messages": [{"role": "tool", "content": "x"}]}"#,
            &["a.jsonl:1:", "message 0", "\"tool\"", "tool calls"][..],
        ),
        (r#"{"messages": [{"role": "user"}]}"#, &["message 0", "no \"content\""]),
        (r#"{"messages": ["x"]}"#, &["message 0", "expected an object, got a string"]),
        (r#"{"messages": {"role": "user"}}"#, &["expected a list of messages"]),
        (r#"{"text": "x"}"#, &["no \"messages\""]),
        (
            r#"{"messages": [{"role": "user", "content": "x"}]}"#,
            &["a.jsonl:1:", "must end with the role Assistant"],
        ),
        (
            r#"{"messages": [{"role": "user", "content": "x"}, {"role": "user", "content": "x"}]}"#,
            &["a.jsonl:1:", "message 1", "expected the role Assistant"],
        ),
    ];
    for (text, wanted) in cases {
        let dir = folder(&[("dataset_info.json", info), ("a.jsonl", text)]);
        let args = with_datasets(dir.path(), &["d"]);
        let message = load(&args, RenderOptions::default(), LoadOptions::default()).unwrap_err().to_string();
        for part in wanted {
            assert!(message.contains(part), "{text}: {message}");
        }
    }
}

#[test]
fn an_evaluation_set_shares_the_task_ids() {
    let dir = folder(&[("qa.jsonl", &row(1)), ("nli.jsonl", &row(2)), ("new.jsonl", &row(3))]);
    let mut args = args(dir.path(), &["qa.jsonl", "nli.jsonl"]);
    args.eval_data_files = vec!["nli.jsonl".into(), "new.jsonl".into()];
    let renderer = Renderer::new(Some("alpaca"), tokenizer(dir.path()), RenderOptions::default()).unwrap();
    let mut tasks = Tasks::default();
    let options = LoadOptions::default();
    let train = load_sft(&data_files(&args, Split::Train).unwrap(), &renderer, &options, &mut tasks).unwrap();
    let eval = load_sft(&data_files(&args, Split::Eval).unwrap(), &renderer, &options, &mut tasks).unwrap();
    assert_eq!(train.task_ids(), [TaskId(0), TaskId(1)]);
    assert_eq!(eval.task_ids(), [TaskId(1), TaskId(2)]);
    assert_eq!(eval.tasks().names(), ["qa", "nli", "new"]);
    assert_eq!((eval.reports()[0].rows, eval.reports()[2].rows), (0, 1));
}

#[test]
fn held_out_examples_are_of_every_task_and_of_one_side_only() {
    let text = |range: std::ops::Range<usize>| range.map(row).collect::<String>();
    let dir = folder(&[
        ("a.jsonl", &text(0..100)),
        ("b.jsonl", &text(200..230)),
        ("c.jsonl", &text(300..302)),
        ("d.jsonl", &row(400)),
    ]);
    let data = load(
        &args(dir.path(), &["a.jsonl", "b.jsonl", "c.jsonl", "d.jsonl"]),
        RenderOptions::default(),
        LoadOptions::default(),
    )
    .unwrap();
    let (train, eval) = data.split(0.1, 7).unwrap();
    let by_task =
        |d: &Dataset| (0..4).map(|t| d.task_ids().iter().filter(|i| i.0 == t).count()).collect::<Vec<_>>();
    assert_eq!(by_task(&eval), [10, 3, 1, 0]);
    assert_eq!(by_task(&train), [90, 27, 1, 1]);
    let rows = |d: &Dataset| {
        d.iter().map(|e| (e.file.to_path_buf(), e.line)).collect::<std::collections::BTreeSet<_>>()
    };
    assert!(rows(&train).is_disjoint(&rows(&eval)));
    assert_eq!(rows(&train).len() + rows(&eval).len(), 133);
    assert_eq!(rows(&data.split(0.1, 7).unwrap().1), rows(&eval));
    assert_ne!(rows(&data.split(0.1, 8).unwrap().1), rows(&eval));
    assert_eq!(data.split(13.0, 7).unwrap().1.len(), 13);
    assert_eq!(eval.reports()[0].examples, 10);
    for bad in [133.0, 500.0] {
        assert!(data.split(bad, 7).is_err(), "{bad}");
    }
}

/// The repository's own tasks load, and their sizes are the ones that the documents state.
#[test]
fn the_example_data_loads() {
    let dir = folder(&[]);
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/data");
    let mut args = with_datasets(&examples, &["qa", "summarization", "classification"]);
    args.eval_dataset = ["qa_dev", "summarization_dev", "classification_dev"].map(String::from).to_vec();
    let renderer = Renderer::new(
        Some("alpaca"),
        tokenizer(dir.path()),
        RenderOptions { cutoff_len: Some(2048), task_prefix: true, ..RenderOptions::default() },
    )
    .unwrap();
    let mut tasks = Tasks::default();
    let options = LoadOptions::default();
    let train = load_sft(&data_files(&args, Split::Train).unwrap(), &renderer, &options, &mut tasks).unwrap();
    let rows: Vec<usize> = train.reports().iter().map(|r| r.rows).collect();
    assert_eq!(rows, [3200, 1800, 900]);
    assert_eq!(tasks.names(), ["qa", "summarization", "classification"]);
    let eval = load_sft(&data_files(&args, Split::Eval).unwrap(), &renderer, &options, &mut tasks).unwrap();
    assert_eq!(eval.reports().iter().map(|r| r.rows).collect::<Vec<_>>(), [200, 200, 200]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Garbage never panics, and what is an error names the file.
    #[test]
    fn garbage_is_an_error_or_rows(
        bytes in proptest::collection::vec(any::<u8>(), 0..200), array in any::<bool>(),
    ) {
        let dir = folder(&[]);
        let name = if array { "a.json" } else { "a.jsonl" };
        std::fs::write(dir.path().join(name), &bytes).unwrap();
        match conversations(&args(dir.path(), &[name])) {
            Ok(rows) => prop_assert!(rows.iter().all(|r| r.messages.len() >= 2)),
            Err(e) => prop_assert!(e.to_string().contains(name)),
        }
    }

    /// One byte of a good file changed: rows or an error with a line of the file.
    #[test]
    fn a_flipped_byte_is_found_on_its_line(at in 0usize..150, byte in any::<u8>(), array in any::<bool>()) {
        let dir = folder(&[]);
        let rows: Vec<String> = (0..4).map(row).collect();
        let text = if array { format!("[{}]", rows.join(",")) } else { rows.concat() };
        let mut bytes = text.into_bytes();
        let at = at % bytes.len();
        bytes[at] = byte;
        let name = if array { "a.json" } else { "a.jsonl" };
        std::fs::write(dir.path().join(name), &bytes).unwrap();
        match conversations(&args(dir.path(), &[name])) {
            Ok(rows) => prop_assert!(!rows.is_empty() && rows.len() <= 5),
            Err(DataError::Row { line, .. } | DataError::Utf8 { line, .. }) => prop_assert!((1..=6).contains(&line)),
            Err(e) => prop_assert!(false, "{e}"),
        }
    }

    /// Any messages survive the way through a file.
    #[test]
    fn texts_come_back_as_they_were(prompt in "\\PC{1,30}", reply in ".{0,30}", system in proptest::option::of("\\PC{1,9}")) {
        let dir = folder(&[]);
        let row = serde_json::json!({"instruction": prompt, "output": reply, "system": system});
        std::fs::write(dir.path().join("a.jsonl"), row.to_string()).unwrap();
        let rows = conversations(&args(dir.path(), &["a.jsonl"])).unwrap();
        let messages = &rows[0].messages;
        prop_assert_eq!(&messages[messages.len() - 1].content, &reply);
        prop_assert_eq!(&messages[messages.len() - 2].content, &prompt);
        prop_assert_eq!(messages[0].role == Role::System, system.is_some());
    }
}
