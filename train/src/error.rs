//! One error type for data, training and evaluation.

use std::path::{Path, PathBuf};

/// What can go wrong in a run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An option whose value cannot be used.
    #[error(transparent)]
    Config(#[from] crate::config::ConfigError),
    /// Data files and rows that cannot be used.
    #[error(transparent)]
    Data(#[from] crate::data::DataError),
    /// Loading, running or writing a model.
    #[error(transparent)]
    Model(#[from] medley_model::Error),
    /// A tokenizer that cannot be read.
    #[error(transparent)]
    Tokenizer(#[from] medley_model::tokenizer::TokenizerError),
    /// A template that does not fit the model or the data.
    #[error(transparent)]
    Template(#[from] medley_model::template::TemplateError),
    /// Shapes, dtypes and values the ops refuse.
    #[error(transparent)]
    Tensor(#[from] medley_tensor::Error),
    /// Reading or writing a weight file.
    #[error(transparent)]
    Weights(#[from] medley_tensor::io::Error),
    /// A file the system would not read or write.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A checkpoint that is incomplete, damaged or of another run.
    #[error("checkpoint {}: {message}", path.display())]
    Checkpoint {
        /// The checkpoint's folder.
        path: PathBuf,
        /// What is wrong and what to do.
        message: String,
    },
    /// The loss or its gradient stopped being a number.
    #[error("{0}")]
    NonFinite(String),
    /// Anything else about a run that cannot go on.
    #[error("{0}")]
    Run(String),
}

/// Shorthand for results of this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An [`Error::Io`] for a path.
    pub fn io(path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.as_ref().to_path_buf();
        move |source| Error::Io { path, source }
    }
}
