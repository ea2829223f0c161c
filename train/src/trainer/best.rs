//! Which evaluation is the best one, and when it has been so for too long: `metric_for_best_model` and early stopping.
//!
//! What this counts is kept in the run's [`TrainerState`], in the place where Hugging Face's `EarlyStoppingCallback`
//! keeps its own, and so goes into checkpoints and comes back with them.

use crate::config::{EvalArgs, TaskChoice};
use crate::state::{LogEntry, TrainerState, nine_digits};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::BTreeMap;

/// Key of the counters in `stateful_callbacks`, as Hugging Face's trainer names them.
const CALLBACK: &str = "EarlyStoppingCallback";

/// A number to judge an evaluation by: a logged measurement, or a weighted mean of several.
#[derive(Debug, Clone, PartialEq)]
pub struct Objective {
    text: String,
    /// Weight and name in the log of each part.
    parts: Vec<(f64, String)>,
    lower_is_better: bool,
}

impl Objective {
    /// Reads `eval_loss` (or `loss`), `qa/f1`, `eval_qa_f1`, or a sum such as
    /// `0.5*qa/f1 + 0.5*classification/macro_f1`, which stands for the mean by these weights. A name alone is a
    /// task's, and stands for its loss.
    ///
    /// # Errors
    /// What was expected: a weight that is no number above 0, a part without a name, or parts of which some should
    /// fall and some rise.
    pub fn parse(text: &str) -> std::result::Result<Self, String> {
        let mut parts = vec![];
        for part in text.split('+') {
            let (weight, name) = match part.split_once('*') {
                None => (1.0, part.trim()),
                Some((weight, name)) => {
                    let number = weight.trim().parse().ok().filter(|w: &f64| w.is_finite() && *w > 0.0);
                    let number = number.ok_or_else(|| {
                        format!("expected a weight above 0 before `*{name}`, got `{}`", weight.trim())
                    })?;
                    (number, name.trim())
                }
            };
            let logged = match name.rsplit_once('/') {
                Some((task, metric)) if !task.is_empty() && !metric.is_empty() => {
                    format!("eval_{task}_{metric}")
                }
                None if name == "loss" => "eval_loss".to_string(),
                None if name.starts_with("eval_") => name.to_string(),
                None if !name.is_empty() => format!("eval_{name}_loss"),
                _ => {
                    return Err(format!(
                        "expected `eval_loss`, `task/metric` or `0.5*task/metric+0.5*other/metric`, got `{text}`"
                    ));
                }
            };
            parts.push((weight, logged));
        }
        let falls = |name: &str| name.ends_with("loss") || name.ends_with("perplexity");
        let falling = parts.iter().filter(|(_, name)| falls(name)).count();
        if falling != 0 && falling != parts.len() {
            return Err(format!(
                "`{text}` mixes measurements that should fall (losses, perplexities) with scores that should rise; use one kind"
            ));
        }
        Ok(Self { text: text.to_string(), parts, lower_is_better: falling > 0 })
    }

    /// The weighted mean in an entry; `None` where a part is missing.
    pub fn value(&self, entry: &LogEntry) -> Option<f64> {
        let total: f64 = self.parts.iter().map(|(weight, _)| weight).sum();
        let sum =
            self.parts.iter().try_fold(0.0, |sum, (weight, name)| Some(sum + weight * entry.get(name)?))?;
        Some(nine_digits(sum / total))
    }

    /// Refuses an objective with a part that no evaluation logs.
    fn check(&self, key: &str, logged: &[String], hint: &str) -> Result<()> {
        match self.parts.iter().find(|(_, name)| !logged.contains(name)) {
            None => Ok(()),
            Some((_, name)) => Err(Error::Run(format!(
                "{key}: evaluations of this run do not measure `{name}`; they measure {}{hint}",
                logged.join(", ")
            ))),
        }
    }
}

/// Something that must go on improving.
#[derive(Debug, Clone)]
struct Watched {
    name: String,
    objective: Objective,
    greater_is_better: bool,
}

/// How far something watched has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
struct Progress {
    /// The best value so far.
    best: Option<f64>,
    /// Evaluations in a row that were no improvement.
    counter: u64,
}

