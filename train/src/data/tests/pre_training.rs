use super::*;

const TEXT: &str = "one\ntwo\n\n\nthree\n \nfour\r\n";

fn pt(dir: &Path, names: &[&str], cutoff_len: usize, packing: bool) -> Result<Dataset, DataError> {
    let files = data_files(&args(dir, names), Split::Train)?;
    let pt = PtOptions { cutoff_len, packing, drop_duplicates: false };
    load_pt(&files, &tokenizer(dir), pt, &LoadOptions::default(), &mut Tasks::default())
}

#[test]
fn documents_are_paragraphs_or_rows() {
    let rows = "{\"text\": \"a\\n\\nb\"}\n{\"text\": \"c\", \"task_name\": \"t\"}";
    let dir = folder(&[("corpus.txt", TEXT), ("w.jsonl", rows)]);
    let files = data_files(&args(dir.path(), &["corpus.txt", "w.jsonl"]), Split::Train).unwrap();
    let documents = read_documents(&files, &LoadOptions::default()).unwrap();
    let all: Vec<(&str, &str, u64)> =
        documents.iter().map(|d| (d.text.as_str(), d.task.as_str(), d.line)).collect();
    let wanted = [
        ("one\ntwo", "corpus", 1),
        ("three", "corpus", 5),
        ("four", "corpus", 7),
        ("a\n\nb", "w", 1),
        ("c", "t", 2),
    ];
    assert_eq!(all, wanted);
}

#[test]
fn blocks_are_a_partition_of_the_stream_of_each_task() {
    let dir = folder(&[("corpus.txt", TEXT), ("w.jsonl", "{\"text\": \"xyz\"}")]);
    let tok = tokenizer(dir.path());
    let mut stream = Vec::new();
    for text in ["one\ntwo", "three", "four"] {
        stream.extend(tok.encode(text, true).unwrap());
        stream.push(tok.eos().unwrap().id);
    }
    assert_eq!(stream.len(), 19);
    let data = pt(dir.path(), &["corpus.txt", "w.jsonl"], 8, true).unwrap();
    let blocks: Vec<&[u32]> = data.iter().map(|e| e.ids).collect();
    assert_eq!(blocks[..3], stream.chunks(8).collect::<Vec<_>>());
    assert_eq!((blocks.len(), blocks[3].len()), (4, 4), "the next task has blocks of its own");
    assert_eq!(data.task_ids().iter().map(|t| t.0).collect::<Vec<_>>(), [0, 0, 0, 1]);
    assert!(data.iter().all(|e| e.label_tokens() == e.ids.len() - 1));
    // A block of one token would have nothing to predict.
    assert_eq!(pt(dir.path(), &["corpus.txt"], 9, true).unwrap().len(), 2);
    // Lines of the documents that the blocks begin in.
    assert_eq!(data.iter().map(|e| e.line).collect::<Vec<_>>(), [1, 5, 7, 1]);
}

#[test]
fn unpacked_each_document_is_cut() {
    let dir = folder(&[("corpus.txt", TEXT)]);
    let data = pt(dir.path(), &["corpus.txt"], 6, false).unwrap();
    let eos = tokenizer(dir.path()).eos().unwrap().id;
    let lengths: Vec<usize> = data.iter().map(|e| e.ids.len()).collect();
    assert_eq!(lengths, [6, 6, 5]);
    assert_eq!(data.reports()[0].truncated, 1);
    assert_eq!(data.get(1).unwrap().ids.last(), Some(&eos));
}

#[test]
fn bos_is_written_where_the_tokenizer_asks_for_it() {
    let dir = folder(&[("corpus.txt", TEXT)]);
    let config = r#"{"eos_token": "<|endoftext|>", "bos_token": "<|im_start|>", "add_bos_token": true}"#;
    std::fs::write(dir.path().join("tokenizer_config.json"), config).unwrap();
    for packing in [true, false] {
        let data = pt(dir.path(), &["corpus.txt"], 8, packing).unwrap();
        assert!(data.iter().all(|e| e.ids[0] == 1), "{packing}");
    }
}

#[test]
fn bad_texts_are_refused() {
    let dir = folder(&[("e.txt", ""), ("b.txt", " \n"), ("w.jsonl", "{\"txt\": 1}"), ("x.pdf", "x")]);
    std::fs::write(dir.path().join("u.txt"), b"fine\n\xC3(").unwrap();
    for (name, wanted) in [
        ("e.txt", "e.txt: the file is empty"),
        ("b.txt", "b.txt: the file is empty"),
        ("w.jsonl", "w.jsonl:1: no \"text\""),
        ("x.pdf", ".txt, .json, .jsonl, .csv"),
        ("u.txt", "u.txt:2: invalid UTF-8 at byte 5"),
    ] {
        let message = pt(dir.path(), &[name], 8, true).unwrap_err().to_string();
        assert!(message.contains(wanted), "{message}");
    }
    std::fs::write(dir.path().join("tokenizer_config.json"), "{}").unwrap();
    std::fs::write(dir.path().join("t.txt"), "x").unwrap();
    assert!(matches!(pt(dir.path(), &["t.txt"], 8, true), Err(DataError::NoEos)));
}
