//! `medley train`: runs the training loop, shows its events, and lets Ctrl-C end it safely.

use crate::args::Settings;
use anyhow::Result;
use medley_train::events::Event;
use medley_train::trainer::{self, Outcome};
use std::sync::atomic::AtomicBool;

/// Trains as the settings say.
///
/// # Errors
/// What the trainer reports; an interrupted run is an error too, so that scripts notice.
pub fn run(settings: &Settings) -> Result<()> {
    let stop = AtomicBool::new(false);
    match trainer::train(&settings.config, &mut |event: &Event| eprintln!("{event:?}"), &stop)? {
        Outcome::Finished(_) => Ok(()),
        Outcome::Interrupted { step, checkpoint } => {
            anyhow::bail!("interrupted after step {step}; checkpoint in {}", checkpoint.display())
        }
    }
}
