//! `medley data check|show|stats`: what a run would learn from.

mod check;
mod show;
mod stats;

pub use check::check;
pub use show::show;
pub use stats::stats;

use std::sync::Arc;

use anyhow::Result;
use medley_model::template::Renderer;
use medley_model::tokenizer::Tokenizer;
use medley_train::config::{Stage, TrainConfig};
use medley_train::data::{DataFile, Split, data_files};
use medley_train::predict::evaluation_split;
use medley_train::trainer::setup;

/// What turns rows into tokens; a renderer in the `sft` stage alone.
struct Opened {
    tokenizer: Arc<Tokenizer>,
    renderer: Option<Renderer>,
}

/// Tokenizer and template of the model that is named, if one is.
fn open(config: &TrainConfig) -> Result<Option<Opened>> {
    if config.model.model_name_or_path.is_none() {
        return Ok(None);
    }
    Ok(Some(match config.train.stage {
        Stage::Sft => {
            let renderer = setup::renderer(config)?;
            Opened { tokenizer: renderer.tokenizer().clone(), renderer: Some(renderer) }
        }
        Stage::Pt => {
            let tokenizer = Arc::new(Tokenizer::from_folder(&setup::model_folder(config)?)?);
            Opened { tokenizer, renderer: None }
        }
    }))
}

/// The files to evaluate on, where any are named.
fn eval_files(config: &TrainConfig) -> Result<Option<Vec<DataFile>>> {
    Ok(match evaluation_split(config) {
        Split::Eval => Some(data_files(&config.data, Split::Eval)?),
        Split::Train => None,
    })
}

/// What a row of this stage is called.
fn rows_of(stage: Stage) -> &'static str {
    match stage {
        Stage::Sft => "rows",
        Stage::Pt => "documents",
    }
}
