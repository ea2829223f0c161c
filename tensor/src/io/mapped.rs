//! A file mapped into memory, read-only: weights are used where they lie.

use super::{Error, Result};
use std::fs::File;
use std::path::{Path, PathBuf};

/// A read-only memory map of a whole file. Shared by everything that points into it (`Arc`).
///
/// The file must not be truncated or rewritten in place while it is mapped; Medley itself replaces
/// files only by renaming new ones over them, which leaves existing maps intact.
pub struct MappedFile {
    path: PathBuf,
    // None for an empty file, which cannot be mapped.
    map: Option<memmap2::Mmap>,
}

impl MappedFile {
    /// Maps `path`. Costs no reading: pages come in when they are touched.
    ///
    /// # Errors
    /// [`Error::Os`] when the file cannot be opened, is a folder or cannot be mapped.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = File::open(path).map_err(|e| Error::os(path, "open", e))?;
        let metadata = file.metadata().map_err(|e| Error::os(path, "read the size", e))?;
        if metadata.is_dir() {
            let kind = std::io::ErrorKind::IsADirectory;
            return Err(Error::os(path, "map", std::io::Error::new(kind, "it is a folder, expected a file")));
        }
        let map = if metadata.len() == 0 {
            None
        } else {
            // SAFETY: the map is read-only and private to this value; `bytes` hands out shared slices
            // bounded by its lifetime. Truncation by another process would fault, as documented above.
            Some(unsafe { memmap2::Mmap::map(&file) }.map_err(|e| Error::os(path, "map", e))?)
        };
        Ok(MappedFile { path: path.to_path_buf(), map })
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The whole file.
    pub fn bytes(&self) -> &[u8] {
        self.map.as_deref().unwrap_or(&[])
    }
}

impl std::fmt::Debug for MappedFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MappedFile({}, {} bytes)", self.path.display(), self.bytes().len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_shows_the_file_and_an_empty_file_maps_to_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        std::fs::write(&path, b"hello").unwrap();
        let file = MappedFile::open(&path).unwrap();
        assert_eq!(file.bytes(), b"hello");
        assert_eq!(file.path(), path);
        std::fs::write(folder.path().join("empty"), b"").unwrap();
        assert_eq!(MappedFile::open(folder.path().join("empty")).unwrap().bytes(), b"");
        assert!(MappedFile::open(folder.path()).is_err());
        assert!(MappedFile::open(folder.path().join("absent")).is_err());
    }

    #[test]
    fn a_map_survives_the_file_being_replaced_by_rename() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        std::fs::write(&path, b"old").unwrap();
        let file = MappedFile::open(&path).unwrap();
        std::fs::write(folder.path().join("b"), b"new and longer").unwrap();
        std::fs::rename(folder.path().join("b"), &path).unwrap();
        assert_eq!(file.bytes(), b"old");
    }
}
