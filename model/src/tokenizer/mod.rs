//! Text to token ids and back, from a Hugging Face folder.
//!
//! `tokenizer.json` does the work (the `tokenizers` crate reads it); the files beside it say which
//! tokens begin and end a sequence and how a conversation is written. Nothing here ever adds a token
//! by itself: templates decide where `bos` and `eos` go.

mod bpe;
mod config;
mod error;
mod stream;

pub use bpe::{BpeOptions, CHATML_TEMPLATE, train_bpe};
pub use error::TokenizerError;
pub use stream::StreamDecoder;

use config::JsonFile;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The files that make up a tokenizer in a Hugging Face folder.
const FILES: [&str; 4] =
    ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"];

/// A special token: its text and its id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecialToken {
    /// The text as it stands in the vocabulary, e.g. `</s>`.
    pub text: String,
    /// Its id.
    pub id: u32,
}

/// A tokenizer with its special tokens and chat template.
pub struct Tokenizer {
    folder: PathBuf,
    inner: tokenizers::Tokenizer,
    /// The same vocabulary, reading special tokens in a text as plain characters. Made on first use:
    /// only untrusted text needs it, and a copy of a large vocabulary costs megabytes.
    plain: OnceLock<tokenizers::Tokenizer>,
    bos: Option<SpecialToken>,
    eos: Option<SpecialToken>,
    pad: Option<SpecialToken>,
    unk: Option<SpecialToken>,
    add_bos_token: bool,
    eos_ids: Vec<u32>,
    chat_templates: Vec<(String, String)>,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("folder", &self.folder)
            .field("vocab_size", &self.vocab_size())
            .field("bos", &self.bos)
            .field("eos", &self.eos)
            .finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// Reads the tokenizer of a Hugging Face model folder.
    ///
    /// * `tokenizer.json` is required.
    /// * `bos`/`eos`/`pad`/`unk` come from `tokenizer_config.json`, else `special_tokens_map.json`;
    ///   `bos` and `eos` else from the ids in `config.json`. A `bos` or `eos` that is named but not in
    ///   the vocabulary is an error; such a `pad` or `unk` counts as absent, since nothing here pads.
    /// * tokens of `added_tokens_decoder` that `tokenizer.json` lacks are added under the ids it gives.
    /// * `chat_template.jinja` wins over the `chat_template` key.
    /// * [`Tokenizer::eos_ids`] also collects `eos_token_id` (a number or a list) of
    ///   `generation_config.json` and `config.json`.
    ///
    /// # Errors
    /// [`TokenizerError`], naming the file and the key.
    pub fn from_folder(folder: &Path) -> Result<Tokenizer, TokenizerError> {
        let path = folder.join("tokenizer.json");
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Err(TokenizerError::Missing { folder: folder.to_path_buf() });
            }
            Err(source) => return Err(TokenizerError::Io { path, source }),
        };
        let mut inner = tokenizers::Tokenizer::from_bytes(&bytes)
            .map_err(|e| TokenizerError::Parse { path, reason: e.to_string() })?;
        // What a file says about truncation and padding belongs to whoever wrote it: lengths are ours.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(library("switch truncation off"))?;

        let tokenizer_config = JsonFile::open(folder, "tokenizer_config.json")?;
        let special_tokens_map = JsonFile::open(folder, "special_tokens_map.json")?;
        let model_config = JsonFile::open(folder, "config.json")?;
        let generation_config = JsonFile::open(folder, "generation_config.json")?;

        if let Some(config) = &tokenizer_config {
            add_missing_tokens(&mut inner, config)?;
        }
        let named = [&tokenizer_config, &special_tokens_map];
        let find = |key: &str| named_token(&inner, &named, key);
        let bos = match find("bos_token")? {
            Some(token) => Some(token),
            None => token_of_id(&inner, &model_config, "bos_token_id")?.into_iter().next(),
        };
        let eos = match find("eos_token")? {
            Some(token) => Some(token),
            None => token_of_id(&inner, &model_config, "eos_token_id")?.into_iter().next(),
        };
        let lenient = |key: &str| match find(key) {
            Err(TokenizerError::NotInVocabulary { .. }) => Ok(None),
            other => other,
        };
        let (pad, unk) = (lenient("pad_token")?, lenient("unk_token")?);

        let mut eos_ids: Vec<u32> = eos.iter().map(|t| t.id).collect();
        for file in [&generation_config, &model_config] {
            for token in token_of_id(&inner, file, "eos_token_id")? {
                if !eos_ids.contains(&token.id) {
                    eos_ids.push(token.id);
                }
            }
        }

        let add_bos_token = match &tokenizer_config {
            Some(config) => config.flag("add_bos_token")?.unwrap_or(false),
            None => false,
        };
        let chat_templates = match read_optional(&folder.join("chat_template.jinja"))? {
            Some(text) => vec![("default".to_string(), text)],
            None => match &tokenizer_config {
                Some(config) => config.chat_templates()?,
                None => Vec::new(),
            },
        };
        Ok(Tokenizer {
            folder: folder.to_path_buf(),
            inner,
            plain: OnceLock::new(),
            bos,
            eos,
            pad,
            unk,
            add_bos_token,
            eos_ids,
            chat_templates,
        })
    }

    /// The token ids of `text`, with nothing added at either end.
    ///
    /// With `allow_special`, the text of a special token (`<|im_end|>`) becomes that token: what
    /// templates need. Without, it is read as plain characters: what text from strangers needs.
    ///
    /// # Errors
    /// When the tokenizer library refuses the text.
    pub fn encode(&self, text: &str, allow_special: bool) -> Result<Vec<u32>, TokenizerError> {
        let tokenizer = if allow_special {
            &self.inner
        } else {
            self.plain.get_or_init(|| {
                let mut plain = self.inner.clone();
                plain.set_encode_special_tokens(true);
                plain
            })
        };
        let encoding = tokenizer.encode_fast(text, false).map_err(library("encode a text"))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of `ids`; `skip_special` leaves special tokens out.
    ///
    /// # Errors
    /// When the tokenizer library refuses the ids. Ids outside the vocabulary are skipped by it.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, TokenizerError> {
        self.inner.decode(ids, skip_special).map_err(library("decode token ids"))
    }

    /// A decoder that takes one id at a time and gives out text as soon as it is complete.
    pub fn stream(&self, skip_special: bool) -> StreamDecoder<'_> {
        StreamDecoder::new(self, skip_special)
    }

    /// The id of a token written as the vocabulary writes it.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// How the vocabulary writes the token of this id.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// Whether this id is a special token (left out by `decode(_, true)`).
    pub fn is_special(&self, id: u32) -> bool {
        self.inner.get_added_vocabulary().get_added_tokens_decoder().get(&id).is_some_and(|t| t.special)
    }

    /// The number of ids, added tokens included: one more than the largest id that a text can give
    /// when the vocabulary has no holes.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The token that begins a sequence.
    pub fn bos(&self) -> Option<&SpecialToken> {
        self.bos.as_ref()
    }

    /// The token that ends a sequence.
    pub fn eos(&self) -> Option<&SpecialToken> {
        self.eos.as_ref()
    }

    /// The padding token, where the folder names one. Nothing here pads; exporters write it back.
    pub fn pad(&self) -> Option<&SpecialToken> {
        self.pad.as_ref()
    }

    /// The token for unknown text, where the folder names one.
    pub fn unk(&self) -> Option<&SpecialToken> {
        self.unk.as_ref()
    }

    /// `add_bos_token` of `tokenizer_config.json` (false where absent); pre-training looks at it.
    pub fn add_bos_token(&self) -> bool {
        self.add_bos_token
    }

    /// All ids that end a generation: the eos token and those of `generation_config.json` and `config.json`.
    pub fn eos_ids(&self) -> &[u32] {
        &self.eos_ids
    }

    /// The model's own chat template (Jinja): the one named `default`, or the only one.
    pub fn chat_template(&self) -> Option<&str> {
        match self.chat_templates.as_slice() {
            [(_, only)] => Some(only),
            list => list.iter().find(|(name, _)| name == "default").map(|(_, text)| text.as_str()),
        }
    }

    /// The folder this tokenizer was read from.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Copies the tokenizer's files into `folder`, so that what is saved there can be opened alone.
    ///
    /// # Errors
    /// When a file cannot be read or written. A file that the source folder lacks is not an error.
    pub fn copy_files(&self, folder: &Path) -> Result<(), TokenizerError> {
        for name in FILES {
            let (from, to) = (self.folder.join(name), folder.join(name));
            match std::fs::read(&from) {
                Ok(bytes) => {
                    std::fs::write(&to, bytes).map_err(|source| TokenizerError::Io { path: to, source })?;
                }
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(source) => return Err(TokenizerError::Io { path: from, source }),
            }
        }
        Ok(())
    }
}

