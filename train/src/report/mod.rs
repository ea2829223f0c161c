//! What a run leaves to look at: its log as JSON lines, samples of what the model writes, and `report.html`.
//!
//! The report is made from the files of an output folder alone, so that `medley report` can make it again.

mod files;
mod html;
mod page;
pub mod samples;
pub mod tasks;
pub mod trainer_log;

#[cfg(test)]
mod tests;

use crate::Result;
use crate::state::LogEntry;
use files::RunFiles;
use medley_tensor::io::write_atomic;
use std::path::{Path, PathBuf};

/// File name in an output folder.
pub const REPORT: &str = "report.html";

/// Makes `report.html` of the run in `folder`, and returns its path.
///
/// # Errors
/// The folder holds no run, or the file cannot be written.
pub fn write_report(folder: &Path) -> Result<PathBuf> {
    let page = page::page(&RunFiles::read(folder)?);
    let path = folder.join(REPORT);
    write_atomic(&path, page.as_bytes())?;
    Ok(path)
}

/// Everything that the run in `folder` has logged: of one that has not finished, up to its newest checkpoint.
///
/// # Errors
/// The folder holds no run.
pub fn history(folder: &Path) -> Result<Vec<LogEntry>> {
    Ok(RunFiles::read(folder)?.state.log_history)
}
