//! Rows of JSON and JSON Lines files, cut out of a memory map without being copied.

use super::error::DataError;
use medley_tensor::io::MappedFile;
use serde::de::IgnoredAny;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// A mapped file and where its rows are.
pub(super) struct RowFile {
    map: MappedFile,
    path: PathBuf,
    rows: Vec<RowSpan>,
}

/// One row: its first line (counted from 1) and its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RowSpan {
    pub line: u64,
    start: usize,
    end: usize,
}

const EXPECTED: &str = "one JSON object a line (.jsonl) or an array of them (.json)";

impl RowFile {
    /// Maps a `.json` or `.jsonl` file and finds its rows. A `.json` file may also hold JSON Lines, as
    /// Hugging Face's loader allows.
    ///
    /// # Errors
    /// A file that cannot be read or is empty; an array that is not well formed, with its line.
    pub(super) fn open(path: &Path) -> Result<RowFile, DataError> {
        let map = open_map(path, EXPECTED)?;
        let bytes = map.bytes();
        let start = if bytes.starts_with(b"\xEF\xBB\xBF") { 3 } else { 0 };
        let first = bytes[start..].iter().find(|b| !b.is_ascii_whitespace());
        let rows = match first {
            None => Vec::new(),
            Some(b'[') if has_extension(path, "json") => array_rows(bytes, start, path)?,
            Some(_) => line_rows(bytes, start),
        };
        if rows.is_empty() {
            return Err(DataError::Empty { path: path.to_path_buf(), expected: EXPECTED });
        }
        Ok(RowFile { map, path: path.to_path_buf(), rows })
    }

    pub(super) fn rows(&self) -> &[RowSpan] {
        &self.rows
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The JSON object of a row.
    ///
    /// # Errors
    /// Invalid UTF-8, invalid JSON, or something else than an object; with the line.
    pub(super) fn object(&self, row: RowSpan) -> Result<Map<String, Value>, DataError> {
        let bytes = &self.map.bytes()[row.start..row.end];
        let text =
            std::str::from_utf8(bytes).map_err(|e| utf8_error(&self.path, self.map.bytes(), row, e))?;
        match serde_json::from_str(text) {
            Ok(Value::Object(object)) => Ok(object),
            Ok(other) => {
                let hint = if other.is_array() { "; an array of rows belongs into a .json file" } else { "" };
                let reason = format!("expected a JSON object, got {}{hint}", kind(&other));
                Err(DataError::row(&self.path, row.line, reason))
            }
            Err(e) => Err(json_error(&self.path, row.line, &e)),
        }
    }
}

/// Maps a file; an empty one, which cannot be mapped everywhere, is an error.
pub(super) fn open_map(path: &Path, expected: &'static str) -> Result<MappedFile, DataError> {
    let length = std::fs::metadata(path).map_err(|e| DataError::io(path, e))?.len();
    if length == 0 {
        return Err(DataError::Empty { path: path.to_path_buf(), expected });
    }
    Ok(MappedFile::open(path)?)
}

pub(super) fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case(extension))
}

/// The error for bytes of `row` that are not UTF-8: a row of an array may span lines.
fn utf8_error(path: &Path, bytes: &[u8], row: RowSpan, error: std::str::Utf8Error) -> DataError {
    let at = row.start + error.valid_up_to();
    let line = row.line + newlines(&bytes[row.start..at]);
    DataError::Utf8 { path: path.to_path_buf(), line, byte_offset: at as u64 }
}

fn json_error(path: &Path, first_line: u64, error: &serde_json::Error) -> DataError {
    let text = error.to_string();
    let what = text.rsplit_once(" at line ").map_or(text.as_str(), |(what, _)| what);
    let line = first_line + (error.line() as u64).saturating_sub(1);
    DataError::row(path, line, format!("not valid JSON at column {}: {what}", error.column()))
}

fn newlines(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|&&b| b == b'\n').count() as u64
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

/// One row a line; blank lines are passed over.
fn line_rows(bytes: &[u8], start: usize) -> Vec<RowSpan> {
    let mut rows = Vec::new();
    let mut at = start;
    for (i, line) in bytes[start..].split(|&b| b == b'\n').enumerate() {
        if line.iter().any(|b| !b.is_ascii_whitespace()) {
            rows.push(RowSpan { line: i as u64 + 1, start: at, end: at + line.len() });
        }
        at += line.len() + 1;
    }
    rows
}

/// The elements of a JSON array; each is skipped over here and parsed later, in parallel.
fn array_rows(bytes: &[u8], start: usize, path: &Path) -> Result<Vec<RowSpan>, DataError> {
    let mut at = Cursor { bytes, position: start, line: 1 };
    let mut rows = Vec::new();
    at.skip_whitespace();
    at.advance(1);
    loop {
        at.skip_whitespace();
        match at.peek() {
            Some(b']') if rows.is_empty() => break,
            Some(b'{') => {}
            found => {
                let reason = format!("expected a row, that is a JSON object, got {}", shown(found));
                return Err(DataError::row(path, at.line, reason));
            }
        }
        let (line, begin) = (at.line, at.position);
        let mut stream = serde_json::Deserializer::from_slice(&bytes[begin..]).into_iter::<IgnoredAny>();
        match stream.next() {
            Some(Ok(IgnoredAny)) => {}
            Some(Err(e)) => return Err(json_error(path, line, &e)),
            None => return Err(DataError::row(path, line, "expected a row, got the end of the file")),
        }
        at.advance(stream.byte_offset());
        rows.push(RowSpan { line, start: begin, end: at.position });
        at.skip_whitespace();
        match at.peek() {
            Some(b',') => at.advance(1),
            Some(b']') => break,
            found => {
                let reason = format!("expected `,` or `]` after a row, got {}", shown(found));
                return Err(DataError::row(path, at.line, reason));
            }
        }
    }
    at.advance(1);
    at.skip_whitespace();
    match at.peek() {
        None => Ok(rows),
        found => {
            let reason = format!("expected the end of the file after the array, got {}", shown(found));
            Err(DataError::row(path, at.line, reason))
        }
    }
}

struct Cursor<'b> {
    bytes: &'b [u8],
    position: usize,
    line: u64,
}

impl Cursor<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.position).copied()
    }

    fn advance(&mut self, count: usize) {
        let end = (self.position + count).min(self.bytes.len());
        self.line += newlines(&self.bytes[self.position..end]);
        self.position = end;
    }

    fn skip_whitespace(&mut self) {
        while self.peek().is_some_and(|b| b.is_ascii_whitespace()) {
            self.advance(1);
        }
    }
}

fn shown(byte: Option<u8>) -> String {
    match byte {
        None => "the end of the file".to_string(),
        Some(b) => format!("`{}`", b.escape_ascii()),
    }
}
