//! Checkpoint folders that are whole or absent.
//!
//! A checkpoint is written into `.checkpoint-N.tmp`, every file synced, `manifest.json` with the
//! size and SHA-256 of each file last, then the folder is renamed to `checkpoint-N`. Older ones are
//! removed only afterwards. Whatever instant the process is killed at, the newest folder without
//! `.tmp` is complete, and its checksums prove it.

use crate::{Error, Result};
use medley_tensor::io::{Safetensors, SafetensorsWriter, StoredDType, TensorSpec, sync_folder, write_atomic};
use medley_tensor::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const MANIFEST: &str = "manifest.json";

/// Size and checksum of every file of a checkpoint.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    step: u64,
    files: BTreeMap<String, Entry>,
}

#[derive(Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
struct Entry {
    bytes: u64,
    sha256: String,
}

fn bad(path: &Path, message: impl Into<String>) -> Error {
    Error::Checkpoint { path: path.to_path_buf(), message: message.into() }
}

fn digest(path: &Path) -> Result<Entry> {
    let mut file = std::fs::File::open(path).map_err(Error::io(path))?;
    let mut hasher = Sha256::new();
    let bytes = std::io::copy(&mut file, &mut hasher).map_err(Error::io(path))?;
    // On disk before the manifest vouches for it.
    file.sync_all().map_err(Error::io(path))?;
    let sha256 = hasher.finalize().iter().map(|b| format!("{b:02x}")).collect();
    Ok(Entry { bytes, sha256 })
}

/// The folder of step `step`'s checkpoint.
pub fn folder(output_dir: &Path, step: u64) -> PathBuf {
    output_dir.join(format!("checkpoint-{step}"))
}

/// Writes checkpoint `step`: `fill` writes its files into the folder it is given. Then removes
/// the oldest checkpoints beyond `keep`, but never `best`.
///
/// # Errors
/// When a file cannot be written; the checkpoints that were there are then untouched.
pub fn save(
    output_dir: &Path,
    step: u64,
    keep: Option<usize>,
    best: Option<&Path>,
    fill: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let temporary = output_dir.join(format!(".checkpoint-{step}.tmp"));
    if temporary.exists() {
        std::fs::remove_dir_all(&temporary).map_err(Error::io(&temporary))?;
    }
    std::fs::create_dir_all(&temporary).map_err(Error::io(&temporary))?;
    let written = fill(&temporary).and_then(|()| seal(&temporary, step));
    if let Err(error) = written {
        // Best effort: the error that matters is why writing failed.
        let _ = std::fs::remove_dir_all(&temporary);
        return Err(error);
    }
    let target = folder(output_dir, step);
    // Two folders cannot change places at once: the old one steps aside, and `sweep` puts it back should the
    // process be killed in between.
    let aside = replaced(output_dir, step);
    if target.exists() {
        std::fs::rename(&target, &aside).map_err(Error::io(&target))?;
    }
    std::fs::rename(&temporary, &target).map_err(Error::io(&target))?;
    sync_folder(Some(output_dir))?;
    if aside.exists() {
        std::fs::remove_dir_all(&aside).map_err(Error::io(&aside))?;
    }
    if let Some(keep) = keep {
        // Never the one just written: a run resumed from an older step has newer numbers beside it.
        let best = best.filter(|best| **best != *target);
        let others: Vec<PathBuf> = list(output_dir)?
            .into_iter()
            .map(|(_, path)| path)
            .filter(|path| *path != target && best != Some(path.as_path()))
            .collect();
        // The best counts as one of those kept, unless only one is.
        let room = keep.saturating_sub(1 + usize::from(best.is_some_and(Path::exists)));
        for old in others.iter().take(others.len().saturating_sub(room)) {
            remove(old)?;
        }
    }
    Ok(target)
}

/// Removes a checkpoint: under another name, so that no half of one is left under its own.
///
/// # Errors
/// When it cannot be renamed or removed.
pub fn remove(checkpoint: &Path) -> Result<()> {
    let name = checkpoint.file_name().unwrap_or_default().to_string_lossy();
    let gone = checkpoint.with_file_name(format!(".{name}.gone.tmp"));
    std::fs::rename(checkpoint, &gone).map_err(Error::io(checkpoint))?;
    std::fs::remove_dir_all(&gone).map_err(Error::io(&gone))
}

fn replaced(output_dir: &Path, step: u64) -> PathBuf {
    output_dir.join(format!(".checkpoint-{step}.old.tmp"))
}

