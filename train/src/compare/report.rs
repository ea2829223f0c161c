//! The tables of a comparison.

use super::{CompareOptions, Deployment, Role, Run, Scores, Serving};
use crate::config::TrainConfig;
use crate::metrics::TaskReport;
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// A score over the seeds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// Mean.
    pub mean: f64,
    /// Sample standard deviation; 0 for one seed.
    pub sd: f64,
}

impl Spread {
    /// Of the values of all seeds.
    pub fn of(values: &[f64]) -> Spread {
        let n = values.len().max(1) as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
        Spread { mean, sd: if values.len() > 1 { (squares / (n - 1.0)).sqrt() } else { 0.0 } }
    }
}

/// One task's line of the table. Scores are shares in [0, 1].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskRow {
    /// The task.
    pub task: String,
    /// The score that stands for it: `macro_f1` where answers are labels, else `f1` (SQuAD's, over words).
    pub metric: String,
    /// Examples trained on, by each side.
    pub trained_examples: u64,
    /// Examples answered.
    pub scored_examples: usize,
    /// The base model, untrained.
    pub base: f64,
    /// Trained on this task alone.
    pub single: Spread,
    /// Trained on all tasks.
    pub joint: Spread,
    /// Joint minus single, seed by seed.
    pub gain: Spread,
}

/// A joint run against single-task runs of the same budget.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Seeds, each of which trained every run once.
    pub seeds: Vec<u64>,
    /// Optimizer steps of the joint run; the single runs have as many together, but for rounding up.
    pub joint_steps: u64,
    /// Optimizer steps of the single runs in all.
    pub single_steps: u64,
    /// A line a task.
    pub tasks: Vec<TaskRow>,
    /// Serving K models against one.
    pub deployment: Deployment,
    /// The joint run's configuration.
    pub config: TrainConfig,
}

/// The score that stands for a task, as it was for its first report.
fn metric(report: &TaskReport) -> &'static str {
    if report.macro_f1.is_some() { "macro_f1" } else { "f1" }
}

fn value(report: &TaskReport, metric: &str) -> f64 {
    report.scores().into_iter().find(|(name, _)| *name == metric).map_or(0.0, |(_, value)| value)
}

impl Comparison {
    pub(super) fn new(
        config: &TrainConfig,
        options: &CompareOptions,
        runs: &[Run],
        base: Scores,
        scored: &[(&Run, Scores)],
        deployment: Deployment,
    ) -> Comparison {
        let of = |seed: u64, role: &Role, task: &str, metric: &str| {
            let found = scored.iter().find(|(run, _)| run.seed == seed && run.role == *role);
            found.and_then(|(_, scores)| scores.get(task)).map_or(0.0, |report| value(report, metric))
        };
        let first: Vec<&Run> = runs.iter().filter(|r| Some(&r.seed) == options.seeds.first()).collect();
        let singles = || first.iter().filter(|r| r.role != Role::Joint);
        let tasks = singles()
            .filter_map(|run| {
                let task = run.role.name();
                let report = base.get(task)?;
                let metric = metric(report);
                let single = |seed: &u64| of(*seed, &Role::Single(task.to_string()), task, metric);
                let joint = |seed: &u64| of(*seed, &Role::Joint, task, metric);
                let all =
                    |f: &dyn Fn(&u64) -> f64| Spread::of(&options.seeds.iter().map(f).collect::<Vec<_>>());
                Some(TaskRow {
                    task: task.to_string(),
                    metric: metric.to_string(),
                    trained_examples: run.examples.iter().map(|(_, n)| n).sum(),
                    scored_examples: report.examples,
                    base: value(report, metric),
                    single: all(&single),
                    joint: all(&joint),
                    gain: all(&|seed| joint(seed) - single(seed)),
                })
            })
            .collect();
        Comparison {
            seeds: options.seeds.clone(),
            joint_steps: first.iter().find(|r| r.role == Role::Joint).map_or(0, |r| r.steps),
            single_steps: singles().map(|r| r.steps).sum(),
            tasks,
            deployment,
            config: config.clone(),
        }
    }

    /// Header and rows of the table of scores, in per cent.
    pub fn score_table(&self) -> (Vec<&'static str>, Vec<Vec<String>>) {
        let header = vec!["task", "trained on", "scored", "metric", "base", "single", "joint", "gain"];
        let rows = self.tasks.iter().map(|t| {
            vec![
                t.task.clone(),
                t.trained_examples.to_string(),
                t.scored_examples.to_string(),
                t.metric.clone(),
                format!("{:.1}", 100.0 * t.base),
                self.spread(t.single, false),
                self.spread(t.joint, false),
                self.spread(t.gain, true),
            ]
        });
        (header, rows.collect())
    }

    fn spread(&self, s: Spread, signed: bool) -> String {
        let mean = if signed { format!("{:+.1}", 100.0 * s.mean) } else { format!("{:.1}", 100.0 * s.mean) };
        if self.seeds.len() > 1 { format!("{mean} ± {:.1}", 100.0 * s.sd) } else { mean }
    }

