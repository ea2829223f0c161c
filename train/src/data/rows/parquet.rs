//! Parquet, by the `parquet` crate's reader of records, which needs none of the Arrow crates.

use super::columnar::{as_texts, chosen, double, single};
use super::{Body, Origin, Row, RowReader, Wanted};
use crate::data::error::DataError;
use parquet::basic::{ConvertedType, LogicalType, Type as Physical};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use parquet::record::reader::{ReaderIter, TreeBuilder};
use parquet::schema::types::{SchemaDescPtr, SchemaDescriptor, Type};
use serde_json::{Map, Value};
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

/// Values that are decoded of a column at once.
const BATCH: usize = 1024;

/// The rows of a `.parquet` file, a row group after the other; of its columns the wanted ones are decoded.
pub(super) struct ParquetRows {
    origin: Origin,
    reader: SerializedFileReader<File>,
    names: Vec<String>,
    /// The columns that are read.
    schema: SchemaDescPtr,
    next_group: usize,
    rows: Option<ReaderIter>,
    handed_out: u64,
}

impl ParquetRows {
    pub(super) fn new(origin: Origin, wanted: &Wanted) -> Result<ParquetRows, DataError> {
        let file = File::open(&origin.path).map_err(|e| DataError::io(&origin.path, e))?;
        let reader = guarded(&origin.path, || SerializedFileReader::new(file))?;
        let root = reader.metadata().file_metadata().schema();
        let fields = if root.is_group() { root.get_fields() } else { &[] };
        let read = chosen(&origin.path, fields.iter().map(|f| (f.name(), unreadable(f))), wanted)?;
        let kept = fields.iter().zip(&read).filter(|(_, read)| **read).map(|(field, _)| field.clone());
        let names = fields.iter().map(|f| f.name().to_string()).collect();
        let projection = Type::group_type_builder(root.name()).with_fields(kept.collect());
        let schema = guarded(&origin.path, || {
            projection.build().map(|root| Arc::new(SchemaDescriptor::new(Arc::new(root))))
        })?;
        Ok(ParquetRows { origin, reader, names, schema, next_group: 0, rows: None, handed_out: 0 })
    }

    fn next_group(&mut self) -> Result<bool, DataError> {
        if self.next_group == self.reader.num_row_groups() {
            return Ok(false);
        }
        let rows = guarded(&self.origin.path, || {
            let group = self.reader.get_row_group(self.next_group)?;
            TreeBuilder::new().with_batch_size(BATCH).as_iter(self.schema.clone(), group.as_ref())
        })?;
        self.rows = Some(rows);
        self.next_group += 1;
        Ok(true)
    }
}

impl RowReader for ParquetRows {
    fn next_row(&mut self) -> Result<Option<Row>, DataError> {
        loop {
            let row = match &mut self.rows {
                None => None,
                Some(rows) => guarded(&self.origin.path, || rows.next().transpose())?,
            };
            let Some(row) = row else {
                self.rows = None;
                match self.next_group()? {
                    true => continue,
                    false => return Ok(None),
                }
            };
            // All columns' names, in the file's order, whether read or not.
            let mut map: Map<String, Value> =
                self.names.iter().map(|name| (name.clone(), Value::Null)).collect();
            for (name, field) in row.into_columns() {
                map.insert(name, value(field));
            }
            self.handed_out += 1;
            return Ok(Some(self.origin.row(self.handed_out, Body::Object(as_texts(map)))));
        }
    }
}

/// Runs the library over a file that may hold anything. It checks what it reads, but does not promise to
/// never panic on a damaged file, and a damaged file must end in an error.
fn guarded<T>(path: &Path, read: impl FnOnce() -> parquet::errors::Result<T>) -> Result<T, DataError> {
    let damaged = |reason: &str| {
        let advice = "copy or write it again, or correct its ending";
        DataError::file(path, format!("not a whole Parquet file: {reason}; {advice}"))
    };
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(read)) {
        Ok(result) => result.map_err(|e| damaged(&e.to_string())),
        Err(_) => Err(damaged("it contradicts itself")),
    }
}

/// The first type in a column that has no form here.
fn unreadable(field: &Type) -> Option<&'static str> {
    let info = field.get_basic_info();
    let (converted, logical) = (info.converted_type(), info.logical_type_ref());
    if field.is_group() {
        return match converted {
            ConvertedType::MAP | ConvertedType::MAP_KEY_VALUE => Some("map"),
            _ => field.get_fields().iter().find_map(|f| unreadable(f)),
        };
    }
    match logical {
        Some(LogicalType::Timestamp { .. }) => return Some("timestamp"),
        Some(LogicalType::Time { .. }) => return Some("time"),
        Some(LogicalType::Decimal { .. }) => return Some("decimal"),
        _ => {}
    }
    match (field.get_physical_type(), converted) {
        (_, ConvertedType::DATE) => Some("date"),
        (_, ConvertedType::TIME_MILLIS | ConvertedType::TIME_MICROS) => Some("time"),
        (_, ConvertedType::TIMESTAMP_MILLIS | ConvertedType::TIMESTAMP_MICROS) => Some("timestamp"),
        (_, ConvertedType::DECIMAL) => Some("decimal"),
        (Physical::INT96, _) => Some("timestamp"),
        (Physical::BYTE_ARRAY, ConvertedType::UTF8 | ConvertedType::ENUM | ConvertedType::JSON) => None,
        (Physical::BYTE_ARRAY, _) => Some("binary"),
        (Physical::FIXED_LEN_BYTE_ARRAY, _) if logical == Some(&LogicalType::Float16) => None,
        (Physical::FIXED_LEN_BYTE_ARRAY, _) => Some("fixed size binary"),
        _ => None,
    }
}

/// One value as JSON; of the types that [`unreadable`] names there are none.
fn value(field: Field) -> Value {
    match field {
        Field::Bool(b) => Value::Bool(b),
        Field::Byte(n) => Value::from(n),
        Field::Short(n) => Value::from(n),
        Field::Int(n) => Value::from(n),
        Field::Long(n) => Value::from(n),
        Field::UByte(n) => Value::from(n),
        Field::UShort(n) => Value::from(n),
        Field::UInt(n) => Value::from(n),
        Field::ULong(n) => Value::from(n),
        Field::Float16(x) => double(f64::from(x)),
        Field::Float(x) => single(x),
        Field::Double(x) => double(x),
        Field::Str(text) => Value::String(text),
        Field::Group(row) => {
            Value::Object(row.into_columns().into_iter().map(|(name, field)| (name, value(field))).collect())
        }
        Field::ListInternal(list) => Value::Array(list.elements().iter().cloned().map(value).collect()),
        _ => Value::Null,
    }
}
