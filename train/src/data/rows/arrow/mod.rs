//! Arrow IPC, its stream form and its file form, which is the stream between `ARROW1` marks with an index
//! after it (<https://arrow.apache.org/docs/format/Columnar.html#serialization-and-interprocess-communication-ipc>).
//! Read as a stream, a message at a time, so that one record batch is held.

mod column;
mod flatbuffer;
mod schema;

use self::column::{Column, Columns, Dictionaries, Failure};
use self::flatbuffer::{Damaged, Table};
use self::schema::Field;
use super::columnar::{as_texts, chosen};
use super::input::Input;
use super::{Body, Origin, Row, RowReader, Wanted};
use crate::data::error::DataError;
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::io::Read;

const MAGIC: &[u8; 6] = b"ARROW1";
const CONTINUATION: u32 = u32::MAX;
/// Numbers of the kinds of messages.
const SCHEMA: u8 = 1;
const DICTIONARY: u8 = 2;
const BATCH: u8 = 3;

/// The rows of an `.arrow` file.
pub(super) struct ArrowRows {
    input: Input,
    origin: Origin,
    is_file_form: bool,
    /// Bytes read ahead to tell the forms apart.
    ahead: Vec<u8>,
    fields: Vec<Field>,
    wanted: Vec<bool>,
    /// Fields of dictionaries' values, and the values.
    value_fields: HashMap<i64, Field>,
    dictionaries: Dictionaries,
    columns: Vec<Column>,
    rows: usize,
    next: usize,
    handed_out: u64,
    ended: bool,
}

/// Metadata and body.
type Message = (Vec<u8>, Vec<u8>);

impl ArrowRows {
    /// Reads the schema.
    pub(super) fn new(input: Input, origin: Origin, wanted: &Wanted) -> Result<ArrowRows, DataError> {
        let mut rows = ArrowRows {
            input,
            origin,
            is_file_form: false,
            ahead: Vec::new(),
            fields: Vec::new(),
            wanted: Vec::new(),
            value_fields: HashMap::new(),
            dictionaries: HashMap::new(),
            columns: Vec::new(),
            rows: 0,
            next: 0,
            handed_out: 0,
            ended: false,
        };
        let start = rows.take(8)?;
        rows.is_file_form = start.starts_with(MAGIC);
        if !rows.is_file_form {
            rows.ahead = start;
        }
        let Some((metadata, _)) = rows.message()? else {
            return Err(rows.damaged("it ends before its schema"));
        };
        rows.schema(&metadata, wanted)?;
        Ok(rows)
    }

    fn schema(&mut self, metadata: &[u8], wanted: &Wanted) -> Result<(), DataError> {
        let read = || -> Result<Option<Vec<Field>>, Damaged> {
            let message = Table::root(metadata)?;
            match (message.u8(1, 0)?, message.table(2)?) {
                (SCHEMA, Some(schema)) if schema.i16(0, 0)? == 0 => schema::fields(&schema).map(Some),
                _ => Ok(None),
            }
        };
        let fields = match read() {
            Ok(Some(fields)) => fields,
            Ok(None) => return Err(self.damaged("it does not begin with a little-endian schema")),
            Err(Damaged) => return Err(self.damaged("its schema is damaged")),
        };
        let columns = fields.iter().map(|f| (f.name.as_str(), f.unreadable()));
        self.wanted = chosen(&self.origin.path, columns, wanted)?;
        fields.iter().for_each(|field| field.dictionaries(&mut self.value_fields));
        self.fields = fields;
        Ok(())
    }

    fn damaged(&self, reason: &str) -> DataError {
        let reason =
            format!("not a whole Arrow file: {reason}; copy or write it again, or correct its ending");
        DataError::file(&self.origin.path, reason)
    }

    /// The next `count` bytes, fewer at the end of the file.
    fn take(&mut self, count: u64) -> Result<Vec<u8>, DataError> {
        let mut bytes = Vec::new();
        let ahead = self.ahead.len().min(usize::try_from(count).unwrap_or(usize::MAX));
        bytes.extend(self.ahead.drain(..ahead));
        // The length is what the file says: memory is taken as bytes come, not on its word.
        let read = (&mut self.input).take(count - ahead as u64).read_to_end(&mut bytes);
        read.map_err(|e| Input::error(&self.origin.path, self.input.compression(), e))?;
        Ok(bytes)
    }

