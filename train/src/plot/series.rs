//! The curves of a history, smoothed and thinned.

use std::collections::BTreeMap;

use crate::state::LogEntry;

/// More points than this are thinned: a screen has no more columns to show them in.
const MOST_POINTS: usize = 1500;

/// A measurement at a step.
pub type Point = (f64, f64);

/// One quantity over the run.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Series {
    /// Measured in training, in order of steps.
    pub train: Vec<Point>,
    /// Measured in evaluations.
    pub eval: Vec<Point>,
}

/// Everything a plot shows.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Curves {
    /// The loss that was minimised.
    pub total: Series,
    /// Loss of each task, by name.
    pub tasks: BTreeMap<String, Series>,
    /// Weight of each task in the loss.
    pub weights: BTreeMap<String, Vec<Point>>,
    /// Share of the examples that each task got since the entry before.
    pub shares: BTreeMap<String, Vec<Point>>,
    /// Share of the examples that each task was to get.
    pub shares_asked: BTreeMap<String, Vec<Point>>,
    /// Share of the labelled tokens that each task got.
    pub token_shares: BTreeMap<String, Vec<Point>>,
    /// Learning rate.
    pub learning_rate: Vec<Point>,
    /// Norm of the gradients before clipping.
    pub grad_norm: Vec<Point>,
    /// Cosine between the gradients of two tasks, by `<task>/<task>`.
    pub cosines: BTreeMap<String, Vec<Point>>,
    /// Scores of evaluations other than the loss, by task and score.
    pub scores: BTreeMap<(String, String), Vec<Point>>,
    /// Step and number of each epoch's end within the run.
    pub epochs: Vec<(f64, u64)>,
    /// The last step.
    pub last_step: u64,
}

impl Series {
    /// Whether nothing was measured.
    pub fn is_empty(&self) -> bool {
        self.train.is_empty() && self.eval.is_empty()
    }
}

impl Curves {
    /// Whether no loss was measured.
    pub fn is_empty(&self) -> bool {
        self.total.is_empty() && self.tasks.is_empty()
    }
}

/// What an evaluation logs beside losses and scores.
const NO_SCORE: [&str; 4] = ["runtime", "samples_per_second", "steps_per_second", "tokens_per_second"];

/// Gathers the curves of `loss`, `loss/<task>`, `eval_loss`, `eval_<task>_loss`, `eval_<task>_<score>`,
/// `weight/<task>`, `share/<task>`, `share_asked/<task>`, `share_tokens/<task>`, `cos/<task>/<task>`, `grad_norm` and
/// `learning_rate`.
pub fn curves(history: &[LogEntry]) -> Curves {
    let mut curves = Curves::default();
    let mut before: Option<(f64, f64)> = None;
    for entry in history {
        let step = entry.step as f64;
        curves.last_step = curves.last_step.max(entry.step);
        for (name, value) in entry.values() {
            let point = (step, value);
            match (name, name.split_once('/')) {
                ("loss", _) => curves.total.train.push(point),
                ("eval_loss", _) => curves.total.eval.push(point),
                ("learning_rate", _) => curves.learning_rate.push(point),
                ("grad_norm", _) => curves.grad_norm.push(point),
                (_, Some(("loss", task))) => {
                    curves.tasks.entry(task.to_string()).or_default().train.push(point);
                }
                (_, Some((kind, task))) => {
                    let group = match kind {
                        "weight" => &mut curves.weights,
                        "share" => &mut curves.shares,
                        "share_asked" => &mut curves.shares_asked,
                        "share_tokens" => &mut curves.token_shares,
                        "cos" => &mut curves.cosines,
                        _ => continue,
                    };
                    group.entry(task.to_string()).or_default().push(point);
                    if kind != "cos" {
                        curves.tasks.entry(task.to_string()).or_default();
                    }
                }
                (_, None) => {
                    let task = name.strip_prefix("eval_").and_then(|rest| rest.strip_suffix("_loss"));
                    if let Some(task) = task {
                        curves.tasks.entry(task.to_string()).or_default().eval.push(point);
                    }
                }
            }
        }
        mark_epochs(&mut curves.epochs, before, (step, entry.epoch));
        before = Some((step, entry.epoch));
    }
    gather_scores(&mut curves, history);
    curves
}

