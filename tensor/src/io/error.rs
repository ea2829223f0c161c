//! What can be wrong with a file: the path and, where there is one, the tensor or key are named.

use std::path::{Path, PathBuf};

/// Errors of reading and writing weight files.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused.
    #[error("{}: cannot {action}: {source}", path.display())]
    Os {
        /// The file or folder.
        path: PathBuf,
        /// What was tried: `open`, `write`, `rename into place`, …
        action: &'static str,
        /// The system's error.
        source: std::io::Error,
    },
    /// The file as a whole breaks its format: too short, a header that lies, wrong magic, …
    #[error("{}: not a valid {format} file: {message}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// `safetensors`, `GGUF` or `safetensors index`.
        format: &'static str,
        /// What is wrong, what was expected.
        message: String,
    },
    /// One tensor of the file breaks the format or cannot be used.
    #[error("{}: tensor `{tensor}`: {message}", path.display())]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor's name in the file.
        tensor: String,
        /// What is wrong, what was expected.
        message: String,
    },
    /// One metadata key of the file is missing or has another type than expected.
    #[error("{}: metadata key `{key}`: {message}", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What is wrong, what was expected.
        message: String,
    },
    /// A folder without weights that can be read.
    #[error("{}: no weights found: {message}", path.display())]
    NoWeights {
        /// The folder.
        path: PathBuf,
        /// What was looked for and what to do.
        message: String,
    },
}

/// Shorthand for results of this module.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(super) fn os(path: &Path, action: &'static str, source: std::io::Error) -> Self {
        Error::Os { path: path.to_path_buf(), action, source }
    }

    pub(super) fn malformed(path: &Path, format: &'static str, message: impl Into<String>) -> Self {
        Error::Malformed { path: path.to_path_buf(), format, message: message.into() }
    }

    /// An [`Error::Tensor`] in one line.
    pub fn tensor(path: &Path, tensor: &str, message: impl Into<String>) -> Self {
        Error::Tensor { path: path.to_path_buf(), tensor: tensor.to_owned(), message: message.into() }
    }

    /// An [`Error::Key`] in one line.
    pub fn key(path: &Path, key: &str, message: impl Into<String>) -> Self {
        Error::Key { path: path.to_path_buf(), key: key.to_owned(), message: message.into() }
    }
}
