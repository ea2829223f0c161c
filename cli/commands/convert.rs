//! `medley convert`: a GGUF file as a Hugging Face folder.

use anyhow::{Context, Result};
use medley_model::gguf::convert_gguf;
use medley_tensor::DType;

use crate::args::Settings;
use crate::progress::Counter;

/// Converts weights (to bf16), configuration, tokenizer and chat template.
///
/// # Errors
/// The file is damaged or of an architecture that is not supported, or the folder cannot be written.
pub fn run(settings: &Settings) -> Result<()> {
    let input = settings.command.input.as_deref().context("input is not set")?;
    let output = settings.command.output.as_deref().context("output is not set")?;
    let mut counter: Option<Counter> = None;
    convert_gguf(input, output, DType::BF16, &mut |done, total| {
        counter.get_or_insert_with(|| Counter::new("converting tensors", total)).at(done);
    })?;
    if let Some(counter) = counter {
        counter.done();
    }
    println!("written to {}", output.display());
    Ok(())
}
