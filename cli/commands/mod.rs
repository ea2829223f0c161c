//! The commands there are, and how one is chosen.

mod chat;
mod compare;
mod convert;
mod data;
mod eval;
mod export;
mod generate;
mod logits;
mod predict;
mod quickstart;
mod report;
mod train;

use std::ffi::OsString;
use std::io::{ErrorKind, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};

use crate::args::{self, Cmd, Settings, UsageError};

/// A command's body.
type Run = fn(&Settings) -> Result<()>;

/// Every command of this binary: one line each; help, parsing and dispatch follow from it.
const COMMANDS: &[(Cmd, Run)] = &[
    (Cmd::Quickstart, quickstart::run),
    (Cmd::Train, train::run),
    (Cmd::Compare, compare::run),
    (Cmd::Eval, eval::run),
    (Cmd::Predict, predict::run),
    (Cmd::Generate, generate::run),
    (Cmd::Chat, chat::run),
    (Cmd::Export, export::run),
    (Cmd::Convert, convert::run),
    (Cmd::Logits, logits::run),
    (Cmd::Report, report::run),
    (Cmd::DataCheck, data::check),
    (Cmd::DataShow, data::show),
    (Cmd::DataStats, data::stats),
];

/// Reads the words after `medley`, and runs the command they name.
///
/// # Errors
/// [`UsageError`] when the words cannot be used; otherwise what the command reports.
pub fn dispatch(words: impl Iterator<Item = OsString>) -> Result<()> {
    let words = words.map(utf8).collect::<Result<Vec<String>>>()?;
    let offered: Vec<Cmd> = COMMANDS.iter().map(|(cmd, _)| *cmd).collect();
    match words.first().map(String::as_str) {
        None | Some("--help" | "-h") => show(&args::overview(&offered))?,
        Some("--version" | "-V") => show(concat!("medley ", env!("CARGO_PKG_VERSION"), "\n"))?,
        Some("help") => show(&help_on(&words[1..], &offered)?)?,
        Some(_) => {
            let (cmd, run, rest) = choose(&words)?;
            let line = args::read_line(&cmd.spec(), rest)?;
            if line.help {
                return show(&args::command_help(cmd));
            }
            let assembled = args::assemble(cmd, line)?;
            for note in &assembled.notes {
                eprintln!("note: {note}");
            }
            if let Some(threads) = assembled.settings.config.run.num_threads {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
                pool.with_context(|| format!("cannot start {threads} threads (--num_threads)"))?;
            }
            run(&assembled.settings)?;
        }
    }
    Ok(())
}

/// Lets Ctrl-C and SIGTERM end a run safely: `stop` is set, and the run ends after the step under way.
///
/// # Errors
/// The system lets no handler be set.
fn stop_on_interrupt(stop: &Arc<AtomicBool>) -> Result<()> {
    let asked = Arc::clone(stop);
    ctrlc::set_handler(move || {
        // The first time, the step is finished and a checkpoint saved; whoever insists is obeyed at once.
        if asked.swap(true, Ordering::SeqCst) {
            std::process::exit(130);
        }
        eprintln!("\nstopping after this step (again: at once, without a checkpoint)");
    })
    .context("cannot listen for Ctrl-C")
}

/// Prints on stdout; a reader that has seen enough (`medley help | head`) is no error.
fn show(text: &str) -> Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

fn utf8(word: OsString) -> Result<String> {
    let shown = word.to_string_lossy().into_owned();
    word.into_string().map_err(|_| UsageError::new(format!("`{shown}` is not UTF-8 text")).into())
}

fn help_on(words: &[String], offered: &[Cmd]) -> Result<String> {
    if words.is_empty() {
        return Ok(args::overview(offered));
    }
    if words == ["llamafactory"] {
        return Ok(args::compatibility_help());
    }
    Ok(args::command_help(choose(words)?.0))
}

/// The command that the first word or two name, and the words after it.
fn choose(words: &[String]) -> Result<(Cmd, Run, &[String])> {
    for (cmd, run) in COMMANDS {
        let name: Vec<&str> = cmd.spec().name.split(' ').collect();
        if words.len() >= name.len() && words.iter().zip(&name).all(|(word, part)| word == part) {
            return Ok((*cmd, *run, &words[name.len()..]));
        }
    }
    let names: Vec<&str> = COMMANDS.iter().map(|(cmd, _)| cmd.spec().name).collect();
    let typed = words.first().map_or("", String::as_str);
    let begun: Vec<&str> =
        names.iter().copied().filter(|name| name.starts_with(&format!("{typed} "))).collect();
    if !begun.is_empty() {
        return Err(UsageError::new(format!("`medley {typed}` is one of: {}", begun.join(", "))).into());
    }
    let near =
        names.iter().max_by(|a, b| strsim::jaro_winkler(typed, a).total_cmp(&strsim::jaro_winkler(typed, b)));
    let guess = near.filter(|name| strsim::jaro_winkler(typed, name) >= 0.8);
    let hint = guess
        .map_or("`medley help` lists the commands".to_string(), |name| format!("did you mean `{name}`?"));
    Err(UsageError::new(format!("there is no command `{typed}`; {hint}")).into())
}