/// Removes what a killed process left of a checkpoint, or of a file, that it was writing, and puts a checkpoint
/// back that it had no time to replace.
///
/// # Errors
/// When the output folder cannot be read or a leftover cannot be removed.
pub fn sweep(output_dir: &Path) -> Result<()> {
    for entry in std::fs::read_dir(output_dir).map_err(Error::io(output_dir))? {
        let path = entry.map_err(Error::io(output_dir))?.path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let Some(name) = name.strip_prefix('.').and_then(|n| n.strip_suffix(".tmp")) else { continue };
        if path.is_dir() {
            let old = name.strip_suffix(".old").map(|n| output_dir.join(n)).filter(|to| !to.exists());
            match old {
                Some(target) => std::fs::rename(&path, target).map_err(Error::io(&path))?,
                None if name.starts_with("checkpoint-") => {
                    std::fs::remove_dir_all(&path).map_err(Error::io(&path))?;
                }
                None => {}
            }
        } else if name.rsplit('.').next().is_some_and(|id| id.starts_with(|c: char| c.is_ascii_digit())) {
            // `.trainer_state.json.4711.tmp`: the process that wrote it is gone.
            std::fs::remove_file(&path).map_err(Error::io(&path))?;
        }
    }
    Ok(())
}

fn seal(folder: &Path, step: u64) -> Result<()> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(folder).map_err(Error::io(folder))? {
        let path = entry.map_err(Error::io(folder))?.path();
        if let Some(name) = path.file_name().and_then(|n| n.to_str()) {
            files.insert(name.to_string(), digest(&path)?);
        }
    }
    let manifest = Manifest { step, files };
    let text = serde_json::to_vec_pretty(&manifest).map_err(|e| bad(folder, e.to_string()))?;
    write_atomic(&folder.join(MANIFEST), &text)?;
    Ok(())
}

/// Checks every file against the manifest and returns the step.
///
/// # Errors
/// Which file is missing, of another size, or changed.
pub fn verify(folder: &Path) -> Result<u64> {
    let path = folder.join(MANIFEST);
    let text = std::fs::read_to_string(&path).map_err(|e| {
        bad(folder, format!("{MANIFEST} cannot be read ({e}): it was not written to the end"))
    })?;
    let manifest: Manifest =
        serde_json::from_str(&text).map_err(|e| bad(folder, format!("{MANIFEST} is damaged: {e}")))?;
    for (name, entry) in &manifest.files {
        let file = folder.join(name);
        if !file.is_file() {
            return Err(bad(folder, format!("{name} is missing")));
        }
        let found = digest(&file)?;
        if found != *entry {
            return Err(bad(
                folder,
                format!(
                    "{name} is damaged: {} bytes with another checksum, the manifest says {} bytes",
                    found.bytes, entry.bytes
                ),
            ));
        }
    }
    Ok(manifest.step)
}

/// All checkpoint folders, oldest first.
///
/// # Errors
/// When the output folder cannot be read; a missing one holds no checkpoints.
pub fn list(output_dir: &Path) -> Result<Vec<(u64, PathBuf)>> {
    if !output_dir.is_dir() {
        return Ok(vec![]);
    }
    let mut found = vec![];
    for entry in std::fs::read_dir(output_dir).map_err(Error::io(output_dir))? {
        let path = entry.map_err(Error::io(output_dir))?.path();
        let step = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.strip_prefix("checkpoint-"));
        if let Some(step) = step.and_then(|s| s.parse().ok())
            && path.is_dir()
        {
            found.push((step, path));
        }
    }
    found.sort();
    Ok(found)
}

/// The newest checkpoint whose checksums hold; `warn` hears of those that are damaged.
///
/// # Errors
/// When the output folder cannot be read.
pub fn newest_intact(output_dir: &Path, warn: &mut dyn FnMut(String)) -> Result<Option<PathBuf>> {
    for (_, path) in list(output_dir)?.into_iter().rev() {
        match verify(&path) {
            Ok(_) => return Ok(Some(path)),
            Err(error) => warn(format!("{error}; trying the one before")),
        }
    }
    Ok(None)
}

/// Writes f32 and u8 tensors under names.
///
/// # Errors
/// When the file cannot be written.
pub fn write_tensors(path: &Path, tensors: &[(String, Tensor)]) -> Result<()> {
    let specs: Vec<TensorSpec> = tensors
        .iter()
        .map(|(name, t)| {
            let dtype = if t.dtype() == DType::U8 { StoredDType::U8 } else { StoredDType::F32 };
            TensorSpec::new(name.clone(), dtype, t.shape())
        })
        .collect();
    let mut writer = SafetensorsWriter::create(path, &specs)?;
    for (name, t) in tensors {
        let on_host = t.to_device(&Device::Cpu)?;
        match t.dtype() {
            DType::U8 => writer.append(name, on_host.as_slice::<u8>()?)?,
            _ => writer.append(name, bytemuck::cast_slice(on_host.as_slice::<f32>()?))?,
        }
    }
    writer.finish()?;
    Ok(())
}

