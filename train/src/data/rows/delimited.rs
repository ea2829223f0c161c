//! CSV and TSV (RFC 4180; a cell may be quoted, and then hold line breaks).

use super::input::Input;
use super::{Body, Origin, Row, RowReader, Wanted};
use crate::data::error::DataError;
use crate::data::format::Compression;
use csv::{ByteRecord, ErrorKind, Position, Reader, ReaderBuilder};
use serde_json::{Map, Value};
use std::io::Read;

/// The records of a `.csv` or `.tsv` file after the first, which names the columns. Every cell is text.
pub(super) struct DelimitedRows {
    reader: Reader<Lines>,
    origin: Origin,
    compression: Compression,
    columns: Vec<String>,
    blank_is_missing: Vec<bool>,
    record: ByteRecord,
    /// The line of `record`.
    line: u64,
}

/// An input that knows the line of a position in it. The `csv` crate counts the lines that it has read,
/// which with blank lines and `\r\n` is not where the record begins.
struct Lines {
    input: Input,
    /// Bytes read from position `start` on, and how many of them are counted.
    kept: Vec<u8>,
    start: u64,
    counted: usize,
    /// The line after the counted bytes, counted from 1.
    line: u64,
}

impl Lines {
    /// The line of the record that begins at `position`, or after the blank lines there. Positions must
    /// not go back.
    fn line_at(&mut self, position: u64) -> u64 {
        let end = usize::try_from(position.saturating_sub(self.start)).unwrap_or(usize::MAX);
        let end = end.clamp(self.counted, self.kept.len());
        let blank = self.kept[end..].iter().take_while(|b| matches!(b, b'\r' | b'\n')).count();
        let passed = &self.kept[self.counted..end + blank];
        self.line += passed.iter().filter(|&&b| b == b'\n').count() as u64;
        self.counted = end + blank;
        self.line
    }
}

impl Read for Lines {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.input.read(buffer)?;
        self.kept.drain(..self.counted);
        self.start += self.counted as u64;
        self.counted = 0;
        self.kept.extend_from_slice(&buffer[..count]);
        Ok(count)
    }
}

impl DelimitedRows {
    pub(super) fn new(
        input: Input,
        origin: Origin,
        delimiter: u8,
        wanted: &Wanted,
    ) -> Result<DelimitedRows, DataError> {
        let compression = input.compression();
        let lines = Lines { input, kept: Vec::new(), start: 0, counted: 0, line: 1 };
        let reader = ReaderBuilder::new().delimiter(delimiter).has_headers(false).from_reader(lines);
        let mut rows = DelimitedRows {
            reader,
            origin,
            compression,
            columns: Vec::new(),
            blank_is_missing: Vec::new(),
            record: ByteRecord::new(),
            line: 1,
        };
        let Some(columns) = rows.next_record()? else {
            return Ok(rows);
        };
        for (i, name) in columns.iter().enumerate() {
            if columns[..i].contains(name) {
                let reason = format!("two columns are named {name:?}; rename one of them");
                return Err(DataError::row(&rows.origin.path, rows.line, reason));
            }
        }
        rows.blank_is_missing = columns.iter().map(|c| wanted.blank_is_missing.contains(c)).collect();
        rows.columns = columns;
        Ok(rows)
    }

    /// The cells of the next record.
    fn next_record(&mut self) -> Result<Option<Vec<String>>, DataError> {
        match self.reader.read_byte_record(&mut self.record) {
            Ok(true) => {}
            Ok(false) => return Ok(None),
            Err(e) => return Err(self.csv_error(e)),
        }
        let position = self.record.position().map_or(0, Position::byte);
        self.line = self.reader.get_mut().line_at(position);
        let cells = self.record.iter().enumerate().map(|(i, cell)| match std::str::from_utf8(cell) {
            Ok(text) => Ok(text.to_string()),
            Err(_) => {
                let column = self.columns.get(i).map_or_else(|| (i + 1).to_string(), |c| format!("{c:?}"));
                let reason = format!("column {column}: invalid UTF-8; save the file as UTF-8");
                Err(DataError::row(&self.origin.path, self.line, reason))
            }
        });
        cells.collect::<Result<Vec<String>, DataError>>().map(Some)
    }

    fn csv_error(&mut self, error: csv::Error) -> DataError {
        let position = error.position().map_or(0, Position::byte);
        let line = self.reader.get_mut().line_at(position);
        let path = &self.origin.path;
        match error.into_kind() {
            ErrorKind::Io(e) => Input::error(path, self.compression, e),
            ErrorKind::UnequalLengths { expected_len, len, .. } => {
                let reason = format!(
                    "a record of {len} cells among records of {expected_len}; quote cells that hold the separator or a line break"
                );
                DataError::row(path, line, reason)
            }
            other => DataError::row(path, line, format!("not a record: {other:?}")),
        }
    }
}

impl RowReader for DelimitedRows {
    fn next_row(&mut self) -> Result<Option<Row>, DataError> {
        let Some(cells) = self.next_record()? else { return Ok(None) };
        let value = |(cell, &missing): (String, &bool)| match cell.is_empty() && missing {
            true => Value::Null,
            false => Value::String(cell),
        };
        let values = cells.into_iter().zip(&self.blank_is_missing).map(value);
        let map: Map<String, Value> = self.columns.iter().cloned().zip(values).collect();
        Ok(Some(self.origin.row(self.line, Body::Object(map))))
    }
}
