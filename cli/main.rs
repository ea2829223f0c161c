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
            eprintln!("error: {error:#}");
            ExitCode::from(if error.is::<args::UsageError>() { 2 } else { 1 })
        }
    }
}
