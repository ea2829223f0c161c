//! Which tasks pull the shared weights apart: cosines between their gradients, over a run.
//!
//! The cosine between the gradients of two tasks' losses at the same weights is above 0 where a step for one
//! helps the other, below 0 where it undoes it (Yu et al. 2020, arXiv 2001.06782, definition 1: conflicting
//! gradients). Single mini-batches are noisy and noise pulls a cosine towards 0, so the report averages many and
//! calls a pair what it is only when the mean is two standard errors clear of 0.

use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// File name of the report in the output folder.
pub const GRADIENT_CONFLICTS: &str = "gradient_conflicts.json";

/// Mean cosines at least so far from 0 are called conflict or help.
pub const NOTABLE_COSINE: f64 = 0.05;
/// Fewer measurements than this are no ground for advice.
pub const LEAST_MEASUREMENTS: u64 = 3;
/// A mean gradient norm so many times another's dominates the step.
pub const DOMINANCE: f64 = 5.0;

/// Count, mean, spread and range of a series, updated one number at a time (Welford).
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Moments {
    /// Numbers seen.
    pub count: u64,
    /// Their mean; 0 for none.
    pub mean: f64,
    /// Sum of squared deviations from the mean.
    pub squares: f64,
    /// The smallest; 0 for none.
    pub min: f64,
    /// The largest; 0 for none.
    pub max: f64,
}

impl Moments {
    fn add(&mut self, value: f64) {
        (self.min, self.max) = match self.count {
            0 => (value, value),
            _ => (self.min.min(value), self.max.max(value)),
        };
        self.count += 1;
        let off = value - self.mean;
        self.mean += off / self.count as f64;
        self.squares += off * (value - self.mean);
    }

    /// Sample standard deviation; 0 for fewer than two numbers.
    pub fn deviation(&self) -> f64 {
        if self.count < 2 { 0.0 } else { (self.squares / (self.count - 1) as f64).sqrt() }
    }
}

/// Cosines and norms measured so far.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Conflicts {
    /// Of each task's gradient.
    norms: Vec<Moments>,
    /// Of each pair (a, b), a < b, in the order (0,1), (0,2), …, (1,2), ….
    pairs: Vec<Moments>,
}

/// One measurement: norms of tasks and cosines of pairs, where both tasks had labelled tokens in the step.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Measurement {
    /// Task and L2 norm of the gradient of its mean loss.
    pub norms: Vec<(usize, f64)>,
    /// Two tasks, the lower index first, and the cosine between their gradients.
    pub cosines: Vec<(usize, usize, f64)>,
}

impl Measurement {
    /// From the Gram matrix of gradients `f_i·∇L_i` (\[K\]\[K\]) and their factors f_i (\[K\]); tasks whose factor or
    /// norm is 0 or not finite are left out.
    pub fn new(gram: &[Vec<f64>], factors: &[f64]) -> Self {
        let usable = |i: &usize| {
            gram[*i][*i] > 0.0 && gram[*i][*i].is_finite() && factors[*i].is_finite() && factors[*i] > 0.0
        };
        let tasks: Vec<usize> = (0..gram.len()).filter(usable).collect();
        let norms = tasks.iter().map(|&i| (i, gram[i][i].sqrt() / factors[i])).collect();
        let mut cosines = vec![];
        for (n, &a) in tasks.iter().enumerate() {
            for &b in &tasks[n + 1..] {
                let cosine = gram[a][b] / (gram[a][a].sqrt() * gram[b][b].sqrt());
                if cosine.is_finite() {
                    cosines.push((a, b, cosine.clamp(-1.0, 1.0)));
                }
            }
        }
        Measurement { norms, cosines }
    }
}

impl Conflicts {
    /// Nothing measured, for `tasks` tasks.
    pub fn new(tasks: usize) -> Self {
        let none = Moments::default();
        Conflicts { norms: vec![none; tasks], pairs: vec![none; tasks * tasks.saturating_sub(1) / 2] }
    }

    /// How many tasks it is for.
    pub fn tasks(&self) -> usize {
        self.norms.len()
    }

    /// Adds a measurement.
    pub fn add(&mut self, measurement: &Measurement) {
        for (task, norm) in &measurement.norms {
            self.norms[*task].add(*norm);
        }
        for (a, b, cosine) in &measurement.cosines {
            let place = self.place(*a, *b);
            self.pairs[place].add(*cosine);
        }
    }

    fn place(&self, a: usize, b: usize) -> usize {
        let (a, b) = (a.min(b), a.max(b));
        a * self.norms.len() - a * (a + 1) / 2 + b - a - 1
    }

    /// What was measured, for the tasks of these names; `None` when no two tasks were ever measured together.
    pub fn report(&self, names: &[String], every_steps: u64) -> Option<ConflictReport> {
        let measured: Vec<usize> = (0..self.norms.len()).filter(|i| self.norms[*i].count > 0).collect();
        let mut pairs = vec![];
        for (n, &a) in measured.iter().enumerate() {
            for &b in &measured[n + 1..] {
                let cosine = self.pairs[self.place(a, b)];
                if cosine.count > 0 {
                    pairs.push(Pair {
                        tasks: [names[a].clone(), names[b].clone()],
                        verdict: Verdict::of(&cosine),
                        cosine: cosine.mean,
                        deviation: cosine.deviation(),
                        min: cosine.min,
                        max: cosine.max,
                        measurements: cosine.count,
                    });
                }
            }
        }
        if pairs.is_empty() {
            return None;
        }
        let cell = |a: usize, b: usize| {
            let pair = self.pairs[self.place(a, b)];
            (pair.count > 0).then_some(pair.mean)
        };
        let cosines = measured
            .iter()
            .map(|&a| measured.iter().map(|&b| if a == b { Some(1.0) } else { cell(a, b) }).collect())
            .collect();
        let mut report = ConflictReport {
            every_steps,
            tasks: measured.iter().map(|i| names[*i].clone()).collect(),
            gradient_norms: measured.iter().map(|i| self.norms[*i].mean).collect(),
            cosines,
            pairs,
            advice: vec![],
        };
        report.advice = report.advise();
        Some(report)
    }
}

