//! What a run shows while it goes: a bar on a terminal, one line per log entry elsewhere. Both on stderr, so that
//! stdout holds results only.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use medley_train::events::{Event, EventSink, Plan, Summary};
use medley_train::predict::Answered;
use medley_train::state::LogEntry;

/// The display that suits stderr.
pub fn progress() -> Box<dyn EventSink> {
    if std::io::stderr().is_terminal() {
        Box::new(Bar::new())
    } else {
        Box::new(Lines::new(std::io::stderr()))
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

/// How far a run is and how fast.
#[derive(Debug, Clone)]
struct Pace {
    total_steps: u64,
    first_step: u64,
    started: Instant,
}

impl Pace {
    fn new(plan: &Plan) -> Self {
        Self { total_steps: plan.total_steps, first_step: plan.first_step, started: Instant::now() }
    }

    /// `step 30/100`
    fn step(&self, step: u64) -> String {
        format!("step {step}/{}", self.total_steps)
    }

    /// `1:02 elapsed, 3:20 left`
    fn times(&self, step: u64) -> String {
        self.times_after(step, self.started.elapsed())
    }

    fn times_after(&self, step: u64, elapsed: Duration) -> String {
        let taken = step.saturating_sub(self.first_step);
        let left = self.total_steps.saturating_sub(step);
        if taken == 0 {
            return format!("{} elapsed", clock(elapsed));
        }
        let remaining = elapsed.as_secs_f64() / taken as f64 * left as f64;
        format!("{} elapsed, {} left", clock(elapsed), clock(Duration::from_secs_f64(remaining.min(1e9))))
    }
}

/// A bar that is redrawn in place; evaluations, checkpoints and warnings scroll above it.
struct Bar {
    bar: ProgressBar,
    pace: Pace,
}

impl Bar {
    fn new() -> Self {
        Self { bar: ProgressBar::hidden(), pace: Pace::new(&Plan::default()) }
    }

    fn start(&mut self, plan: &Plan) {
        self.pace = Pace::new(plan);
        let bar = ProgressBar::new(plan.total_steps).with_position(plan.first_step);
        // The template is fixed; were it wrong, indicatif's default style would be shown.
        let style =
            ProgressStyle::with_template("{bar:28} {msg}").unwrap_or_else(|_| ProgressStyle::default_bar());
        bar.set_style(style.progress_chars("━╸ "));
        bar.enable_steady_tick(Duration::from_millis(200));
        self.bar = bar;
        for line in plan_lines(plan) {
            self.bar.println(line);
        }
    }
}

impl EventSink for Bar {
    fn event(&mut self, event: &Event) {
        match event {
            Event::RunStarted(plan) => self.start(plan),
            Event::StepFinished { step, loss, tokens_per_second } => {
                let (at, times) = (self.pace.step(*step), self.pace.times(*step));
                self.bar
                    .set_message(format!("{at}  loss {loss:.4}  {tokens_per_second:.0} tokens/s  {times}"));
                self.bar.set_position(*step);
            }
            Event::Answering(at) => self.bar.set_message(answering(at)),
            // The bar shows the loss of every step already.
            Event::StepLogged(_) => {}
            Event::Finished(summary) => {
                self.bar.finish_and_clear();
                finished_lines(summary).iter().for_each(|line| eprintln!("{line}"));
            }
            Event::Interrupted { .. } => {
                self.bar.finish_and_clear();
                if let Some(line) = message_line(event, &self.pace) {
                    eprintln!("{line}");
                }
            }
            other => {
                if let Some(line) = message_line(other, &self.pace) {
                    self.bar.println(line);
                }
            }
        }
    }
}

/// Plain lines, for files and pipes.
struct Lines<W> {
    out: W,
    pace: Pace,
    /// When the last line about an answering that goes on was written.
    told: Duration,
}

/// Time between lines about an evaluation that is under way.
const TELL: Duration = Duration::from_secs(20);

impl<W: Write> Lines<W> {
    fn new(out: W) -> Self {
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
                if at.elapsed < self.told {
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

/// Lines about events that both displays show alike.
fn message_line(event: &Event, pace: &Pace) -> Option<String> {
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
fn answering(at: &Answered) -> String {
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

fn plan_lines(plan: &Plan) -> Vec<String> {
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
fn measured(entry: &LogEntry) -> String {
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

/// How the run went and, of several tasks, what each had of it.
fn finished_lines(summary: &Summary) -> Vec<String> {
    let mut lines = vec![finished_line(summary)];
    if summary.shares.len() > 1 {
        let percent = |share: f64| format!("{:.2} %", 100.0 * share);
        let rows: Vec<Vec<String>> = summary
            .shares
            .iter()
            .map(|s| {
                let (examples, labelled) = (s.examples.to_string(), s.labelled_tokens.to_string());
                vec![
                    s.task.clone(),
                    percent(s.asked),
                    examples,
                    percent(s.share),
                    labelled,
                    percent(s.share_tokens),
                ]
            })
            .collect();
        let header = ["task", "asked", "examples", "got", "labelled tokens", "got"];
        lines.extend(crate::table::render(&header, &rows).lines().map(str::to_string));
    }
    lines
}

fn finished_line(summary: &Summary) -> String {
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
fn amount(count: u64) -> String {
    let value = count as f64;
    match count {
        0..1_000 => count.to_string(),
        1_000..1_000_000 => format!("{:.1}K", value / 1e3),
        1_000_000..1_000_000_000 => format!("{:.2}M", value / 1e6),
        _ => format!("{:.2}B", value / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use medley_train::events::TaskShare;

    use super::*;

    fn plan() -> Plan {
        Plan {
            total_steps: 100,
            first_step: 0,
            num_epochs: 3.0,
            sequences_per_step: 32,
            tasks: vec![("qa".into(), 3200), ("sum".into(), 1800)],
            trainable_parameters: 460_800,
            total_parameters: 134_515_008,
            device: None,
        }
    }

    fn lines(events: &[Event]) -> Vec<String> {
        let mut sink = Lines::new(Vec::new());
        for event in events {
            sink.event(event);
        }
        String::from_utf8(sink.out).unwrap().lines().map(str::to_string).collect()
    }

    #[test]
    fn a_pipe_gets_one_plain_line_per_entry() {
        let entry = LogEntry::new(10, 0.3)
            .with("loss", 1.5)
            .with("loss/qa", 1.25)
            .with("loss/sum", 1.75)
            .with("grad_norm", 0.5)
            .with("learning_rate", 9.5e-5)
            .with("tokens_per_second", 812.4);
        let step = |step| Event::StepFinished { step, loss: 1.5, tokens_per_second: 812.4 };
        let lines = lines(&[
            Event::RunStarted(plan()),
            step(9),
            step(10),
            Event::StepLogged(entry),
            Event::Evaluated(LogEntry::new(10, 0.3).with("eval_loss", 2.0).with("eval_qa_loss", 1.0)),
            Event::CheckpointSaved { step: 10, path: "out/checkpoint-10".into() },
            Event::Warning("row 7 is cut".into()),
        ]);
        assert_eq!(lines.len(), 6, "{lines:?}");
        assert_eq!(lines[0], "100 steps of 32 sequences, 3.00 epochs; tasks: qa (3200), sum (1800)");
        assert_eq!(lines[1], "training 460.8K of 134.52M parameters (0.34 %)");
        let measured = "step 10/100  epoch 0.30  loss 1.5000 (qa 1.2500, sum 1.7500)  grad_norm 0.500  lr 9.500e-5  \
            812 tokens/s  0:00 elapsed, 0:0";
        assert!(lines[2].starts_with(measured), "{}", lines[2]);
        assert_eq!(lines[3], "step 10/100  epoch 0.30  eval_loss 2.0000 (qa 1.0000)");
        assert_eq!(lines[4], "step 10/100  saved out/checkpoint-10");
        assert_eq!(lines[5], "warning: row 7 is cut");
        assert!(lines.iter().all(|line| !line.chars().any(char::is_control)), "{lines:?}");
    }

    #[test]
    fn an_evaluation_tells_its_progress_and_its_scores() {
        let answering = |done, seconds| {
            let elapsed = Duration::from_secs(seconds);
            Event::Answering(Answered { done, total: 10, tokens: 100 * seconds, elapsed })
        };
        let entry = LogEntry::new(4, 0.5)
            .with("eval_loss", 1.0)
            .with("eval_qa_loss", 1.0)
            .with("eval_qa_f1", 0.5)
            .with("eval_cls_macro_f1", 0.25)
            .with("eval_cls_micro_f1", 0.75)
            .with("eval_cls_f1", 0.7)
            .with("eval_cls_accuracy", 0.125)
            .with("eval_cls_token_accuracy", 0.9)
            .with("eval_runtime", 3.0);
        let reason = "eval_loss has not improved for 2 evaluations".to_string();
        let lines = lines(&[
            answering(0, 0),
            answering(1, 5),
            answering(2, 21),
            answering(3, 30),
            answering(10, 60),
            answering(1, 22),
            Event::Evaluated(entry),
            Event::StoppedEarly { step: 4, reason },
            Event::BestLoaded { step: 2, metric: "eval_loss".into(), value: 0.75 },
        ]);
        assert_eq!(
            lines,
            [
                "answering 2/10  100 tokens/s  0:21 elapsed, 1:24 left",
                "answering 1/10  100 tokens/s  0:22 elapsed, 3:18 left",
                "step 4/0  epoch 0.50  eval_loss 1.0000 (qa 1.0000)  cls accuracy 0.125 F1 0.700 macro F1 0.250 \
                 token accuracy 0.900  qa F1 0.500",
                "step 4/0  early stopping: eval_loss has not improved for 2 evaluations",
                "took the best weights, those of step 2: eval_loss 0.7500",
            ]
        );
    }

    #[test]
    fn an_interrupted_run_says_how_to_go_on() {
        let saved = lines(&[Event::Interrupted { step: 7, checkpoint: Some("out/checkpoint-7".into()) }]);
        assert_eq!(saved, ["stopped after step 7; go on with --resume_from_checkpoint out/checkpoint-7"]);
        let unsaved = lines(&[Event::Interrupted { step: 7, checkpoint: None }]);
        assert_eq!(unsaved, ["stopped after step 7, before a checkpoint was saved"]);
    }

    #[test]
    fn time_left_counts_the_steps_of_this_run_only() {
        let pace = Pace { total_steps: 100, first_step: 50, started: Instant::now() };
        assert_eq!(pace.times_after(50, Duration::from_secs(3)), "0:03 elapsed");
        assert_eq!(pace.times_after(60, Duration::from_secs(100)), "1:40 elapsed, 6:40 left");
        assert_eq!(pace.times_after(100, Duration::from_secs(3723)), "1:02:03 elapsed, 0:00 left");
    }

    #[test]
    fn the_bar_takes_every_event() {
        let mut bar = Bar::new();
        bar.event(&Event::RunStarted(Plan { first_step: 40, ..plan() }));
        bar.event(&Event::StepFinished { step: 41, loss: f64::NAN, tokens_per_second: 0.0 });
        assert_eq!(bar.bar.position(), 41);
        bar.event(&Event::Warning("x".into()));
        bar.event(&Event::Finished(Summary { steps: 41, ..Summary::default() }));
        assert!(bar.bar.is_finished());
    }

    #[test]
    fn a_finished_run_of_several_tasks_says_what_each_had() {
        let share = |task: &str, examples, share| TaskShare {
            task: task.into(),
            asked: 0.5,
            examples,
            share,
            labelled_tokens: 10 * examples,
            share_tokens: share,
        };
        let shares = vec![share("qa", 51, 0.51), share("sum", 49, 0.49)];
        let lines = finished_lines(&Summary { shares, ..Summary::default() });
        assert_eq!(lines.len(), 5, "{lines:?}");
        assert_eq!(lines[3], "qa    50.00 %        51  51.00 %              510  51.00 %");
        let one = Summary { shares: vec![share("qa", 51, 1.0)], ..Summary::default() };
        assert_eq!(finished_lines(&one).len(), 1, "one task had everything");
    }

    #[test]
    fn amounts_are_short() {
        let amounts = [999, 1_000, 4_560_000, 7_000_000_000].map(amount);
        assert_eq!(amounts, ["999", "1.0K", "4.56M", "7.00B"]);
        let summary =
            Summary { steps: 5, train_loss: 1.25, runtime: Duration::from_secs(65), ..Summary::default() };
        assert_eq!(
            finished_line(&summary),
            "5 steps in 1:05: train_loss 1.2500, 0 tokens/s, peak memory 0.00 GB; results in "
        );
    }
}
