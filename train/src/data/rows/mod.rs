//! Rows of a file of any format, one after another, without holding the file in memory.
//!
//! A reader hands out rows whose text is cut out but not yet parsed, so that [`Row::object`] can do that
//! in parallel. What is kept is one buffer, one record batch or one page of each column, whatever the size
//! of the file.

mod arrow;
mod columnar;
mod delimited;
mod input;
mod json;
mod paragraphs;
#[cfg(feature = "parquet")]
mod parquet;

use super::error::DataError;
use super::format::Format;
use serde_json::{Map, Value};
use std::path::Path;
use std::sync::Arc;

/// One row, and where it is.
#[derive(Debug, Clone)]
pub(super) struct Row {
    /// The file, as an index into the paths of all files of the run (see [`super::select`]).
    pub file: u32,
    /// The line it begins at, or its number where the file has no lines; counted from 1.
    pub line: u64,
    path: Arc<Path>,
    body: Body,
}

#[derive(Debug, Clone)]
enum Body {
    /// The text of a JSON value, and where in the (unpacked) file it begins, in bytes.
    Json { text: Vec<u8>, offset: u64 },
    /// A row that had to be parsed to be found.
    Object(Map<String, Value>),
}

/// What is read of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    /// The columns whose values are needed; of the others a columnar file gives the names alone.
    pub columns: Vec<String>,
    /// Columns of which an empty CSV cell is a missing value rather than an empty text.
    pub blank_is_missing: Vec<String>,
    /// The column that a document of a `.txt` file is handed out as.
    pub text: String,
}

/// The rows of one file in order.
pub(super) trait RowReader {
    /// The next row, or `None` after the last.
    ///
    /// # Errors
    /// A file that is damaged or not of its format, with its line where it has lines.
    fn next_row(&mut self) -> Result<Option<Row>, DataError>;
}

/// Opens a file, which is the `file`-th of the run.
///
/// # Errors
/// A file that is missing, of no known format (`texts`: whether `.txt` is one), damaged, or without a
/// type that can be read in a column of `wanted`.
pub(super) fn open(
    path: &Path,
    file: u32,
    wanted: &Wanted,
    texts: bool,
) -> Result<Box<dyn RowReader>, DataError> {
    let (format, compression) = Format::readable(path, texts)?;
    let length = std::fs::metadata(path).map_err(|e| DataError::io(path, e))?.len();
    if length == 0 {
        return Err(DataError::Empty { path: path.to_path_buf(), expected: format.expected() });
    }
    let origin = Origin { path: path.into(), file };
    let input = || input::Input::open(&origin.path, compression);
    Ok(match format {
        Format::Json => Box::new(json::JsonRows::new(input()?, origin, true)),
        Format::JsonLines => Box::new(json::JsonRows::new(input()?, origin, false)),
        Format::Csv => Box::new(delimited::DelimitedRows::new(input()?, origin, b',', wanted)?),
        Format::Tsv => Box::new(delimited::DelimitedRows::new(input()?, origin, b'\t', wanted)?),
        Format::Text => Box::new(paragraphs::Paragraphs::new(input()?, origin, &wanted.text)),
        Format::Arrow => Box::new(arrow::ArrowRows::new(input()?, origin, wanted)?),
        #[cfg(feature = "parquet")]
        Format::Parquet => Box::new(parquet::ParquetRows::new(origin, wanted)?),
        #[cfg(not(feature = "parquet"))]
        Format::Parquet => {
            let reason = "this program was built without Parquet; build it with the feature `parquet` (on by default), or convert the file to .jsonl";
            return Err(DataError::file(path, reason));
        }
    })
}

/// Where the rows of a reader come from.
#[derive(Debug, Clone)]
struct Origin {
    path: Arc<Path>,
    file: u32,
}

impl Origin {
    fn row(&self, line: u64, body: Body) -> Row {
        Row { file: self.file, line, path: self.path.clone(), body }
    }
}

impl Row {
    /// The file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// An error about this row.
    pub(super) fn error(&self, reason: impl Into<String>) -> DataError {
        DataError::row(&self.path, self.line, reason)
    }

    /// About how much memory the row takes, in bytes.
    pub(super) fn size(&self) -> usize {
        match &self.body {
            Body::Json { text, .. } => text.len(),
            Body::Object(map) => map.iter().map(|(k, v)| k.len() + v.as_str().map_or(8, str::len)).sum(),
        }
    }

    /// The row as a JSON object.
    ///
    /// # Errors
    /// Invalid UTF-8, invalid JSON, or something else than an object; with the line.
    pub(super) fn object(&self) -> Result<Map<String, Value>, DataError> {
        match &self.body {
            Body::Json { text, offset } => json::object(&self.path, self.line, text, *offset),
            Body::Object(map) => Ok(map.clone()),
        }
    }
}

/// What a JSON value is, for messages.
pub(super) fn kind(value: &Value) -> String {
    match value {
        Value::Null => "null".to_string(),
        Value::Bool(b) => format!("the boolean {b}"),
        Value::Number(n) => format!("the number {n}"),
        Value::String(_) => "a string".to_string(),
        Value::Array(_) => "an array".to_string(),
        Value::Object(_) => "an object".to_string(),
    }
}