/// Scores are told from other numbers by the names of the tasks, so all entries must have been seen before.
fn gather_scores(curves: &mut Curves, history: &[LogEntry]) {
    let tasks: Vec<String> = curves.tasks.keys().cloned().collect();
    for entry in history {
        for (name, value) in entry.values() {
            if let Some((task, score)) = score_of(name, tasks.iter().map(String::as_str)) {
                let points = curves.scores.entry((task.to_string(), score.to_string())).or_default();
                points.push((entry.step as f64, value));
            }
        }
    }
}

/// Task and score of `eval_<task>_<score>`, where it is no loss; of tasks whose names begin alike, the longest.
pub fn score_of<'n, 't>(name: &'n str, tasks: impl Iterator<Item = &'t str>) -> Option<(&'t str, &'n str)> {
    let rest = name.strip_prefix("eval_")?;
    tasks
        .filter_map(|task| Some((task, rest.strip_prefix(task)?.strip_prefix('_')?)))
        .max_by_key(|(task, _)| task.len())
        .filter(|(_, score)| *score != "loss" && !NO_SCORE.contains(score))
}

/// Adds every whole epoch between two entries, its step by interpolation.
fn mark_epochs(epochs: &mut Vec<(f64, u64)>, before: Option<(f64, f64)>, now: (f64, f64)) {
    let (step_before, epoch_before) = before.unwrap_or((0.0, 0.0));
    let (step, epoch) = now;
    if !epoch.is_finite() || epoch <= epoch_before || epoch - epoch_before > 1e4 {
        return;
    }
    for whole in (epoch_before.floor() as u64 + 1)..=(epoch.floor() as u64) {
        let share = (whole as f64 - epoch_before) / (epoch - epoch_before);
        epochs.push((step_before + share * (step - step_before), whole));
    }
}

/// Exponential moving average, smoother the longer the series: `smooth` of LLaMA-Factory's `extras/ploting.py`.
///
/// Values that are not finite stay as they are and do not enter the average.
pub fn smoothed(points: &[Point]) -> Vec<Point> {
    let weight = 1.8 * (1.0 / (1.0 + (-0.05 * points.len() as f64).exp()) - 0.5);
    let mut last: Option<f64> = None;
    points
        .iter()
        .map(|&(step, value)| {
            if !value.is_finite() {
                return (step, f64::NAN);
            }
            let next = last.map_or(value, |last| last * weight + (1.0 - weight) * value);
            last = Some(next);
            (step, next)
        })
        .collect()
}

