//! Tokenised examples, stored one after another.

use super::error::DataError;
use medley_model::template::{LabelSpan, Rendered};
use medley_tensor::rng::Philox;
#[cfg(test)]
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Index of a task in [`Tasks`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId(pub u16);

impl TaskId {
    /// The id as an index.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// The names of the tasks, in the order in which they first appear.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tasks {
    names: Vec<String>,
}

impl Tasks {
    const LIMIT: usize = 4096;

    /// The id of a task, new where the name is new.
    ///
    /// # Errors
    /// More than 4,096 tasks: then the column holds something else than names of tasks.
    pub fn id(&mut self, name: &str) -> Result<TaskId, DataError> {
        if let Some(id) = self.find(name) {
            return Ok(id);
        }
        if self.names.len() == Self::LIMIT {
            return Err(DataError::TooManyTasks { limit: Self::LIMIT });
        }
        self.names.push(name.to_string());
        Ok(TaskId((self.names.len() - 1) as u16))
    }

    /// The id of a known task.
    pub fn find(&self, name: &str) -> Option<TaskId> {
        self.names.iter().position(|n| n == name).map(|i| TaskId(i as u16))
    }

    /// The name of a task; empty for an id of other tasks.
    pub fn name(&self, id: TaskId) -> &str {
        self.names.get(id.index()).map_or("", String::as_str)
    }

    /// All names, by id.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }
}

/// What happened to the rows of one task.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TaskReport {
    /// Rows read (documents, in pre-training).
    pub rows: usize,
    /// Rows that the cutoff shortened.
    pub truncated: usize,
    /// Rows left out because the cutoff left nothing of any reply.
    pub dropped: usize,
    /// Examples made.
    pub examples: usize,
    /// Token ids in all examples.
    pub tokens: u64,
    /// Labelled positions that can be predicted.
    pub label_tokens: u64,
}

/// One example, borrowed from its dataset.
#[derive(Debug, Clone, Copy)]
pub struct Example<'d> {
    /// The token ids.
    pub ids: &'d [u32],
    /// What is learned.
    pub labels: &'d [LabelSpan],
    /// The task.
    pub task: TaskId,
    /// The file it came from.
    pub file: &'d Path,
    /// The line it came from, counted from 1; in pre-training the line of its first document.
    pub line: u64,
}

impl Example<'_> {
    /// How many positions have a label and a position before them to predict it from.
    pub fn label_tokens(&self) -> usize {
        self.labels.iter().map(|s| s.positions.len() - usize::from(s.positions.start == 0)).sum()
    }
}

/// Examples in the order of their rows, with their tasks.
#[derive(Debug, Clone, Default)]
pub struct Dataset {
    tasks: Arc<Tasks>,
    files: Arc<Vec<PathBuf>>,
    ids: Vec<u32>,
    labels: Vec<LabelSpan>,
    entries: Vec<Entry>,
    reports: Vec<TaskReport>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    ids_end: usize,
    labels_end: usize,
    line: u64,
    file: u32,
    task: TaskId,
}

/// Ids, the positions whose own ids are labels, task.
#[cfg(test)]
pub(crate) type PlainExample = (Vec<u32>, Vec<Range<u32>>, u16);

