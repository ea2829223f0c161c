//! What a run leaves to look at: its log as JSON lines, a report in HTML, samples of what the model writes.

pub mod trainer_log;
