use super::*;
use medley_tensor::io::Safetensors;
use serde_json::Value;
use tokenizers::Tokenizer;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/gguf").join(name)
}

fn json(folder: &Path, name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(folder.join(name)).unwrap()).unwrap()
}

fn convert_variant(name: &str) -> (tempfile::TempDir, PathBuf, Summary) {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out");
    let summary = convert_gguf(&fixture(name), &output, DType::F32, &mut |_, _| {}).unwrap();
    (folder, output, summary)
}

fn convert(dtype: DType) -> (tempfile::TempDir, PathBuf, Summary) {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out");
    let mut steps = Vec::new();
    let summary =
        convert_gguf(&fixture("tiny.gguf"), &output, dtype, &mut |done, total| steps.push((done, total)))
            .unwrap();
    assert_eq!(steps, (0..=20).map(|done| (done, 20)).collect::<Vec<_>>());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary folder is left");
    (folder, output, summary)
}

fn values(file: &Safetensors, name: &str) -> Vec<f32> {
    file.tensor(name).unwrap().to_vec_f32().unwrap()
}

#[test]
fn the_config_says_what_the_metadata_says() {
    let (_guard, output, summary) = convert(DType::BF16);
    assert_eq!(summary.name.as_deref(), Some("tiny"));
    assert_eq!((summary.tensors, summary.vocab_size, summary.tie_word_embeddings), (20, 262, true));
    assert_eq!(summary.bytes, 2 * summary.parameters);
    let config = json(&output, "config.json");
    assert_eq!(config["architectures"][0], "LlamaForCausalLM");
    for (key, expected) in [
        ("hidden_size", 64),
        ("intermediate_size", 96),
        ("num_hidden_layers", 2),
        ("num_attention_heads", 4),
        ("num_key_value_heads", 2),
        ("head_dim", 16),
        ("max_position_embeddings", 512),
        ("vocab_size", 262),
        ("bos_token_id", 1),
        ("eos_token_id", 2),
        ("pad_token_id", 2),
    ] {
        assert_eq!(config[key], expected, "{key}");
    }
    assert_eq!(config["rms_norm_eps"], 1e-5);
    assert_eq!(config["rope_theta"], 100_000.0);
    assert_eq!(config["rope_scaling"], Value::Null);
    assert_eq!(config["tie_word_embeddings"], true);
    assert_eq!(config["torch_dtype"], "bfloat16");
    assert_eq!(json(&output, "generation_config.json")["eos_token_id"], 2);
    let tokenizer = json(&output, "tokenizer_config.json");
    assert_eq!(tokenizer["eos_token"], "<|im_end|>");
    assert_eq!(tokenizer["add_bos_token"], false);
    assert_eq!(tokenizer["chat_template"], "{% for m in messages %}{{ m['content'] }}{% endfor %}");
    let read = crate::ModelConfig::from_folder(&output).unwrap();
    assert_eq!((read.head_dim, read.rope_theta, read.tie_word_embeddings), (16, 100_000.0, true));
    let read = crate::tokenizer::Tokenizer::from_folder(&output).unwrap();
    assert_eq!((read.eos_ids(), read.add_bos_token()), ([2].as_slice(), false));
    assert!(read.is_special(1) && read.chat_template().is_some());
}

#[test]
fn weights_are_the_reference_values_with_q_and_k_rows_in_order() {
    let golden = Safetensors::open(fixture("tiny.safetensors")).unwrap();
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        let (_guard, output, _) = convert(dtype);
        let file = Safetensors::open(output.join("model.safetensors")).unwrap();
        assert_eq!(file.names().count(), 20);
        let round = |v: f32| match dtype {
            DType::F16 => half::f16::from_f32(v).to_f32(),
            DType::BF16 => half::bf16::from_f32(v).to_f32(),
            _ => v,
        };
        for layer in 0..2 {
            for (gguf, name, heads) in [
                ("attn_q", "self_attn.q_proj", 4),
                ("attn_k", "self_attn.k_proj", 2),
                ("attn_v", "self_attn.v_proj", 0),
                ("attn_output", "self_attn.o_proj", 0),
                ("attn_norm", "input_layernorm", 0),
                ("ffn_norm", "post_attention_layernorm", 0),
                ("ffn_gate", "mlp.gate_proj", 0),
                ("ffn_up", "mlp.up_proj", 0),
                ("ffn_down", "mlp.down_proj", 0),
            ] {
                let stored = values(&golden, &format!("blk.{layer}.{gguf}.weight"));
                let ours = values(&file, &format!("model.layers.{layer}.{name}.weight"));
                // llama.cpp: reshape(heads, 2, d/2, cols).swapaxes(1, 2) of Hugging Face's rows.
                let cols = 64;
                let expected: Vec<f32> = match heads {
                    0 => stored.iter().map(|&v| round(v)).collect(),
                    heads => {
                        let mut expected = vec![0.0; stored.len()];
                        for (head, half, i) in (0..heads * 16).map(|r| (r / 16, r % 16 / 8, r % 8)) {
                            let (hf, gguf) = (head * 16 + half * 8 + i, head * 16 + i * 2 + half);
                            for c in 0..cols {
                                expected[hf * cols + c] = round(stored[gguf * cols + c]);
                            }
                        }
                        assert_ne!(ours, stored, "the order of rows must change");
                        expected
                    }
                };
                assert_eq!(ours, expected, "{dtype} {name}");
            }
        }
        let embedding: Vec<f32> = values(&golden, "token_embd.weight").into_iter().map(round).collect();
        assert_eq!(values(&file, "model.embed_tokens.weight"), embedding);
    }
}

