//! GGUF files, versions 2 and 3: metadata and tensors, bounds-checked, decoded row by row.
//!
//! Format (ggml `docs/gguf.md`): `GGUF`, u32 version, u64 tensor count, u64 metadata count; the
//! key/value pairs; the tensor infos (name, dimensions fastest first, type, offset); then the data,
//! aligned to `general.alignment` (32). Every count is checked against the bytes that are left before
//! anything is allocated for it.

use super::{Error, MappedFile, Result};
use crate::quant::GgmlType;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// A metadata value.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)] // The variants are the format's own types.
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    U64(u64),
    I64(i64),
    F32(f32),
    F64(f64),
    Bool(bool),
    String(String),
    Array(Array),
}

/// An array of metadata values; integers of all widths are kept as i64, floats as f64.
#[derive(Debug, Clone, PartialEq)]
pub enum Array {
    /// Integers; an unsigned one above 2^63 is refused.
    Ints(Vec<i64>),
    /// f32 and f64.
    Floats(Vec<f64>),
    /// Booleans.
    Bools(Vec<bool>),
    /// UTF-8 strings.
    Strings(Vec<String>),
}

/// A tensor of a GGUF file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GgufTensor {
    /// Block format.
    pub dtype: GgmlType,
    /// Shape, row-major: the file's dimensions reversed, so `[out, in]` for a linear layer.
    pub shape: Vec<usize>,
    /// Byte range in the file.
    pub bytes: Range<usize>,
}

/// An open GGUF file.
#[derive(Debug, Clone)]
pub struct Gguf {
    file: Arc<MappedFile>,
    metadata: BTreeMap<String, Value>,
    tensors: BTreeMap<String, GgufTensor>,
}

