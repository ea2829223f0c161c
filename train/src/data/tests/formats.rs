//! Every format gives what the JSON Lines original gives, and a file that is not what its name says ends
//! in one clear error.

use super::*;

/// Files that `tests/reference/data_formats.py` wrote.
fn fixtures() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/data_formats")
}

/// Messages and task of every row of an entry of `data_files`.
fn rows(entry: &str) -> Vec<(Vec<Message>, String)> {
    let rows = conversations(&args(&fixtures(), &[entry])).unwrap();
    rows.into_iter().map(|r| (r.messages, r.task)).collect()
}

const TEXT_FORMATS: [&str; 9] = [
    "rows.json",
    "rows.csv",
    "rows.tsv",
    "rows.jsonl.gz",
    "rows.jsonl.zst",
    "rows.json.gz",
    "rows.json.zst",
    "rows.csv.gz",
    "rows.csv.zst",
];

#[test]
fn every_text_format_gives_the_conversations_of_the_original() {
    let wanted = rows("rows.jsonl");
    assert_eq!(wanted.len(), 6);
    assert_eq!(wanted[1].0[0].content, "Quote \"this\", please\na, b\tc\nd");
    assert_eq!(
        wanted.iter().map(|r| r.1.as_str()).collect::<Vec<_>>(),
        ["qa", "qa", "rows", "label", "label", "rows"]
    );
    for name in TEXT_FORMATS {
        assert_eq!(rows(name), wanted, "{name}");
    }
}

#[cfg(feature = "parquet")]
#[test]
fn every_columnar_format_gives_the_conversations_of_the_original() {
    let wanted = rows("rows.jsonl");
    for name in [
        "rows.snappy.parquet",
        "rows.zstd.parquet",
        "rows.gzip.parquet",
        "rows.none.parquet",
        "rows.v2.parquet",
        "odd.parquet",
        "rows.stream.arrow",
        "rows.file.arrow",
        "odd.arrow",
        "saved",
    ] {
        assert_eq!(rows(&format!("rows={name}")), wanted, "{name}");
    }
    let chat = rows("chat.jsonl");
    assert_eq!((chat.len(), chat[1].0.len(), chat[1].0[0].clone()), (3, 5, Message::system("Be brief.")));
    for name in ["chat.parquet", "chat.arrow", "saved_chat"] {
        assert_eq!(rows(&format!("chat={name}")), chat, "{name}");
    }
    // Two row groups, and two shards: numbered through the file, and anew in the next.
    let numbers = |name: &str| {
        conversations(&args(&fixtures(), &[name])).unwrap().iter().map(|r| r.line).collect::<Vec<_>>()
    };
    assert_eq!(numbers("rows.snappy.parquet"), [1, 2, 3, 4, 5, 6]);
    assert_eq!(numbers("saved"), [1, 2, 3, 1, 2, 3]);
}

/// A draw and a limit choose the same rows of every format, and of two shards as of one file.
#[cfg(feature = "parquet")]
#[test]
fn samples_are_the_same_rows_in_every_format() {
    let names = ["rows.jsonl", "rows.csv.gz", "rows.snappy.parquet", "rows.stream.arrow", "saved"];
    for (samples, most) in [(4, None), (9, None), (4, Some(2)), (9, Some(8))] {
        let drawn = |name: &str| -> Vec<Vec<Message>> {
            let dir = folder(&[]);
            let info = serde_json::json!({"d": {"file_name": fixtures().join(name), "num_samples": samples}});
            std::fs::write(dir.path().join("dataset_info.json"), info.to_string()).unwrap();
            let files = data_files(&with_datasets(dir.path(), &["d"]), Split::Train).unwrap();
            let rows = read_conversations(
                &files,
                &LoadOptions { max_samples: most, seed: 5, ..LoadOptions::default() },
            )
            .unwrap();
            rows.into_iter().map(|r| r.messages).collect()
        };
        let wanted = drawn(names[0]);
        assert_eq!(wanted.len(), most.unwrap_or(samples));
        for name in names {
            assert_eq!(drawn(name), wanted, "{name}");
        }
    }
    let first = LoadOptions { max_samples: Some(4), ..LoadOptions::default() };
    let files = data_files(&args(&fixtures(), &["saved", "rows.jsonl"]), Split::Train).unwrap();
    assert_eq!(read_conversations(&files, &first).unwrap().len(), 8, "of each source, not of each shard");
}

