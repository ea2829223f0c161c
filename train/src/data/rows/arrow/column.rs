//! A column of a record batch, and its values as JSON.

use super::flatbuffer::{Damaged, Table};
use super::schema::{Field, Integer, Kind};
use crate::data::rows::columnar::{double, single};
use half::f16;
use serde_json::{Map, Value};
use std::collections::HashMap;

/// The buffers of a field and of what is inside of it.
#[derive(Debug, Default)]
pub(super) struct Column {
    length: usize,
    buffers: Vec<Vec<u8>>,
    children: Vec<Column>,
}

/// The values of a dictionary: one column, and one more for each that was added to it.
pub(super) type Dictionaries = HashMap<i64, Vec<Column>>;

/// Why columns cannot be had.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Failure {
    Damaged,
    /// Buffers in LZ4.
    Lz4,
}

impl From<Damaged> for Failure {
    fn from(_: Damaged) -> Failure {
        Failure::Damaged
    }
}

/// Takes the columns of a `RecordBatch` table out of its body, in the schema's order.
pub(super) struct Columns<'b> {
    body: &'b [u8],
    nodes: std::vec::IntoIter<[i64; 2]>,
    buffers: std::vec::IntoIter<[i64; 2]>,
    variadic: std::vec::IntoIter<[i64; 1]>,
    is_zstd: bool,
}

impl<'b> Columns<'b> {
    /// Of the batch's metadata and body.
    pub(super) fn new(batch: &Table<'_>, body: &'b [u8]) -> Result<Columns<'b>, Failure> {
        let is_zstd = match batch.table(3)? {
            None => false,
            Some(compression) if compression.u8(0, 0)? == 1 => true,
            Some(_) => return Err(Failure::Lz4),
        };
        Ok(Columns {
            body,
            nodes: batch.numbers(1)?.into_iter(),
            buffers: batch.numbers(2)?.into_iter(),
            variadic: batch.numbers(4)?.into_iter(),
            is_zstd,
        })
    }

    /// The next column; one that is not `wanted` is passed over, and comes without buffers.
    pub(super) fn next(&mut self, field: &Field, wanted: bool) -> Result<Column, Failure> {
        let [length, _] = self.nodes.next().ok_or(Damaged)?;
        let length = usize::try_from(length).map_err(|_| Damaged)?;
        let kind = field.dictionary.map_or(field.kind, |(_, index)| Kind::Integer(index));
        let (mut count, variadic) = kind.buffers();
        if variadic {
            let [more] = self.variadic.next().ok_or(Damaged)?;
            count += usize::try_from(more).map_err(|_| Damaged)?;
        }
        let mut buffers = Vec::new();
        for _ in 0..count {
            let buffer = self.buffers.next().ok_or(Damaged)?;
            if wanted {
                buffers.push(self.buffer(buffer)?);
            }
        }
        let mut children = Vec::new();
        if field.dictionary.is_none() {
            for child in &field.children {
                children.push(self.next(child, wanted)?);
            }
        }
        Ok(Column { length, buffers, children })
    }

    fn buffer(&self, [start, length]: [i64; 2]) -> Result<Vec<u8>, Failure> {
        let start = usize::try_from(start).map_err(|_| Damaged)?;
        let length = usize::try_from(length).map_err(|_| Damaged)?;
        let end = start.checked_add(length).ok_or(Damaged)?;
        let bytes = self.body.get(start..end).ok_or(Damaged)?;
        if !self.is_zstd || bytes.is_empty() {
            return Ok(bytes.to_vec());
        }
        // A compressed buffer begins with its unpacked length; −1: it is not compressed after all.
        let (unpacked, packed) = bytes.split_first_chunk::<8>().ok_or(Damaged)?;
        let unpacked = i64::from_le_bytes(*unpacked);
        if unpacked == -1 {
            return Ok(packed.to_vec());
        }
        let bytes = zstd::stream::decode_all(packed).map_err(|_| Damaged)?;
        match usize::try_from(unpacked) == Ok(bytes.len()) {
            true => Ok(bytes),
            false => Err(Failure::Damaged),
        }
    }
}

impl Column {
    pub(super) fn len(&self) -> usize {
        self.length
    }

    /// The value at `i` as JSON.
    ///
    /// # Errors
    /// Buffers that are too short for it, or text that is not UTF-8.
    pub(super) fn value(&self, field: &Field, i: usize, known: &Dictionaries) -> Result<Value, Damaged> {
        let Some((id, Integer { bytes, .. })) = field.dictionary else {
            return self.plain(field, i, known);
        };
        if self.is_null(i)? {
            return Ok(Value::Null);
        }
        let mut key = usize::try_from(self.unsigned(i, bytes)?).map_err(|_| Damaged)?;
        for column in known.get(&id).ok_or(Damaged)? {
            match key.checked_sub(column.length) {
                None => return column.plain(field, key, known),
                Some(further) => key = further,
            }
        }
        Err(Damaged)
    }

