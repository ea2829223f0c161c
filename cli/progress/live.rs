//! The live view of a terminal: a bar, below it a line a task and the memory in use; messages scroll above.
//!
//! ```text
//! ━━━━━━━━━━━╸                step 40/100  loss 1.5210  812 tokens/s  0:49 elapsed, 1:13 left
//! qa             1.4211   █▆▅▄▃▃▂▁  weight 1.00  share 33.3 %  eval 1.5020
//! summarization  2.0313   █▇▆▅▅▄▃▂  weight 0.80  share 33.3 %  eval 2.1120
//! memory 0.61 GB, peak 0.74 GB
//! ```

use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use medley_tensor::ledger;
use medley_train::events::{Event, EventSink, Plan};
use medley_train::state::LogEntry;

use super::spark::Trend;
use super::text::{Pace, answering, finished_lines, message_line, plan_lines};

/// Tasks that get a line; of more, the rest is counted.
const MOST_ROWS: usize = 12;
const NAME_WIDTH: usize = 20;
const SPARK_WIDTH: usize = 15;
/// Between two redrawings of the tasks' lines: faster than an eye reads costs steps of a small model.
const REDRAW: Duration = Duration::from_millis(150);

/// What is known of a task.
#[derive(Debug, Default)]
struct Task {
    name: String,
    loss: Trend,
    weight: Option<f64>,
    share: Option<f64>,
    eval_loss: Option<f64>,
}

/// The view.
pub struct Live {
    view: MultiProgress,
    bar: ProgressBar,
    lines: Vec<ProgressBar>,
    tasks: Vec<Task>,
    pace: Pace,
    drawn: Option<Instant>,
}

impl Live {
    /// Nothing is shown before the run starts, messages apart.
    pub fn new() -> Self {
        Self {
            view: MultiProgress::new(),
            bar: ProgressBar::hidden(),
            lines: vec![],
            tasks: vec![],
            pace: Pace::new(&Plan::default()),
            drawn: None,
        }
    }

    fn start(&mut self, plan: &Plan) {
        self.pace = Pace::new(plan);
        for line in plan_lines(plan) {
            self.say(&line);
        }
        let bar = ProgressBar::new(plan.total_steps).with_position(plan.first_step);
        bar.set_style(style("{bar:24.cyan} {wide_msg}").progress_chars("━╸ "));
        self.bar = self.view.add(bar);
        self.tasks =
            plan.tasks.iter().map(|(name, _)| Task { name: name.clone(), ..Task::default() }).collect();
        // One a task, and the memory.
        self.lines = (0..self.rows().len() + 1)
            .map(|_| {
                let line = ProgressBar::new(1);
                line.set_style(style("{wide_msg}"));
                self.view.add(line)
            })
            .collect();
        self.bar.set_message(self.pace.step(plan.first_step));
        self.redraw();
        // Time goes on in long steps too.
        self.bar.enable_steady_tick(Duration::from_millis(250));
    }

    /// The tasks' lines.
    pub(super) fn rows(&self) -> Vec<String> {
        let shown = if self.tasks.len() > MOST_ROWS { MOST_ROWS } else { self.tasks.len() };
        let names: Vec<String> = self.tasks[..shown].iter().map(|task| shortened(&task.name)).collect();
        let widest = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
        let mut rows: Vec<String> = names
            .iter()
            .zip(&self.tasks)
            .map(|(name, task)| {
                let pad = " ".repeat(widest - name.chars().count());
                let loss = task.loss.now().map_or(String::new(), |loss| format!("{loss:.4}"));
                let mut row = format!("{name}{pad}  {loss:7}  {:SPARK_WIDTH$}", task.loss.line(SPARK_WIDTH));
                if let Some(weight) = task.weight {
                    row += &format!("  weight {weight:.2}");
                }
                if let Some(share) = task.share {
                    row += &format!("  share {:.1} %", 100.0 * share);
                }
                if let Some(loss) = task.eval_loss {
                    row += &format!("  eval {loss:.4}");
                }
                row.trim_end().to_string()
            })
            .collect();
        if shown < self.tasks.len() {
            rows.push(format!("and {} more tasks", self.tasks.len() - shown));
        }
        rows
    }

