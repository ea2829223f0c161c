//! The `medley` binary: reads the arguments, runs one command, turns an error into text and an exit code.
mod args;
mod commands;
mod progress;
mod table;

use std::process::ExitCode;

fn main() -> ExitCode {
    match commands::dispatch(std::env::args_os().skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", text(&error));
            ExitCode::from(if error.is::<args::UsageError>() { 2 } else { 1 })
        }
    }
}

/// The error and its causes, but for those that the text before them quotes already.
fn text(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |text, cause| match text.as_str() {
        "" => cause,
        text if text.contains(&cause) => text.to_string(),
        text => format!("{text}: {cause}"),
    })
}