impl Gguf {
    /// Maps `path` and reads metadata and tensor infos.
    ///
    /// # Errors
    /// [`Error::Os`], [`Error::Malformed`], [`Error::Tensor`], [`Error::Key`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let file = Arc::new(MappedFile::open(path)?);
        let (metadata, tensors) = Reader { path: file.path(), bytes: file.bytes(), at: 0 }.file()?;
        Ok(Gguf { file, metadata, tensors })
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Keys of the metadata, sorted.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.metadata.keys().map(String::as_str)
    }

    /// A metadata value, if there is one of that key.
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.metadata.get(key)
    }

    /// An integer that may be absent.
    ///
    /// # Errors
    /// [`Error::Key`] when it is there with another type or negative.
    pub fn uint(&self, key: &str) -> Result<Option<u64>> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let number = match *value {
            Value::U8(v) => Some(u64::from(v)),
            Value::U16(v) => Some(u64::from(v)),
            Value::U32(v) => Some(u64::from(v)),
            Value::U64(v) => Some(v),
            Value::I8(v) => u64::try_from(v).ok(),
            Value::I16(v) => u64::try_from(v).ok(),
            Value::I32(v) => u64::try_from(v).ok(),
            Value::I64(v) => u64::try_from(v).ok(),
            _ => None,
        };
        number.map(Some).ok_or_else(|| self.mistyped(key, "a non-negative integer"))
    }

    /// A float that may be absent.
    ///
    /// # Errors
    /// [`Error::Key`] when it is there with another type.
    pub fn float(&self, key: &str) -> Result<Option<f64>> {
        match self.value(key) {
            None => Ok(None),
            // The shortest decimal that reads back as the f32: 1e-5, not 0.000009999999747378752.
            Some(Value::F32(v)) => Ok(Some(v.to_string().parse().unwrap_or(f64::from(*v)))),
            Some(Value::F64(v)) => Ok(Some(*v)),
            Some(_) => Err(self.mistyped(key, "a float")),
        }
    }

    /// A boolean that may be absent.
    ///
    /// # Errors
    /// [`Error::Key`] when it is there with another type.
    pub fn bool(&self, key: &str) -> Result<Option<bool>> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Bool(v)) => Ok(Some(*v)),
            Some(_) => Err(self.mistyped(key, "a boolean")),
        }
    }

    /// A string that may be absent.
    ///
    /// # Errors
    /// [`Error::Key`] when it is there with another type.
    pub fn string(&self, key: &str) -> Result<Option<&str>> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::String(v)) => Ok(Some(v)),
            Some(_) => Err(self.mistyped(key, "a string")),
        }
    }

    /// An array of strings that may be absent.
    ///
    /// # Errors
    /// [`Error::Key`] when it is there with another type.
    pub fn strings(&self, key: &str) -> Result<Option<&[String]>> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Array(Array::Strings(v))) => Ok(Some(v)),
            Some(_) => Err(self.mistyped(key, "an array of strings")),
        }
    }

    /// An array of integers that may be absent.
    ///
    /// # Errors
    /// [`Error::Key`] when it is there with another type.
    pub fn ints(&self, key: &str) -> Result<Option<&[i64]>> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Array(Array::Ints(v))) => Ok(Some(v)),
            Some(_) => Err(self.mistyped(key, "an array of integers")),
        }
    }

    /// An array of floats that may be absent.
    ///
    /// # Errors
    /// [`Error::Key`] when it is there with another type.
    pub fn floats(&self, key: &str) -> Result<Option<&[f64]>> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Array(Array::Floats(v))) => Ok(Some(v)),
            Some(_) => Err(self.mistyped(key, "an array of floats")),
        }
    }

    /// Turns an absent value into an error that names the key.
    ///
    /// # Errors
    /// [`Error::Key`] when `value` is `None`.
    pub fn required<T>(&self, key: &str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| Error::key(self.path(), key, "is missing"))
    }

    fn mistyped(&self, key: &str, expected: &str) -> Error {
        let got = match self.value(key) {
            Some(Value::Array(_)) => "an array".to_owned(),
            Some(value) => format!("{value:?}"),
            None => "nothing".to_owned(),
        };
        Error::key(self.path(), key, format!("expected {expected}, got {got}"))
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// A tensor, if there is one of that name.
    pub fn get(&self, name: &str) -> Option<&GgufTensor> {
        self.tensors.get(name)
    }

    /// A tensor that must be there.
    ///
    /// # Errors
    /// [`Error::Tensor`] naming file and tensor.
    pub fn info(&self, name: &str) -> Result<&GgufTensor> {
        self.get(name).ok_or_else(|| Error::tensor(self.path(), name, "not in the file"))
    }

    /// Decodes row `row` of `name` (the last dimension; a vector is one row) to f32.
    ///
    /// # Errors
    /// [`Error::Tensor`] when the tensor or row does not exist or `out` is not one row long.
    pub fn dequantize_row(&self, name: &str, row: usize, out: &mut [f32]) -> Result<()> {
        let info = self.info(name)?;
        let cols = info.shape.last().copied().unwrap_or(1);
        let fail = |message: String| Error::tensor(self.path(), name, message);
        let stride = info.dtype.bytes_for(cols as u64).unwrap_or(0) as usize;
        let start = row.checked_mul(stride).and_then(|n| n.checked_add(info.bytes.start));
        let range = start.and_then(|s| Some(s..s.checked_add(stride)?)).filter(|r| r.end <= info.bytes.end);
        let Some(range) = range.filter(|_| out.len() == cols) else {
            return Err(fail(format!(
                "row {row} into {} values, but its shape is {:?}",
                out.len(),
                info.shape
            )));
        };
        info.dtype.dequantize(&self.file.bytes()[range], out).map_err(|e| fail(e.to_string()))
    }
}

/// A cursor that never leaves the file.
struct Reader<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    at: usize,
}

type Contents = (BTreeMap<String, Value>, BTreeMap<String, GgufTensor>);

impl<'a> Reader<'a> {
    fn malformed(&self, message: impl Into<String>) -> Error {
        Error::malformed(self.path, "GGUF", message)
    }

