//! `medley generate`: one completion on stdout, as it comes.

use std::io::Write;

use anyhow::{Context, Result};
use medley_model::generate::generate;
use medley_model::template::Message;
use medley_train::predict::generate_options;
use medley_train::trainer::setup;

use crate::args::Settings;

/// Completes the prompt; stdout holds the completion alone.
///
/// # Errors
/// Model or template cannot be used.
pub fn run(settings: &Settings) -> Result<()> {
    let config = &settings.config;
    let prompt = settings.command.prompt.as_deref().context("prompt is not set")?;
    let renderer = setup::renderer(config)?;
    let model = setup::inference_model(config)?;
    let ids = renderer.render_prompt(&[Message::user(prompt)], settings.command.task_name.as_deref())?;
    let options = generate_options(&config.generate, renderer.stop_ids(), config.run.seed, 1);
    let mut stream = renderer.tokenizer().stream(config.generate.skip_special_tokens);
    let mut out = std::io::stdout().lock();
    let mut failure = None;
    generate(&model, &[ids], &options, &mut |_, id| {
        let written = stream.push(id).map_err(anyhow::Error::from).and_then(|text| {
            out.write_all(text.as_bytes())?;
            out.flush()?;
            Ok(())
        });
        failure = written.err();
        failure.is_none()
    })?;
    if let Some(error) = failure {
        return Err(error);
    }
    writeln!(out, "{}", stream.finish()?)?;
    Ok(())
}
