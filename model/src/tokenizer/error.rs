//! What can go wrong when a tokenizer is read, trained or used.

use std::path::PathBuf;

/// Errors of [`super::Tokenizer`]; each names the file, and the key where there is one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// The folder has no `tokenizer.json`.
    #[error(
        "{}: no tokenizer.json in this folder; medley reads Hugging Face's fast-tokenizer file only (a SentencePiece tokenizer.model must be converted first, a GGUF file with `medley convert`)",
        .folder.display()
    )]
    Missing {
        /// The folder that was searched.
        folder: PathBuf,
    },
    /// A file could not be read or written.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A file is not the JSON it should be.
    #[error("{}: not valid: {reason}", .path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// What the parser said, with line and column where it knows them.
        reason: String,
    },
    /// A key holds something else than the format says.
    #[error("{}: `{key}`: expected {expected}, got {got}", .path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// The key, dotted where it is nested.
        key: String,
        /// What the format wants there.
        expected: &'static str,
        /// What was found.
        got: String,
    },
    /// A special token that a configuration file names is not in the vocabulary.
    #[error("{}: `{key}` is {token:?}, which is not in the vocabulary of tokenizer.json; the files of this folder do not belong together", .path.display())]
    NotInVocabulary {
        /// The configuration file.
        path: PathBuf,
        /// The key that names the token.
        key: String,
        /// The token or its id, as written there.
        token: String,
    },
    /// The tokenizer library refused a text or some ids.
    #[error("tokenizer: could not {action}: {reason}")]
    Library {
        /// What was being done.
        action: &'static str,
        /// The library's reason.
        reason: String,
    },
    /// A vocabulary was asked for that cannot hold the bytes and the special tokens.
    #[error(
        "vocab_size {vocab_size} is too small: a byte-level vocabulary needs {needed} (256 bytes and {specials} special tokens)"
    )]
    VocabularyTooSmall {
        /// What was asked for.
        vocab_size: usize,
        /// The least that works.
        needed: usize,
        /// The special tokens among them.
        specials: usize,
    },
    /// There was no text to train on.
    #[error("no text to train a tokenizer on: every document is empty")]
    NoText,
}
