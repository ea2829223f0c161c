//! One error type for loading, running and writing models.

use std::path::{Path, PathBuf};

/// What can go wrong between a folder on disk and a running model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file that cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file that says something this program cannot use.
    #[error("{}: {message}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The key, what was found, what was expected and what to do.
        message: String,
    },
    /// A weight file that is damaged or lacks a tensor.
    #[error(transparent)]
    Weights(#[from] medley_tensor::io::Error),
    /// Shapes, dtypes and values the ops refuse.
    #[error(transparent)]
    Tensor(#[from] medley_tensor::Error),
    /// A request that does not fit the model: an unknown target module, an empty prompt, …
    #[error("{0}")]
    Request(String),
}

/// Shorthand for results of this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An [`Error::Io`] for a path.
    pub fn io(path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.as_ref().to_path_buf();
        move |source| Error::Io { path, source }
    }

    /// An [`Error::File`] for a path.
    pub fn file(path: impl AsRef<Path>, message: impl Into<String>) -> Error {
        Error::File { path: path.as_ref().to_path_buf(), message: message.into() }
    }
}
