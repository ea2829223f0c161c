//! One run at a time in an output folder.

use crate::events::{Event, EventSink};
use crate::{Error, Result};
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

const FILE: &str = ".medley.lock";

/// A lock on an output folder, given back when dropped, and by the system when the process dies.
pub(super) struct OutputLock {
    path: PathBuf,
    file: Option<File>,
}

impl OutputLock {
    /// Locks `folder`, which must exist. Where the file system knows no locks, `sink` hears that nothing guards it.
    ///
    /// # Errors
    /// Another run is writing there, or the lock file cannot be made.
    pub fn take(folder: &Path, sink: &mut dyn EventSink) -> Result<Self> {
        let path = folder.join(FILE);
        let file = File::create(&path).map_err(Error::io(&path))?;
        match file.try_lock() {
            Ok(()) => Ok(OutputLock { path, file: Some(file) }),
            Err(TryLockError::WouldBlock) => Err(Error::Run(format!(
                "another run is writing into output_dir {}; wait for it, stop it, or choose another folder",
                folder.display()
            ))),
            Err(TryLockError::Error(error)) => {
                sink.event(&Event::Warning(format!(
                    "{}: the file system has no locks ({error}), so nothing keeps a second run out of this folder",
                    path.display()
                )));
                Ok(OutputLock { path, file: None })
            }
        }
    }
}

impl Drop for OutputLock {
    fn drop(&mut self) {
        // Best effort: a file that is left locks nothing.
        let _ = std::fs::remove_file(&self.path);
        drop(self.file.take());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_for_one_run_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let mut heard = vec![];
        let mut sink = |e: &Event| heard.push(e.clone());
        let first = OutputLock::take(dir.path(), &mut sink).unwrap();
        let second = OutputLock::take(dir.path(), &mut sink).err().unwrap().to_string();
        assert!(second.contains("another run is writing into output_dir"), "{second}");
        drop(first);
        drop(OutputLock::take(dir.path(), &mut sink).unwrap());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        // What a killed process leaves is no hindrance.
        std::fs::write(dir.path().join(FILE), "").unwrap();
        assert!(OutputLock::take(dir.path(), &mut sink).is_ok());
        assert!(heard.is_empty());
    }
}