    /// Header and rows of the deployment table.
    pub fn deployment_table(&self) -> (Vec<&'static str>, Vec<Vec<String>>) {
        let header = vec!["served by", "weights in memory", "trained files", "one request", "mixed batch"];
        let d = &self.deployment;
        let row = |name: String, s: &Serving| {
            vec![
                name,
                megabytes(s.weight_bytes),
                megabytes(s.trained_bytes),
                format!("{:.0} ms", s.single_request_ms),
                format!("{:.0} ms", s.mixed_batch_ms),
            ]
        };
        let mut rows = vec![row(format!("{} models, one a task", d.separate.models), &d.separate)];
        if let Some(shared) = &d.adapters_on_one_base {
            rows.push(row(format!("one base, {} adapters", d.separate.models), shared));
        }
        rows.push(row("the joint model".into(), &d.joint));
        (header, rows)
    }

    /// What the table says of each task, in words: a gain counts where it is larger than its spread over the seeds.
    pub fn verdicts(&self) -> Vec<String> {
        let gains = self.tasks.iter().map(|t| {
            let Spread { mean, sd } = t.gain;
            let points = format!("{:+.1} points of {}", 100.0 * mean, t.metric);
            if self.seeds.len() < 2 {
                format!("{}: {points} from one seed; give several --seeds to tell it from chance", t.task)
            } else if mean.abs() <= sd {
                format!("{}: no difference beyond the seeds' spread ({points} ± {:.1})", t.task, 100.0 * sd)
            } else if mean > 0.0 {
                format!("{}: joint training is better ({points} ± {:.1})", t.task, 100.0 * sd)
            } else {
                format!("{}: joint training is worse ({points} ± {:.1})", t.task, 100.0 * sd)
            }
        });
        gains.collect()
    }

    /// The whole as Markdown.
    pub fn markdown(&self) -> String {
        let mut out = String::from("# Joint training against one model a task\n\n");
        let seeds: Vec<String> = self.seeds.iter().map(u64::to_string).collect();
        let _ = writeln!(
            out,
            "Seeds {}. The joint run has {} steps, the single runs {} together; each task is trained on the same \
             number of examples in both.\n",
            seeds.join(", "),
            self.joint_steps,
            self.single_steps
        );
        out += &markdown_table(&self.score_table());
        out.push('\n');
        for verdict in self.verdicts() {
            let _ = writeln!(out, "- {verdict}");
        }
        let d = &self.deployment;
        let _ = writeln!(
            out,
            "\n## Serving\n\nA mixed batch is {} requests, equally many of each task, {} tokens generated for each.\n",
            d.requests, d.tokens
        );
        out += &markdown_table(&self.deployment_table());
        out
    }
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

fn markdown_table((header, rows): &(Vec<&'static str>, Vec<Vec<String>>)) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let mut out = line(&header.iter().map(|h| (*h).to_string()).collect::<Vec<_>>());
    out += &line(&header.iter().map(|_| "---".to_string()).collect::<Vec<_>>());
    for row in rows {
        out += &line(row);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn comparison(gains: &[[f64; 2]], seeds: &[u64]) -> Comparison {
        let serving = Serving {
            models: 3,
            weight_bytes: 3_000_000,
            trained_bytes: 300,
            single_request_ms: 10.0,
            mixed_batch_ms: 30.0,
        };
        let tasks = gains.iter().enumerate().map(|(i, [mean, sd])| TaskRow {
            task: format!("t{i}"),
            metric: "f1".into(),
            trained_examples: 10,
            scored_examples: 5,
            base: 0.1,
            single: Spread { mean: 0.5, sd: 0.01 },
            joint: Spread { mean: 0.5 + mean, sd: 0.01 },
            gain: Spread { mean: *mean, sd: *sd },
        });
        Comparison {
            seeds: seeds.to_vec(),
            joint_steps: 6,
            single_steps: 6,
            tasks: tasks.collect(),
            deployment: Deployment {
                requests: 6,
                tokens: 8,
                separate: serving.clone(),
                adapters_on_one_base: None,
                joint: Serving { models: 1, weight_bytes: 1_000_000, ..serving },
            },
            config: TrainConfig::default(),
        }
    }

    #[test]
    fn spreads_are_sample_deviations() {
        let s = Spread::of(&[1.0, 2.0, 4.0]);
        // statistics.stdev([1, 2, 4])
        assert!((s.mean - 7.0 / 3.0).abs() < 1e-12 && (s.sd - 1.527_525_231_651_946_8).abs() < 1e-12);
        assert_eq!(Spread::of(&[3.0]), Spread { mean: 3.0, sd: 0.0 });
    }

    #[test]
    fn a_gain_within_the_noise_is_no_gain() {
        let c = comparison(&[[0.02, 0.005], [-0.02, 0.005], [0.004, 0.01]], &[1, 2, 3]);
        let [better, worse, even] = &c.verdicts()[..] else { panic!("three tasks") };
        assert!(better.contains("is better (+2.0 points"), "{better}");
        assert!(worse.contains("is worse (-2.0 points"), "{worse}");
        assert!(even.contains("no difference"), "{even}");
        let one = comparison(&[[0.02, 0.0]], &[1]).verdicts().remove(0);
        assert!(one.contains("one seed"), "{one}");
    }

    #[test]
    fn the_markdown_has_both_tables() {
        let text = comparison(&[[0.02, 0.005]], &[1, 2]).markdown();
        assert!(
            text.contains("| t0 | 10 | 5 | f1 | 10.0 | 50.0 ± 1.0 | 52.0 ± 1.0 | +2.0 ± 0.5 |"),
            "{text}"
        );
        assert!(text.contains("| the joint model | 1.0 MB | 0.0 MB | 10 ms | 30 ms |"), "{text}");
    }
}
