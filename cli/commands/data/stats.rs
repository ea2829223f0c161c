//! `medley data stats`: how much of what there is, how long, and what repeats.

use std::collections::HashMap;
use std::io::IsTerminal;

use anyhow::{Context, Result};
use medley_model::tokenizer::Tokenizer;
use medley_tensor::io::write_atomic;
use medley_train::config::{Stage, TrainConfig};
use medley_train::data::{
    Contamination, Dataset, LoadOptions, Split, Tasks, check_pt, check_sft, contamination, data_files,
    duplicates,
};
use medley_train::trainer::setup;
use serde::Serialize;

use super::{Opened, eval_files, open, rows_of};
use crate::args::Settings;
use crate::table;

/// Replies of a task are counted as labels where there are no more different ones than this, …
const MOST_LABELS: usize = 50;
/// … and each comes so often on average.
const LEAST_REPEATS: usize = 5;
/// Histograms and label tables are printed of the first so many tasks; the JSON file has all.
const PRINTED_TASKS: usize = 12;
/// Bars of the longest kind.
const BAR: usize = 32;

/// What is known of one task's training data.
#[derive(Debug, Default, Serialize)]
struct TaskStats {
    task: String,
    rows: usize,
    row_share: f64,
    examples: usize,
    tokens: u64,
    learned_tokens: u64,
    learned_share: f64,
    truncated: usize,
    left_out: usize,
    duplicates: usize,
    /// Training rows whose prompt is in the evaluation data, and those of them with the same reply.
    contaminated: usize,
    contaminated_same_reply: usize,
    /// Examples that `val_size` holds out.
    held_out: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    length: Option<Lengths>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    labels: Vec<Label>,
}

/// Tokens of an example, of all of a task.
#[derive(Debug, Serialize)]
struct Lengths {
    mean: f64,
    min: u32,
    p50: u32,
    p90: u32,
    p95: u32,
    p99: u32,
    max: u32,
    histogram: Vec<Bin>,
}

/// Examples of `from` to `to` tokens, both included.
#[derive(Debug, Serialize)]
struct Bin {
    from: u32,
    to: u32,
    count: usize,
}

/// A reply that comes often.
#[derive(Debug, Serialize)]
struct Label {
    label: String,
    count: usize,
    share: f64,
}

/// `medley data stats`: a table of the tasks; with a model, lengths, histograms and labels too.
///
/// # Errors
/// Model, data or template cannot be used; the JSON file cannot be written.
pub fn stats(settings: &Settings) -> Result<()> {
    let config = &settings.config;
    let opened = open(config)?;
    let mut tasks = Tasks::default();
    let train = read(config, Split::Train, opened.as_ref(), &mut tasks)?;
    let found = match eval_files(config)? {
        Some(_) => {
            let eval = read(config, Split::Eval, opened.as_ref(), &mut tasks)?;
            Some((contamination(&train, &eval), None))
        }
        None if config.data.val_size > 0.0 && opened.is_some() => {
            let (kept, held) = train.split(config.data.val_size, setup::data_seed(config))?;
            Some((contamination(&kept, &held), Some(held)))
        }
        None => None,
    };
    let all = gather(&train, found.as_ref(), opened.as_ref())?;
    print(&all, config, opened.is_some(), found.is_some());
    for warning in train.warnings() {
        println!("warning: {warning}");
    }
    if let Some(path) = &settings.command.output {
        let text = serde_json::to_vec_pretty(&serde_json::json!({ "tasks": all }))?;
        write_atomic(path, &text).context("--output")?;
        println!("\nwritten to {}", path.display());
    }
    Ok(())
}

/// The data in tokens where a model is named, else only what the rows say themselves.
fn read(config: &TrainConfig, split: Split, opened: Option<&Opened>, tasks: &mut Tasks) -> Result<Dataset> {
    if let Some(Opened { tokenizer, renderer }) = opened {
        return Ok(setup::tokenised(config, split, renderer.as_ref(), tokenizer, tasks)?);
    }
    let (files, options) = (data_files(&config.data, split)?, LoadOptions::of(config));
    let (data, found) = match config.train.stage {
        Stage::Sft => check_sft(&files, None, &options, 1, tasks)?,
        Stage::Pt => check_pt(&files, None, setup::pt_options(config, split), &options, 1, tasks)?,
    };
    match found.problems.into_iter().next() {
        Some(problem) => Err(problem.into()),
        None => Ok(data),
    }
}

