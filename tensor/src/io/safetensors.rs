//! One safetensors file, validated on opening and used in place.
//!
//! Format (huggingface/safetensors): u64 little-endian header length, a JSON object
//! `{name: {dtype, shape, data_offsets: [begin, end]}, "__metadata__": {string: string}}`, then the
//! data, which the tensors cover without holes or overlaps. Opening costs O(header): no data is read.

use super::{Error, MappedFile, Result};
use crate::{DType, Tensor};
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// The reference implementation refuses longer headers.
const MAX_HEADER: u64 = 100_000_000;

/// How a tensor is stored in a file; more kinds than [`crate::DType`] computes with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // The names are the format's own.
pub enum StoredDType {
    F64,
    F32,
    F16,
    BF16,
    F8E4M3,
    F8E5M2,
    I64,
    I32,
    I16,
    I8,
    U64,
    U32,
    U16,
    U8,
    Bool,
}

impl StoredDType {
    const ALL: [(StoredDType, &'static str, usize); 15] = [
        (StoredDType::F64, "F64", 8),
        (StoredDType::F32, "F32", 4),
        (StoredDType::F16, "F16", 2),
        (StoredDType::BF16, "BF16", 2),
        (StoredDType::F8E4M3, "F8_E4M3", 1),
        (StoredDType::F8E5M2, "F8_E5M2", 1),
        (StoredDType::I64, "I64", 8),
        (StoredDType::I32, "I32", 4),
        (StoredDType::I16, "I16", 2),
        (StoredDType::I8, "I8", 1),
        (StoredDType::U64, "U64", 8),
        (StoredDType::U32, "U32", 4),
        (StoredDType::U16, "U16", 2),
        (StoredDType::U8, "U8", 1),
        (StoredDType::Bool, "BOOL", 1),
    ];

    fn row(self) -> (&'static str, usize) {
        Self::ALL.iter().find(|row| row.0 == self).map_or(("", 0), |row| (row.1, row.2))
    }

    /// The name used in safetensors headers.
    pub fn name(self) -> &'static str {
        self.row().0
    }

    /// The dtype of that name, if it is one of the format's.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|row| row.1 == name).map(|row| row.0)
    }

    /// The dtype tensors of this kind have in memory; `None` for kinds that nothing computes with.
    pub fn in_memory(self) -> Option<DType> {
        match self {
            StoredDType::F32 => Some(DType::F32),
            StoredDType::F16 => Some(DType::F16),
            StoredDType::BF16 => Some(DType::BF16),
            StoredDType::U32 => Some(DType::U32),
            StoredDType::U8 => Some(DType::U8),
            _ => None,
        }
    }

    /// How tensors of a dtype are stored; `None` for NF4, which takes several tensors
    /// ([`crate::quant::bitsandbytes`]).
    pub fn of(dtype: DType) -> Option<Self> {
        match dtype {
            DType::F32 => Some(StoredDType::F32),
            DType::F16 => Some(StoredDType::F16),
            DType::BF16 => Some(StoredDType::BF16),
            DType::U32 => Some(StoredDType::U32),
            DType::U8 => Some(StoredDType::U8),
            DType::Nf4 => None,
        }
    }

    /// Bytes an element takes.
    pub fn size(self) -> usize {
        self.row().1
    }
}

impl std::fmt::Display for StoredDType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Where a tensor lies and what it is.
#[derive(Debug, Clone)]
pub struct TensorInfo {
    /// Element type.
    pub dtype: StoredDType,
    /// Shape, row-major.
    pub shape: Vec<usize>,
    /// Byte range in the file (not in the data section).
    pub bytes: Range<usize>,
    /// The mapped file.
    pub file: Arc<MappedFile>,
}

impl TensorInfo {
    /// The tensor's bytes, little-endian, where they lie in the map.
    pub fn data(&self) -> &[u8] {
        &self.file.bytes()[self.bytes.clone()]
    }

    /// Number of elements.
    pub fn numel(&self) -> usize {
        self.shape.iter().product()
    }