    fn file(mut self) -> Result<Contents> {
        if self.take(4, "the magic number")? != b"GGUF" {
            return Err(self.malformed("it does not start with `GGUF`"));
        }
        let version = self.u32("the version")?;
        match version {
            2 | 3 => {}
            _ if version.swap_bytes() < 16 => {
                return Err(self.malformed("it is big-endian, which is not read"));
            }
            _ => return Err(self.malformed(format!("version {version}, expected 2 or 3"))),
        }
        let tensor_count = self.u64("the tensor count")?;
        let metadata_count = self.u64("the metadata count")?;
        // Smallest entries: a key length, a type and a byte; a name length, dimensions, type, offset.
        self.check_count(metadata_count, 13, "metadata pairs")?;
        self.check_count(tensor_count, 24, "tensors")?;
        let mut metadata = BTreeMap::new();
        for i in 0..metadata_count {
            let key = self.string(&format!("key {i}"))?;
            let kind = self.u32(&format!("the type of `{key}`"))?;
            let value = self.value(&key, kind)?;
            if metadata.insert(key.clone(), value).is_some() {
                return Err(Error::key(self.path, &key, "appears twice"));
            }
        }
        let alignment = match metadata.get("general.alignment") {
            None => 32,
            Some(Value::U32(n)) if n.is_power_of_two() => u64::from(*n),
            Some(other) => {
                let message = format!("expected a power of two as u32, got {other:?}");
                return Err(Error::key(self.path, "general.alignment", message));
            }
        };
        let mut infos = Vec::new();
        for i in 0..tensor_count {
            infos.push(self.tensor_info(i, alignment)?);
        }
        let data = (self.at as u64).next_multiple_of(alignment);
        let tensors = self.place(infos, data)?;
        Ok((metadata, tensors))
    }