/// At most about [`MOST_POINTS`] points with the same outline: the lowest and highest of each stretch.
pub fn thinned(points: &[Point]) -> Vec<Point> {
    if points.len() <= MOST_POINTS {
        return points.to_vec();
    }
    let stretch = points.len().div_ceil(MOST_POINTS / 2);
    let mut kept = Vec::with_capacity(MOST_POINTS + 2);
    for part in points.chunks(stretch) {
        let finite = || part.iter().enumerate().filter(|(_, point)| point.1.is_finite());
        let lowest = finite().min_by(|a, b| a.1.1.total_cmp(&b.1.1));
        let highest = finite().max_by(|a, b| a.1.1.total_cmp(&b.1.1));
        match (lowest, highest) {
            (Some((i, a)), Some((j, b))) if i < j => kept.extend([*a, *b]),
            (Some((i, a)), Some((j, b))) if i > j => kept.extend([*b, *a]),
            (Some((_, a)), _) => kept.push(*a),
            _ => kept.extend(part.first()),
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_entry_finds_its_curve() {
        let history = [
            LogEntry::new(10, 0.5)
                .with("loss", 2.0)
                .with("loss/qa", 1.0)
                .with("learning_rate", 1e-4)
                .with("grad_norm", 0.5)
                .with("weight/qa", 0.8)
                .with("share/qa", 0.4)
                .with("share_asked/qa", 0.5)
                .with("share_tokens/qa", 0.3)
                .with("cos/qa/sum", -0.1),
            LogEntry::new(10, 0.5)
                .with("eval_loss", 2.5)
                .with("eval_qa_loss", 1.5)
                .with("eval_qa_f1", 0.25)
                .with("eval_qa_runtime", 2.0)
                .with("eval_runtime", 3.0),
            LogEntry::new(30, 1.5).with("loss", 1.0),
            LogEntry::new(50, 2.5).with("train_loss", 1.5),
        ];
        let curves = curves(&history);
        assert_eq!(curves.total, Series { train: vec![(10.0, 2.0), (30.0, 1.0)], eval: vec![(10.0, 2.5)] });
        assert_eq!(curves.tasks["qa"], Series { train: vec![(10.0, 1.0)], eval: vec![(10.0, 1.5)] });
        assert_eq!(curves.tasks.len(), 1);
        assert_eq!(curves.learning_rate, [(10.0, 1e-4)]);
        assert_eq!(curves.grad_norm, [(10.0, 0.5)]);
        assert_eq!(curves.weights["qa"], [(10.0, 0.8)]);
        assert_eq!(curves.shares["qa"], [(10.0, 0.4)]);
        assert_eq!(curves.shares_asked["qa"], [(10.0, 0.5)]);
        assert_eq!(curves.token_shares["qa"], [(10.0, 0.3)]);
        assert_eq!(curves.cosines["qa/sum"], [(10.0, -0.1)]);
        assert_eq!(curves.scores.keys().collect::<Vec<_>>(), [&("qa".to_string(), "f1".to_string())]);
        assert_eq!(curves.epochs, [(20.0, 1), (40.0, 2)]);
        assert_eq!(curves.last_step, 50);
    }

    #[test]
    fn scores_belong_to_the_task_with_the_longest_name() {
        let tasks = ["qa", "qa_long"];
        let score = |name| score_of(name, tasks.into_iter());
        assert_eq!(score("eval_qa_long_f1"), Some(("qa_long", "f1")));
        assert_eq!(score("eval_qa_exact_match"), Some(("qa", "exact_match")));
        assert_eq!(score("eval_qa_long_loss"), None);
        assert_eq!(score("eval_loss"), None);
    }

    #[test]
    fn smoothing_follows_llamafactory() {
        // smooth([4, 2, 3, 1]) of extras/ploting.py, evaluated in Python.
        let points = [(1.0, 4.0), (2.0, 2.0), (3.0, 3.0), (4.0, 1.0)];
        let expected = [4.0, 2.179_402_390_324_920_4, 2.926_391_413_664_687, 1.172_799_612_156_424];
        for ((_, got), expected) in smoothed(&points).into_iter().zip(expected) {
            assert!((got - expected).abs() < 1e-12, "{got} is not {expected}");
        }
        let holes = smoothed(&[(1.0, 4.0), (2.0, f64::NAN), (3.0, 4.0)]);
        assert!(holes[1].1.is_nan());
        assert_eq!(holes[2].1, 4.0);
    }

    #[test]
    fn thinning_keeps_the_extremes() {
        let mut points: Vec<Point> =
            (0..100_000).map(|i| (f64::from(i), (f64::from(i) * 0.37).sin())).collect();
        points[43_210].1 = 9.0;
        points[65_432].1 = -9.0;
        points[7].1 = f64::NAN;
        let kept = thinned(&points);
        assert!(kept.len() <= MOST_POINTS + 2, "{}", kept.len());
        assert!(kept.contains(&(43_210.0, 9.0)) && kept.contains(&(65_432.0, -9.0)));
        assert!(kept.windows(2).all(|pair| pair[0].0 < pair[1].0));
        assert_eq!(thinned(&points[100..200]), points[100..200]);
    }
}