    fn redraw(&mut self) {
        self.drawn = Some(Instant::now());
        let (now, peak) = ledger::snapshot().total;
        let memory = format!("memory {:.2} GB, peak {:.2} GB", now as f64 / 1e9, peak as f64 / 1e9);
        for (line, text) in self.lines.iter().zip(self.rows().into_iter().chain([memory])) {
            line.set_message(text);
        }
    }

    fn stepped(&mut self, step: u64, losses: &[Option<f64>]) {
        for (task, loss) in self.tasks.iter_mut().zip(losses) {
            loss.iter().for_each(|loss| task.loss.add(*loss));
        }
        if step == self.pace.total_steps || self.drawn.is_none_or(|drawn| drawn.elapsed() >= REDRAW) {
            self.redraw();
        }
    }

    fn logged(&mut self, entry: &LogEntry) {
        for task in &mut self.tasks {
            let of = |what: &str| entry.get(&format!("{what}/{}", task.name));
            task.weight = of("weight").or(task.weight);
            task.share = of("share").or(task.share);
            task.eval_loss = entry.get(&format!("eval_{}_loss", task.name)).or(task.eval_loss);
        }
        self.redraw();
    }

    /// Prints above the bar.
    fn say(&self, line: &str) {
        // A terminal that is gone is no reason to stop a run.
        let _ = self.view.println(line);
    }

    fn end(&mut self) {
        for line in self.lines.drain(..) {
            line.finish_and_clear();
        }
        self.bar.finish_and_clear();
        let _ = self.view.clear();
    }

    #[cfg(test)]
    pub(super) fn position(&self) -> u64 {
        self.bar.position()
    }

    #[cfg(test)]
    pub(super) fn is_finished(&self) -> bool {
        self.bar.is_finished()
    }
}

/// Templates here are fixed; were one wrong, indicatif's own would be shown.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// Both ends of a long name: tasks differ at either.
fn shortened(name: &str) -> String {
    let letters: Vec<char> = name.chars().collect();
    if letters.len() <= NAME_WIDTH {
        return name.to_string();
    }
    let half = NAME_WIDTH / 2;
    letters[..half].iter().chain(&['…']).chain(&letters[letters.len() - (half - 1)..]).collect()
}

impl EventSink for Live {
    fn event(&mut self, event: &Event) {
        match event {
            Event::RunStarted(plan) => self.start(plan),
            Event::StepFinished { step, loss, tasks, tokens_per_second } => {
                let (at, times) = (self.pace.step(*step), self.pace.times(*step));
                self.bar
                    .set_message(format!("{at}  loss {loss:.4}  {tokens_per_second:.0} tokens/s  {times}"));
                self.bar.set_position(*step);
                self.stepped(*step, tasks);
            }
            Event::Answering(at) => self.bar.set_message(answering(at)),
            // The view shows the loss of every step already.
            Event::StepLogged(entry) => self.logged(entry),
            Event::Finished(summary) => {
                self.end();
                finished_lines(summary).iter().for_each(|line| eprintln!("{line}"));
            }
            Event::Interrupted { .. } => {
                self.end();
                if let Some(line) = message_line(event, &self.pace) {
                    eprintln!("{line}");
                }
            }
            other => {
                if let Event::Evaluated(entry) = other {
                    self.logged(entry);
                }
                if let Some(line) = message_line(other, &self.pace) {
                    self.say(&line);
                }
            }
        }
    }
}

/// A run that ends in an error leaves no half-drawn view behind.
impl Drop for Live {
    fn drop(&mut self) {
        self.end();
    }
}