#[test]
fn the_tokenizer_splits_digits_merges_and_knows_special_tokens() {
    let (_guard, output, _) = convert(DType::BF16);
    let tokenizer = Tokenizer::from_file(output.join("tokenizer.json")).unwrap();
    let encode = |text: &str| tokenizer.encode(text, true).unwrap().get_ids().to_vec();
    // Three special tokens, the 256 bytes from id 3; merges `Ġt` 259, `he` 260, `Ġthe` 261.
    let byte = |c: char| c as u32 + 3;
    assert_eq!(encode("the the"), [byte('t'), 260, 261]);
    assert_eq!(encode("a12"), [byte('a'), byte('1'), byte('2')]);
    assert_eq!(encode("<|im_start|>x<|im_end|>"), [1, byte('x'), 2]);
    for text in ["the é 漢 <|im_end|>\n\t the", "  12  "] {
        assert_eq!(tokenizer.decode(&encode(text), false).unwrap(), text);
    }
    assert_eq!(tokenizer.decode(&[1, 261], true).unwrap(), " the", "special tokens are skipped");
}

#[test]
fn rope_scaling_is_read_or_recognised() {
    let (_guard, output, _) = convert_variant("llama3.gguf");
    let expected = serde_json::json!({
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    });
    assert_eq!(json(&output, "config.json")["rope_scaling"], expected);
    let (_guard, output, _) = convert_variant("linear.gguf");
    let expected = serde_json::json!({"rope_type": "linear", "factor": 4.0});
    assert_eq!(json(&output, "config.json")["rope_scaling"], expected);
}

#[test]
fn rope_factors_that_are_not_llama_3s_are_refused() {
    // The first factor is 1: the fastest frequency is left alone.
    let factors = |first: f32| [first.to_le_bytes(), 1f32.to_le_bytes()].concat();
    let (result, _) = altered_file("llama3.gguf", &factors(1.0), &factors(2.0));
    let message = result.unwrap_err().to_string();
    assert!(message.contains("factor 0 is 2, expected 1"), "{message}");
    let theta = |v: f32| pair("llama.rope.freq_base", 6, &v.to_le_bytes());
    let (result, _) = altered_file("llama3.gguf", &theta(500_000.0), &theta(10_000.0));
    assert!(result.unwrap_err().to_string().contains("`rope_freqs.weight` is not LLaMA 3's"));
}

#[test]
fn untied_heads_and_biases_are_kept_and_q_and_k_biases_reordered() {
    let (_guard, output, summary) = convert_variant("llama3.gguf");
    assert!(!summary.tie_word_embeddings);
    let config = json(&output, "config.json");
    assert_eq!((&config["attention_bias"], &config["mlp_bias"]), (&Value::Bool(true), &Value::Bool(false)));
    assert_eq!(config["num_key_value_heads"], 1, "as many as heads where the file does not say");
    let file = Safetensors::open(output.join("model.safetensors")).unwrap();
    assert_eq!(file.info("lm_head.weight").unwrap().shape, [267, 16]);
    assert!(file.get("rope_freqs.weight").is_none());
    let bias = |name: &str| values(&file, &format!("model.layers.0.self_attn.{name}.bias"));
    let in_order: Vec<f32> = (0..16).map(|i| i as f32).collect();
    let halves: Vec<f32> = (0..16).map(|i| ((i % 8) * 2 + i / 8) as f32).collect();
    assert_eq!((bias("q_proj"), bias("k_proj")), (halves.clone(), halves));
    assert_eq!((bias("v_proj"), bias("o_proj")), (in_order.clone(), in_order));
}

#[test]
fn sentence_piece_vocabularies_become_bpe_with_byte_fallback() {
    let (_guard, output, _) = convert_variant("llama3.gguf");
    let tokenizer = Tokenizer::from_file(output.join("tokenizer.json")).unwrap();
    let encode = |text: &str| tokenizer.encode(text, true).unwrap().get_ids().to_vec();
    // `<unk>` `<s>` `</s>`, bytes from 3, then ▁t 259, he 260, ▁the 261, ▁ 262, t 263, h 264, e 265, a 266.
    assert_eq!(encode("the a"), [1, 261, 262, 266]);
    assert_eq!(encode("tea"), [1, 259, 265, 266]);
    assert_eq!(encode("é"), [1, 262, 0xC3 + 3, 0xA9 + 3], "bytes stand in for what is not there");
    assert_eq!(tokenizer.decode(&encode("the é the"), true).unwrap(), "the é the");
    assert_eq!(tokenizer.encode("the", false).unwrap().get_ids(), [261]);
    assert_eq!(json(&output, "tokenizer_config.json")["add_bos_token"], true);
    assert_eq!(json(&output, "generation_config.json")["eos_token_id"], serde_json::json!([2, 258]));
}

