//! What both displays say, in the same words.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use medley_train::events::{Event, Plan, Summary, TaskShare};
use medley_train::predict::Answered;
use medley_train::report::tasks::TaskProgress;
use medley_train::state::LogEntry;

use crate::table;

/// How far a run is and how fast.
#[derive(Debug, Clone)]
pub struct Pace {
    pub(super) total_steps: u64,
    pub(super) first_step: u64,
    pub(super) started: Instant,
}

impl Pace {
    /// A run that begins now.
    pub fn new(plan: &Plan) -> Self {
        Self { total_steps: plan.total_steps, first_step: plan.first_step, started: Instant::now() }
    }

    /// `step 30/100`
    pub fn step(&self, step: u64) -> String {
        format!("step {step}/{}", self.total_steps)
    }

    /// `1:02 elapsed, 3:20 left`
    pub fn times(&self, step: u64) -> String {
        self.times_after(step, self.started.elapsed())
    }

    pub(super) fn times_after(&self, step: u64, elapsed: Duration) -> String {
        let taken = step.saturating_sub(self.first_step);
        let left = self.total_steps.saturating_sub(step);
        if taken == 0 {
            return format!("{} elapsed", clock(elapsed));
        }
        let remaining = elapsed.as_secs_f64() / taken as f64 * left as f64;
        format!("{} elapsed, {} left", clock(elapsed), clock(Duration::from_secs_f64(remaining.min(1e9))))
    }
}

/// Lines about events that both displays show alike.
pub fn message_line(event: &Event, pace: &Pace) -> Option<String> {
    match event {
        Event::Evaluated(entry) => Some(format!("{}  {}", pace.step(entry.step), measured(entry))),
        Event::CheckpointSaved { step, path } => {
            Some(format!("{}  saved {}", pace.step(*step), path.display()))
        }
        Event::Note(text) => Some(format!("note: {text}")),
        Event::Conflicts(report) => Some(report.lines().join("\n")),
        Event::StoppedEarly { step, reason } => {
            Some(format!("{}  early stopping: {reason}", pace.step(*step)))
        }
        Event::BestLoaded { step, metric, value } => {
            Some(format!("took the best weights, those of step {step}: {metric} {value:.4}"))
        }
        Event::Warning(text) => Some(format!("warning: {text}")),
        Event::Interrupted { step, checkpoint } => Some(match checkpoint {
            Some(path) => {
                format!("stopped after step {step}; go on with --resume_from_checkpoint {}", path.display())
            }
            None => format!("stopped after step {step}, before a checkpoint was saved"),
        }),
        _ => None,
    }
}

/// `answering 12/48  310 tokens/s  0:04 elapsed, 0:12 left`
pub fn answering(at: &Answered) -> String {
    let elapsed = at.elapsed.as_secs_f64();
    let left = match at.done {
        0 => String::new(),
        done => {
            let seconds = elapsed / done as f64 * at.total.saturating_sub(done) as f64;
            format!(", {} left", clock(Duration::from_secs_f64(seconds.min(1e9))))
        }
    };
    format!(
        "answering {}/{}  {:.0} tokens/s  {} elapsed{left}",
        at.done,
        at.total,
        at.tokens_per_second(),
        clock(at.elapsed)
    )
}

/// The scores that say most of a task's answers, in the order in which they are shown.
const SHOWN: [(&str, &str); 5] = [
    ("_macro_f1", "macro F1"),
    ("_token_accuracy", "token accuracy"),
    ("_accuracy", "accuracy"),
    ("_rougeL", "ROUGE-L"),
    ("_f1", "F1"),
];

/// `qa F1 0.612 ROUGE-L 0.600`, one part a task.
fn answer_scores(entry: &LogEntry) -> Vec<String> {
    let mut by_task: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (key, value) in entry.values() {
        let Some(rest) = key.strip_prefix("eval_") else { continue };
        if rest.ends_with("_micro_f1") {
            continue;
        }
        // The first suffix that fits is the name: `_f1` also ends `_macro_f1`.
        let found = SHOWN.iter().find_map(|(suffix, name)| Some((rest.strip_suffix(suffix)?, name)));
        if let Some((task, name)) = found {
            by_task.entry(task).or_default().push(format!("{name} {value:.3}"));
        }
    }
    by_task.into_iter().map(|(task, scores)| format!("{task} {}", scores.join(" "))).collect()
}

/// What a run is going to do.
pub fn plan_lines(plan: &Plan) -> Vec<String> {
    let tasks: Vec<String> =
        plan.tasks.iter().map(|(name, examples)| format!("{name} ({examples})")).collect();
    let mut lines = vec![format!(
        "{} steps of {} sequences, {:.2} epochs; tasks: {}",
        plan.total_steps,
        plan.sequences_per_step,
        plan.num_epochs,
        tasks.join(", ")
    )];
    let share = 100.0 * plan.trainable_parameters as f64 / plan.total_parameters.max(1) as f64;
    lines.push(format!(
        "training {} of {} parameters ({share:.2} %)",
        amount(plan.trainable_parameters),
        amount(plan.total_parameters)
    ));
    lines.extend(plan.device.as_ref().map(|device| format!("computing on {device}")));
    if plan.first_step > 0 {
        lines.push(format!("going on after step {}", plan.first_step));
    }
    lines
}

