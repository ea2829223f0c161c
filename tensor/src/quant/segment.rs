//! A run of plain values that is either owned or left where it is in a mapped file.

use super::{Error, Result};
use crate::io::MappedFile;
use std::ops::Range;
use std::sync::Arc;

/// `[T]` that is owned or borrowed from a shared memory map.
#[derive(Clone)]
pub struct Segment<T>(Source<T>);

#[derive(Clone)]
enum Source<T> {
    Owned(Vec<T>),
    Mapped { file: Arc<MappedFile>, bytes: Range<usize> },
}

impl<T: bytemuck::Pod> Segment<T> {
    /// The bytes `bytes` of `file` read as little-endian `T`, without copying. A range that is not
    /// aligned for `T` (safetensors does not promise alignment) is copied instead.
    ///
    /// # Errors
    /// [`Error::Range`] when the range leaves the file or is no whole number of `T`.
    pub fn mapped(file: Arc<MappedFile>, bytes: Range<usize>) -> Result<Self> {
        let bad = |file: &MappedFile| Error::Range {
            file: file.path().display().to_string(),
            start: bytes.start,
            end: bytes.end,
            len: file.bytes().len(),
        };
        let Some(slice) = file.bytes().get(bytes.clone()) else { return Err(bad(&file)) };
        if !slice.len().is_multiple_of(size_of::<T>()) {
            return Err(bad(&file));
        }
        if bytemuck::try_cast_slice::<u8, T>(slice).is_ok() {
            return Ok(Segment(Source::Mapped { file, bytes }));
        }
        Ok(Segment(Source::Owned(
            slice.chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect(),
        )))
    }

    /// The values.
    pub fn as_slice(&self) -> &[T] {
        match &self.0 {
            Source::Owned(values) => values,
            // `mapped` has proved range, size and alignment, and the map never changes.
            Source::Mapped { file, bytes } => bytemuck::cast_slice(&file.bytes()[bytes.clone()]),
        }
    }

    /// True when the values still lie in the file.
    pub fn is_mapped(&self) -> bool {
        matches!(self.0, Source::Mapped { .. })
    }
}

impl<T> From<Vec<T>> for Segment<T> {
    fn from(values: Vec<T>) -> Self {
        Segment(Source::Owned(values))
    }
}

impl<T: bytemuck::Pod> std::fmt::Debug for Segment<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let place = if self.is_mapped() { "mapped" } else { "owned" };
        write!(f, "Segment<{}>({place}, {} values)", std::any::type_name::<T>(), self.as_slice().len())
    }
}