/// The counters, as they stand in `trainer_state.json`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Attributes {
    early_stopping_patience_counter: u64,
    #[serde(default)]
    watched: BTreeMap<String, Progress>,
}

/// The rules of a run.
#[derive(Debug, Clone)]
pub(super) struct Best {
    objective: Watched,
    /// Evaluations without improvement that end the run.
    patience: Option<u64>,
    threshold: f64,
    watched: Vec<Watched>,
}

impl Best {
    /// The rules that `args` give, for evaluations that log the measurements `logged` of `tasks`.
    ///
    /// # Errors
    /// A measurement that is not taken, a task that is not evaluated.
    pub fn new(args: &EvalArgs, logged: &[String], tasks: &[String]) -> Result<Self> {
        let hint = if args.predict_with_generate {
            ""
        } else {
            "; scores of the model's answers need `predict_with_generate: true`"
        };
        let watch = |key: &str, text: &str, greater: Option<bool>| -> Result<Watched> {
            let objective =
                Objective::parse(text).map_err(|problem| Error::Run(format!("{key}: {problem}")))?;
            if !logged.is_empty() {
                objective.check(key, logged, hint)?;
            }
            let greater_is_better = greater.unwrap_or(!objective.lower_is_better);
            Ok(Watched { name: objective.text.clone(), objective, greater_is_better })
        };
        let metric = args.metric_for_best_model.as_deref().unwrap_or("eval_loss");
        let objective = watch("metric_for_best_model", metric, args.greater_is_better)?;
        let of_tasks = |names: &[String]| -> Result<Vec<Watched>> {
            names.iter().map(|name| watch("early_stopping_tasks", name, None)).collect()
        };
        let watched = match &args.early_stopping_tasks {
            _ if args.early_stopping_steps.is_none() => vec![],
            TaskChoice::None => vec![objective.clone()],
            TaskChoice::All => of_tasks(tasks)?,
            TaskChoice::Named(names) => of_tasks(names)?,
        };
        Ok(Self {
            objective,
            patience: args.early_stopping_steps,
            threshold: args.early_stopping_threshold,
            watched,
        })
    }

    /// What the best is judged by, as the option says it.
    pub fn metric(&self) -> &str {
        &self.objective.name
    }

    /// Takes note of an evaluation during training; whether it is the best so far.
    pub fn observe(&self, state: &mut TrainerState, entry: &LogEntry) -> bool {
        let better = |greater: bool, value: f64, than: f64| if greater { value > than } else { value < than };
        let finite = |watched: &Watched| watched.objective.value(entry).filter(|value| value.is_finite());
        if let Some(patience) = self.patience {
            let mut counters = self.counters(state);
            for watched in &self.watched {
                let progress = counters.watched.entry(watched.name.clone()).or_default();
                // As Hugging Face's callback: compared with the very best, not with the last that counted.
                let improved = finite(watched).is_some_and(|value| {
                    progress.best.is_none_or(|best| {
                        better(watched.greater_is_better, value, best)
                            && (value - best).abs() > self.threshold
                    })
                });
                progress.counter = if improved { 0 } else { progress.counter + 1 };
                if let Some(value) = finite(watched)
                    && progress.best.is_none_or(|best| better(watched.greater_is_better, value, best))
                {
                    progress.best = Some(value);
                }
            }
            counters.early_stopping_patience_counter =
                counters.watched.values().map(|progress| progress.counter).min().unwrap_or(0);
            let saved = json!({
                "args": {"early_stopping_patience": patience, "early_stopping_threshold": self.threshold},
                "attributes": counters,
            });
            state.stateful_callbacks.insert(CALLBACK.to_string(), saved);
        }
        let Some(value) = finite(&self.objective) else { return false };
        let best = state.best_metric.is_none_or(|best| better(self.objective.greater_is_better, value, best));
        if best {
            state.set_best(value);
        }
        best
    }

