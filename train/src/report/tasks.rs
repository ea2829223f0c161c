//! How each task went: first and last losses and scores, from a run's history.

use crate::plot::score_of;
use crate::state::LogEntry;
use std::collections::BTreeMap;

/// A task of a run.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TaskProgress {
    /// Its name.
    pub task: String,
    /// Training loss in the first entry that has one and in the last.
    pub loss: Option<(f64, f64)>,
    /// Evaluation loss, likewise.
    pub eval_loss: Option<(f64, f64)>,
    /// Weight in the loss, likewise.
    pub weight: Option<(f64, f64)>,
    /// Share of the examples, the mean over all entries.
    pub share: Option<f64>,
    /// Share that it was to get, the mean over all entries.
    pub share_asked: Option<f64>,
    /// Scores in the first evaluation and in the last, by name.
    pub scores: BTreeMap<String, (f64, f64)>,
}

/// Every task that a history names, by name.
pub fn task_progress(history: &[LogEntry]) -> Vec<TaskProgress> {
    let mut tasks: BTreeMap<String, TaskProgress> = BTreeMap::new();
    let mut shares: BTreeMap<(&str, String), (f64, u32)> = BTreeMap::new();
    for (name, value) in history.iter().flat_map(LogEntry::values) {
        if let Some((kind, task)) = name.split_once('/') {
            let row = || TaskProgress { task: task.to_string(), ..TaskProgress::default() };
            match kind {
                "loss" => widen(&mut tasks.entry(task.into()).or_insert_with(row).loss, value),
                "weight" => widen(&mut tasks.entry(task.into()).or_insert_with(row).weight, value),
                "share" | "share_asked" => {
                    let (sum, count) = shares.entry((kind, task.to_string())).or_default();
                    (*sum, *count) = (*sum + value, *count + 1);
                }
                _ => {}
            }
        } else if let Some(task) = name.strip_prefix("eval_").and_then(|rest| rest.strip_suffix("_loss")) {
            let row = tasks.entry(task.into()).or_default();
            row.task = task.to_string();
            widen(&mut row.eval_loss, value);
        }
    }
    let names: Vec<String> = tasks.keys().cloned().collect();
    for (name, value) in history.iter().flat_map(LogEntry::values) {
        if let Some((task, score)) = score_of(name, names.iter().map(String::as_str))
            && let Some(row) = tasks.get_mut(task)
        {
            row.scores.entry(score.to_string()).or_insert((value, value)).1 = value;
        }
    }
    let mean = |kind, task: &str| {
        let (sum, count) = shares.get(&(kind, task.to_string()))?;
        Some(sum / f64::from(*count))
    };
    tasks
        .into_values()
        .map(|row| TaskProgress {
            share: mean("share", &row.task),
            share_asked: mean("share_asked", &row.task),
            ..row
        })
        .collect()
}

/// Makes `value` the last one, and the first where there was none.
fn widen(range: &mut Option<(f64, f64)>, value: f64) {
    *range = Some((range.map_or(value, |(first, _)| first), value));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_and_last_numbers_are_each_tasks_own() {
        let history = [
            LogEntry::new(10, 0.1)
                .with("loss/qa", 3.0)
                .with("weight/qa", 1.0)
                .with("share/qa", 0.4)
                .with("share_asked/qa", 0.5),
            LogEntry::new(10, 0.1)
                .with("eval_qa_loss", 3.5)
                .with("eval_qa_f1", 0.1)
                .with("eval_runtime", 1.0),
            LogEntry::new(20, 0.2).with("loss/qa", 2.0).with("weight/qa", 0.8).with("share/qa", 0.6),
            LogEntry::new(20, 0.2).with("loss/late", 1.0),
            LogEntry::new(30, 0.3).with("eval_qa_loss", 2.5).with("eval_qa_f1", 0.7).with("eval_loss", 2.0),
        ];
        let tasks = task_progress(&history);
        assert_eq!(tasks.iter().map(|t| t.task.as_str()).collect::<Vec<_>>(), ["late", "qa"]);
        assert_eq!(tasks[0].loss, Some((1.0, 1.0)));
        assert_eq!(tasks[0].share, None);
        let qa = &tasks[1];
        assert_eq!((qa.loss, qa.eval_loss), (Some((3.0, 2.0)), Some((3.5, 2.5))));
        assert_eq!((qa.weight, qa.share, qa.share_asked), (Some((1.0, 0.8)), Some(0.5), Some(0.5)));
        assert_eq!(qa.scores, BTreeMap::from([("f1".to_string(), (0.1, 0.7))]));
        assert_eq!(task_progress(&[]), []);
    }
}