/// Reads one tensor, f32 or u8, into memory of its own.
///
/// # Errors
/// When it is missing or of another shape or dtype.
pub fn read_tensor(file: &Safetensors, name: &str, shape: &[usize], dtype: DType) -> Result<Tensor> {
    let info = file.info(name)?;
    let stored = if dtype == DType::U8 { StoredDType::U8 } else { StoredDType::F32 };
    if info.shape != shape || info.dtype != stored {
        return Err(bad(
            file.path(),
            format!(
                "tensor `{name}` is {} {:?}; this run needs {} {shape:?}",
                info.dtype.name(),
                info.shape,
                stored.name()
            ),
        ));
    }
    if dtype == DType::U8 {
        return Ok(Tensor::from_vec(info.data().to_vec(), shape)?);
    }
    let data: Vec<f32> = info.data().chunks_exact(4).map(bytemuck::pod_read_unaligned).collect();
    Ok(Tensor::from_vec(data, shape)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(output: &Path, step: u64, keep: Option<usize>) -> PathBuf {
        save(output, step, keep, None, |dir| {
            std::fs::write(dir.join("a"), format!("payload {step}")).map_err(Error::io(dir))
        })
        .unwrap()
    }

    #[test]
    fn old_checkpoints_go_and_damaged_ones_are_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        for step in [2, 10, 30] {
            write(dir.path(), step, Some(2));
        }
        let steps: Vec<u64> = list(dir.path()).unwrap().into_iter().map(|(s, _)| s).collect();
        assert_eq!(steps, [10, 30]);
        let newest = newest_intact(dir.path(), &mut |_| ()).unwrap().unwrap();
        assert_eq!(verify(&newest).unwrap(), 30);

        std::fs::write(newest.join("a"), "payloae 30").unwrap();
        let mut heard = vec![];
        let found = newest_intact(dir.path(), &mut |m| heard.push(m)).unwrap().unwrap();
        assert!(found.ends_with("checkpoint-10"));
        assert!(heard[0].contains("a is damaged"), "{heard:?}");
        std::fs::remove_file(found.join(MANIFEST)).unwrap();
        assert_eq!(newest_intact(dir.path(), &mut |_| ()).unwrap(), None);
    }

    #[test]
    fn the_checkpoint_just_written_is_kept_whatever_its_number() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), 10, None);
        write(dir.path(), 30, None);
        // Resumed from step 10.
        let path = write(dir.path(), 20, Some(1));
        assert_eq!(list(dir.path()).unwrap(), [(20, path)]);
    }

    #[test]
    fn the_best_checkpoint_stays_while_newer_ones_come_and_go() {
        let dir = tempfile::tempdir().unwrap();
        let write = |step: u64, keep: usize, best: u64| -> Vec<u64> {
            let best = folder(dir.path(), best);
            save(dir.path(), step, Some(keep), Some(&best), |dir| {
                std::fs::write(dir.join("a"), "a").map_err(Error::io(dir))
            })
            .unwrap();
            list(dir.path()).unwrap().into_iter().map(|(step, _)| step).collect()
        };
        assert_eq!(write(1, 2, 1), [1]);
        assert_eq!(write(2, 2, 2), [1, 2]);
        assert_eq!(write(3, 2, 2), [2, 3]);
        assert_eq!(write(4, 2, 2), [2, 4], "the best is one of the two");
        assert_eq!(write(5, 1, 2), [2, 5], "and more than the one");
        assert_eq!(write(6, 1, 6), [6]);
        assert_eq!(write(7, 2, 99), [6, 7], "a best that is elsewhere takes no place");
    }

    #[test]
    fn a_failed_write_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), 1, None);
        let failed = save(dir.path(), 2, Some(1), None, |_| Err(Error::Run("disk full".into())));
        assert!(failed.is_err());
        std::fs::create_dir(dir.path().join(".checkpoint-3.tmp")).unwrap();
        std::fs::write(dir.path().join(".trainer_state.json.4711.tmp"), "{").unwrap();
        sweep(dir.path()).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        // Killed while step 1 was replaced.
        std::fs::rename(folder(dir.path(), 1), replaced(dir.path(), 1)).unwrap();
        sweep(dir.path()).unwrap();
        assert_eq!(verify(&folder(dir.path(), 1)).unwrap(), 1);
    }
}
