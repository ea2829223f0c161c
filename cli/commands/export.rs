//! `medley export`: base and adapter as one Hugging Face folder.

use std::path::Path;

use anyhow::{Context, Result, bail};
use medley_model::{BaseStorage, Placement, export};
use medley_train::trainer::setup;

use crate::args::Settings;

/// Merges and writes the folder; it appears under its name only when complete.
///
/// # Errors
/// Model or adapter cannot be read, or the folder exists or cannot be written.
pub fn run(settings: &Settings) -> Result<()> {
    let config = &settings.config;
    let target = settings.command.export_dir.as_deref().context("export_dir is not set")?;
    let folder = setup::model_folder(config)?;
    merge(&folder, config.model.adapter_name_or_path.as_deref(), target, settings.command.export_size)?;
    println!("written to {}", target.display());
    Ok(())
}

/// Writes `base` with `adapter` folded in to `target`, in the base's dtype, in files of at most
/// `shard_gb` GB.
///
/// # Errors
/// As [`run`].
pub fn merge(base: &Path, adapter: Option<&Path>, target: &Path, shard_gb: f64) -> Result<()> {
    if target.read_dir().is_ok_and(|mut entries| entries.next().is_some()) || target.is_file() {
        bail!("export_dir {} exists already; name a new folder", target.display());
    }
    let model = setup::open_model(base, adapter, BaseStorage::Mapped, Placement::default())?;
    let name = target.file_name().context("export_dir needs a folder name")?.to_string_lossy();
    let temporary = target.with_file_name(format!(".{name}.tmp"));
    if temporary.exists() {
        std::fs::remove_dir_all(&temporary)
            .with_context(|| format!("cannot remove {}, left by an earlier export", temporary.display()))?;
    }
    let written = model
        .save(&temporary, model.config().dtype, (shard_gb * 1e9) as usize)
        .and_then(|()| export::copy_side_files(base, &temporary))
        .map_err(anyhow::Error::from)
        .and_then(|()| {
            if target.exists() {
                std::fs::remove_dir(target)?;
            }
            Ok(std::fs::rename(&temporary, target)?)
        });
    if written.is_err() {
        // Best effort: the error that matters is why writing failed.
        let _ = std::fs::remove_dir_all(&temporary);
    }
    written.with_context(|| format!("export_dir {}", target.display()))
}