/// What two tasks do to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Mean cosine ≤ −[`NOTABLE_COSINE`], two standard errors below 0.
    Conflict,
    /// Mean cosine ≥ [`NOTABLE_COSINE`], two standard errors above 0.
    Help,
    /// Neither: at right angles as far as can be told.
    Independent,
    /// Fewer than [`LEAST_MEASUREMENTS`].
    TooFew,
}

impl Verdict {
    fn of(cosine: &Moments) -> Self {
        if cosine.count < LEAST_MEASUREMENTS {
            return Verdict::TooFew;
        }
        let margin = 2.0 * cosine.deviation() / (cosine.count as f64).sqrt();
        if cosine.mean <= -NOTABLE_COSINE && cosine.mean + margin < 0.0 {
            Verdict::Conflict
        } else if cosine.mean >= NOTABLE_COSINE && cosine.mean - margin > 0.0 {
            Verdict::Help
        } else {
            Verdict::Independent
        }
    }
}

/// Two tasks' gradients over the run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pair {
    /// Their names.
    pub tasks: [String; 2],
    /// What they do to each other.
    pub verdict: Verdict,
    /// Mean cosine.
    pub cosine: f64,
    /// Its standard deviation from measurement to measurement.
    pub deviation: f64,
    /// The lowest measured.
    pub min: f64,
    /// The highest measured.
    pub max: f64,
    /// Steps in which both were measured.
    pub measurements: u64,
}

/// `gradient_conflicts.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConflictReport {
    /// Steps between measurements.
    pub every_steps: u64,
    /// The tasks measured, in the order of the rows below.
    pub tasks: Vec<String>,
    /// Mean L2 norm of the gradient of each task's mean loss over the trained parameters.
    pub gradient_norms: Vec<f64>,
    /// Mean cosine of each pair, `None` where the two never met in a step. Symmetric, 1 on the diagonal.
    pub cosines: Vec<Vec<Option<f64>>>,
    /// The pairs, with their spread.
    pub pairs: Vec<Pair>,
    /// What follows, in sentences.
    pub advice: Vec<String>,
}

impl ConflictReport {
    fn advise(&self) -> Vec<String> {
        let mut advice: Vec<String> = self.pairs.iter().map(Pair::advice).collect();
        let by_norm = || self.tasks.iter().zip(&self.gradient_norms);
        let longest = by_norm().max_by(|a, b| a.1.total_cmp(b.1));
        let shortest = by_norm().min_by(|a, b| a.1.total_cmp(b.1));
        if let (Some((strong, most)), Some((weak, least))) = (longest, shortest)
            && *least > 0.0
            && most / least >= DOMINANCE
        {
            advice.push(format!(
                "{strong}'s gradient is {:.0} times as long as {weak}'s (mean norms {most:.3} and {least:.3}), so it \
                 decides most of a step: lower {strong}'s weight, raise {weak}'s, or use task_weighting: famo",
                most / least
            ));
        }
        advice
    }

    /// The matrix and the advice as lines of text.
    pub fn lines(&self) -> Vec<String> {
        let width = self.tasks.iter().map(|t| t.chars().count()).max().unwrap_or(0).max(6);
        let mut lines = vec![format!(
            "cosines between the tasks' gradients, every {} steps (mean; 1 same way, 0 independent, -1 opposite):",
            self.every_steps
        )];
        let mut head = format!("{:width$}", "");
        for task in &self.tasks {
            // Writing to a String cannot fail.
            let _ = write!(head, "  {task:>width$}");
        }
        lines.push(head + "  gradient norm");
        for ((task, row), norm) in self.tasks.iter().zip(&self.cosines).zip(&self.gradient_norms) {
            let mut line = format!("{task:width$}");
            for cell in row {
                let text = cell.map_or("-".to_string(), |c| format!("{c:.3}"));
                let _ = write!(line, "  {text:>width$}");
            }
            lines.push(line + &format!("  {norm:>13.4}"));
        }
        lines.extend(self.advice.iter().cloned());
        lines
    }
}

impl Pair {
    fn advice(&self) -> String {
        let [a, b] = &self.tasks;
        let n = self.measurements;
        let times = if n == 1 { "1 measurement".to_string() } else { format!("{n} measurements") };
        let seen = format!("(cosine {:+.2} over {times})", self.cosine);
        match self.verdict {
            Verdict::Conflict => format!(
                "{a} and {b} pull apart {seen}: lower one's weight, train them with gradient_surgery: pcgrad, or give \
                 them separate adapters"
            ),
            Verdict::Help => format!("{a} and {b} help each other {seen}: training them together pays"),
            Verdict::Independent => {
                format!("{a} and {b} neither help nor disturb each other {seen}: they may share the weights")
            }
            Verdict::TooFew => format!(
                "{a} and {b} met too rarely to tell {seen}: lower conflict_steps, or use sampling_strategy: balanced"
            ),
        }
    }
}
