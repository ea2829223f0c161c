//! What Parquet and Arrow files have in common: columns with types, of which some are read.

use super::Wanted;
use crate::data::error::DataError;
use serde_json::{Map, Number, Value};
use std::path::Path;

/// Which columns are read. `columns` gives each one's name, and the type in it that has no form here.
///
/// # Errors
/// Two columns of one name; a wanted one of a type that is not read.
pub(super) fn chosen<'c>(
    path: &Path,
    columns: impl Iterator<Item = (&'c str, Option<&'static str>)>,
    wanted: &Wanted,
) -> Result<Vec<bool>, DataError> {
    let mut names: Vec<&str> = Vec::new();
    let mut read = Vec::new();
    for (name, unreadable) in columns {
        if names.contains(&name) {
            let reason = format!("two columns are named {name:?}; rename one of them");
            return Err(DataError::file(path, reason));
        }
        names.push(name);
        let is_wanted = wanted.columns.iter().any(|w| w == name);
        if let Some(unknown) = unreadable.filter(|_| is_wanted) {
            let reason = format!(
                "column {name:?} is of the type {unknown}, which is not read; save it as text, numbers, booleans, or lists and structs of these"
            );
            return Err(DataError::file(path, reason));
        }
        read.push(is_wanted);
    }
    Ok(read)
}

/// Numbers and booleans of the columns themselves become their text, since such a column (a label, say)
/// stands where text is read; inside lists and structs they stay what they are.
pub(super) fn as_texts(mut row: Map<String, Value>) -> Map<String, Value> {
    for value in row.values_mut() {
        match value {
            Value::Number(n) => *value = Value::String(n.to_string()),
            Value::Bool(b) => *value = Value::String(b.to_string()),
            _ => {}
        }
    }
    row
}

/// A number that JSON has no form for counts as missing.
pub(super) fn double(value: f64) -> Value {
    Number::from_f64(value).map_or(Value::Null, Value::Number)
}

/// By the shortest decimal that is this f32, not the longer one that is its f64.
pub(super) fn single(value: f32) -> Value {
    double(value.to_string().parse().unwrap_or_else(|_| f64::from(value)))
}
