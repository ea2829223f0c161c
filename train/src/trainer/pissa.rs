//! The base that a PiSSA adapter is trained on, for those who keep it (`pissa_convert: false`).

use super::setup;
use crate::Result;
use crate::config::{Resume, TrainConfig};
use crate::events::{Event, EventSink};
use medley_model::tokenizer::Tokenizer;
use medley_model::{Llama, export};
use std::path::{Path, PathBuf};

/// Its folder in the output folder.
const BASE: &str = "pissa_base";

/// The folder of the residual base that the run's adapter belongs to; `None` where the adapter is saved for the
/// original base.
pub(super) fn base(config: &TrainConfig, output_dir: &Path) -> Option<PathBuf> {
    let kept = config.lora.pissa_init && !config.lora.pissa_convert && setup::lora_config(config).is_some();
    kept.then(|| output_dir.join(BASE))
}

/// Writes the residual base as a model folder, before the first step: every checkpoint's adapter needs it. A resumed
/// run finds it there. Says what converting costs on a 4-bit base.
pub(super) fn prepare(
    config: &TrainConfig,
    model: &Llama,
    tokenizer: &Tokenizer,
    output_dir: &Path,
    sink: &mut dyn EventSink,
) -> Result<()> {
    let Some(folder) = base(config, output_dir) else {
        if config.lora.pissa_init && config.model.quantization_bit.is_some() {
            sink.event(&Event::Warning(
                "pissa_convert: the adapter will be saved for the original base, from which the trained model differs \
                 by the quantisation error of its 4-bit residual; `pissa_convert: false` saves that residual as a base \
                 of its own"
                    .into(),
            ));
        }
        return Ok(());
    };
    if config.train.resume_from_checkpoint != Resume::No && folder.join("config.json").is_file() {
        return Ok(());
    }
    // config.json is written last: with it the folder is complete.
    model.save_base(&folder, super::output::SHARD_BYTES)?;
    tokenizer.copy_files(&folder)?;
    export::copy_side_files(tokenizer.folder(), &folder)?;
    Ok(())
}