fn gather(
    train: &Dataset,
    found: Option<&(Contamination, Option<Dataset>)>,
    opened: Option<&Opened>,
) -> Result<Vec<TaskStats>> {
    let names = train.tasks().names();
    let mut lengths: Vec<Vec<u32>> = vec![Vec::new(); names.len()];
    let mut replies: Vec<Replies> = names.iter().map(|_| Replies::default()).collect();
    if opened.is_some() {
        for (i, example) in train.iter().enumerate() {
            lengths[example.task.index()].push(example.ids.len() as u32);
            replies[example.task.index()].add(i, &example);
        }
    }
    let reports = train.reports();
    let rows: usize = reports.iter().map(|r| r.rows).sum();
    let learned: u64 = reports.iter().map(|r| r.label_tokens).sum();
    let width = bin_width(lengths.iter().flatten().copied().max().unwrap_or(1));
    let (repeats, none) = (duplicates(train), Vec::new());
    let shared = found.map_or(&none, |(found, _)| &found.tasks);
    let mut held_out = vec![0; names.len()];
    for id in found.and_then(|(_, held)| held.as_ref()).map(Dataset::task_ids).unwrap_or_default() {
        held_out[id.index()] += 1;
    }
    let mut all = Vec::with_capacity(names.len());
    for (id, name) in names.iter().enumerate().filter(|(id, _)| reports[*id].rows > 0) {
        let report = &reports[id];
        let both = shared.iter().find(|t| t.task == *name);
        all.push(TaskStats {
            task: name.clone(),
            rows: report.rows,
            row_share: report.rows as f64 / rows.max(1) as f64,
            examples: report.examples,
            tokens: report.tokens,
            learned_tokens: report.label_tokens,
            learned_share: report.label_tokens as f64 / learned.max(1) as f64,
            truncated: report.truncated,
            left_out: report.dropped + report.repeated,
            duplicates: report.repeated
                + repeats.tasks.iter().find(|t| t.task == *name).map_or(0, |t| t.repeated),
            contaminated: both.map_or(0, |t| t.repeated),
            contaminated_same_reply: both.map_or(0, |t| t.same_reply),
            held_out: held_out[id],
            length: Lengths::of(std::mem::take(&mut lengths[id]), width),
            labels: match opened {
                Some(opened) => replies[id].labels(train, report.examples, &opened.tokenizer)?,
                None => Vec::new(),
            },
        });
    }
    Ok(all)
}

/// How often each reply of a task comes; given up where there are many.
#[derive(Default)]
struct Replies {
    /// By the learned ids: count, and the first example with them.
    counts: HashMap<Vec<u32>, (usize, usize)>,
    many: bool,
}

impl Replies {
    fn add(&mut self, index: usize, example: &medley_train::data::Example<'_>) {
        if self.many {
            return;
        }
        let learned = learned(example);
        self.counts.entry(learned).or_insert((0, index)).0 += 1;
        if self.counts.len() > MOST_LABELS {
            (self.many, self.counts) = (true, HashMap::new());
        }
    }

    fn labels(&self, data: &Dataset, examples: usize, tokenizer: &Tokenizer) -> Result<Vec<Label>> {
        let distinct = self.counts.len();
        if self.many || distinct < 2 || examples < LEAST_REPEATS * distinct {
            return Ok(Vec::new());
        }
        let mut counts: Vec<(usize, usize)> = self.counts.values().copied().collect();
        counts.sort_by_key(|&(count, first)| (std::cmp::Reverse(count), first));
        let mut labels = Vec::with_capacity(distinct);
        for (count, first) in counts {
            let Some(example) = data.get(first) else { continue };
            let label = tokenizer.decode(&learned(&example), true)?.trim().to_string();
            labels.push(Label { label, count, share: count as f64 / examples as f64 });
        }
        Ok(labels)
    }
}

fn learned(example: &medley_train::data::Example<'_>) -> Vec<u32> {
    example
        .labels
        .iter()
        .flat_map(|s| &example.ids[s.positions.start as usize..s.positions.end as usize])
        .copied()
        .collect()
}

impl Lengths {
    fn of(mut lengths: Vec<u32>, width: u32) -> Option<Lengths> {
        lengths.sort_unstable();
        let (&min, &max) = (lengths.first()?, lengths.last()?);
        // Nearest rank: the smallest length that this share of the examples does not exceed.
        let at = |q: f64| lengths[((q * lengths.len() as f64).ceil() as usize).max(1) - 1];
        let total: u64 = lengths.iter().map(|&l| u64::from(l)).sum();
        let histogram = (min / width..=max / width)
            .map(|bin| {
                let (from, to) = (bin * width, (bin + 1) * width - 1);
                let count = lengths.partition_point(|&l| l <= to) - lengths.partition_point(|&l| l < from);
                Bin { from, to, count }
            })
            .collect();
        Some(Lengths {
            mean: total as f64 / lengths.len() as f64,
            min,
            p50: at(0.5),
            p90: at(0.9),
            p95: at(0.95),
            p99: at(0.99),
            max,
            histogram,
        })
    }
}

/// 1, 2 or 5 times a power of ten, such that the longest example is in about the twelfth bin.
fn bin_width(longest: u32) -> u32 {
    let wanted = longest.div_ceil(12).max(1);
    let power = 10u32.pow(wanted.ilog10());
    [1, 2, 5].into_iter().map(|m| m * power).find(|&w| w >= wanted).unwrap_or(10 * power)
}

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

