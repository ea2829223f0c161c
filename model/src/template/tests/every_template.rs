//! What holds for each template there is.

use super::*;
use crate::template::table::Slot;
use std::collections::BTreeMap;
use std::fmt::Write;

/// Special tokens with which every template can be used.
fn all_specials() -> Vec<&'static str> {
    let mut all = SPECIALS.to_vec();
    for spec in templates() {
        let slots = [spec.prefix, spec.system, spec.user, spec.assistant].into_iter().flatten();
        let tokens = slots.filter_map(|slot| if let Slot::Token(token) = slot { Some(*token) } else { None });
        for token in tokens.chain(spec.stop_words.iter().copied()) {
            if !all.contains(&token) {
                all.push(token);
            }
        }
    }
    all
}

/// Tokenizers of different kinds: with bos and eos, without bos, and one that has learned longer pieces.
fn tokenizers() -> Vec<(TempDir, Arc<Tokenizer>)> {
    let specials = all_specials();
    let (with_bos, without) = (
        serde_json::json!({"bos_token": "<s>", "eos_token": "</s>"}),
        serde_json::json!({"eos_token": "</s>"}),
    );
    let larger = tempfile::tempdir().unwrap();
    let options = BpeOptions {
        vocab_size: 600 + specials.len(),
        eos_token: "</s>".into(),
        special_tokens: specials.iter().map(|s| s.to_string()).collect(),
        min_frequency: 1,
        chat_template: None,
    };
    // Pieces that cross the borders between a template's text and a message would show themselves here.
    let text: String = templates().iter().map(|s| format!("{:?} U1 A1\nU2 A2 S ", s.user)).collect();
    train_bpe([text.as_str()].iter(), &options, larger.path()).unwrap();
    std::fs::write(larger.path().join("tokenizer_config.json"), with_bos.to_string()).unwrap();
    let larger_tokenizer = Arc::new(Tokenizer::from_folder(larger.path()).unwrap());
    vec![tokenizer_with(&specials, with_bos), tokenizer_with(&specials, without), (larger, larger_tokenizer)]
}

#[test]
fn the_generation_prompt_is_the_training_prefix() {
    let conversations =
        [two_turns(), two_turns()[1..].to_vec(), two_turns()[..3].to_vec(), two_turns()[1..3].to_vec()];
    for (_dir, tokenizer) in tokenizers() {
        for spec in templates() {
            for case in 0..12 {
                let options = RenderOptions {
                    task_prefix: case % 2 == 1,
                    mask_history: case / 2 % 2 == 1,
                    enable_thinking: [Thinking::On, Thinking::Off, Thinking::Mixed][case / 4],
                    ..RenderOptions::default()
                };
                let r = renderer(spec.name, &tokenizer, options);
                for messages in &conversations {
                    let full = r.render(messages, Some("qa")).unwrap();
                    let prompt = r.render_prompt(&messages[..messages.len() - 1], Some("qa")).unwrap();
                    let name = spec.name;
                    assert_eq!(&full.ids[..prompt.len()], &prompt[..], "{name} {case}");
                    assert!(full.label_mask()[prompt.len()], "the reply begins right there: {name} {case}");
                    assert!(!full.label_mask()[prompt.len() - 1], "{name} {case}");
                }
            }
        }
    }
}

/// FNV-1a, 64 bits.
fn fnv(text: &str) -> String {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3);
    format!("{:016x}", text.bytes().fold(0xCBF2_9CE4_8422_2325, step))
}

/// The rendered texts are those of LLaMA-Factory 0.9.5's own code, hashed by
/// `tests/reference/llamafactory_templates.py`.
#[test]
fn texts_are_llama_factorys() {
    let golden: BTreeMap<String, Vec<String>> =
        serde_json::from_str(include_str!("../llamafactory.json")).unwrap();
    let dropped = ["baichuan", "baichuan2"];
    let (_dir, tokenizer) = tokenizers().swap_remove(0);
    for spec in templates().into_iter().filter(|spec| !dropped.contains(&spec.name)) {
        let plain = two_turns();
        let mut thinking = two_turns();
        if let Some(thought) = spec.thought {
            for reply in thinking.iter_mut().filter(|m| m.role == Role::Assistant) {
                reply.content.insert_str(0, &format!("{}T{}", thought.open, thought.close));
            }
        }
        let mut cases = vec![(&plain[1..3], Thinking::On, false), (&plain[..], Thinking::On, false)];
        if spec.thought.is_some() {
            for enabled in [Thinking::On, Thinking::Off, Thinking::Mixed] {
                for discard in [false, true] {
                    cases.extend([(&plain[..], enabled, discard), (&thinking[..], enabled, discard)]);
                }
            }
        }
        let hashes = &golden[spec.name];
        assert_eq!(hashes.len(), cases.len(), "{}", spec.name);
        for ((messages, enable_thinking, mask_history), hash) in cases.into_iter().zip(hashes) {
            let options = RenderOptions { enable_thinking, mask_history, ..RenderOptions::default() };
            let r = renderer(spec.name, &tokenizer, options);
            let mut text = String::new();
            for turn in r.turns(messages, None, true).unwrap() {
                let decode = |ids: &[u32]| tokenizer.decode(ids, false).unwrap();
                text += &format!("{}⟦{}⟧", decode(&turn.source), decode(&turn.target));
            }
            assert_eq!(fnv(&text), *hash, "{} {enable_thinking:?} {mask_history}: {text:?}", spec.name);
        }
    }
    assert_eq!(golden.len() + dropped.len(), templates().len());
}

