use super::*;
use proptest::prelude::*;

const TEXT: &str = "The quick brown fox jumps over the lazy dog. The dog sleeps; the fox runs over the hill.";

/// A byte-level tokenizer whose vocabulary is 256 bytes, the usual special tokens and a few merges.
pub(crate) fn tiny(dir: &Path, extra: &[&str]) -> Tokenizer {
    let mut options = BpeOptions { vocab_size: 320, min_frequency: 1, ..BpeOptions::default() };
    options.special_tokens.extend(extra.iter().map(|s| s.to_string()));
    options.vocab_size += extra.len();
    train_bpe([TEXT, "Human: User: ### Instruction:\n"].iter(), &options, dir).unwrap()
}

#[test]
fn encodes_without_adding_anything_and_decodes_back() {
    let dir = tempfile::tempdir().unwrap();
    let tok = tiny(dir.path(), &[]);
    for text in ["", "The fox", " leading space", "日本語 and émigré 🦊", "tabs\tand\nlines\r\n"] {
        let ids = tok.encode(text, true).unwrap();
        assert_eq!(tok.decode(&ids, false).unwrap(), text);
    }
    assert!(tok.encode("The quick brown fox", true).unwrap().len() < 19, "merges were learned");
}

#[test]
fn special_text_is_a_token_only_when_allowed() {
    let dir = tempfile::tempdir().unwrap();
    let tok = tiny(dir.path(), &[]);
    let end = tok.token_id("<|im_end|>").unwrap();
    assert_eq!(tok.encode("<|im_end|>", true).unwrap(), vec![end]);
    let plain = tok.encode("<|im_end|>", false).unwrap();
    assert!(!plain.contains(&end) && plain.len() > 1);
    assert_eq!(tok.decode(&plain, true).unwrap(), "<|im_end|>");
    assert!(tok.is_special(end) && !tok.is_special(plain[0]));
    assert_eq!(tok.decode(&[end, plain[0], end], true).unwrap(), "<");
}

#[test]
fn training_is_reproducible_and_writes_a_loadable_folder() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    tiny(a.path(), &["<pad>"]);
    let tok = tiny(b.path(), &["<pad>"]);
    let read = |dir: &Path, name: &str| std::fs::read_to_string(dir.join(name)).unwrap();
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        assert_eq!(read(a.path(), name), read(b.path(), name), "{name}");
    }
    assert_eq!(tok.eos().unwrap().text, "<|endoftext|>");
    assert_eq!(tok.eos_ids(), &[0]);
    assert_eq!(tok.token_id("<pad>"), Some(3));
    assert_eq!(tok.vocab_size(), 321);
    assert_eq!(tok.chat_template(), Some(CHATML_TEMPLATE));
    assert!(tok.bos().is_none());
}

#[test]
fn training_refuses_what_cannot_work() {
    let dir = tempfile::tempdir().unwrap();
    let small = BpeOptions { vocab_size: 258, ..BpeOptions::default() };
    let message = train_bpe(["a"].iter(), &small, dir.path()).unwrap_err().to_string();
    assert!(message.contains("258") && message.contains("259"), "{message}");
    let eos = BpeOptions { eos_token: "</s>".into(), ..BpeOptions::default() };
    let message = train_bpe(["a"].iter(), &eos, dir.path()).unwrap_err().to_string();
    assert!(message.contains("eos_token") && message.contains("</s>"), "{message}");
    let none = train_bpe([""].iter(), &BpeOptions::default(), dir.path()).unwrap_err();
    assert!(matches!(none, TokenizerError::NoText));
    assert!(!dir.path().join("tokenizer.json").exists(), "nothing half-written");
}

