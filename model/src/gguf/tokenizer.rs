//! `tokenizer.ggml.*` metadata as Hugging Face's `tokenizer.json` and `tokenizer_config.json`.
//!
//! Two kinds are converted: `gpt2`, byte-level BPE with its merges; and `llama`, SentencePiece BPE
//! with scores, whose merges are recovered as transformers does (`convert_slow_tokenizer.py`,
//! `SentencePieceExtractor.extract` and `LlamaConverter`).

use super::config::SpecialTokens;
use super::pre_tokenizer::PreTokenizer;
use super::{Error, Result};
use medley_tensor::io::Gguf;
use serde_json::{Map, Value, json};
use std::collections::HashMap;

/// Values of `tokenizer.ggml.token_type` that matter here (llama.cpp `llama_token_type`).
const UNKNOWN: i64 = 2;
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;

/// What replaces a space in SentencePiece vocabularies.
const SPACE: &str = "▁";

/// The two files, and the tokens with a role.
pub(super) struct TokenizerFiles {
    pub tokenizer: Value,
    pub config: Value,
    pub special: SpecialTokens,
}

/// Everything read, before it takes the one or the other form.
struct Vocabulary<'a> {
    file: &'a Gguf,
    tokens: &'a [String],
    types: &'a [i64],
    ids: HashMap<&'a str, usize>,
    special: SpecialTokens,
}

impl TokenizerFiles {
    /// Builds both files and proves that the tokenizer loads. `rows` are those of the embedding,
    /// `max_length` the tokens the model takes.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] for contradictions, [`Error::Unsupported`] for other kinds, by name.
    pub fn build(file: &Gguf, rows: usize, max_length: u64) -> Result<Self> {
        let kind = file.required("tokenizer.ggml.model", file.string("tokenizer.ggml.model")?)?;
        let vocabulary = Vocabulary::read(file, rows)?;
        let mut tokenizer = json!({"version": "1.0", "truncation": null, "padding": null});
        let (parts, add_bos, prefix_space) = match kind {
            "gpt2" => vocabulary.byte_level()?,
            "llama" => vocabulary.sentence_piece()?,
            other => {
                let message = format!("tokenizer `{other}` is not converted, only gpt2 and llama are");
                return Err(Error::unsupported(file, message));
            }
        };
        let add_bos = file.bool("tokenizer.ggml.add_bos_token")?.unwrap_or(add_bos);
        let add_eos = file.bool("tokenizer.ggml.add_eos_token")?.unwrap_or(false);
        if let Some(map) = tokenizer.as_object_mut() {
            map.insert("added_tokens".to_owned(), vocabulary.added_tokens());
            map.extend(parts);
            let post = map.remove("post_processor").unwrap_or(Value::Null);
            map.insert("post_processor".to_owned(), vocabulary.post_processor(post, add_bos, add_eos)?);
        }
        // Only a tokenizer that loads is worth writing.
        if let Err(error) = serde_json::from_value::<tokenizers::Tokenizer>(tokenizer.clone()) {
            return Err(vocabulary.fail(format!("the converted tokenizer does not load: {error}")));
        }
        let config = vocabulary.config(max_length, add_bos, add_eos, prefix_space)?;
        Ok(TokenizerFiles { tokenizer, config, special: vocabulary.special })
    }
}

/// Parts of `tokenizer.json` that depend on the kind, whether BOS is added by default, and whether a
/// space is put before the text.
type Parts = (Map<String, Value>, bool, bool);

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

impl<'a> Vocabulary<'a> {
    fn read(file: &'a Gguf, rows: usize) -> Result<Self> {
        let key = "tokenizer.ggml.tokens";
        let tokens = file.required(key, file.strings(key)?)?;
        let types = file.ints("tokenizer.ggml.token_type")?.unwrap_or(&[]);
        let fail = |message: String| Error::Tokenizer { path: file.path().to_path_buf(), message };
        if !types.is_empty() && types.len() != tokens.len() {
            return Err(fail(format!("{} tokens but {} token types", tokens.len(), types.len())));
        }
        if tokens.len() > rows {
            return Err(fail(format!("{} tokens but only {rows} rows in `token_embd.weight`", tokens.len())));
        }
        let mut ids = HashMap::with_capacity(tokens.len());
        for (id, token) in tokens.iter().enumerate() {
            if let Some(first) = ids.insert(token.as_str(), id) {
                return Err(fail(format!("token {token:?} has two ids, {first} and {id}")));
            }
        }
        let role = |name: &str| -> Result<Option<u64>> {
            let key = format!("tokenizer.ggml.{name}_token_id");
            match file.uint(&key)? {
                Some(id) if id >= tokens.len() as u64 => {
                    Err(fail(format!("`{key}` is {id}, past the {} tokens", tokens.len())))
                }
                id => Ok(id),
            }
        };
        let special = SpecialTokens {
            bos: role("bos")?,
            eos: role("eos")?,
            eot: role("eot")?,
            unk: role("unknown")?,
            pad: role("padding")?,
        };
        Ok(Vocabulary { file, tokens, types, ids, special })
    }

