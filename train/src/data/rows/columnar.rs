//! Parquet and Arrow IPC: rows out of record batches.

use super::{Body, Origin, Row, RowReader, Wanted};
use crate::data::error::DataError;
use arrow_array::cast::AsArray;
use arrow_array::types::{
    ArrowPrimitiveType, Float16Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
    UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_ipc::reader::{FileReader, StreamReader};
use arrow_schema::{ArrowError, DataType, Schema};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Map, Number, Value};
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;

/// Rows decoded at once of a Parquet file; an Arrow file fixes its own batches.
const BATCH_ROWS: usize = 1024;

/// A record batch: all columns' names in the schema's order, and the values of those that are read.
#[derive(Debug)]
pub(super) struct Batch {
    columns: Vec<(String, Option<ArrayRef>)>,
    row_size: usize,
}

impl Batch {
    /// About how much memory one row takes, in bytes.
    pub(super) fn row_size(&self) -> usize {
        self.row_size
    }

    /// A row as JSON. Numbers and booleans of the columns themselves become their text, since such a
    /// column (a label, say) stands where text is read; inside lists and structs they stay what they are.
    ///
    /// # Errors
    /// A value that JSON has no form for, with its column.
    pub(super) fn object(&self, index: usize) -> Result<Map<String, Value>, String> {
        let mut map = Map::with_capacity(self.columns.len());
        for (name, array) in &self.columns {
            let value = match array {
                None => Value::Null,
                Some(array) => value(array, index).map_err(|reason| format!("column {name:?}: {reason}"))?,
            };
            let value = match value {
                Value::Number(n) => Value::String(n.to_string()),
                Value::Bool(b) => Value::String(b.to_string()),
                other => other,
            };
            map.insert(name.clone(), value);
        }
        Ok(map)
    }
}

type Batches = Box<dyn Iterator<Item = Result<RecordBatch, ArrowError>> + Send>;

/// The rows of a Parquet or Arrow file.
pub(super) struct ColumnarRows {
    origin: Origin,
    batches: Batches,
    /// Names of all columns; and which of them the batches hold, in the batches' order.
    names: Vec<String>,
    read: Vec<usize>,
    batch: Option<Arc<Batch>>,
    /// Rows of the batch, and the next of them.
    rows: usize,
    next: usize,
    /// Rows handed out.
    handed_out: u64,
}

/// Opens a Parquet file; of its columns those of `wanted` are decoded, 1,024 rows at a time.
pub(super) fn parquet(origin: Origin, wanted: &Wanted) -> Result<ColumnarRows, DataError> {
    let file = File::open(&origin.path).map_err(|e| DataError::io(&origin.path, e))?;
    let builder = guarded(&origin.path, "Parquet", || ParquetRecordBatchReaderBuilder::try_new(file))?;
    let read = chosen(&origin.path, builder.schema(), wanted)?;
    let names = builder.schema().fields().iter().map(|f| f.name().clone()).collect();
    let mask = ProjectionMask::roots(builder.parquet_schema(), read.iter().copied());
    let reader = guarded(&origin.path, "Parquet", || {
        builder.with_projection(mask).with_batch_size(BATCH_ROWS).build()
    })?;
    Ok(ColumnarRows::new(origin, Box::new(reader), names, read))
}

