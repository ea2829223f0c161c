//! What a run shows while it goes: a live view on a terminal, one line per log entry elsewhere. Both on stderr, so that
//! stdout holds results only.

mod lines;
mod live;
mod spark;
#[cfg(test)]
mod tests;
mod text;

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressStyle};
use medley_train::events::EventSink;
use medley_train::predict::Answered;

/// The display that suits stderr.
pub fn progress() -> Box<dyn EventSink> {
    if std::io::stderr().is_terminal() {
        Box::new(live::Live::new())
    } else {
        Box::new(lines::Lines::new(std::io::stderr()))
    }
}

/// Progress of a job that counts to a known number: a bar on a terminal, nothing elsewhere.
pub struct Counter(Option<ProgressBar>);

impl Counter {
    /// `what` is said in front of the bar.
    pub fn new(what: &'static str, total: usize) -> Self {
        if !std::io::stderr().is_terminal() {
            return Counter(None);
        }
        let bar = ProgressBar::new(total as u64);
        if let Ok(style) = ProgressStyle::with_template("{msg} {bar:30} {pos}/{len}{prefix}, {eta} left") {
            bar.set_style(style);
        }
        bar.set_message(what);
        Counter(Some(bar))
    }

    /// So many answers are complete, at so many tokens a second.
    pub fn answered(&self, at: &Answered) {
        if let Some(bar) = &self.0 {
            bar.set_position(at.done as u64);
            bar.set_prefix(format!(" {:.0} tokens/s", at.tokens_per_second()));
        }
    }

    /// `done` of them are finished.
    pub fn at(&self, done: usize) {
        if let Some(bar) = &self.0 {
            bar.set_position(done as u64);
        }
    }

    /// All are; the bar goes away.
    pub fn done(self) {
        if let Some(bar) = self.0 {
            bar.finish_and_clear();
        }
    }
}
