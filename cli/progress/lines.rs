//! Plain lines, for files and pipes.

use std::io::Write;
use std::time::Duration;

use medley_train::events::{Event, EventSink, Plan};

use super::text::{Pace, answering, finished_lines, measured, message_line, plan_lines};

/// A line for every entry of the history and every message.
pub struct Lines<W> {
    pub(super) out: W,
    pace: Pace,
    /// When the last line about an answering that goes on was written.
    told: Duration,
}

/// Time between lines about an evaluation that is under way.
const TELL: Duration = Duration::from_secs(20);

impl<W: Write> Lines<W> {
    /// Writes to `out`.
    pub fn new(out: W) -> Self {
        Self { out, pace: Pace::new(&Plan::default()), told: Duration::ZERO }
    }

    fn put(&mut self, line: &str) {
        // A log that nobody reads any more is no reason to stop a run.
        let _ = writeln!(self.out, "{line}");
    }
}

impl<W: Write> EventSink for Lines<W> {
    fn event(&mut self, event: &Event) {
        match event {
            Event::RunStarted(plan) => {
                self.pace = Pace::new(plan);
                for line in plan_lines(plan) {
                    self.put(&line);
                }
            }
            Event::StepFinished { .. } => {}
            Event::Answering(at) => {
                // The next evaluation counts from its own start.
                if at.done == at.total || at.elapsed < self.told {
                    self.told = Duration::ZERO;
                }
                if at.elapsed >= self.told + TELL && at.done < at.total {
                    self.told = at.elapsed;
                    self.put(&answering(at));
                }
            }
            Event::StepLogged(entry) => {
                let line = format!(
                    "{}  {}  {}",
                    self.pace.step(entry.step),
                    measured(entry),
                    self.pace.times(entry.step)
                );
                self.put(&line);
            }
            Event::Finished(summary) => finished_lines(summary).iter().for_each(|line| self.put(line)),
            other => {
                if let Some(line) = message_line(other, &self.pace) {
                    self.put(&line);
                }
            }
        }
    }
}