    /// Without nulls the bitmap may be left out.
    fn is_null(&self, i: usize) -> Result<bool, Damaged> {
        match self.buffers.first() {
            _ if i >= self.length => Err(Damaged),
            Some(validity) if !validity.is_empty() => bit(validity, i).map(|valid| !valid),
            _ => Ok(false),
        }
    }

    /// The value where the column itself holds it, and no index into a dictionary.
    fn plain(&self, field: &Field, i: usize, known: &Dictionaries) -> Result<Value, Damaged> {
        if self.is_null(i)? {
            return Ok(Value::Null);
        }
        Ok(match field.kind {
            Kind::Null => Value::Null,
            Kind::Bool => Value::Bool(bit(self.buffers.get(1).ok_or(Damaged)?, i)?),
            Kind::Integer(Integer { bytes, signed: false }) => Value::from(self.unsigned(i, bytes)?),
            Kind::Integer(Integer { bytes, signed: true }) => {
                let unused = 64 - 8 * bytes as u32;
                Value::from((self.unsigned(i, bytes)? << unused) as i64 >> unused)
            }
            Kind::Float(2) => double(f64::from(f16::from_bits(self.unsigned(i, 2)? as u16))),
            Kind::Float(4) => single(f32::from_bits(self.unsigned(i, 4)? as u32)),
            Kind::Float(_) => double(f64::from_bits(self.unsigned(i, 8)?)),
            Kind::Text { wide } => {
                let (start, end) = self.range(i, wide)?;
                text(self.buffers.get(2).and_then(|b| b.get(start..end)))?
            }
            Kind::TextView => text(self.view(i))?,
            Kind::List { wide } => {
                let (start, end) = self.range(i, wide)?;
                self.list(field, start, end, known)?
            }
            Kind::FixedList(size) => {
                let start = i.checked_mul(size).ok_or(Damaged)?;
                self.list(field, start, start.checked_add(size).ok_or(Damaged)?, known)?
            }
            Kind::Struct => {
                let mut map = Map::with_capacity(field.children.len());
                for (child, column) in field.children.iter().zip(&self.children) {
                    map.insert(child.name.clone(), column.value(child, i, known)?);
                }
                Value::Object(map)
            }
            Kind::Other { .. } => return Err(Damaged),
        })
    }

    /// The `i`-th number of `width` bytes of the data buffer.
    fn unsigned(&self, i: usize, width: usize) -> Result<u64, Damaged> {
        number(self.buffers.get(1).ok_or(Damaged)?, i, width)
    }

    /// The `i`-th pair of offsets.
    fn range(&self, i: usize, wide: bool) -> Result<(usize, usize), Damaged> {
        let width = if wide { 8 } else { 4 };
        let at = |i| usize::try_from(self.unsigned(i, width)?).map_err(|_| Damaged);
        Ok((at(i)?, at(i + 1)?))
    }

    /// The bytes of a view: up to 12 in the view itself, more in one of the further buffers.
    fn view(&self, i: usize) -> Option<&[u8]> {
        let view = self.buffers.get(1)?.get(i.checked_mul(16)?..)?.get(..16)?;
        let word = |k: usize| view[4 * k..].first_chunk().map(|b| u32::from_le_bytes(*b) as usize);
        let length = word(0)?;
        if length <= 12 {
            return view.get(4..4 + length);
        }
        let (buffer, start) = (word(2)?, word(3)?);
        self.buffers.get(2..)?.get(buffer)?.get(start..start.checked_add(length)?)
    }

    fn list(&self, field: &Field, start: usize, end: usize, known: &Dictionaries) -> Result<Value, Damaged> {
        let (item, column) = field.children.first().zip(self.children.first()).ok_or(Damaged)?;
        (start..end).map(|i| column.value(item, i, known)).collect::<Result<_, _>>().map(Value::Array)
    }
}

fn number(buffer: &[u8], i: usize, width: usize) -> Result<u64, Damaged> {
    let start = i.checked_mul(width).ok_or(Damaged)?;
    let bytes = buffer.get(start..).and_then(|rest| rest.get(..width)).ok_or(Damaged)?;
    Ok(bytes.iter().rev().fold(0, |value, &b| value << 8 | u64::from(b)))
}

fn bit(bitmap: &[u8], i: usize) -> Result<bool, Damaged> {
    bitmap.get(i / 8).map(|byte| byte >> (i % 8) & 1 == 1).ok_or(Damaged)
}

fn text(bytes: Option<&[u8]>) -> Result<Value, Damaged> {
    let text = std::str::from_utf8(bytes.ok_or(Damaged)?).map_err(|_| Damaged)?;
    Ok(Value::String(text.to_string()))
}