fn print(all: &[TaskStats], config: &TrainConfig, tokens: bool, evaluation: bool) {
    let rows_name = rows_of(config.train.stage);
    let mut header = vec!["task", rows_name, "share"];
    if tokens {
        header.extend(["examples", "tokens", "learned", "share", "cut", "left out"]);
    }
    header.push("repeated");
    if evaluation {
        header.extend(["in eval", "same reply"]);
    }
    if config.data.val_size > 0.0 && tokens {
        header.push("held out");
    }
    let rows: Vec<Vec<String>> = all
        .iter()
        .map(|t| {
            let mut cells = vec![t.task.clone(), t.rows.to_string(), percent(t.row_share)];
            if tokens {
                cells.extend([
                    t.examples.to_string(),
                    t.tokens.to_string(),
                    t.learned_tokens.to_string(),
                    percent(t.learned_share),
                    t.truncated.to_string(),
                    t.left_out.to_string(),
                ]);
            }
            cells.push(t.duplicates.to_string());
            if evaluation {
                cells.extend([t.contaminated.to_string(), t.contaminated_same_reply.to_string()]);
            }
            if config.data.val_size > 0.0 && tokens {
                cells.push(t.held_out.to_string());
            }
            cells
        })
        .collect();
    print!("{}", table::render(&header, &rows));
    if !tokens {
        println!("\nname a model (--model_name_or_path) to count tokens");
        return;
    }
    println!("\ntokens an example");
    let lengths = all.iter().filter_map(|t| t.length.as_ref().map(|l| (t, l)));
    let rows: Vec<Vec<String>> = lengths
        .clone()
        .map(|(t, l)| {
            let mut cells = vec![t.task.clone(), format!("{:.1}", l.mean)];
            cells.extend([l.min, l.p50, l.p90, l.p95, l.p99, l.max].map(|n| n.to_string()));
            cells
        })
        .collect();
    print!(
        "{}",
        table::render(&["task", "mean", "shortest", "median", "90 %", "95 %", "99 %", "longest"], &rows)
    );
    let unicode = std::io::stdout().is_terminal();
    for (t, l) in lengths.take(PRINTED_TASKS) {
        println!("\n{}: examples by tokens", t.task);
        let most = l.histogram.iter().map(|b| b.count).max().unwrap_or(1);
        for bin in &l.histogram {
            let range = format!("{}–{}", bin.from, bin.to);
            println!("{range:>13}  {} {}", bar(bin.count, most, unicode), bin.count);
        }
    }
    for t in all.iter().filter(|t| !t.labels.is_empty()).take(PRINTED_TASKS) {
        println!("\n{}: {} different replies", t.task, t.labels.len());
        let rows: Vec<Vec<String>> =
            t.labels.iter().map(|l| vec![short(&l.label), l.count.to_string(), percent(l.share)]).collect();
        print!("{}", table::render(&["label", "count", "share"], &rows));
    }
}

/// A label on one line of a table.
fn short(label: &str) -> String {
    let line: String = label.chars().take(60).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if label.chars().count() > 60 { line + "…" } else { line }
}

/// A bar of `count` of `most`: eighths of a block in a terminal, else `#`.
fn bar(count: usize, most: usize, unicode: bool) -> String {
    if !unicode {
        let length = (count * BAR).div_ceil(most.max(1));
        return "#".repeat(length);
    }
    let eighths = (count * BAR * 8).div_ceil(most.max(1));
    let rest = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"][eighths % 8];
    "█".repeat(eighths / 8) + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_nearest_ranks_and_bins_cover_all() {
        let lengths = Lengths::of((1..=100).rev().collect(), bin_width(100)).unwrap();
        assert_eq!((lengths.min, lengths.p50, lengths.p95, lengths.max), (1, 50, 95, 100));
        assert_eq!(lengths.mean, 50.5);
        assert_eq!(lengths.histogram.iter().map(|b| b.count).sum::<usize>(), 100);
        let first = &lengths.histogram[0];
        assert_eq!((first.from, first.to, first.count), (0, 9, 9));
        assert_eq!(Lengths::of(vec![7], 5).unwrap().p50, 7);
        assert!(Lengths::of(vec![], 5).is_none());
        let widths = [1, 12, 13, 60, 61, 2048, u32::MAX / 2].map(bin_width);
        assert_eq!(widths, [1, 1, 2, 5, 10, 200, 200_000_000]);
    }

    #[test]
    fn bars_are_as_long_as_their_share() {
        assert_eq!(bar(10, 10, false), "#".repeat(BAR));
        assert_eq!(bar(5, 10, true), "█".repeat(BAR / 2));
        assert_eq!(bar(0, 10, true), "");
        assert_eq!(bar(1, 100_000, true), "▏", "what is there can be seen");
        assert_eq!(bar(1, 100_000, false), "#");
    }
}