/// Opens an Arrow IPC file in its file form (it begins with `ARROW1`) or stream form, as Hugging Face's
/// `save_to_disk` writes.
pub(super) fn arrow(origin: Origin, wanted: &Wanted) -> Result<ColumnarRows, DataError> {
    let io = |e| DataError::io(&origin.path, e);
    let mut file = File::open(&origin.path).map_err(io)?;
    let mut magic = Vec::new();
    (&mut file).take(6).read_to_end(&mut magic).map_err(io)?;
    let path = &origin.path;
    let again = || -> Result<BufReader<File>, DataError> {
        let mut file = file.try_clone().map_err(io)?;
        file.seek(SeekFrom::Start(0)).map_err(io)?;
        Ok(BufReader::new(file))
    };
    // The schema is needed to choose columns, and a reader takes the choice when it is made.
    let (schema, batches, read): (_, Batches, _) = if magic == b"ARROW1" {
        let input = again()?;
        let schema = guarded(path, "Arrow", || FileReader::try_new(input, None))?.schema();
        let read = chosen(path, &schema, wanted)?;
        let input = again()?;
        let reader = guarded(path, "Arrow", || FileReader::try_new(input, Some(read.clone())))?;
        (schema, Box::new(reader), read)
    } else {
        let input = again()?;
        let schema = guarded(path, "Arrow", || StreamReader::try_new(input, None))?.schema();
        let read = chosen(path, &schema, wanted)?;
        let input = again()?;
        let reader = guarded(path, "Arrow", || StreamReader::try_new(input, Some(read.clone())))?;
        (schema, Box::new(reader), read)
    };
    let names = schema.fields().iter().map(|f| f.name().clone()).collect();
    Ok(ColumnarRows::new(origin, batches, names, read))
}

/// Indices of the columns that are read.
fn chosen(path: &Path, schema: &Schema, wanted: &Wanted) -> Result<Vec<usize>, DataError> {
    let mut read = Vec::new();
    for (i, field) in schema.fields().iter().enumerate() {
        if schema.fields()[..i].iter().any(|f| f.name() == field.name()) {
            let reason = format!("two columns are named {:?}; rename one of them", field.name());
            return Err(DataError::file(path, reason));
        }
        if !wanted.columns.contains(field.name()) {
            continue;
        }
        if let Some(unknown) = unreadable(field.data_type()) {
            let reason = format!(
                "column {:?} is of the type {unknown}, which is not read; save it as text, numbers, booleans, or lists and structs of these",
                field.name()
            );
            return Err(DataError::file(path, reason));
        }
        read.push(i);
    }
    Ok(read)
}

/// The first type inside `data_type` that has no form here.
fn unreadable(data_type: &DataType) -> Option<&DataType> {
    match data_type {
        DataType::Null | DataType::Boolean => None,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => None,
        t if t.is_integer() || t.is_floating() => None,
        DataType::Dictionary(_, values) => unreadable(values),
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            unreadable(item.data_type())
        }
        DataType::Struct(fields) => fields.iter().find_map(|f| unreadable(f.data_type())),
        other => Some(other),
    }
}

/// Runs a reader of a library over a file that may hold anything. The libraries check what they read, but
/// do not promise to never panic on damaged files, and a damaged file must end in an error.
fn guarded<T, E: std::fmt::Display>(
    path: &Path,
    format: &str,
    read: impl FnOnce() -> Result<T, E>,
) -> Result<T, DataError> {
    let damaged = |reason: &str| {
        DataError::file(
            path,
            format!("not a whole {format} file ({reason}); copy or write it again, or correct its ending"),
        )
    };
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(read)) {
        Ok(result) => result.map_err(|e| damaged(&e.to_string())),
        Err(_) => Err(damaged("its reader gave up")),
    }
}

impl ColumnarRows {
    fn new(origin: Origin, batches: Batches, names: Vec<String>, read: Vec<usize>) -> ColumnarRows {
        ColumnarRows { origin, batches, names, read, batch: None, rows: 0, next: 0, handed_out: 0 }
    }

    /// Whether there is another batch.
    fn next_batch(&mut self) -> Result<bool, DataError> {
        let format = if self.origin.path.extension().is_some_and(|e| e.eq_ignore_ascii_case("arrow")) {
            "Arrow"
        } else {
            "Parquet"
        };
        let batches = &mut self.batches;
        let Some(batch) = guarded(&self.origin.path, format, || batches.next().transpose())? else {
            return Ok(false);
        };
        self.rows = batch.num_rows();
        self.next = 0;
        let mut columns: Vec<(String, Option<ArrayRef>)> =
            self.names.iter().map(|n| (n.clone(), None)).collect();
        for (&column, array) in self.read.iter().zip(batch.columns()) {
            columns[column].1 = Some(array.clone());
        }
        let row_size = batch.get_array_memory_size() / self.rows.max(1);
        self.batch = Some(Arc::new(Batch { columns, row_size }));
        Ok(true)
    }
}