    fn fail(&self, message: impl Into<String>) -> Error {
        Error::Tokenizer { path: self.file.path().to_path_buf(), message: message.into() }
    }

    fn content(&self, id: Option<u64>) -> Option<&'a str> {
        self.tokens.get(usize::try_from(id?).ok()?).map(String::as_str)
    }

    /// Ids of tokens that are recognised in text before anything else, and whether each is special.
    fn added(&self) -> impl Iterator<Item = (usize, bool)> {
        self.types.iter().enumerate().filter_map(|(id, kind)| match *kind {
            UNKNOWN | CONTROL => Some((id, true)),
            USER_DEFINED => Some((id, false)),
            _ => None,
        })
    }

    fn added_token(&self, id: usize, special: bool) -> Map<String, Value> {
        object(json!({
            "content": self.tokens[id],
            "single_word": false,
            "lstrip": false,
            "rstrip": false,
            "normalized": false,
            "special": special,
        }))
    }

    fn added_tokens(&self) -> Value {
        let tokens = self.added().map(|(id, special)| {
            let mut token = object(json!({ "id": id }));
            token.extend(self.added_token(id, special));
            Value::Object(token)
        });
        tokens.collect()
    }

    /// `gpt2`: bytes as visible characters, merges from the file.
    fn byte_level(&self) -> Result<Parts> {
        let pre_name = self.file.string("tokenizer.ggml.pre")?.unwrap_or("default");
        let Some(pre) = PreTokenizer::from_name(pre_name) else {
            let message =
                format!("pre-tokenizer `{pre_name}` is not converted, only {} are", PreTokenizer::names());
            return Err(Error::unsupported(self.file, message));
        };
        let prefix_space = self.file.bool("tokenizer.ggml.add_space_prefix")?.unwrap_or(false);
        let key = "tokenizer.ggml.merges";
        let mut merges = Vec::new();
        for (i, merge) in self.file.required(key, self.file.strings(key)?)?.iter().enumerate() {
            // A token may begin with a space in odd vocabularies, so the first character is skipped.
            let first = merge.chars().next().map_or(0, char::len_utf8);
            match merge[first..].find(' ') {
                Some(at) => merges.push((&merge[..first + at], &merge[first + at + 1..])),
                None => return Err(self.fail(format!("merge {i} is {merge:?}, expected two tokens"))),
            }
        }
        let parts = json!({
            "normalizer": if pre.nfc { json!({"type": "NFC"}) } else { Value::Null },
            "pre_tokenizer": pre.to_json(prefix_space),
            "post_processor": {
                "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false, "use_regex": true,
            },
            "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
            "model": {
                "type": "BPE",
                "dropout": null,
                "unk_token": self.content(self.special.unk),
                "continuing_subword_prefix": null,
                "end_of_word_suffix": null,
                "fuse_unk": false,
                "byte_fallback": false,
                "ignore_merges": pre.ignore_merges,
                "vocab": self.vocab(),
                "merges": merges,
            },
        });
        Ok((object(parts), pre.add_bos, prefix_space))
    }

    /// `llama`: SentencePiece BPE with byte fallback.
    fn sentence_piece(&self) -> Result<Parts> {
        let key = "tokenizer.ggml.scores";
        let scores = self.file.required(key, self.file.floats(key)?)?;
        if scores.len() != self.tokens.len() {
            return Err(self.fail(format!("{} tokens but {} scores", self.tokens.len(), scores.len())));
        }
        let Some(unk) = self.content(self.special.unk.or(Some(0))) else {
            return Err(self.fail("there are no tokens"));
        };
        let prefix_space = self.file.bool("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
        let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": SPACE});
        let normalizer = if prefix_space {
            json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": SPACE}, replace]})
        } else {
            replace
        };
        let mut decoders = vec![
            json!({"type": "Replace", "pattern": {"String": SPACE}, "content": " "}),
            json!({"type": "ByteFallback"}),
            json!({"type": "Fuse"}),
        ];
        if prefix_space {
            decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        }
        let parts = json!({
            "normalizer": normalizer,
            "pre_tokenizer": null,
            "decoder": {"type": "Sequence", "decoders": decoders},
            "model": {
                "type": "BPE",
                "dropout": null,
                "unk_token": unk,
                "continuing_subword_prefix": null,
                "end_of_word_suffix": null,
                "fuse_unk": true,
                "byte_fallback": true,
                "ignore_merges": false,
                "vocab": self.vocab(),
                "merges": self.merges_from_scores(scores),
            },
        });
        Ok((object(parts), true, prefix_space))
    }

    fn vocab(&self) -> Map<String, Value> {
        self.tokens.iter().enumerate().map(|(id, token)| (token.clone(), json!(id))).collect()
    }

    /// Every way to put a piece together from two others, best scores first; of one piece, longer
    /// first halves first, as transformers orders them.
    fn merges_from_scores(&self, scores: &[f64]) -> Vec<(&'a str, &'a str)> {
        struct Merge<'a> {
            score: f64,
            lengths: (usize, usize),
            pair: (&'a str, &'a str),
        }
        let mut merges = Vec::new();
        for (id, token) in self.tokens.iter().enumerate() {
            let length = token.chars().count();
            let mut splits: Vec<_> = token
                .char_indices()
                .skip(1)
                .enumerate()
                .filter_map(|(i, (at, _))| {
                    let (left, right) = token.split_at(at);
                    let order = (*self.ids.get(left)?, *self.ids.get(right)?);
                    Some((
                        order,
                        Merge { score: scores[id], lengths: (i + 1, length - i - 1), pair: (left, right) },
                    ))
                })
                .collect();
            splits.sort_by_key(|(order, _)| *order);
            merges.extend(splits.into_iter().map(|(_, merge)| merge));
        }
        merges.sort_by(|a, b| b.score.total_cmp(&a.score).then_with(|| b.lengths.cmp(&a.lengths)));
        merges.into_iter().map(|merge| merge.pair).collect()
    }

    /// The kind's own step, then BOS and EOS around the text where the model wants them.
    fn post_processor(&self, own: Value, add_bos: bool, add_eos: bool) -> Result<Value> {
        let mut single = vec![json!({"Sequence": {"id": "A", "type_id": 0}})];
        let mut pair = vec![
            json!({"Sequence": {"id": "A", "type_id": 0}}),
            json!({"Sequence": {"id": "B", "type_id": 1}}),
        ];
        let mut special_tokens = Map::new();
        for (wanted, id, name, first) in
            [(add_bos, self.special.bos, "bos", true), (add_eos, self.special.eos, "eos", false)]
        {
            if !wanted {
                continue;
            }
            let Some(content) = self.content(id) else {
                let message =
                    format!("`add_{name}_token` is set, but there is no `tokenizer.ggml.{name}_token_id`");
                return Err(self.fail(message));
            };
            let token = |type_id: u8| json!({"SpecialToken": {"id": content, "type_id": type_id}});
            if first {
                single.insert(0, token(0));
                pair.insert(1, token(1));
                pair.insert(0, token(0));
            } else {
                single.push(token(0));
                pair.insert(pair.len() - 1, token(0));
                pair.push(token(1));
            }
            special_tokens
                .insert(content.to_owned(), json!({"id": content, "ids": [id], "tokens": [content]}));
        }
        if special_tokens.is_empty() {
            return Ok(own);
        }
        let template = json!({
            "type": "TemplateProcessing",
            "single": single,
            "pair": pair,
            "special_tokens": special_tokens,
        });
        Ok(match own {
            Value::Null => template,
            own => json!({"type": "Sequence", "processors": [own, template]}),
        })
    }

    /// `tokenizer_config.json`.
    fn config(&self, max_length: u64, add_bos: bool, add_eos: bool, prefix_space: bool) -> Result<Value> {
        let decoder: Map<String, Value> = self
            .added()
            .map(|(id, special)| (id.to_string(), Value::Object(self.added_token(id, special))))
            .collect();
        let mut config = object(json!({
            "add_bos_token": add_bos,
            "add_eos_token": add_eos,
            "add_prefix_space": prefix_space,
            "added_tokens_decoder": decoder,
            "bos_token": self.content(self.special.bos),
            "clean_up_tokenization_spaces": false,
            "eos_token": self.content(self.special.eos),
            "model_max_length": max_length,
            "pad_token": self.content(self.special.pad),
            "tokenizer_class": "PreTrainedTokenizerFast",
            "unk_token": self.content(self.special.unk),
        }));
        if let Some(template) = self.file.string("tokenizer.chat_template")? {
            config.insert("chat_template".to_owned(), json!(template));
        }
        Ok(Value::Object(config))
    }
}
