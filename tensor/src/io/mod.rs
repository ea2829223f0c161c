//! Mapped files.

/// A file mapped read-only.
#[derive(Debug)]
pub struct MappedFile {
    path: std::path::PathBuf,
    bytes: Vec<u8>,
}

impl MappedFile {
    /// The file's bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Where the file is.
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }
}