#[cfg(feature = "parquet")]
#[test]
fn numbers_and_booleans_of_columns_are_read_as_their_text() {
    let texts: Vec<Vec<String>> = rows("numbers.parquet")
        .into_iter()
        .map(|(messages, _)| messages.into_iter().map(|m| m.content).collect())
        .collect();
    assert_eq!(texts, [vec!["0.1", "a\ntrue", "1"], vec!["b\nfalse", "-2"], vec!["2.0", "c", "3"]]);
}

#[cfg(feature = "parquet")]
#[test]
fn what_columnar_files_cannot_give_is_an_error_with_the_column() {
    for (name, wanted) in [
        ("dates.parquet", &["dates.parquet: column \"output\"", "type timestamp"][..]),
        ("nested.parquet", &["nested.parquet: row 1: \"output\": expected a string, got an array"]),
        ("twice.arrow", &["twice.arrow: two columns are named \"output\""]),
        ("none.arrow", &["none.arrow: the file is empty"]),
    ] {
        let message = conversations(&args(&fixtures(), &[name])).unwrap_err().to_string();
        for part in wanted {
            assert!(message.contains(part), "{name}: {message}");
        }
    }
}

/// However short a file is cut, it ends in an error that names it, or in the rows before the cut.
#[test]
fn truncated_files_are_errors() {
    let mut names = TEXT_FORMATS[3..].to_vec();
    if cfg!(feature = "parquet") {
        names.extend(["rows.snappy.parquet", "rows.v2.parquet", "rows.file.arrow", "rows.stream.arrow"]);
    }
    let (wanted, dir) = (rows("rows.jsonl"), folder(&[]));
    for name in names {
        let whole = std::fs::read(fixtures().join(name)).unwrap();
        for cut in [1, 2, 9, whole.len() / 3, whole.len() / 2, whole.len() - 9, whole.len() - 1] {
            std::fs::write(dir.path().join(name), &whole[..cut]).unwrap();
            match conversations(&args(dir.path(), &[name])) {
                Err(e) => assert!(e.to_string().contains(name), "{name} {cut}: {e}"),
                // The stream's end mark is optional (Arrow's specification, IPC streaming format).
                Ok(rows) => {
                    assert!(name.ends_with("stream.arrow") && cut + 9 >= whole.len(), "{name} {cut}");
                    assert_eq!(rows.len(), wanted.len());
                }
            }
        }
    }
}

/// Changed bytes never panic: they end in an error that names the file, or in rows.
#[cfg(feature = "parquet")]
#[test]
fn changed_bytes_are_errors_or_rows() {
    let dir = folder(&[]);
    for name in ["rows.snappy.parquet", "chat.parquet", "rows.file.arrow", "chat.arrow", "rows.jsonl.zst"] {
        let whole = std::fs::read(fixtures().join(name)).unwrap();
        for at in (0..whole.len()).step_by(11) {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x55;
            std::fs::write(dir.path().join(name), &bytes).unwrap();
            if let Err(e) = conversations(&args(dir.path(), &[name])) {
                assert!(e.to_string().contains(name), "{name} {at}: {e}");
            }
        }
    }
}

