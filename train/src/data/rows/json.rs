//! JSON Lines and arrays of JSON objects.

use super::input::Input;
use super::{Body, Origin, Row, RowReader, kind};
use crate::data::error::DataError;
use serde_json::{Map, Value};
use std::path::Path;

/// The rows of a `.jsonl` or `.json` file.
pub(super) struct JsonRows {
    input: Input,
    origin: Origin,
    /// Line of the next byte, counted from 1.
    line: u64,
    /// Position of the next byte in the unpacked file.
    offset: u64,
    place: Place,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Nothing read yet; `.json` files may begin with an array.
    Start {
        array_allowed: bool,
    },
    Lines,
    /// In an array, before its first row.
    ArrayStart,
    /// In an array, after a row.
    ArrayNext,
    End,
}

impl JsonRows {
    pub(super) fn new(input: Input, origin: Origin, array_allowed: bool) -> JsonRows {
        JsonRows { input, origin, line: 1, offset: 0, place: Place::Start { array_allowed } }
    }

    fn error(&self, reason: String) -> DataError {
        DataError::row(&self.origin.path, self.line, reason)
    }

    fn advance(&mut self, count: usize) -> Result<(), DataError> {
        let bytes = self.input.fill()?;
        let count = count.min(bytes.len());
        self.line += newlines(&bytes[..count]);
        self.offset += count as u64;
        self.input.consume(count);
        Ok(())
    }

    fn peek(&mut self) -> Result<Option<u8>, DataError> {
        Ok(self.input.fill()?.first().copied())
    }

    fn skip_whitespace(&mut self) -> Result<(), DataError> {
        loop {
            let bytes = self.input.fill()?;
            let blank = bytes.iter().take_while(|b| b.is_ascii_whitespace()).count();
            let all = blank == bytes.len();
            if blank > 0 {
                self.advance(blank)?;
            }
            if blank == 0 || !all {
                return Ok(());
            }
        }
    }

    /// Passes over a byte order mark and tells an array from lines.
    fn start(&mut self, array_allowed: bool) -> Result<(), DataError> {
        if self.input.fill()?.starts_with(b"\xEF\xBB\xBF") {
            self.advance(3)?;
        }
        self.place = Place::Lines;
        if array_allowed {
            // Whole blank lines before the first row are passed over here; a row of JSON Lines loses its
            // indentation by it, which nobody counts on.
            self.skip_whitespace()?;
            if self.peek()? == Some(b'[') {
                self.advance(1)?;
                self.place = Place::ArrayStart;
            }
        }
        Ok(())
    }

    /// The next line that is not blank.
    fn line_row(&mut self) -> Result<Option<Row>, DataError> {
        loop {
            let mut text = Vec::new();
            let length = self.input.read_line(&mut text)?;
            if length == 0 {
                self.place = Place::End;
                return Ok(None);
            }
            let (line, offset) = (self.line, self.offset);
            self.offset += length as u64;
            if text.last() == Some(&b'\n') {
                self.line += 1;
                text.pop();
            }
            if text.iter().any(|b| !b.is_ascii_whitespace()) {
                return Ok(Some(self.origin.row(line, Body::Json { text, offset })));
            }
        }
    }

    fn array_row(&mut self, first: bool) -> Result<Option<Row>, DataError> {
        self.skip_whitespace()?;
        if !first {
            match self.peek()? {
                Some(b',') => self.advance(1)?,
                Some(b']') => return self.array_end(),
                found => {
                    return Err(self.error(format!("expected `,` or `]` after a row, got {}", shown(found))));
                }
            }
            self.skip_whitespace()?;
        }
        match self.peek()? {
            Some(b'{') => {}
            Some(b']') if first => return self.array_end(),
            found => {
                let reason = format!("expected a row, that is a JSON object, got {}", shown(found));
                return Err(self.error(reason));
            }
        }
        self.place = Place::ArrayNext;
        let (line, offset) = (self.line, self.offset);
        let text = self.cut_object()?;
        Ok(Some(self.origin.row(line, Body::Json { text, offset })))
    }

    /// The bytes from `{` to the `}` or `]` that closes it, or to the end of the file. Whether they are
    /// JSON is found out when the row is parsed.
    fn cut_object(&mut self) -> Result<Vec<u8>, DataError> {
        let mut text = Vec::new();
        let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
        loop {
            let bytes = self.input.fill()?;
            if bytes.is_empty() {
                return Ok(text);
            }
            let mut end = None;
            for (i, &byte) in bytes.iter().enumerate() {
                if in_string {
                    match byte {
                        _ if escaped => escaped = false,
                        b'\\' => escaped = true,
                        b'"' => in_string = false,
                        _ => {}
                    }
                    continue;
                }
                match byte {
                    b'"' => in_string = true,
                    b'{' | b'[' => depth += 1,
                    b'}' | b']' => {
                        depth -= 1;
                        if depth == 0 {
                            end = Some(i + 1);
                            break;
                        }
                    }
                    _ => {}
                }
            }
            let taken = end.unwrap_or(bytes.len());
            text.extend_from_slice(&bytes[..taken]);
            self.advance(taken)?;
            if end.is_some() {
                return Ok(text);
            }
        }
    }

    fn array_end(&mut self) -> Result<Option<Row>, DataError> {
        self.advance(1)?;
        self.skip_whitespace()?;
        match self.peek()? {
            None => {
                self.place = Place::End;
                Ok(None)
            }
            found => {
                let reason = format!("expected the end of the file after the array, got {}", shown(found));
                Err(self.error(reason))
            }
        }
    }
}

impl RowReader for JsonRows {
    fn next_row(&mut self) -> Result<Option<Row>, DataError> {
        if let Place::Start { array_allowed } = self.place {
            self.start(array_allowed)?;
        }
        match self.place {
            Place::Lines => self.line_row(),
            Place::ArrayStart => self.array_row(true),
            Place::ArrayNext => self.array_row(false),
            Place::Start { .. } | Place::End => Ok(None),
        }
    }
}

/// Parses the text of a row that begins on `line` and at byte `offset`.
pub(super) fn object(
    path: &Path,
    line: u64,
    text: &[u8],
    offset: u64,
) -> Result<Map<String, Value>, DataError> {
    let json = std::str::from_utf8(text).map_err(|e| {
        // A row of an array may span lines.
        let line = line + newlines(&text[..e.valid_up_to()]);
        DataError::Utf8 { path: path.to_path_buf(), line, byte_offset: offset + e.valid_up_to() as u64 }
    })?;
    match serde_json::from_str(json) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(other) => {
            let hint = if other.is_array() { "; an array of rows belongs into a .json file" } else { "" };
            let reason = format!("expected a JSON object, got {}{hint}", kind(&other));
            Err(DataError::row(path, line, reason))
        }
        Err(e) => {
            let text = e.to_string();
            let what = text.rsplit_once(" at line ").map_or(text.as_str(), |(what, _)| what);
            let line = line + (e.line() as u64).saturating_sub(1);
            Err(DataError::row(path, line, format!("not valid JSON at column {}: {what}", e.column())))
        }
    }
}

fn newlines(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|&&b| b == b'\n').count() as u64
}

fn shown(byte: Option<u8>) -> String {
    match byte {
        None => "the end of the file".to_string(),
        Some(b) => format!("`{}`", b.escape_ascii()),
    }
}