/// `epoch 0.25  loss 1.2345 (qa 1.1, summarization 1.4)  grad_norm 0.91  lr 9.5e-5  812 tokens/s`
pub fn measured(entry: &LogEntry) -> String {
    let mut parts = vec![format!("epoch {:.2}", entry.epoch)];
    for (name, prefix, suffix) in [("loss", "loss/", ""), ("eval_loss", "eval_", "_loss")] {
        let Some(loss) = entry.get(name) else { continue };
        let tasks = entry.values().filter_map(|(key, value)| {
            let task = key.strip_prefix(prefix)?.strip_suffix(suffix)?;
            Some(format!("{task} {value:.4}"))
        });
        let tasks: Vec<String> = tasks.collect();
        let by_task = if tasks.is_empty() { String::new() } else { format!(" ({})", tasks.join(", ")) };
        parts.push(format!("{name} {loss:.4}{by_task}"));
    }
    parts.extend(answer_scores(entry));
    parts.extend(entry.get("grad_norm").map(|norm| format!("grad_norm {norm:.3}")));
    parts.extend(entry.get("learning_rate").map(|rate| format!("lr {rate:.3e}")));
    if let Some(scale) = entry.get("loss_scale") {
        let skipped = entry.get("skipped_steps").unwrap_or(0.0);
        parts.push(format!("loss_scale {scale} ({skipped} skipped)"));
    }
    parts.extend(entry.get("tokens_per_second").map(|rate| format!("{rate:.0} tokens/s")));
    parts.join("  ")
}

pub(super) fn finished_line(summary: &Summary) -> String {
    format!(
        "{} steps in {}: train_loss {:.4}, {:.0} tokens/s, peak memory {:.2} GB; results in {}",
        summary.steps,
        clock(summary.runtime),
        summary.train_loss,
        summary.tokens_per_second,
        summary.peak_memory_bytes as f64 / 1e9,
        summary.output_dir.display()
    )
}

/// `0:07`, `12:34`, `1:02:03`
fn clock(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes}:{seconds:02}") }
}

/// `950`, `12.3K`, `4.56M`, `7.00B`
pub(super) fn amount(count: u64) -> String {
    let value = count as f64;
    match count {
        0..1_000 => count.to_string(),
        1_000..1_000_000 => format!("{:.1}K", value / 1e3),
        1_000_000..1_000_000_000 => format!("{:.2}M", value / 1e6),
        _ => format!("{:.2}B", value / 1e9),
    }
}

/// Each task in a table, where to look, and how the run went.
pub fn finished_lines(summary: &Summary) -> Vec<String> {
    let mut lines = vec![];
    let tasks = task_rows(summary);
    if !tasks.is_empty() {
        lines.extend(task_table(&tasks).lines().map(str::to_string));
        lines.push(String::new());
    }
    if !summary.files.is_empty() {
        let files: Vec<String> = summary.files.iter().map(|path| path.display().to_string()).collect();
        lines.push(format!("to look at: {}", files.join(", ")));
    }
    lines.push(finished_line(summary));
    lines
}

/// What is known of a task: how it went, and what it had of the run.
type TaskRow<'s> = (&'s str, Option<&'s TaskProgress>, Option<&'s TaskShare>);

fn task_rows(summary: &Summary) -> Vec<TaskRow<'_>> {
    let share_of = |name: &str| summary.shares.iter().find(|share| share.task == name);
    let went = summary.tasks.iter().map(|task| (task.task.as_str(), Some(task), share_of(&task.task)));
    // Nothing may have been logged of a task that was trained on.
    let logged = |name: &str| summary.tasks.iter().any(|task| task.task == name);
    let silent = summary.shares.iter().filter(|share| !logged(&share.task));
    went.chain(silent.map(|share| (share.task.as_str(), None, Some(share)))).collect()
}

/// A row a task; columns that no task has anything for are left out.
fn task_table(tasks: &[TaskRow<'_>]) -> String {
    type Cell = fn(&TaskRow<'_>) -> Option<String>;
    fn from_to(range: Option<(f64, f64)>) -> Option<String> {
        let (first, last) = range?;
        let (first, last) = (format!("{first:.3}"), format!("{last:.3}"));
        Some(if first == last { last } else { format!("{first} → {last}") })
    }
    fn percent(share: f64) -> Option<String> {
        Some(format!("{:.1} %", 100.0 * share))
    }
    let columns: [(&str, Cell); 8] = [
        ("train loss", |(_, went, _)| from_to(went.as_ref()?.loss)),
        ("eval loss", |(_, went, _)| from_to(went.as_ref()?.eval_loss)),
        ("weight", |(_, went, _)| Some(format!("{:.2}", went.as_ref()?.weight?.1))),
        ("asked", |(_, _, share)| percent(share.as_ref()?.asked)),
        ("examples", |(_, _, share)| Some(share.as_ref()?.examples.to_string())),
        ("got", |(_, _, share)| percent(share.as_ref()?.share)),
        ("label tokens", |(_, _, share)| Some(share.as_ref()?.labelled_tokens.to_string())),
        ("got", |(_, _, share)| percent(share.as_ref()?.share_tokens)),
    ];
    let used: Vec<&(&str, Cell)> =
        columns.iter().filter(|(_, cell)| tasks.iter().any(|task| cell(task).is_some())).collect();
    let header: Vec<&str> = std::iter::once("task").chain(used.iter().map(|(name, _)| *name)).collect();
    let rows: Vec<Vec<String>> = tasks
        .iter()
        .map(|task| {
            let cells = used.iter().map(|(_, cell)| cell(task).unwrap_or_else(|| "-".into()));
            std::iter::once(task.0.to_string()).chain(cells).collect()
        })
        .collect();
    table::render(&header, &rows)
}