#[test]
fn a_file_with_a_templates_parts_renders_as_the_template() {
    let (_dir, tokenizer) = tokenizers().swap_remove(0);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mine.yaml");
    let zephyr = "user: [\"<|user|>\\n{{content}}\", {eos_token}, \"<|assistant|>\\n\"]\n\
                  system: \"<|system|>\\n{{content}}{eos_token}\"\ndefault_system: You are Zephyr, a helpful assistant.\n";
    std::fs::write(&path, zephyr).unwrap();
    let mine = renderer(path.to_str().unwrap(), &tokenizer, RenderOptions::default());
    let theirs = renderer("zephyr", &tokenizer, RenderOptions::default());
    assert_eq!((mine.name(), mine.stop_ids()), ("mine", theirs.stop_ids()));
    for messages in [two_turns(), two_turns()[1..].to_vec()] {
        assert_eq!(mine.render(&messages, None).unwrap(), theirs.render(&messages, None).unwrap());
    }
    std::fs::write(&path, "user: hello\n").unwrap();
    let error = Renderer::new(path.to_str(), tokenizer, RenderOptions::default()).unwrap_err().to_string();
    assert!(error.contains("mine.yaml: line 1, user: expected `{{content}}`"), "{error}");
}

/// `docs/templates.md`.
fn document() -> String {
    let mut out = String::from(
        "# Templates\n\nWritten from `model/src/template/table` (a test compares the two; to renew it: \
         `MEDLEY_WRITE_DOCS=1 cargo test --release -p medley-model templates_document`). Names and texts are \
         LLaMA-Factory's. `⏎` is a line break, `«bos»`, `«eos»` and `«…»` are single tokens, `…` is the message. \
         A template of your own is a YAML file: `--template path/to/mine.yaml`, with the keys `name`, `prefix`, \
         `system`, `user`, `assistant`, `default_system`, `stop_words`, `efficient_eos`, `replace_eos`, \
         `fuse_system`, `headings` and `thought_words`.\n\n\
         Templates of models that think (last column) heed `enable_thinking`: `true` learns an empty thought \
         where a reply has none, `false` takes thoughts out of replies and puts an empty one into the prompt, \
         `none` does the latter for replies without a thought only. A prompt for generation is always what stood \
         before the reply in training.\n\n\
         | name | prefix | system | user | reply | ends with | thought |\n|---|---|---|---|---|---|---|\n",
    );
    let cell = |slots: &[Slot]| {
        let text: String = slots
            .iter()
            .map(|slot| match slot {
                Slot::Text(t) => t.replace("{{content}}", "…"),
                Slot::Token(t) => format!("«{t}»"),
                Slot::Bos => "«bos»".into(),
                Slot::Eos => "«eos»".into(),
            })
            .collect();
        match text.is_empty() {
            true => String::new(),
            false => format!("`{}`", text.replace('\n', "⏎").replace('|', "\\|")),
        }
    };
    for spec in templates() {
        let mut ends: Vec<String> = spec.stop_words.iter().map(|w| cell(&[Slot::Text(w)])).collect();
        if spec.efficient_eos {
            ends.push("eos after the last reply".into());
        }
        let thought =
            spec.thought.map_or(String::new(), |t| cell(&[Slot::Text(t.open), Slot::Text(t.close)]));
        let system = match spec.default_system.is_empty() {
            true => cell(spec.system),
            false => format!("{} (has a default)", cell(spec.system)),
        };
        let _ = writeln!(
            out,
            "| {} | {} | {system} | {} | {} | {} | {thought} |",
            spec.name,
            cell(spec.prefix),
            cell(spec.user),
            cell(spec.assistant),
            ends.join(", ")
        );
    }
    out
}

#[test]
fn the_templates_document_is_what_the_table_says() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/templates.md");
    if std::env::var_os("MEDLEY_WRITE_DOCS").is_some() {
        std::fs::write(path, document()).unwrap();
    }
    let there = std::fs::read_to_string(path).unwrap();
    assert!(
        there == document(),
        "docs/templates.md is not what the table says; renew it with MEDLEY_WRITE_DOCS=1 cargo test --release \
         -p medley-model templates_document"
    );
}