impl Dataset {
    /// How many examples there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The example at `index`, or `None` past the end.
    pub fn get(&self, index: usize) -> Option<Example<'_>> {
        let entry = self.entries.get(index)?;
        let (ids_start, labels_start) = match index.checked_sub(1).and_then(|i| self.entries.get(i)) {
            Some(before) => (before.ids_end, before.labels_end),
            None => (0, 0),
        };
        Some(Example {
            ids: &self.ids[ids_start..entry.ids_end],
            labels: &self.labels[labels_start..entry.labels_end],
            task: entry.task,
            file: self.files.get(entry.file as usize).map_or(Path::new(""), PathBuf::as_path),
            line: entry.line,
        })
    }

    /// All examples in order.
    pub fn iter(&self) -> impl Iterator<Item = Example<'_>> {
        (0..self.len()).filter_map(|i| self.get(i))
    }

    /// The names of the tasks, those without an example here included.
    pub fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    /// The task of each example.
    pub fn task_ids(&self) -> Vec<TaskId> {
        self.entries.iter().map(|e| e.task).collect()
    }

    /// What happened to the rows, by task id.
    pub fn reports(&self) -> &[TaskReport] {
        &self.reports
    }

    /// One sentence for each task whose rows were shortened or left out.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        for (name, report) in self.tasks.names().iter().zip(&self.reports) {
            let TaskReport { rows, truncated, dropped, .. } = report;
            if *dropped > 0 {
                warnings.push(format!(
                    "{name}: {dropped} of {rows} rows left out: cutoff_len leaves nothing of their replies; raise it"
                ));
            }
            if *truncated > 0 {
                warnings.push(format!("{name}: {truncated} of {rows} rows cut to cutoff_len"));
            }
        }
        warnings
    }

    /// Holds out examples for evaluation, the same share of every task, drawn at random.
    ///
    /// `val_size` below 1 is a share, from 1 on a number of examples in all (LLaMA-Factory's option).
    /// A task with more than one example keeps at least one to train on and, where anything is held
    /// out of it by a share, gives at least one. Returns the training and the evaluation examples.
    ///
    /// # Errors
    /// A size that leaves one of the two empty.
    pub fn split(&self, val_size: f64, seed: u64) -> Result<(Dataset, Dataset), DataError> {
        let total = self.len();
        let error = |side| DataError::ValSize { val_size, examples: total, side };
        let share = if val_size < 1.0 { val_size } else { val_size / total as f64 };
        if share >= 1.0 {
            return Err(error("train on"));
        }
        let mut held = vec![false; total];
        // The fraction that rounding leaves over is carried to the next task, so that the number of
        // examples in all is the one asked for.
        let mut carried = 0.0;
        for task in 0..self.tasks.len() {
            let mut members: Vec<usize> =
                (0..total).filter(|&i| self.entries[i].task.index() == task).collect();
            let wanted = members.len() as f64 * share + carried;
            let least = usize::from(val_size < 1.0 && share > 0.0);
            let most = members.len().saturating_sub(1);
            let count = (wanted.round().max(0.0) as usize).max(least).min(most);
            if val_size >= 1.0 {
                carried = wanted - count as f64;
            }
            Philox::new(seed, stream(STREAM_SPLIT, task as u64, 0)).shuffle(&mut members);
            members[..count].iter().for_each(|&i| held[i] = true);
        }
        let pick = |side: bool| (0..total).filter(|&i| held[i] == side).collect::<Vec<usize>>();
        let (train, eval) = (self.subset(&pick(false)), self.subset(&pick(true)));
        match (train.is_empty(), eval.is_empty()) {
            (true, _) => Err(error("train on")),
            (_, true) => Err(error("evaluate on")),
            _ => Ok((train, eval)),
        }
    }

    /// The examples at `indices`, in that order; the counts of rows read stay with the original.
    pub fn subset(&self, indices: &[usize]) -> Dataset {
        let mut out = Dataset::new(self.tasks.clone(), self.files.clone());
        for example in indices.iter().filter_map(|&i| self.get(i).map(|e| (i, e))) {
            let (index, example) = example;
            out.push(example.ids, example.labels, example.task, self.entries[index].file, example.line);
        }
        for report in &mut out.reports {
            report.rows = report.examples;
        }
        out
    }

    pub(super) fn new(tasks: Arc<Tasks>, files: Arc<Vec<PathBuf>>) -> Dataset {
        let reports = vec![TaskReport::default(); tasks.len()];
        Dataset { tasks, files, reports, ..Dataset::default() }
    }

    /// Examples without files.
    #[cfg(test)]
    pub(crate) fn from_examples(tasks: &[&str], examples: &[PlainExample]) -> Dataset {
        let names = Tasks { names: tasks.iter().map(|t| t.to_string()).collect() };
        let mut dataset = Dataset::new(Arc::new(names), Arc::new(vec![]));
        for (line, (ids, labelled, task)) in examples.iter().enumerate() {
            let spans: Vec<LabelSpan> =
                labelled.iter().map(|p| LabelSpan { positions: p.clone(), token: None }).collect();
            dataset.push(ids, &spans, TaskId(*task), 0, line as u64 + 1);
        }
        dataset
    }

    pub(super) fn set_tasks(&mut self, tasks: &Tasks) {
        self.tasks = Arc::new(tasks.clone());
        self.reports.resize(tasks.len(), TaskReport::default());
    }

    pub(super) fn report_mut(&mut self, task: TaskId) -> &mut TaskReport {
        let index = task.index();
        if self.reports.len() <= index {
            self.reports.resize(index + 1, TaskReport::default());
        }
        &mut self.reports[index]
    }

    pub(super) fn push_rendered(&mut self, rendered: &Rendered, task: TaskId, file: u32, line: u64) {
        self.push(&rendered.ids, &rendered.labels, task, file, line);
    }

    pub(super) fn push(&mut self, ids: &[u32], labels: &[LabelSpan], task: TaskId, file: u32, line: u64) {
        self.ids.extend_from_slice(ids);
        self.labels.extend_from_slice(labels);
        let (ids_end, labels_end) = (self.ids.len(), self.labels.len());
        self.entries.push(Entry { ids_end, labels_end, line, file, task });
        let label_tokens = self.get(self.len() - 1).map_or(0, |e| e.label_tokens());
        let report = self.report_mut(task);
        report.examples += 1;
        report.tokens += ids.len() as u64;
        report.label_tokens += label_tokens as u64;
    }
}

/// Streams of [`Philox`] that data uses; the upper 16 bits keep them apart from other users of a seed.
pub(crate) const STREAM_SPLIT: u64 = 0xDA01;
pub(crate) const STREAM_SAMPLES: u64 = 0xDA02;
pub(crate) const STREAM_ORDER: u64 = 0xDA03;
pub(crate) const STREAM_SLOTS: u64 = 0xDA04;
pub(crate) const STREAM_PROBE: u64 = 0xDA11;
pub(crate) const STREAM_PCGRAD: u64 = 0xDA12;
/// Which examples are answered in an evaluation.
pub(crate) const STREAM_ANSWERS: u64 = 0xDA0E;

/// A random stream of its own for each use, item (task or file; 16 bits) and round (epoch or pass; 32 bits).
pub(crate) fn stream(use_id: u64, item: u64, round: u64) -> u64 {
    use_id << 48 | (item & 0xFFFF) << 32 | (round & 0xFFFF_FFFF)
}