#[test]
fn special_tokens_come_from_the_files_in_order() {
    let dir = tempfile::tempdir().unwrap();
    tiny(dir.path(), &["<s>", "</s>"]);
    let put = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    // Objects with `content`, and a list of templates.
    put(
        "tokenizer_config.json",
        r#"{"bos_token": {"content": "<s>", "lstrip": false}, "eos_token": "</s>", "pad_token": "[PAD]",
            "add_bos_token": true, "model_max_length": 1e30,
            "chat_template": [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]}"#,
    );
    put("generation_config.json", r#"{"eos_token_id": [4, 2]}"#);
    put("config.json", r#"{"eos_token_id": 0, "bos_token_id": 1}"#);
    let tok = Tokenizer::from_folder(dir.path()).unwrap();
    assert_eq!(tok.bos(), Some(&SpecialToken { text: "<s>".into(), id: 3 }));
    assert_eq!(tok.eos().unwrap().id, 4);
    assert_eq!(tok.eos_ids(), &[4, 2, 0]);
    assert_eq!(tok.chat_template(), Some("D"));
    assert!(tok.add_bos_token() && tok.pad().is_none());
    // The .jinja file wins over the key.
    put("chat_template.jinja", "J");
    assert_eq!(Tokenizer::from_folder(dir.path()).unwrap().chat_template(), Some("J"));
    // Without tokenizer_config.json: special_tokens_map.json, then config.json's ids.
    std::fs::remove_file(dir.path().join("tokenizer_config.json")).unwrap();
    put("special_tokens_map.json", r#"{"eos_token": "<|im_end|>"}"#);
    let tok = Tokenizer::from_folder(dir.path()).unwrap();
    assert_eq!((tok.eos().unwrap().id, tok.bos().unwrap().id), (2, 1));
}

#[test]
fn tokens_of_the_config_that_the_vocabulary_lacks_are_added_under_their_ids() {
    let dir = tempfile::tempdir().unwrap();
    let size = tiny(dir.path(), &[]).vocab_size() as u32;
    let write = |id: u32| {
        let text = format!(
            r#"{{"eos_token": "<new>", "added_tokens_decoder": {{"{id}": {{"content": "<new>", "special": true}}}}}}"#
        );
        std::fs::write(dir.path().join("tokenizer_config.json"), text).unwrap();
    };
    write(size);
    let tok = Tokenizer::from_folder(dir.path()).unwrap();
    assert_eq!(tok.encode("a<new>", true).unwrap().last(), Some(&size));
    assert_eq!(tok.eos_ids(), &[size]);
    write(size + 5);
    let message = Tokenizer::from_folder(dir.path()).unwrap_err().to_string();
    assert!(message.contains("added_tokens_decoder") && message.contains("<new>"), "{message}");
}

#[test]
fn errors_name_file_and_key() {
    let dir = tempfile::tempdir().unwrap();
    let message = Tokenizer::from_folder(dir.path()).unwrap_err().to_string();
    assert!(message.contains("no tokenizer.json"), "{message}");
    std::fs::write(dir.path().join("tokenizer.json"), "{\"version\": 1,").unwrap();
    let message = Tokenizer::from_folder(dir.path()).unwrap_err().to_string();
    assert!(message.contains("tokenizer.json: not valid"), "{message}");

    tiny(dir.path(), &[]);
    let config = dir.path().join("tokenizer_config.json");
    for (text, wanted) in [
        (r#"{"eos_token": 3}"#, "tokenizer_config.json: `eos_token`: expected a string"),
        (r#"{"eos_token": "</s>"}"#, "`eos_token` is \"</s>\""),
        (r#"{"chat_template": 3}"#, "`chat_template`"),
        (r#"{"add_bos_token": "yes"}"#, "`add_bos_token`"),
        (r#"[]"#, "tokenizer_config.json: not valid"),
    ] {
        std::fs::write(&config, text).unwrap();
        let message = Tokenizer::from_folder(dir.path()).unwrap_err().to_string();
        assert!(message.contains(wanted), "{message}");
    }
    std::fs::write(&config, "{}").unwrap();
    std::fs::write(dir.path().join("generation_config.json"), r#"{"eos_token_id": 99999}"#).unwrap();
    let message = Tokenizer::from_folder(dir.path()).unwrap_err().to_string();
    assert!(message.contains("generation_config.json: `eos_token_id`"), "{message}");
}

#[test]
fn copied_files_open_alone() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let tok = tiny(a.path(), &[]);
    tok.copy_files(b.path()).unwrap();
    let copy = Tokenizer::from_folder(b.path()).unwrap();
    assert_eq!(copy.encode(TEXT, true).unwrap(), tok.encode(TEXT, true).unwrap());
    assert_eq!(copy.chat_template(), tok.chat_template());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn streaming_equals_decoding_at_once_and_never_splits_a_character(text in "\\PC{0,24}", cut in 0usize..40) {
        let dir = tempfile::tempdir().unwrap();
        let tok = tiny(dir.path(), &[]);
        let mut ids = tok.encode(&text, true).unwrap();
        ids.truncate(cut);
        let mut stream = tok.stream(true);
        let mut out = String::new();
        for id in &ids {
            let piece = stream.push(*id).unwrap();
            let broken = piece.contains(char::REPLACEMENT_CHARACTER);
            prop_assert!(!broken || text.contains(char::REPLACEMENT_CHARACTER));
            out.push_str(&piece);
        }
        out.push_str(&stream.finish().unwrap());
        prop_assert_eq!(out, tok.decode(&ids, true).unwrap());
    }
}