impl RowReader for ColumnarRows {
    fn next_row(&mut self) -> Result<Option<Row>, DataError> {
        while self.next == self.rows {
            if !self.next_batch()? {
                return Ok(None);
            }
        }
        let Some(batch) = &self.batch else { return Ok(None) };
        let body = Body::Columnar(batch.clone(), self.next);
        self.next += 1;
        self.handed_out += 1;
        Ok(Some(self.origin.row(self.handed_out, body)))
    }
}

/// One value as JSON.
fn value(array: &dyn Array, i: usize) -> Result<Value, String> {
    // A dictionary's nulls may also stand among its values, which the recursion below finds.
    if array.is_null(i) {
        return Ok(Value::Null);
    }
    let list = |items: ArrayRef| {
        (0..items.len()).map(|i| value(&items, i)).collect::<Result<Vec<Value>, String>>().map(Value::Array)
    };
    Ok(match array.data_type() {
        DataType::Null => Value::Null,
        DataType::Boolean => Value::Bool(array.as_boolean().value(i)),
        DataType::Utf8 => Value::String(array.as_string::<i32>().value(i).to_string()),
        DataType::LargeUtf8 => Value::String(array.as_string::<i64>().value(i).to_string()),
        DataType::Utf8View => Value::String(array.as_string_view().value(i).to_string()),
        DataType::Int8 => number::<Int8Type>(array, i),
        DataType::Int16 => number::<Int16Type>(array, i),
        DataType::Int32 => number::<Int32Type>(array, i),
        DataType::Int64 => number::<Int64Type>(array, i),
        DataType::UInt8 => number::<UInt8Type>(array, i),
        DataType::UInt16 => number::<UInt16Type>(array, i),
        DataType::UInt32 => number::<UInt32Type>(array, i),
        DataType::UInt64 => number::<UInt64Type>(array, i),
        DataType::Float16 => float(f64::from(array.as_primitive::<Float16Type>().value(i)))?,
        // The shortest decimal that is this f32, not the longer one that is its f64.
        DataType::Float32 => float(shortest(array.as_primitive::<Float32Type>().value(i)))?,
        DataType::Float64 => float(array.as_primitive::<Float64Type>().value(i))?,
        DataType::Dictionary(..) => {
            let dictionary = array.as_any_dictionary();
            let key = value(dictionary.keys(), i)?.as_u64().unwrap_or(u64::MAX);
            return match usize::try_from(key).ok().filter(|&k| k < dictionary.values().len()) {
                Some(key) => value(dictionary.values(), key),
                None => Err("a dictionary key points outside of its values".to_string()),
            };
        }
        DataType::List(_) => list(array.as_list::<i32>().value(i))?,
        DataType::LargeList(_) => list(array.as_list::<i64>().value(i))?,
        DataType::FixedSizeList(..) => list(array.as_fixed_size_list().value(i))?,
        DataType::Struct(fields) => {
            let columns = array.as_struct().columns();
            let mut map = Map::with_capacity(columns.len());
            for (field, column) in fields.iter().zip(columns) {
                map.insert(field.name().clone(), value(column, i)?);
            }
            Value::Object(map)
        }
        other => return Err(format!("the type {other} is not read")),
    })
}

fn number<T: ArrowPrimitiveType>(array: &dyn Array, i: usize) -> Value
where
    Number: From<T::Native>,
{
    Value::Number(Number::from(array.as_primitive::<T>().value(i)))
}

fn shortest(value: f32) -> f64 {
    value.to_string().parse().unwrap_or_else(|_| f64::from(value))
}

fn float(value: f64) -> Result<Value, String> {
    Number::from_f64(value).map(Value::Number).ok_or_else(|| format!("expected a finite number, got {value}"))
}
