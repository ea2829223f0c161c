//! Which format a file is in: told by its name alone.

use super::error::DataError;
use std::path::Path;

/// What a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// `.json`: an array of objects, or JSON Lines as Hugging Face's loader allows.
    Json,
    /// `.jsonl`: an object a line.
    JsonLines,
    /// `.csv`, RFC 4180: the first record names the columns.
    Csv,
    /// `.tsv`: the same with tabs.
    Tsv,
    /// `.parquet`.
    Parquet,
    /// `.arrow`: Arrow IPC, its file or its stream form.
    Arrow,
    /// `.txt`: documents between blank lines, for pre-training.
    Text,
}

/// How the bytes of a file are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    None,
    /// `.gz`, RFC 1952; several members one after another are one file.
    Gzip,
    /// `.zst`, RFC 8878.
    Zstd,
}

/// The formats of rows, for messages.
pub(super) const ROWS: &str =
    ".json, .jsonl, .csv, .tsv, .arrow or .parquet (all but .parquet also with .gz or .zst after it)";
/// The formats of rows and texts, for messages.
pub(super) const ROWS_OR_TEXT: &str =
    ".txt, .json, .jsonl, .csv, .tsv, .arrow or .parquet (all but .parquet also with .gz or .zst after it)";

impl Format {
    /// The format of a file, from its name; `None` where no format has that ending.
    pub(super) fn of(path: &Path) -> Option<(Format, Compression)> {
        let name = path.file_name()?.to_str()?.to_ascii_lowercase();
        let (name, compression) = match name.rsplit_once('.') {
            Some((stem, "gz")) => (stem, Compression::Gzip),
            Some((stem, "zst")) => (stem, Compression::Zstd),
            _ => (name.as_str(), Compression::None),
        };
        let format = match name.rsplit_once('.')?.1 {
            "json" => Format::Json,
            "jsonl" => Format::JsonLines,
            "csv" => Format::Csv,
            "tsv" => Format::Tsv,
            "parquet" => Format::Parquet,
            "arrow" => Format::Arrow,
            "txt" => Format::Text,
            _ => return None,
        };
        Some((format, compression))
    }

    /// Whether rows are numbered, having no lines.
    fn is_columnar(self) -> bool {
        matches!(self, Format::Parquet | Format::Arrow)
    }

    /// Formats that may stand beside each other in a folder.
    pub(super) fn family(self) -> &'static str {
        match self {
            Format::Json | Format::JsonLines => "json",
            Format::Csv => "csv",
            Format::Tsv => "tsv",
            Format::Parquet => "parquet",
            Format::Arrow => "arrow",
            Format::Text => "txt",
        }
    }

    /// What a file of the format should hold, for messages.
    pub(super) fn expected(self) -> &'static str {
        match self {
            Format::Json | Format::JsonLines => "one JSON object a line (.jsonl) or an array of them (.json)",
            Format::Csv | Format::Tsv => "a record that names the columns and a record a row",
            Format::Parquet | Format::Arrow => "at least one row",
            Format::Text => "text, its documents separated by blank lines",
        }
    }

    /// The format of a file that is to be read.
    ///
    /// # Errors
    /// Another ending; text where rows are wanted; a Parquet file inside gzip or zstd, whose index at its
    /// end could not be reached without unpacking it all.
    pub(super) fn readable(path: &Path, texts: bool) -> Result<(Format, Compression), DataError> {
        let expected = if texts { ROWS_OR_TEXT } else { ROWS };
        let error = || DataError::Extension { path: path.to_path_buf(), expected };
        let (format, compression) = Format::of(path).ok_or_else(error)?;
        if format == Format::Text && !texts {
            return Err(error());
        }
        if format == Format::Parquet && compression != Compression::None {
            let reason = "a Parquet file is compressed inside; unpack it first (gunzip, unzstd)";
            return Err(DataError::file(path, reason));
        }
        Ok((format, compression))
    }
}

/// Where a row is, for messages: `file:line`, or `file: row n` where a file has no lines.
pub fn location(path: &Path, line: u64) -> String {
    match Format::of(path) {
        Some((format, _)) if format.is_columnar() => format!("{}: row {line}", path.display()),
        _ => format!("{}:{line}", path.display()),
    }
}