    /// The tensor, used in place; `name` is for the message.
    ///
    /// # Errors
    /// [`Error::Tensor`] for a dtype that nothing computes with.
    pub fn to_tensor(&self, name: &str) -> crate::Result<Tensor> {
        let Some(dtype) = self.dtype.in_memory() else {
            let message =
                format!("dtype {} is not computed with: expected F32, F16, BF16, U32 or U8", self.dtype);
            return Err(Error::tensor(self.file.path(), name, message).into());
        };
        Tensor::from_mapped(Arc::clone(&self.file), self.bytes.start, dtype, &self.shape)
    }
}

/// An open safetensors file.
#[derive(Debug, Clone)]
pub struct Safetensors {
    file: Arc<MappedFile>,
    metadata: BTreeMap<String, String>,
    tensors: BTreeMap<String, TensorInfo>,
}

impl Safetensors {
    /// Maps `path` and validates its header.
    ///
    /// # Errors
    /// [`Error::Os`], [`Error::Malformed`] for the header, [`Error::Tensor`] for one tensor.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::from_mapped(Arc::new(MappedFile::open(path)?))
    }

    /// Validates the header of a file that is already mapped.
    ///
    /// # Errors
    /// As [`Safetensors::open`].
    pub fn from_mapped(file: Arc<MappedFile>) -> Result<Self> {
        let (header, data) = split(file.path(), file.bytes())?;
        let header: Header = serde_json::from_slice(header)
            .map_err(|e| malformed(file.path(), format!("the header is not as it should be: {e}")))?;
        let mut tensors = BTreeMap::new();
        for (name, entry) in header.tensors {
            let info = validate(&file, &name, &entry, &data)?;
            tensors.insert(name, info);
        }
        check_cover(file.path(), &tensors, &data)?;
        Ok(Safetensors { file, metadata: header.metadata, tensors })
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// The free-form `__metadata__`, usually `{"format": "pt"}`.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// A tensor, if the file has it.
    pub fn get(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name)
    }

    /// A tensor that must be there.
    ///
    /// # Errors
    /// [`Error::Tensor`] naming file and tensor.
    pub fn info(&self, name: &str) -> Result<&TensorInfo> {
        self.get(name).ok_or_else(|| {
            Error::tensor(
                self.path(),
                name,
                format!("not in the file, which holds {} tensors", self.tensors.len()),
            )
        })
    }

    /// The tensor `name`, used in place.
    ///
    /// # Errors
    /// [`Error::Tensor`] when it is absent or of a dtype that nothing computes with.
    pub fn tensor(&self, name: &str) -> crate::Result<Tensor> {
        self.info(name)?.to_tensor(name)
    }

    pub(super) fn into_tensors(self) -> BTreeMap<String, TensorInfo> {
        self.tensors
    }
}

fn malformed(path: &Path, message: impl Into<String>) -> Error {
    Error::malformed(path, "safetensors", message)
}

/// Header bytes, and the byte range of the data section.
fn split<'a>(path: &Path, bytes: &'a [u8]) -> Result<(&'a [u8], Range<usize>)> {
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
        return Err(malformed(path, format!("{} bytes long, a header needs at least 8", bytes.len())));
    };
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER {
        let message = format!("the header claims {length} bytes, the format allows {MAX_HEADER}");
        return Err(malformed(path, message));
    }
    match rest.split_at_checked(length as usize) {
        Some((header, _)) => Ok((header, 8 + length as usize..bytes.len())),
        None => Err(malformed(
            path,
            format!("the header claims {length} bytes, the file has {} after it; truncated?", rest.len()),
        )),
    }
}

