//! `medley logits`: the logits of a sequence, to compare with another program's.

use anyhow::{Context, Result, bail};
use medley_model::generate::logits;
use medley_tensor::io::{SafetensorsWriter, StoredDType, TensorSpec};
use medley_train::trainer::setup;

use crate::args::Settings;

/// Writes tensor `logits` [T, vocab] in f32.
///
/// # Errors
/// The model cannot be read, an id is not in its vocabulary, or the file cannot be written.
pub fn run(settings: &Settings) -> Result<()> {
    let output = settings.command.output.as_deref().context("output is not set")?;
    let ids = &settings.command.input_ids;
    if ids.is_empty() {
        bail!("input_ids is empty; give at least one token, as in --input_ids 1,2,3");
    }
    let model = setup::inference_model(&settings.config)?;
    let tensor = logits(&model, ids)?;
    let spec = TensorSpec::new("logits", StoredDType::F32, tensor.shape());
    let mut writer = SafetensorsWriter::create(output, &[spec])?;
    writer.append("logits", bytemuck::cast_slice(&tensor.to_vec_f32()?))?;
    writer.finish()?;
    println!("logits {:?} written to {}", tensor.shape(), output.display());
    Ok(())
}
