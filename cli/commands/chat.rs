//! `medley chat`: a conversation in the terminal.

use std::io::{BufRead, IsTerminal, Write};

use anyhow::Result;
use medley_model::generate::generate;
use medley_model::template::Message;
use medley_train::predict::generate_options;
use medley_train::trainer::setup;

use crate::args::Settings;

/// Reads a line, answers, until the input ends.
///
/// # Errors
/// Model or template cannot be used, or the terminal cannot be read.
pub fn run(settings: &Settings) -> Result<()> {
    let config = &settings.config;
    let renderer = setup::renderer(config)?;
    let model = setup::inference_model(config)?;
    let interactive = std::io::stdin().is_terminal();
    if interactive {
        eprintln!("{} template. /clear forgets the conversation, /exit or Ctrl-D leaves.", renderer.name());
    }
    let task = settings.command.task_name.as_deref();
    let mut messages: Vec<Message> = vec![];
    let (mut input, mut out) = (std::io::stdin().lock(), std::io::stdout());
    for turn in 0u64.. {
        if interactive {
            write!(out, "> ")?;
            out.flush()?;
        }
        let mut line = String::new();
        if input.read_line(&mut line)? == 0 {
            break;
        }
        match line.trim() {
            "" => continue,
            "/exit" | "/quit" => break,
            "/clear" => {
                messages.clear();
                continue;
            }
            text => messages.push(Message::user(text)),
        }
        let ids = renderer.render_prompt(&messages, task)?;
        let options =
            generate_options(&config.generate, renderer.stop_ids(), config.run.seed.wrapping_add(turn), 1);
        let mut stream = renderer.tokenizer().stream(config.generate.skip_special_tokens);
        let (mut answer, mut failure) = (String::new(), None);
        generate(&model, &[ids], &options, &mut |_, id| {
            let written = stream.push(id).map_err(anyhow::Error::from).and_then(|text| {
                answer += &text;
                out.write_all(text.as_bytes())?;
                Ok(out.flush()?)
            });
            failure = written.err();
            failure.is_none()
        })?;
        if let Some(error) = failure {
            return Err(error);
        }
        let rest = stream.finish()?;
        writeln!(out, "{rest}")?;
        messages.push(Message::assistant(answer + &rest));
    }
    Ok(())
}
