//! Plain text: each run of lines that are not blank is a document.

use super::input::Input;
use super::{Body, Origin, Row, RowReader};
use crate::data::error::DataError;
use serde_json::{Map, Value};

/// The documents of a `.txt` file, their line breaks kept inside.
pub(super) struct Paragraphs {
    input: Input,
    origin: Origin,
    column: String,
    /// Line of the next byte, counted from 1.
    line: u64,
    /// Position of the next byte in the unpacked file.
    offset: u64,
}

impl Paragraphs {
    pub(super) fn new(input: Input, origin: Origin, column: &str) -> Paragraphs {
        Paragraphs { input, origin, column: column.to_string(), line: 1, offset: 0 }
    }

    /// The next line without its break, or `None` at the end.
    fn next_line(&mut self) -> Result<Option<String>, DataError> {
        let mut bytes = Vec::new();
        let length = self.input.read_line(&mut bytes)?;
        if length == 0 {
            return Ok(None);
        }
        let mut line = String::from_utf8(bytes).map_err(|e| DataError::Utf8 {
            path: self.origin.path.to_path_buf(),
            line: self.line,
            byte_offset: self.offset + e.utf8_error().valid_up_to() as u64,
        })?;
        if self.offset == 0 && line.starts_with('\u{FEFF}') {
            line.remove(0);
        }
        if line.ends_with('\n') {
            line.pop();
            if line.ends_with('\r') {
                line.pop();
            }
        }
        self.line += 1;
        self.offset += length as u64;
        Ok(Some(line))
    }
}

impl RowReader for Paragraphs {
    fn next_row(&mut self) -> Result<Option<Row>, DataError> {
        let mut document: Option<(u64, String)> = None;
        while let Some(line) = self.next_line()? {
            match (&mut document, line.trim().is_empty()) {
                (None, true) => {}
                (Some(_), true) => break,
                (None, false) => document = Some((self.line - 1, line)),
                (Some((_, text)), false) => {
                    text.push('\n');
                    text.push_str(&line);
                }
            }
        }
        Ok(document.map(|(line, text)| {
            let map = Map::from_iter([(self.column.clone(), Value::String(text))]);
            self.origin.row(line, Body::Object(map))
        }))
    }
}