fn validate(file: &Arc<MappedFile>, name: &str, raw: &RawTensor, data: &Range<usize>) -> Result<TensorInfo> {
    let fail = |message: String| Error::tensor(file.path(), name, message);
    let Some(dtype) = StoredDType::from_name(&raw.dtype) else {
        let known: Vec<_> = StoredDType::ALL.iter().map(|row| row.1).collect();
        return Err(fail(format!("dtype `{}` is unknown, expected one of {}", raw.dtype, known.join(", "))));
    };
    let [begin, end] = raw.data_offsets;
    let available = data.len();
    if begin > end || end > available as u64 {
        return Err(fail(format!(
            "data_offsets [{begin}, {end}] leave the data section of {available} bytes; is the file truncated?"
        )));
    }
    let wanted = raw.shape.iter().try_fold(dtype.size() as u64, |n, &dim| n.checked_mul(dim));
    if wanted != Some(end - begin) {
        let wanted = wanted.map_or("more than 2^64".to_owned(), |n| n.to_string());
        return Err(fail(format!(
            "shape {:?} of {dtype} takes {wanted} bytes, but data_offsets [{begin}, {end}] hold {}",
            raw.shape,
            end - begin
        )));
    }
    Ok(TensorInfo {
        dtype,
        shape: raw.shape.iter().map(|&dim| dim as usize).collect(),
        bytes: data.start + begin as usize..data.start + end as usize,
        file: Arc::clone(file),
    })
}

/// The tensors must cover the data section exactly once.
fn check_cover(path: &Path, tensors: &BTreeMap<String, TensorInfo>, data: &Range<usize>) -> Result<()> {
    let mut order: Vec<_> = tensors.iter().map(|(name, info)| (info.bytes.clone(), name)).collect();
    order.sort_by_key(|(range, _)| (range.start, range.end));
    let mut at = data.start;
    let mut previous = "";
    for (range, name) in &order {
        if range.start < at {
            return Err(Error::tensor(path, name, format!("its data overlaps that of tensor `{previous}`")));
        }
        if range.start > at {
            let message = format!("{} bytes before its data belong to no tensor", range.start - at);
            return Err(Error::tensor(path, name, message));
        }
        (at, previous) = (range.end, name);
    }
    if at != data.end {
        return Err(malformed(path, format!("the last {} bytes belong to no tensor", data.end - at)));
    }
    Ok(())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTensor {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

struct Header {
    metadata: BTreeMap<String, String>,
    tensors: BTreeMap<String, RawTensor>,
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct HeaderVisitor;
        impl<'de> Visitor<'de> for HeaderVisitor {
            type Value = Header;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object from tensor names to {dtype, shape, data_offsets}")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Header, A::Error> {
                let mut metadata = None;
                let mut tensors = BTreeMap::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        if metadata.replace(map.next_value::<UniqueMap<String>>()?.0).is_some() {
                            return Err(A::Error::custom("`__metadata__` appears twice"));
                        }
                        continue;
                    }
                    // The name is lost to serde's own message, so it is added here.
                    let raw = map
                        .next_value::<RawTensor>()
                        .map_err(|e| A::Error::custom(format_args!("tensor `{name}`: {e}")))?;
                    match tensors.entry(name) {
                        Entry::Vacant(slot) => {
                            slot.insert(raw);
                        }
                        Entry::Occupied(slot) => {
                            return Err(A::Error::custom(format_args!(
                                "tensor `{}` appears twice",
                                slot.key()
                            )));
                        }
                    }
                }
                Ok(Header { metadata: metadata.unwrap_or_default(), tensors })
            }
        }
        deserializer.deserialize_map(HeaderVisitor)
    }
}

/// A JSON object whose keys must be unique (serde's own maps keep the last of several).
pub(super) struct UniqueMap<T>(pub(super) BTreeMap<String, T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for UniqueMap<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct UniqueVisitor<T>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for UniqueVisitor<T> {
            type Value = UniqueMap<T>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object with unique keys")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Self::Value, A::Error> {
                let mut entries = BTreeMap::new();
                while let Some(key) = map.next_key::<String>()? {
                    let value = map.next_value::<T>()?;
                    match entries.entry(key) {
                        Entry::Vacant(slot) => {
                            slot.insert(value);
                        }
                        Entry::Occupied(slot) => {
                            return Err(A::Error::custom(format_args!("key `{}` appears twice", slot.key())));
                        }
                    }
                }
                Ok(UniqueMap(entries))
            }
        }
        deserializer.deserialize_map(UniqueVisitor(std::marker::PhantomData))
    }
}

#[cfg(test)]
mod tests;
