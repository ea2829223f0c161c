//! `medley train`: runs the training loop, shows its events, and lets Ctrl-C end it safely.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::Result;
use medley_train::config::FinetuningType;
use medley_train::trainer::{self, Outcome};

use crate::args::Settings;
use crate::progress::progress;

/// Trains as the settings say.
///
/// # Errors
/// What the trainer reports; an interrupted run is an error too, so that scripts notice.
pub fn run(settings: &Settings) -> Result<()> {
    let args = &settings.config.train;
    if args.do_predict && !args.do_train {
        anyhow::bail!(
            "do_predict without do_train: use `medley predict`, which takes the same file and options"
        );
    }
    let stop = Arc::new(AtomicBool::new(false));
    super::stop_on_interrupt(&stop)?;
    match trainer::train(&settings.config, progress().as_mut(), &stop)? {
        Outcome::Finished(_) if settings.config.train.do_predict => predict(settings),
        Outcome::Finished(_) => Ok(()),
        Outcome::Interrupted { step, .. } => anyhow::bail!("interrupted after step {step}"),
    }
}

/// `do_predict`: scores what was just trained on the evaluation files.
fn predict(settings: &Settings) -> Result<()> {
    let mut settings = settings.clone();
    let config = &mut settings.config;
    let trained = config.output.output_dir.clone();
    match config.lora.finetuning_type {
        FinetuningType::Lora => config.model.adapter_name_or_path = trained,
        FinetuningType::Full | FinetuningType::Freeze => config.model.model_name_or_path = trained,
    }
    super::predict::run(&settings)
}
