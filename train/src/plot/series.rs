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
    /// Learning rate.
    pub learning_rate: Vec<Point>,
    /// Step and number of each epoch's end within the run.
    pub epochs: Vec<(f64, u64)>,
    /// The last step.
    pub last_step: u64,
}

/// Gathers the curves of `loss`, `loss/<task>`, `eval_loss`, `eval_<task>_loss` and `learning_rate`.
pub fn curves(history: &[LogEntry]) -> Curves {
    let mut curves = Curves::default();
    let mut before: Option<(f64, f64)> = None;
    for entry in history {
        let step = entry.step as f64;
        curves.last_step = curves.last_step.max(entry.step);
        for (name, value) in entry.values() {
            if name == "loss" {
                curves.total.train.push((step, value));
            } else if name == "eval_loss" {
                curves.total.eval.push((step, value));
            } else if name == "learning_rate" {
                curves.learning_rate.push((step, value));
            } else if let Some(task) = name.strip_prefix("loss/") {
                curves.tasks.entry(task.to_string()).or_default().train.push((step, value));
            } else if let Some(task) = name.strip_prefix("eval_").and_then(|rest| rest.strip_suffix("_loss"))
            {
                curves.tasks.entry(task.to_string()).or_default().eval.push((step, value));
            }
        }
        mark_epochs(&mut curves.epochs, before, (step, entry.epoch));
        before = Some((step, entry.epoch));
    }
    curves
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
            LogEntry::new(10, 0.5).with("loss", 2.0).with("loss/qa", 1.0).with("learning_rate", 1e-4),
            LogEntry::new(10, 0.5).with("eval_loss", 2.5).with("eval_qa_loss", 1.5).with("eval_runtime", 3.0),
            LogEntry::new(30, 1.5).with("loss", 1.0),
            LogEntry::new(50, 2.5).with("train_loss", 1.5),
        ];
        let curves = curves(&history);
        assert_eq!(curves.total, Series { train: vec![(10.0, 2.0), (30.0, 1.0)], eval: vec![(10.0, 2.5)] });
        assert_eq!(curves.tasks["qa"], Series { train: vec![(10.0, 1.0)], eval: vec![(10.0, 1.5)] });
        assert_eq!(curves.tasks.len(), 1);
        assert_eq!(curves.learning_rate, [(10.0, 1e-4)]);
        assert_eq!(curves.epochs, [(20.0, 1), (40.0, 2)]);
        assert_eq!(curves.last_step, 50);
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
