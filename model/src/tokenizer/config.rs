//! The files beside `tokenizer.json`: which tokens are special, and the chat template.
//!
//! These files are written by other programs and carry many keys that only they use, so unknown keys
//! are left alone here; a known key of the wrong type is an error.

use super::error::TokenizerError;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// A JSON object and the file it came from.
pub(super) struct JsonFile {
    path: PathBuf,
    map: Map<String, Value>,
}

impl JsonFile {
    /// Reads `folder/name`; `None` where there is no such file.
    pub(super) fn open(folder: &Path, name: &str) -> Result<Option<JsonFile>, TokenizerError> {
        let path = folder.join(name);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(TokenizerError::Io { path, source }),
        };
        match serde_json::from_str(&text) {
            Ok(map) => Ok(Some(JsonFile { path, map })),
            Err(e) => Err(TokenizerError::Parse { path, reason: e.to_string() }),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn key_error(&self, key: &str, expected: &'static str, got: &Value) -> TokenizerError {
        TokenizerError::Key { path: self.path.clone(), key: key.to_string(), expected, got: shorten(got) }
    }

    /// A special token, written as a string or as an object with `content`.
    pub(super) fn token(&self, key: &str) -> Result<Option<String>, TokenizerError> {
        match self.map.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(s)) => Ok(Some(s.clone())),
            Some(Value::Object(o)) if o.get("content").is_some_and(Value::is_string) => {
                Ok(o.get("content").and_then(Value::as_str).map(str::to_string))
            }
            Some(v) => Err(self.key_error(key, "a string or an object with `content`", v)),
        }
    }

    /// A boolean; `None` where it is absent or null.
    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>, TokenizerError> {
        match self.map.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Bool(b)) => Ok(Some(*b)),
            Some(v) => Err(self.key_error(key, "true or false", v)),
        }
    }

    /// One token id or a list of them; empty where the key is absent or null.
    pub(super) fn ids(&self, key: &str) -> Result<Vec<u32>, TokenizerError> {
        let one = |v: &Value| v.as_u64().and_then(|id| u32::try_from(id).ok());
        match self.map.get(key) {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(Value::Array(list)) => {
                list.iter().map(|v| one(v).ok_or_else(|| self.key_error(key, "token ids", v))).collect()
            }
            Some(v) => match one(v) {
                Some(id) => Ok(vec![id]),
                None => Err(self.key_error(key, "a token id or a list of them", v)),
            },
        }
    }

    /// `added_tokens_decoder`: `(id, token object)`, ascending by id.
    pub(super) fn added_tokens(&self) -> Result<Vec<(u32, tokenizers::AddedToken)>, TokenizerError> {
        const KEY: &str = "added_tokens_decoder";
        let entries = match self.map.get(KEY) {
            None | Some(Value::Null) => return Ok(Vec::new()),
            Some(Value::Object(entries)) => entries,
            Some(v) => return Err(self.key_error(KEY, "an object from ids to tokens", v)),
        };
        let mut tokens = Vec::with_capacity(entries.len());
        for (id, entry) in entries {
            let key = format!("{KEY}.{id}");
            let number: u32 = id
                .parse()
                .map_err(|_| self.key_error(&key, "a token id as key", &Value::String(id.clone())))?;
            let content = entry
                .get("content")
                .and_then(Value::as_str)
                .ok_or_else(|| self.key_error(&key, "an object with `content`", entry))?;
            let flag = |name: &str| entry.get(name).and_then(Value::as_bool);
            let special = flag("special").unwrap_or(false);
            let token = tokenizers::AddedToken::from(content, special)
                .lstrip(flag("lstrip").unwrap_or(false))
                .rstrip(flag("rstrip").unwrap_or(false))
                .single_word(flag("single_word").unwrap_or(false))
                .normalized(flag("normalized").unwrap_or(!special));
            tokens.push((number, token));
        }
        tokens.sort_by_key(|(id, _)| *id);
        Ok(tokens)
    }

    /// `chat_template`: a string, or a list of `{name, template}`; returns `(name, template)` pairs,
    /// a lone string under the name `default`.
    pub(super) fn chat_templates(&self) -> Result<Vec<(String, String)>, TokenizerError> {
        const KEY: &str = "chat_template";
        match self.map.get(KEY) {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(Value::String(s)) => Ok(vec![("default".to_string(), s.clone())]),
            Some(Value::Array(list)) => list
                .iter()
                .map(|v| {
                    let text = |name: &str| v.get(name).and_then(Value::as_str).map(str::to_string);
                    match (text("name"), text("template")) {
                        (Some(name), Some(template)) => Ok((name, template)),
                        _ => Err(self.key_error(KEY, "a list of {name, template}", v)),
                    }
                })
                .collect(),
            Some(v) => Err(self.key_error(KEY, "a string or a list of {name, template}", v)),
        }
    }
}

/// A value as it goes into an error message: its JSON, cut at 60 characters.
fn shorten(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((cut, _)) => format!("{}…", &text[..cut]),
        None => text,
    }
}