    /// Exactly `count` bytes.
    fn whole(&mut self, count: u64) -> Result<Vec<u8>, DataError> {
        let bytes = self.take(count)?;
        match bytes.len() as u64 == count {
            true => Ok(bytes),
            false => Err(self.damaged("it was cut short")),
        }
    }

    /// Metadata and body of the next message; `None` after the last.
    fn message(&mut self) -> Result<Option<Message>, DataError> {
        let word = |bytes: &[u8]| bytes.first_chunk().map_or(0, |b| u32::from_le_bytes(*b));
        let first = self.take(4)?;
        // The mark of a stream's end may be left out.
        if first.is_empty() && !self.is_file_form {
            return Ok(None);
        }
        if first.len() < 4 {
            return Err(self.damaged("it was cut short"));
        }
        // Before Arrow 0.15 a message began with its length.
        let length = match word(&first) {
            CONTINUATION => word(&self.whole(4)?),
            length => length,
        };
        if length == 0 {
            if self.is_file_form {
                let mut rest = Vec::new();
                self.input
                    .read_to_end(&mut rest)
                    .map_err(|e| Input::error(&self.origin.path, self.input.compression(), e))?;
                if !rest.ends_with(MAGIC) {
                    return Err(self.damaged("it was cut short"));
                }
            }
            return Ok(None);
        }
        let metadata = self.whole(u64::from(length))?;
        let body = Table::root(&metadata).and_then(|message| message.i64(3, 0));
        let body = body.ok().and_then(|length| u64::try_from(length).ok());
        let Some(body) = body else { return Err(self.damaged("a message is damaged")) };
        let body = self.whole(body)?;
        Ok(Some((metadata, body)))
    }

    /// Reads on to the next record batch; whether there is one.
    fn next_batch(&mut self) -> Result<bool, DataError> {
        while let Some((metadata, body)) = self.message()? {
            match self.accept(&metadata, &body) {
                Ok(true) => return Ok(true),
                Ok(false) => {}
                Err(Failure::Damaged) => return Err(self.damaged("a record batch is damaged")),
                Err(Failure::Lz4) => {
                    let reason =
                        "its buffers are in LZ4, which is not read; write it uncompressed or with zstd";
                    return Err(DataError::file(&self.origin.path, reason));
                }
            }
        }
        self.ended = true;
        Ok(false)
    }

    /// Takes a dictionary or, then true, a record batch.
    fn accept(&mut self, metadata: &[u8], body: &[u8]) -> Result<bool, Failure> {
        let message = Table::root(metadata)?;
        let header = message.table(2)?.ok_or(Damaged)?;
        match message.u8(1, 0)? {
            DICTIONARY => {
                let id = header.i64(0, 0)?;
                let field = self.value_fields.get(&id).ok_or(Damaged)?;
                let data = header.table(1)?.ok_or(Damaged)?;
                let values = Columns::new(&data, body)?.next(field, true)?;
                let known = self.dictionaries.entry(id).or_default();
                if header.u8(2, 0)? == 0 {
                    known.clear();
                }
                known.push(values);
                Ok(false)
            }
            BATCH => {
                let mut columns = Columns::new(&header, body)?;
                let fields = self.fields.iter().zip(&self.wanted);
                self.columns =
                    fields.map(|(field, &wanted)| columns.next(field, wanted)).collect::<Result<_, _>>()?;
                self.rows = usize::try_from(header.i64(0, 0)?).map_err(|_| Damaged)?;
                self.next = 0;
                match self.columns.iter().all(|column| column.len() == self.rows) {
                    true => Ok(true),
                    false => Err(Failure::Damaged),
                }
            }
            _ => Err(Failure::Damaged),
        }
    }
}

impl RowReader for ArrowRows {
    fn next_row(&mut self) -> Result<Option<Row>, DataError> {
        while self.next == self.rows {
            if self.ended || !self.next_batch()? {
                return Ok(None);
            }
        }
        let line = self.handed_out + 1;
        let mut map = Map::with_capacity(self.fields.len());
        for ((field, column), &wanted) in self.fields.iter().zip(&self.columns).zip(&self.wanted) {
            let value = match wanted {
                true => column.value(field, self.next, &self.dictionaries).map_err(|Damaged| {
                    let reason = format!("column {:?}: damaged, or not UTF-8", field.name);
                    DataError::row(&self.origin.path, line, reason)
                })?,
                false => Value::Null,
            };
            map.insert(field.name.clone(), value);
        }
        self.next += 1;
        self.handed_out = line;
        Ok(Some(self.origin.row(line, Body::Object(as_texts(map)))))
    }
}
