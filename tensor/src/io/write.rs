//! Writing safetensors: header first, then the tensors piece by piece in any order; the file appears
//! under its name only when it is complete and on the disk.

use super::{Error, Result, StoredDType};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// What will be written under a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// The tensor's name.
    pub name: String,
    /// Element type.
    pub dtype: StoredDType,
    /// Shape, row-major.
    pub shape: Vec<usize>,
}

impl TensorSpec {
    /// A spec in one line.
    pub fn new(name: impl Into<String>, dtype: StoredDType, shape: &[usize]) -> Self {
        TensorSpec { name: name.into(), dtype, shape: shape.to_vec() }
    }
}

#[derive(Serialize)]
struct HeaderEntry<'a> {
    dtype: &'a str,
    shape: &'a [usize],
    data_offsets: [u64; 2],
}

struct Slot {
    begin: u64,
    length: u64,
    written: u64,
}

/// A safetensors file being written. Dropped without [`SafetensorsWriter::finish`], it leaves nothing.
pub struct SafetensorsWriter {
    path: PathBuf,
    temporary: PathBuf,
    file: Option<File>,
    slots: BTreeMap<String, Slot>,
    position: u64,
}

impl SafetensorsWriter {
    /// Starts `path` with the metadata `{"format": "pt"}`, which transformers asks for.
    ///
    /// # Errors
    /// As [`SafetensorsWriter::create_with_metadata`].
    pub fn create(path: impl AsRef<Path>, specs: &[TensorSpec]) -> Result<Self> {
        let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
        Self::create_with_metadata(path, specs, &metadata)
    }

    /// Writes the header of a temporary file beside `path`. Tensors are laid out as the reference
    /// implementation does: widest dtype first, then by name, so that every tensor is aligned.
    ///
    /// # Errors
    /// [`Error::Tensor`] for a name given twice or a shape too large, [`Error::Os`].
    pub fn create_with_metadata(
        path: impl AsRef<Path>,
        specs: &[TensorSpec],
        metadata: &BTreeMap<String, String>,
    ) -> Result<Self> {
        let path = path.as_ref();
        let mut order: Vec<&TensorSpec> = specs.iter().collect();
        order.sort_by(|a, b| b.dtype.size().cmp(&a.dtype.size()).then_with(|| a.name.cmp(&b.name)));
        let mut header = serde_json::Map::new();
        let to_json = |e: serde_json::Error| Error::malformed(path, "safetensors", e.to_string());
        header.insert("__metadata__".to_owned(), serde_json::to_value(metadata).map_err(to_json)?);
        let mut slots = BTreeMap::new();
        let mut at = 0u64;
        for spec in order {
            let length =
                spec.shape.iter().try_fold(spec.dtype.size() as u64, |n, &dim| n.checked_mul(dim as u64));
            let Some((length, end)) = length.and_then(|n| Some((n, at.checked_add(n)?))) else {
                return Err(Error::tensor(path, &spec.name, format!("shape {:?} is too large", spec.shape)));
            };
            let entry = HeaderEntry { dtype: spec.dtype.name(), shape: &spec.shape, data_offsets: [at, end] };
            header.insert(spec.name.clone(), serde_json::to_value(entry).map_err(to_json)?);
            if slots.insert(spec.name.clone(), Slot { begin: at, length, written: 0 }).is_some()
                || spec.name == "__metadata__"
            {
                return Err(Error::tensor(path, &spec.name, "is given twice or has a reserved name"));
            }
            at = end;
        }
        let mut text = serde_json::to_vec(&header).map_err(to_json)?;
        text.resize(text.len().next_multiple_of(8), b' ');

        let temporary = temporary_name(path);
        let file = File::create_new(&temporary).map_err(|e| Error::os(&temporary, "create", e))?;
        // From here on dropping the writer removes the file.
        let mut writer =
            SafetensorsWriter { path: path.to_path_buf(), temporary, file: Some(file), slots, position: 0 };
        writer.put(&(text.len() as u64).to_le_bytes())?;
        writer.put(&text)?;
        let start = writer.position;
        writer.slots.values_mut().for_each(|slot| slot.begin += start);
        Ok(writer)
    }

    /// Appends little-endian `bytes` to the tensor `name`: all of it, or a piece at a time.
    ///
    /// # Errors
    /// [`Error::Tensor`] for an unknown name or more bytes than its shape holds, [`Error::Os`].
    pub fn append(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let Some(slot) = self.slots.get_mut(name) else {
            return Err(Error::tensor(&self.path, name, "was not announced when the file was created"));
        };
        let room = slot.length - slot.written;
        if bytes.len() as u64 > room {
            let message = format!("{} bytes given, its shape has room for {room} more", bytes.len());
            return Err(Error::tensor(&self.path, name, message));
        }
        let at = slot.begin + slot.written;
        slot.written += bytes.len() as u64;
        if at != self.position {
            let seek = SeekFrom::Start(at);
            self.file()?.seek(seek).map_err(|e| Error::os(&self.temporary, "seek in", e))?;
            self.position = at;
        }
        self.put(bytes)
    }

