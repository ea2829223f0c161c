//! What can be wrong with data; every message says where and what to do.

use super::format::location;
use medley_model::template::TemplateError;
use medley_model::tokenizer::TokenizerError;
use std::path::{Path, PathBuf};

/// Errors of reading and rendering data.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// A file could not be opened or read.
    #[error("{}: {source}{hint}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
        /// Where the path came from, where that helps.
        hint: String,
    },
    /// A file without a single row.
    #[error("{}: the file is empty; expected {expected}", .path.display())]
    Empty {
        /// The file.
        path: PathBuf,
        /// What should be in it.
        expected: &'static str,
    },
    /// A file of a kind that is not read.
    #[error("{}: expected a file of the kind {expected}; convert it first", .path.display())]
    Extension {
        /// The file.
        path: PathBuf,
        /// The kinds that are read.
        expected: &'static str,
    },
    /// A file or folder that cannot be used as a whole: damaged, mixed, not what its name says.
    #[error("{}: {reason}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },
    /// A row that cannot be used.
    #[error("{}: {reason}", location(.path, *.line))]
    Row {
        /// The file.
        path: PathBuf,
        /// The line, or the row where the file has no lines; counted from 1.
        line: u64,
        /// What is wrong and what was expected.
        reason: String,
    },
    /// Bytes that are not UTF-8.
    #[error("{}:{line}: invalid UTF-8 at byte {byte_offset} of the file; save it as UTF-8", .path.display())]
    Utf8 {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: u64,
        /// The first bad byte, counted from 0 at the start of the file.
        byte_offset: u64,
    },
    /// A row that the template cannot write.
    #[error("{}: {source}", location(.path, *.line))]
    Template {
        /// The file.
        path: PathBuf,
        /// The line, or the row where the file has no lines; counted from 1.
        line: u64,
        /// The template's reason.
        source: TemplateError,
    },
    /// `dataset_info.json` says something that cannot be used.
    #[error("{}: {key}: {reason}", .path.display())]
    Info {
        /// The file.
        path: PathBuf,
        /// The dataset and key, dotted.
        key: String,
        /// What is wrong and what to do.
        reason: String,
    },
    /// A dataset that `dataset_info.json` does not have.
    #[error("{}: there is no dataset {name:?}{}; the file has: {known}", .path.display(), did_you_mean(.nearest))]
    UnknownDataset {
        /// The file.
        path: PathBuf,
        /// The name as given.
        name: String,
        /// The known name closest to it.
        nearest: Option<String>,
        /// All names, comma separated.
        known: String,
    },
    /// Neither files nor datasets were named.
    #[error(
        "no data was named; give `{files}: [qa.jsonl, …]`, or `{dataset}: name` with a dataset_info.json in dataset_dir"
    )]
    NoSource {
        /// The option for files.
        files: &'static str,
        /// The option for datasets.
        dataset: &'static str,
    },
    /// Every row was dropped.
    #[error(
        "no example is left of {rows} rows: cutoff_len {cutoff_len} leaves nothing of any reply; raise it"
    )]
    NothingLeft {
        /// Rows read.
        rows: usize,
        /// The limit that took the replies away.
        cutoff_len: usize,
    },
    /// `only_tasks` names none of the tasks there are.
    #[error("only_tasks: no example is of {wanted}; the tasks of the data are {there}")]
    OnlyTasks {
        /// The names given.
        wanted: String,
        /// The names in the data.
        there: String,
    },
    /// More tasks than can be told apart.
    #[error("more than {limit} different tasks; is `task_name` really the name of a task in every row?")]
    TooManyTasks {
        /// The most tasks there can be.
        limit: usize,
    },
    /// The texts need a token that the tokenizer lacks.
    #[error(
        "pre-training ends each document with the eos token, and this tokenizer names none; set `eos_token` in tokenizer_config.json"
    )]
    NoEos,
    /// Not enough text for one training block.
    #[error("the files hold {tokens} tokens in all; at least 2 are needed")]
    TooShort {
        /// The tokens there are.
        tokens: usize,
    },
    /// A share or number of held-out examples that leaves one side empty.
    #[error("val_size {val_size}: of {examples} examples that leaves none to {side}; choose another number")]
    ValSize {
        /// The option's value.
        val_size: f64,
        /// Examples there are.
        examples: usize,
        /// `train on` or `evaluate on`.
        side: &'static str,
    },
    /// Tokenised data that fits neither the disk nor the memory.
    #[error(
        "the tokenised data ({bytes} bytes so far) fits neither the cache's disk nor the memory; free disk space, or name a folder on another disk in tokenized_path"
    )]
    NoRoom {
        /// Bytes of the column that was to be taken back into memory.
        bytes: u64,
    },
    /// A file could not be mapped.
    #[error(transparent)]
    Map(#[from] medley_tensor::io::Error),
    /// The tokenizer failed.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}

impl DataError {
    pub(super) fn io(path: &Path, source: std::io::Error) -> DataError {
        DataError::Io { path: path.to_path_buf(), source, hint: String::new() }
    }

    pub(super) fn file(path: &Path, reason: impl Into<String>) -> DataError {
        DataError::File { path: path.to_path_buf(), reason: reason.into() }
    }

    pub(super) fn row(path: &Path, line: u64, reason: impl Into<String>) -> DataError {
        DataError::Row { path: path.to_path_buf(), line, reason: reason.into() }
    }
}

fn did_you_mean(nearest: &Option<String>) -> String {
    nearest.as_ref().map(|n| format!(" (did you mean {n:?}?)")).unwrap_or_default()
}

/// The known name closest to `name`, where one is close enough to be a slip of the keyboard.
pub(super) fn nearest<'k>(name: &str, known: impl Iterator<Item = &'k str>) -> Option<String> {
    known
        .map(|k| (strsim::damerau_levenshtein(name, k), k))
        .filter(|(distance, k)| *distance <= 2.max(k.len() / 3))
        .min()
        .map(|(_, k)| k.to_string())
}