#[test]
fn bad_tables_are_errors_with_their_line() {
    let cases: &[(&str, &[u8], &[&str])] = &[
        ("a.csv", b"instruction,output\nq,a\nq,a,b\n", &["a.csv:3: a record of 3 cells among records of 2"]),
        ("a.csv", b"instruction,output\nq\n", &["a.csv:2: a record of 1 cells"]),
        ("a.csv", b"instruction,output,output\nq,a,b\n", &["a.csv:1: two columns are named \"output\""]),
        (
            "a.csv",
            b"instruction,output\nq,\"a\nb\"\nq,\xFF\n",
            &["a.csv:4: column \"output\": invalid UTF-8"],
        ),
        ("a.csv", b"instruction,out\nq,a\n", &["a.csv:2: no \"output\"; the row has instruction, out"]),
        ("a.csv", b"\xFF\xFEi\0", &["a.csv:1: column 1: invalid UTF-8"]),
        ("a.csv", b"instruction,output\n", &["a.csv: the file is empty", "names the columns"]),
        ("a.csv", b"", &["a.csv: the file is empty"]),
        ("a.tsv", b"instruction\toutput\nq,a\n", &["a.tsv:2: a record of 1 cells"]),
        ("a.csv", b"instruction,output,history\nq,a,h\n", &["a.csv:2:", "history", "got a string"]),
        ("a.jsonl.gz", b"{}{}{}{}{}{}{}{}", &["a.jsonl.gz: not gzip data, or damaged"]),
        ("a.jsonl.zst", b"{}{}{}", &["a.jsonl.zst: not zstd data, or damaged"]),
        ("a.jsonl.gz", b"", &["a.jsonl.gz: the file is empty"]),
        ("a.parquet.gz", b"x", &["a.parquet.gz: a Parquet file is compressed inside"]),
        ("a.jsonl.bz2", b"x", &["a.jsonl.bz2: expected a file of the kind"]),
    ];
    for (name, bytes, wanted) in cases {
        let dir = folder(&[]);
        std::fs::write(dir.path().join(name), bytes).unwrap();
        let message = conversations(&args(dir.path(), &[name])).unwrap_err().to_string();
        for part in *wanted {
            assert!(message.contains(part), "{name} {}: {message}", bytes.escape_ascii());
        }
    }
    #[cfg(feature = "parquet")]
    for name in ["a.parquet", "a.arrow"] {
        let dir = folder(&[(name, "{\"instruction\": \"q\", \"output\": \"a\"}\n")]);
        let message = conversations(&args(dir.path(), &[name])).unwrap_err().to_string();
        assert!(message.contains(&format!("{name}: not a whole")), "{message}");
    }
}

#[test]
fn csv_cells_are_texts_as_they_stand() {
    let csv = "\u{FEFF}instruction,input,output,task_name,history\r\n\
               q,,1.50,,\r\n\
               \r\n\
               \"a\n\"\"b\"\"\",\" x \",,nli,\r\n\
               q,x,no line break at the end,,";
    let dir = folder(&[("a.csv", csv)]);
    let rows = conversations(&args(dir.path(), &["a.csv"])).unwrap();
    let texts: Vec<[&str; 3]> = rows
        .iter()
        .map(|r| [r.messages[0].content.as_str(), r.messages[1].content.as_str(), r.task.as_str()])
        .collect();
    let wanted =
        [["q", "1.50", "a"], ["a\n\"b\"\n x ", "", "nli"], ["q\nx", "no line break at the end", "a"]];
    assert_eq!(texts, wanted);
    assert_eq!(rows.iter().map(|r| r.line).collect::<Vec<_>>(), [2, 4, 6]);
}

/// Chunks end by rows and by bytes; neither changes what is read.
#[test]
fn long_files_are_read_in_chunks() {
    let text: String = (0..20_000).map(row).collect();
    let dir =
        folder(&[("a.jsonl", &text), ("b.json", &format!("[{}]", text.trim_end().replace('\n', ",\n")))]);
    let files = data_files(&args(dir.path(), &["a.jsonl", "b.json"]), Split::Train).unwrap();
    for index in 0..2 {
        let chunks: Vec<_> = super::super::select::chunks(&files, index, &LoadOptions::default(), false)
            .unwrap()
            .collect::<Result<_, _>>()
            .unwrap();
        assert_eq!(chunks.iter().map(Vec::len).collect::<Vec<_>>(), [8192, 8192, 3616]);
        let lines: Vec<u64> = chunks.iter().flatten().map(|r| r.line).collect();
        assert_eq!(lines, (1..=20_000).collect::<Vec<u64>>());
        assert!(chunks.iter().flatten().all(|r| r.file == index as u32));
    }
    let wide = format!("{{\"instruction\": \"{}\", \"output\": \"\"}}\n", "w".repeat(20 << 20));
    let dir = folder(&[("w.jsonl", &wide.repeat(3))]);
    let files = data_files(&args(dir.path(), &["w.jsonl"]), Split::Train).unwrap();
    let chunks = super::super::select::chunks(&files, 0, &LoadOptions::default(), false).unwrap();
    assert_eq!(chunks.map(|c| c.unwrap().len()).collect::<Vec<_>>(), [2, 1]);
}
