//! `medley report`: the pictures of a run, made again from its files.

use anyhow::{Context, Result};
use medley_train::plot::write_training_loss;
use medley_train::report::{history, write_report};

use crate::args::Settings;

/// Writes `report.html`, `training_loss.png` and `training_loss.svg`, and prints where they are.
///
/// # Errors
/// The folder holds no run, or a file cannot be written.
pub fn run(settings: &Settings) -> Result<()> {
    let folder = settings.config.output.output_dir.as_deref().context("output_dir is not set")?;
    let report = write_report(folder)?;
    let plot = write_training_loss(folder, &history(folder)?)?;
    println!("{}\n{}", report.display(), plot.display());
    Ok(())
}