/// Wraps the library's boxed error.
fn library<E: std::fmt::Display>(action: &'static str) -> impl Fn(E) -> TokenizerError {
    move |e| TokenizerError::Library { action, reason: e.to_string() }
}

fn read_optional(path: &Path) -> Result<Option<String>, TokenizerError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(TokenizerError::Io { path: path.to_path_buf(), source }),
    }
}

/// Adds what `added_tokens_decoder` lists and `tokenizer.json` does not treat as an added token, as
/// transformers does when it loads the folder.
fn add_missing_tokens(inner: &mut tokenizers::Tokenizer, config: &JsonFile) -> Result<(), TokenizerError> {
    let mut known: std::collections::HashSet<String> =
        inner.get_added_tokens_decoder().into_values().map(|t| t.content).collect();
    for (id, token) in config.added_tokens()? {
        let content = token.content.clone();
        if known.insert(content.clone()) {
            inner.add_tokens([token]).map_err(library("add a token"))?;
        }
        if inner.token_to_id(&content) != Some(id) {
            return Err(TokenizerError::NotInVocabulary {
                path: config.path().to_path_buf(),
                key: format!("added_tokens_decoder.{id}"),
                token: content,
            });
        }
    }
    Ok(())
}

/// The special token that the first of `files` names under `key`.
fn named_token(
    inner: &tokenizers::Tokenizer,
    files: &[&Option<JsonFile>],
    key: &str,
) -> Result<Option<SpecialToken>, TokenizerError> {
    for file in files.iter().filter_map(|f| f.as_ref()) {
        if let Some(text) = file.token(key)? {
            return match inner.token_to_id(&text) {
                Some(id) => Ok(Some(SpecialToken { text, id })),
                None => Err(TokenizerError::NotInVocabulary {
                    path: file.path().to_path_buf(),
                    key: key.to_string(),
                    token: text,
                }),
            };
        }
    }
    Ok(None)
}

/// The tokens whose ids stand under `key`.
fn token_of_id(
    inner: &tokenizers::Tokenizer,
    file: &Option<JsonFile>,
    key: &str,
) -> Result<Vec<SpecialToken>, TokenizerError> {
    let Some(file) = file else { return Ok(Vec::new()) };
    file.ids(key)?
        .into_iter()
        .map(|id| match inner.id_to_token(id) {
            Some(text) => Ok(SpecialToken { text, id }),
            None => Err(TokenizerError::NotInVocabulary {
                path: file.path().to_path_buf(),
                key: key.to_string(),
                token: id.to_string(),
            }),
        })
        .collect()
}

#[cfg(test)]
mod tests;