    /// Puts the file on the disk and gives it its name, replacing an older one atomically.
    ///
    /// # Errors
    /// [`Error::Tensor`] for a tensor that is not complete, [`Error::Os`].
    pub fn finish(mut self) -> Result<()> {
        if let Some((name, slot)) = self.slots.iter().find(|(_, slot)| slot.written != slot.length) {
            let message = format!("only {} of {} bytes were written", slot.written, slot.length);
            return Err(Error::tensor(&self.path, name, message));
        }
        self.file()?.sync_all().map_err(|e| Error::os(&self.temporary, "sync", e))?;
        std::fs::rename(&self.temporary, &self.path)
            .map_err(|e| Error::os(&self.path, "rename into place", e))?;
        self.file = None;
        sync_folder(&self.path)
    }

    fn file(&mut self) -> Result<&mut File> {
        let closed = || std::io::Error::other("the writer is already finished");
        self.file.as_mut().ok_or_else(|| Error::os(&self.path, "write", closed()))
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.file()?.write_all(bytes).map_err(|e| Error::os(&self.temporary, "write", e))?;
        self.position += bytes.len() as u64;
        Ok(())
    }
}

impl Drop for SafetensorsWriter {
    fn drop(&mut self) {
        if self.file.take().is_some() {
            // Nobody is left to tell; a leftover `.tmp` file is harmless.
            std::fs::remove_file(&self.temporary).ok();
        }
    }
}

/// A name in the same folder (so that the rename is atomic) that no other writer uses.
fn temporary_name(path: &Path) -> PathBuf {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    path.with_file_name(format!(".{name}.{}-{count}.tmp", std::process::id()))
}

/// Makes the rename itself durable. Where folders cannot be opened (Windows) there is nothing to do.
fn sync_folder(path: &Path) -> Result<()> {
    if cfg!(unix) {
        let folder = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        File::open(folder).and_then(|f| f.sync_all()).map_err(|e| Error::os(folder, "sync", e))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::Safetensors;

    fn specs() -> Vec<TensorSpec> {
        vec![
            TensorSpec::new("bytes", StoredDType::U8, &[3]),
            TensorSpec::new("a.weight", StoredDType::F32, &[2, 2]),
            TensorSpec::new("half", StoredDType::BF16, &[1]),
            TensorSpec::new("empty", StoredDType::F32, &[0, 7]),
        ]
    }

    #[test]
    fn what_is_written_in_pieces_and_out_of_order_reads_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.safetensors");
        let mut writer = SafetensorsWriter::create(&path, &specs()).unwrap();
        writer.append("half", &[1, 2]).unwrap();
        writer.append("a.weight", &[0; 8]).unwrap();
        writer.append("bytes", &[7, 8, 9]).unwrap();
        writer.append("a.weight", &[5; 8]).unwrap();
        assert!(!path.exists(), "the name appears only when the file is complete");
        writer.finish().unwrap();

        let file = Safetensors::open(&path).unwrap();
        assert_eq!(file.metadata()["format"], "pt");
        assert_eq!(file.info("bytes").unwrap().data(), [7, 8, 9]);
        assert_eq!(file.info("half").unwrap().data(), [1, 2]);
        let weight = file.info("a.weight").unwrap();
        assert_eq!((weight.dtype, weight.shape.as_slice()), (StoredDType::F32, [2, 2].as_slice()));
        assert_eq!(weight.data(), [0, 0, 0, 0, 0, 0, 0, 0, 5, 5, 5, 5, 5, 5, 5, 5]);
        assert_eq!(weight.bytes.start % 8, 0, "wide tensors are aligned");
        assert_eq!(file.info("empty").unwrap().numel(), 0);
        // The reference implementation reads it too.
        let bytes = std::fs::read(&path).unwrap();
        let reference = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(reference.tensor("bytes").unwrap().data(), [7, 8, 9]);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn an_unfinished_or_incomplete_file_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.safetensors");
        std::fs::write(&path, "old").unwrap();
        drop(SafetensorsWriter::create(&path, &specs()).unwrap());
        let mut writer = SafetensorsWriter::create(&path, &specs()).unwrap();
        writer.append("bytes", &[1]).unwrap();
        let error = writer.finish().unwrap_err().to_string();
        assert!(error.contains("`a.weight`") && error.contains("0 of 16"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn misuse_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.safetensors");
        let mut writer = SafetensorsWriter::create(&path, &specs()).unwrap();
        let error = writer.append("bytes", &[0; 4]).unwrap_err().to_string();
        assert!(error.contains("`bytes`") && error.contains("room for 3"), "{error}");
        assert!(writer.append("nobody", &[]).unwrap_err().to_string().contains("`nobody`"));
        let twice =
            [TensorSpec::new("x", StoredDType::U8, &[1]), TensorSpec::new("x", StoredDType::F32, &[1])];
        assert!(SafetensorsWriter::create(&path, &twice).is_err());
        let huge = [TensorSpec::new("x", StoredDType::F32, &[usize::MAX, 2])];
        assert!(SafetensorsWriter::create(&path, &huge).is_err());
        assert!(SafetensorsWriter::create(folder.path().join("no/such/m"), &specs()).is_err());
    }
}
