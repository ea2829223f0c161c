//! `medley train`: runs the training loop, shows its events, and lets Ctrl-C end it safely.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use medley_train::trainer::{self, Outcome};

use crate::args::Settings;
use crate::progress::progress;

/// Trains as the settings say.
///
/// # Errors
/// What the trainer reports; an interrupted run is an error too, so that scripts notice.
pub fn run(settings: &Settings) -> Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&stop);
    ctrlc::set_handler(move || {
        // The first time, the step is finished and a checkpoint saved; whoever insists is obeyed at once.
        if asked.swap(true, Ordering::SeqCst) {
            std::process::exit(130);
        }
        eprintln!("\nstopping after this step (again: at once, without a checkpoint)");
    })
    .context("cannot listen for Ctrl-C")?;
    match trainer::train(&settings.config, progress().as_mut(), &stop)? {
        Outcome::Finished(_) => Ok(()),
        Outcome::Interrupted { step, .. } => anyhow::bail!("interrupted after step {step}"),
    }
}