#[test]
fn an_output_in_use_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("mine"), "x").unwrap();
    let error = convert_gguf(&fixture("tiny.gguf"), folder.path(), DType::BF16, &mut |_, _| {}).unwrap_err();
    assert!(error.to_string().contains("is not empty"), "{error}");
    assert_eq!(std::fs::read(folder.path().join("mine")).unwrap(), b"x");
    // An empty folder is taken.
    let empty = folder.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    convert_gguf(&fixture("tiny.gguf"), &empty, DType::BF16, &mut |_, _| {}).unwrap();
    assert!(empty.join("tokenizer.json").exists());
}

/// The tiny file with one byte sequence replaced by another of the same length.
fn altered(from: &[u8], to: &[u8]) -> (Result<Summary>, usize) {
    altered_file("tiny.gguf", from, to)
}

fn altered_file(name: &str, from: &[u8], to: &[u8]) -> (Result<Summary>, usize) {
    assert_eq!(from.len(), to.len());
    let mut bytes = std::fs::read(fixture(name)).unwrap();
    let at = bytes.windows(from.len()).position(|w| w == from).unwrap();
    bytes[at..at + from.len()].copy_from_slice(to);
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("altered.gguf");
    std::fs::write(&input, bytes).unwrap();
    let result = convert_gguf(&input, &folder.path().join("out"), DType::BF16, &mut |_, _| {});
    (result, std::fs::read_dir(folder.path()).unwrap().count())
}

/// A key followed by its type and value, as they lie in the file.
fn pair(key: &str, kind: u32, value: &[u8]) -> Vec<u8> {
    [key.as_bytes(), &kind.to_le_bytes(), value].concat()
}

fn text(value: &str) -> Vec<u8> {
    [&(value.len() as u64).to_le_bytes(), value.as_bytes()].concat()
}

#[test]
fn what_is_not_converted_is_refused_by_name_and_leaves_nothing() {
    let refused = |from: &[u8], to: &[u8], expected: &[&str]| {
        let (result, entries) = altered(from, to);
        let message = result.unwrap_err().to_string();
        assert!(message.contains("altered.gguf"), "{message}");
        for part in expected {
            assert!(message.contains(part), "{part} in {message}");
        }
        assert_eq!(entries, 1, "nothing but the input is left");
    };
    let architecture = |name: &str| pair("general.architecture", 8, &text(name));
    refused(&architecture("llama"), &architecture("qwen2"), &["`qwen2`", "only `llama`"]);
    let pre = |name: &str| pair("tokenizer.ggml.pre", 8, &text(name));
    refused(&pre("smollm"), &pre("tekken"), &["`tekken`", "llama-bpe"]);
    let model = |name: &str| pair("tokenizer.ggml.model", 8, &text(name));
    refused(&model("gpt2"), &model("bert"), &["`bert`"]);
    let hidden = |n: u32| pair("llama.embedding_length", 4, &n.to_le_bytes());
    refused(&hidden(64), &hidden(128), &["head size 32"]);
    refused(&hidden(64), &hidden(0), &["`llama.embedding_length` is 0"]);
    let layers = |n: u32| pair("llama.block_count", 4, &n.to_le_bytes());
    refused(&layers(2), &layers(3), &["`blk.2.attn_norm.weight`", "not in the file"]);
    refused(&layers(2), &layers(1), &["`blk.1.attn_k.weight`", "no place"]);
    let inner = |n: u32| pair("llama.feed_forward_length", 4, &n.to_le_bytes());
    refused(&inner(96), &inner(64), &["[96, 64]", "[64, 64]"]);
    let bos = |n: u32| pair("tokenizer.ggml.bos_token_id", 4, &n.to_le_bytes());
    refused(&bos(1), &bos(999), &["`tokenizer.ggml.bos_token_id` is 999"]);
    refused(b"llama.context_length", b"llama.context_lengtx", &["`llama.context_length`: is missing"]);
    refused(&text("h e"), &text("h+e"), &["merge 1"]);
    refused(&text("h e"), &text("h \x7f"), &["does not load"]);
    refused(&text("a"), &text("b"), &["token \"b\" has two ids, 100 and 101"]);
}

#[test]
fn a_dtype_that_cannot_hold_weights_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out");
    let error = convert_gguf(&fixture("tiny.gguf"), &output, DType::U8, &mut |_, _| {}).unwrap_err();
    assert!(error.to_string().contains("f32, f16 or bf16"), "{error}");
    assert!(!output.exists());
}