    /// Why the run ends here, if it does.
    pub fn stopped(&self, state: &TrainerState) -> Option<String> {
        let patience = self.patience?;
        let counters = self.counters(state).watched;
        let stale = |watched: &Watched| {
            counters.get(&watched.name).is_some_and(|progress| progress.counter >= patience)
        };
        if self.watched.is_empty() || !self.watched.iter().all(stale) {
            return None;
        }
        let names: Vec<&str> = self.watched.iter().map(|watched| watched.name.as_str()).collect();
        let (what, verb) = match names.as_slice() {
            [one] => (one.to_string(), "has"),
            many => (many.join(", "), "have all"),
        };
        let margin =
            if self.threshold > 0.0 { format!(" by more than {}", self.threshold) } else { String::new() };
        let best = match (state.best_metric, state.best_global_step) {
            (Some(value), Some(step)) => format!("; best {} {value:.4} at step {step}", self.metric()),
            _ => String::new(),
        };
        let times = if patience == 1 { "at the last evaluation" } else { "for" };
        let count = if patience == 1 { String::new() } else { format!(" {patience} evaluations") };
        Some(format!("{what} {verb} not improved{margin} {times}{count}{best}"))
    }

    fn counters(&self, state: &TrainerState) -> Attributes {
        // Counters of another program, or none: counting starts anew.
        let saved = state.stateful_callbacks.get(CALLBACK).and_then(|callback| callback.get("attributes"));
        let saved: Attributes =
            saved.and_then(|saved| serde_json::from_value(saved.clone()).ok()).unwrap_or_default();
        // Names that are no longer watched would hold the others back.
        let kept = |name: &String| self.watched.iter().any(|watched| watched.name == *name);
        Attributes { watched: saved.watched.into_iter().filter(|(name, _)| kept(name)).collect(), ..saved }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(args: EvalArgs) -> Best {
        Best::new(&args, &[], &["qa".to_string(), "cls".to_string()]).unwrap()
    }

    fn stopping(steps: u64) -> EvalArgs {
        EvalArgs { early_stopping_steps: Some(steps), ..EvalArgs::default() }
    }

    /// Feeds evaluations; the states pass through JSON between them, as through a checkpoint.
    fn run(best: &Best, entries: &[LogEntry]) -> (TrainerState, Vec<bool>, Option<(u64, String)>) {
        let (mut state, mut news) = (TrainerState::default(), vec![]);
        for (i, entry) in entries.iter().enumerate() {
            state.global_step = i as u64 + 1;
            news.push(best.observe(&mut state, entry));
            state = serde_json::from_str(&serde_json::to_string(&state).unwrap()).unwrap();
            if let Some(reason) = best.stopped(&state) {
                return (state, news, Some((i as u64 + 1, reason)));
            }
        }
        (state, news, None)
    }

    fn losses(values: &[f64]) -> Vec<LogEntry> {
        values.iter().map(|loss| LogEntry::new(0, 0.0).with("eval_loss", *loss)).collect()
    }

    #[test]
    fn objectives_are_read_in_every_spelling() {
        let names = |text: &str| -> Vec<(f64, String)> { Objective::parse(text).unwrap().parts };
        assert_eq!(names("loss"), [(1.0, "eval_loss".to_string())]);
        assert_eq!(names("eval_loss"), names("loss"));
        assert_eq!(names("eval_qa_f1"), names("qa/f1"));
        assert_eq!(names("qa"), names("eval_qa_loss"));
        assert_eq!(names("org/qa/f1"), [(1.0, "eval_org/qa_f1".to_string())]);
        let mean = Objective::parse("0.5*qa/f1 + 1.5*cls/macro_f1").unwrap();
        assert!(!mean.lower_is_better);
        let entry = LogEntry::new(1, 0.0).with("eval_qa_f1", 0.2).with("eval_cls_macro_f1", 0.6);
        assert_eq!(mean.value(&entry), Some(0.5));
        assert_eq!(mean.value(&LogEntry::new(1, 0.0).with("eval_qa_f1", 0.2)), None);
        assert!(Objective::parse("qa/perplexity").unwrap().lower_is_better);
        for (text, part) in [
            ("", "task/metric"),
            ("qa/", "task/metric"),
            ("0.5*qa/f1+", "task/metric"),
            ("x*qa/f1", "`x`"),
            ("-1*qa/f1", "above 0"),
            ("qa/f1+qa/loss", "mixes"),
        ] {
            let error = Objective::parse(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn what_is_not_measured_is_refused_by_name() {
        let logged = ["eval_loss".to_string(), "eval_qa_loss".to_string()];
        let metric =
            |text: &str| EvalArgs { metric_for_best_model: Some(text.into()), ..EvalArgs::default() };
        Best::new(&metric("qa/loss"), &logged, &[]).unwrap();
        let error = Best::new(&metric("qa/f1"), &logged, &[]).unwrap_err().to_string();
        for part in
            ["metric_for_best_model", "`eval_qa_f1`", "eval_loss, eval_qa_loss", "predict_with_generate"]
        {
            assert!(error.contains(part), "{error}");
        }
        let tasks = TaskChoice::Named(vec!["sum".into()]);
        let args = EvalArgs { early_stopping_tasks: tasks, ..stopping(2) };
        let error = Best::new(&args, &logged, &[]).unwrap_err().to_string();
        assert!(error.contains("early_stopping_tasks") && error.contains("eval_sum_loss"), "{error}");
    }

    #[test]
    fn the_best_is_lowest_or_highest_and_never_not_a_number() {
        let (state, news, _) = run(&rules(EvalArgs::default()), &losses(&[3.0, f64::NAN, 2.0, 2.5, 2.0]));
        assert_eq!(news, [true, false, true, false, false]);
        assert_eq!((state.best_global_step, state.best_metric), (Some(3), Some(2.0)));
        let args = EvalArgs { metric_for_best_model: Some("qa/f1".into()), ..EvalArgs::default() };
        let entries: Vec<LogEntry> =
            [0.2, 0.5, 0.4].iter().map(|f1| LogEntry::new(0, 0.0).with("eval_qa_f1", *f1)).collect();
        let (state, news, _) = run(&rules(args.clone()), &entries);
        assert_eq!((news, state.best_global_step), (vec![true, true, false], Some(2)));
        let smallest = EvalArgs { greater_is_better: Some(false), ..args };
        assert_eq!(run(&rules(smallest), &entries).0.best_global_step, Some(1));
    }

    #[test]
    fn patience_counts_evaluations_in_a_row() {
        let best = rules(stopping(2));
        let (state, _, stop) = run(&best, &losses(&[3.0, 3.1, 2.9, 2.95, 2.9, 1.0]));
        let (step, reason) = stop.unwrap();
        assert_eq!(step, 5);
        assert_eq!(reason, "eval_loss has not improved for 2 evaluations; best eval_loss 2.9000 at step 3");
        let saved = &state.stateful_callbacks[CALLBACK];
        assert_eq!(saved["attributes"]["early_stopping_patience_counter"], 2);
        assert_eq!(saved["args"]["early_stopping_patience"], 2);
        assert!(run(&best, &losses(&[3.0, 3.1, 2.9, 2.95, 2.8])).2.is_none());
        // Small steps are new bests, but no improvements: each is compared with the one before.
        let coarse = rules(EvalArgs { early_stopping_threshold: 0.2, ..stopping(2) });
        let (state, news, stop) = run(&coarse, &losses(&[3.0, 2.9, 2.8, 2.7]));
        assert_eq!((news, stop.unwrap().0, state.best_metric), (vec![true; 3], 3, Some(2.8)));
        assert!(run(&rules(EvalArgs::default()), &losses(&[1.0; 20])).2.is_none());
    }

    #[test]
    fn all_tasks_must_have_stopped_improving() {
        let entries: Vec<LogEntry> =
            [(1.0, 5.0), (0.9, 5.0), (0.95, 4.0), (0.9, 4.5), (0.91, 4.2), (0.9, 3.0)]
                .iter()
                .map(|(qa, cls)| {
                    let loss = qa + cls;
                    LogEntry::new(0, 0.0)
                        .with("eval_loss", loss)
                        .with("eval_qa_loss", *qa)
                        .with("eval_cls_loss", *cls)
                })
                .collect();
        let all = rules(EvalArgs { early_stopping_tasks: TaskChoice::All, ..stopping(2) });
        let (step, reason) = run(&all, &entries).2.unwrap();
        assert_eq!(step, 5);
        assert!(reason.starts_with("qa, cls have all not improved for 2 evaluations"), "{reason}");
        let one = TaskChoice::Named(vec!["qa".into()]);
        let one = rules(EvalArgs { early_stopping_tasks: one, ..stopping(2) });
        assert_eq!(run(&one, &entries).2.unwrap().0, 4);
    }
}
