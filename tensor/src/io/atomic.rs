//! Whole-file writes that either happen or do not: temporary file, fsync, rename.

use super::{Error, Result};
use std::io::Write;
use std::path::Path;

/// Writes `bytes` to `path` so that a crash leaves the old file or the new one, never a part.
///
/// # Errors
/// When the folder cannot be written or the disk is full; the old file is then untouched.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    let os = |action| move |source| Error::Os { path: path.to_path_buf(), action, source };
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.{}.tmp", std::process::id()));
    let written = std::fs::File::create(&temporary).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    if let Err(source) = written {
        // Best effort: the error that matters is the first one.
        let _ = std::fs::remove_file(&temporary);
        return Err(os("write")(source));
    }
    std::fs::rename(&temporary, path).map_err(os("rename into place"))?;
    sync_folder(path.parent())
}

/// Makes a rename in `folder` durable.
///
/// # Errors
/// When the folder cannot be opened or synced.
pub fn sync_folder(folder: Option<&Path>) -> Result<()> {
    let Some(folder) = folder.filter(|f| !f.as_os_str().is_empty()) else { return Ok(()) };
    std::fs::File::open(folder).and_then(|f| f.sync_all()).map_err(|source| Error::Os {
        path: folder.to_path_buf(),
        action: "sync",
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_and_leaves_no_temporary() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        write_atomic(&path, b"one").unwrap();
        write_atomic(&path, b"two").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        let text = write_atomic(&dir.path().join("no/such/x"), b"").unwrap_err().to_string();
        assert!(text.contains("no/such/x"), "{text}");
    }
}