    fn take(&mut self, length: u64, what: &str) -> Result<&'a [u8]> {
        let rest = &self.bytes[self.at..];
        if length > rest.len() as u64 {
            return Err(self.malformed(format!(
                "{what} needs {length} bytes at byte {}, where {} are left; truncated?",
                self.at,
                rest.len()
            )));
        }
        self.at += length as usize;
        Ok(&rest[..length as usize])
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N as u64, what)?);
        Ok(bytes)
    }

    fn u32(&mut self, what: &str) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    fn u64(&mut self, what: &str) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    fn check_count(&self, count: u64, smallest: u64, what: &str) -> Result<()> {
        let left = (self.bytes.len() - self.at) as u64;
        if count.checked_mul(smallest).is_none_or(|bytes| bytes > left) {
            return Err(self.malformed(format!("it claims {count} {what}, but only {left} bytes are left")));
        }
        Ok(())
    }

    fn string(&mut self, what: &str) -> Result<String> {
        let length = self.u64(what)?;
        let bytes = self.take(length, what)?;
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(text.to_owned()),
            Err(error) => Err(self.malformed(format!("{what} is not UTF-8: {error}"))),
        }
    }

    fn value(&mut self, key: &str, kind: u32) -> Result<Value> {
        Ok(match kind {
            0 => Value::U8(u8::from_le_bytes(self.array(key)?)),
            1 => Value::I8(i8::from_le_bytes(self.array(key)?)),
            2 => Value::U16(u16::from_le_bytes(self.array(key)?)),
            3 => Value::I16(i16::from_le_bytes(self.array(key)?)),
            4 => Value::U32(u32::from_le_bytes(self.array(key)?)),
            5 => Value::I32(i32::from_le_bytes(self.array(key)?)),
            6 => Value::F32(f32::from_le_bytes(self.array(key)?)),
            7 => Value::Bool(self.array::<1>(key)?[0] != 0),
            8 => Value::String(self.string(key)?),
            9 => Value::Array(self.array_value(key)?),
            10 => Value::U64(u64::from_le_bytes(self.array(key)?)),
            11 => Value::I64(i64::from_le_bytes(self.array(key)?)),
            12 => Value::F64(f64::from_le_bytes(self.array(key)?)),
            _ => return Err(Error::key(self.path, key, format!("value type {kind} is unknown"))),
        })
    }

    fn array_value(&mut self, key: &str) -> Result<Array> {
        let kind = self.u32(key)?;
        let count = self.u64(key)?;
        let smallest = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            8 | 10..=12 => 8,
            _ => return Err(Error::key(self.path, key, format!("arrays of value type {kind} are not read"))),
        };
        self.check_count(count, smallest, &format!("elements of `{key}`"))?;
        if kind == 8 {
            let strings = (0..count).map(|_| self.string(key)).collect::<Result<_>>()?;
            return Ok(Array::Strings(strings));
        }
        let width = smallest as usize;
        let elements = self.take(count * smallest, key)?.chunks_exact(width);
        // Little-endian: zero-extension gives the unsigned value.
        let unsigned = |bytes: &[u8]| {
            let mut wide = [0u8; 8];
            wide[..bytes.len()].copy_from_slice(bytes);
            u64::from_le_bytes(wide)
        };
        Ok(match kind {
            6 => Array::Floats(elements.map(|b| f64::from(f32::from_bits(unsigned(b) as u32))).collect()),
            12 => Array::Floats(elements.map(|b| f64::from_bits(unsigned(b))).collect()),
            7 => Array::Bools(elements.map(|b| b[0] != 0).collect()),
            1 | 3 | 5 | 11 => {
                let shift = 64 - 8 * width as u32;
                Array::Ints(elements.map(|b| ((unsigned(b) << shift) as i64) >> shift).collect())
            }
            _ => {
                let ints: std::result::Result<Vec<i64>, _> =
                    elements.map(|b| i64::try_from(unsigned(b))).collect();
                Array::Ints(ints.map_err(|_| Error::key(self.path, key, "holds a number above 2^63"))?)
            }
        })
    }

    /// Name, type, row-major shape, offset in the data section and length in bytes.
    fn tensor_info(
        &mut self,
        index: u64,
        alignment: u64,
    ) -> Result<(String, GgmlType, Vec<usize>, u64, u64)> {
        let name = self.string(&format!("the name of tensor {index}"))?;
        let fail = |path: &Path, message: String| Err(Error::tensor(path, &name, message));
        let rank = self.u32(&name)?;
        if rank > 4 {
            return fail(self.path, format!("{rank} dimensions, GGUF allows 4"));
        }
        let mut dims = Vec::new();
        for _ in 0..rank {
            dims.push(self.u64(&name)?);
        }
        let id = self.u32(&name)?;
        let offset = self.u64(&name)?;
        let Some(dtype) = GgmlType::from_id(id) else {
            return fail(self.path, format!("ggml type {id} is not read, only {}", GgmlType::names()));
        };
        let numel = dims.iter().try_fold(1u64, |n, &d| n.checked_mul(d));
        let row = dims.first().copied().unwrap_or(1);
        let bytes =
            numel.filter(|_| row.is_multiple_of(dtype.block() as u64)).and_then(|n| dtype.bytes_for(n));
        let Some(bytes) = bytes else {
            return fail(
                self.path,
                format!("dimensions {dims:?} are not whole blocks of {dtype} that fit 64 bits"),
            );
        };
        if !offset.is_multiple_of(alignment) {
            return fail(
                self.path,
                format!("offset {offset} is not a multiple of the alignment {alignment}"),
            );
        }
        let shape = dims.iter().rev().map(|&d| usize::try_from(d).unwrap_or(usize::MAX)).collect();
        Ok((name, dtype, shape, offset, bytes))
    }

    /// Turns offsets into checked byte ranges of the file that do not overlap.
    fn place(
        &self,
        infos: Vec<(String, GgmlType, Vec<usize>, u64, u64)>,
        data: u64,
    ) -> Result<BTreeMap<String, GgufTensor>> {
        let length = self.bytes.len() as u64;
        let mut tensors = BTreeMap::new();
        for (name, dtype, shape, offset, bytes) in infos {
            let start = data.checked_add(offset);
            let range =
                start.and_then(|s| Some((s, s.checked_add(bytes)?))).filter(|&(_, end)| end <= length);
            let Some((start, end)) = range else {
                let message = format!(
                    "{bytes} bytes at offset {offset} leave the file ({length} bytes, data from {data}); truncated?"
                );
                return Err(Error::tensor(self.path, &name, message));
            };
            let tensor = GgufTensor { dtype, shape, bytes: start as usize..end as usize };
            if tensors.insert(name.clone(), tensor).is_some() {
                return Err(Error::tensor(self.path, &name, "appears twice"));
            }
        }
        let mut order: Vec<_> = tensors.iter().map(|(name, t)| (t.bytes.clone(), name)).collect();
        order.sort_by_key(|(range, _)| (range.start, range.end));
        for pair in order.windows(2) {
            if let [(first, before), (second, name)] = pair
                && second.start < first.end
            {
                let message = format!("its data overlaps that of tensor `{before}`");
                return Err(Error::tensor(self.path, name, message));
            }
        }
        Ok(tensors)
    }
}

#[cfg(test)]
mod tests;
