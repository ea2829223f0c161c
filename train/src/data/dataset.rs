//! Tokenised examples, stored one after another.

use super::cache::{self, CacheOptions, Key, Meta, Spill};
use super::error::DataError;
use super::store::{Entry, Finished, Mark, Span, Store, StoreBuilder};
use medley_model::template::LabelSpan;
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
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskReport {
    /// Rows read (documents, in pre-training).
    pub rows: usize,
    /// Rows that the cutoff shortened.
    pub truncated: usize,
    /// Rows left out because the cutoff left nothing of any reply.
    pub dropped: usize,
    /// Documents of pre-training left out because they repeat an earlier one (`drop_duplicates`).
    pub repeated: usize,
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
    pub labels: Labels<'d>,
    /// The task.
    pub task: TaskId,
    /// The file it came from.
    pub file: &'d Path,
    /// The line it came from, counted from 1; in pre-training the line of its first document.
    pub line: u64,
    /// Whether the cutoff shortened it.
    pub truncated: bool,
}

impl Example<'_> {
    /// How many positions have a label and a position before them to predict it from.
    pub fn label_tokens(&self) -> usize {
        self.labels.iter().map(|s| s.positions.len() - usize::from(s.positions.start == 0)).sum()
    }
}

/// The labelled runs of an example, ascending; iterated by value, since they may lie in a mapped file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Labels<'d>(&'d [Span]);

impl<'d> Labels<'d> {
    /// The runs in order.
    pub fn iter(self) -> LabelIter<'d> {
        LabelIter(self.0.iter())
    }

    /// The runs in a vector.
    pub fn to_vec(self) -> Vec<LabelSpan> {
        self.iter().collect()
    }
}

impl<'d> IntoIterator for Labels<'d> {
    type Item = LabelSpan;
    type IntoIter = LabelIter<'d>;

    fn into_iter(self) -> LabelIter<'d> {
        self.iter()
    }
}

/// The runs of [`Labels`], in order.
#[derive(Debug, Clone)]
pub struct LabelIter<'d>(std::slice::Iter<'d, Span>);

impl Iterator for LabelIter<'_> {
    type Item = LabelSpan;

    fn next(&mut self) -> Option<LabelSpan> {
        self.0.next().map(|&span| span.into())
    }
}

impl DoubleEndedIterator for LabelIter<'_> {
    fn next_back(&mut self) -> Option<LabelSpan> {
        self.0.next_back().map(|&span| span.into())
    }
}

/// Examples in the order of their rows, with their tasks: all of a store, or some of it.
///
/// The store is shared by clones and subsets. A small one lies in memory; a large one is a cache file
/// mapped into memory, whose pages come and go as they are used (see `CacheOptions`).
#[derive(Debug, Clone, Default)]
pub struct Dataset {
    tasks: Arc<Tasks>,
    files: Arc<Vec<PathBuf>>,
    store: Arc<Store>,
    /// Indices into the store; `None`: all.
    view: Option<Arc<[u32]>>,
    reports: Vec<TaskReport>,
    longest: usize,
    largest_id: u32,
    notes: Vec<String>,
}

/// Ids, the positions whose own ids are labels, task.
#[cfg(test)]
pub(crate) type PlainExample = (Vec<u32>, Vec<Range<u32>>, u16);

impl Dataset {
    /// How many examples there are.
    pub fn len(&self) -> usize {
        self.view.as_ref().map_or_else(|| self.store.entries().len(), |view| view.len())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where the example at `index` is in the store.
    fn place(&self, index: usize) -> Option<usize> {
        match &self.view {
            Some(view) => view.get(index).map(|&i| i as usize),
            None => Some(index),
        }
    }

    /// The example at `index`, or `None` past the end.
    pub fn get(&self, index: usize) -> Option<Example<'_>> {
        let (ids, spans, entry) = self.store.get(self.place(index)?)?;
        Some(Example {
            ids,
            labels: Labels(spans),
            task: TaskId(entry.task),
            file: self.file(entry.file),
            line: entry.line,
            truncated: entry.truncated != 0,
        })
    }

    /// The file of this number.
    pub(super) fn file(&self, file: u32) -> &Path {
        self.files.get(file as usize).map_or(Path::new(""), PathBuf::as_path)
    }

    /// All examples in order.
    pub fn iter(&self) -> impl Iterator<Item = Example<'_>> {
        (0..self.len()).filter_map(|i| self.get(i))
    }

    /// All entries in order, without touching ids.
    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        let entries = self.store.entries();
        (0..self.len()).filter_map(move |i| entries.get(self.place(i)?))
    }

    /// The documents that pre-training read.
    pub(super) fn marks(&self) -> &[Mark] {
        self.store.marks()
    }

    /// The names of the tasks, those without an example here included.
    pub fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    /// The task of each example.
    pub fn task_ids(&self) -> Vec<TaskId> {
        self.entries().map(|e| TaskId(e.task)).collect()
    }

    /// What happened to the rows, by task id.
    pub fn reports(&self) -> &[TaskReport] {
        &self.reports
    }

    /// Ids of the longest example; of a subset, an upper bound.
    pub fn longest(&self) -> usize {
        self.longest
    }

    /// The largest id, of inputs and labels; of a subset, an upper bound.
    pub fn largest_id(&self) -> u32 {
        self.largest_id
    }

    /// Whether the examples lie in a mapped file.
    pub fn is_mapped(&self) -> bool {
        self.store.is_mapped()
    }

    /// Adds a sentence to [`Dataset::warnings`].
    pub fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    /// One sentence for each task whose rows were shortened or left out, and what else was noted.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = self.notes.clone();
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
    /// What is divided are *distinct* examples: of rows with the same ids, those that `num_samples`
    /// repeats included, either all are trained on or none, and then one of each task is held out, so
    /// that nothing is on both sides and nothing counts twice. `val_size` below 1 is a share of them,
    /// from 1 on a number in all (LLaMA-Factory's option). A task with more than one example keeps at
    /// least one to train on and, where anything is held out of it by a share, gives at least one, as
    /// far as rows that it shares with other tasks allow. Returns the training and the evaluation
    /// examples.
    ///
    /// # Errors
    /// A size that leaves one of the two empty.
    pub fn split(&self, val_size: f64, seed: u64) -> Result<(Dataset, Dataset), DataError> {
        let (class_of, first_of) = (self.first_of_equals(false), self.first_of_equals(true));
        let distinct: Vec<usize> = (0..self.len()).filter(|&i| first_of[i] as usize == i).collect();
        let total = distinct.len();
        let error = |side| DataError::ValSize { val_size, examples: total, side };
        let share = if val_size < 1.0 { val_size } else { val_size / total as f64 };
        if share >= 1.0 {
            return Err(error("train on"));
        }
        let tasks = self.task_ids();
        // By class: whether rows with these ids are held out.
        let mut held = vec![false; self.len()];
        // The fraction that rounding leaves over is carried to the next task, so that the number of
        // examples in all is the one asked for.
        let mut carried = 0.0;
        for task in 0..self.tasks.len() {
            let mut members: Vec<usize> =
                distinct.iter().copied().filter(|&i| tasks[i].index() == task).collect();
            let wanted = members.len() as f64 * share + carried;
            let least = usize::from(val_size < 1.0 && share > 0.0);
            let most = members.len().saturating_sub(1);
            let count = (wanted.round().max(0.0) as usize).max(least).min(most);
            if val_size >= 1.0 {
                carried = wanted - count as f64;
            }
            Philox::new(seed, stream(STREAM_SPLIT, task as u64, 0)).shuffle(&mut members);
            // Another task may have held out some of them already.
            let (already, free): (Vec<usize>, Vec<usize>) =
                members.into_iter().partition(|&i| held[class_of[i] as usize]);
            let more = count.saturating_sub(already.len());
            free.iter().take(more).for_each(|&i| held[class_of[i] as usize] = true);
        }
        let (out, kept): (Vec<usize>, Vec<usize>) =
            (0..self.len()).partition(|&i| held[class_of[i] as usize]);
        let once: Vec<usize> = out.iter().copied().filter(|&i| first_of[i] as usize == i).collect();
        let repeats = out.len() - once.len();
        let (mut train, eval) = (self.subset(&kept), self.subset(&once));
        if repeats > 0 {
            train.note(format!("{repeats} repeats of held-out rows were left out on both sides"));
        }
        match (train.is_empty(), eval.is_empty()) {
            (true, _) => Err(error("train on")),
            (_, true) => Err(error("evaluate on")),
            _ => Ok((train, eval)),
        }
    }

    /// For each example the index of the first with the same ids and labels, its own where it is the
    /// first; `by_task`: of the same task too. Takes 20 bytes an example while it runs.
    pub(super) fn first_of_equals(&self, by_task: bool) -> Vec<u32> {
        let mut prints: Vec<(u64, u32)> =
            self.entries().enumerate().map(|(i, entry)| (entry.content, i as u32)).collect();
        prints.sort_unstable();
        let mut first_of: Vec<u32> = (0..self.len() as u32).collect();
        for run in prints.chunk_by(|a, b| a.0 == b.0).filter(|run| run.len() > 1) {
            // The print only says that they may be equal.
            let mut firsts: Vec<Example<'_>> = Vec::new();
            let mut indices: Vec<u32> = Vec::new();
            for &(_, i) in run {
                let Some(example) = self.get(i as usize) else { continue };
                let equal = |e: &Example<'_>| {
                    e.ids == example.ids && e.labels == example.labels && (!by_task || e.task == example.task)
                };
                match firsts.iter().position(equal) {
                    Some(at) => first_of[i as usize] = indices[at],
                    None => {
                        firsts.push(example);
                        indices.push(i);
                    }
                }
            }
        }
        first_of
    }

    /// The examples at `indices`, in that order; the counts of rows read, and the notes, stay with the
    /// original. The examples themselves are shared.
    pub fn subset(&self, indices: &[usize]) -> Dataset {
        let view: Arc<[u32]> =
            indices.iter().filter_map(|&i| self.place(i)).map(|place| place as u32).collect();
        let mut out = Dataset { view: Some(view), reports: Vec::new(), notes: Vec::new(), ..self.clone() };
        let mut reports = vec![TaskReport::default(); self.tasks.len()];
        for example in out.iter() {
            let Some(report) = reports.get_mut(example.task.index()) else { continue };
            report.rows += 1;
            report.examples += 1;
            report.tokens += example.ids.len() as u64;
            report.label_tokens += example.label_tokens() as u64;
        }
        out.reports = reports;
        out
    }

    /// The examples at `indices` in the place of all: with the notes and the counts of rows of all.
    pub fn keep(&self, indices: &[usize]) -> Dataset {
        let mut out = self.subset(indices);
        out.notes.clone_from(&self.notes);
        for (report, whole) in out.reports.iter_mut().zip(&self.reports) {
            (report.rows, report.truncated) = (whole.rows, whole.truncated);
            (report.dropped, report.repeated) = (whole.dropped, whole.repeated);
        }
        out
    }

    /// Examples without files.
    #[cfg(test)]
    pub(crate) fn from_examples(tasks: &[&str], examples: &[PlainExample]) -> Dataset {
        let names = Tasks { names: tasks.iter().map(|t| t.to_string()).collect() };
        let mut builder = DatasetBuilder::new(vec![], None);
        for (line, (ids, labelled, task)) in examples.iter().enumerate() {
            let spans: Vec<LabelSpan> =
                labelled.iter().map(|p| LabelSpan { positions: p.clone(), token: None }).collect();
            let entry = Entry { line: line as u64 + 1, task: *task, ..Entry::default() };
            builder.push(ids, &spans, entry).unwrap();
        }
        builder.finish(&names).unwrap()
    }
}

/// A dataset that is being read.
pub(super) struct DatasetBuilder {
    files: Vec<PathBuf>,
    store: StoreBuilder,
    reports: Vec<TaskReport>,
    longest: usize,
    largest_id: u32,
}

impl DatasetBuilder {
    pub(super) fn new(files: Vec<PathBuf>, spill: Option<Spill>) -> DatasetBuilder {
        DatasetBuilder {
            files,
            store: StoreBuilder::new(spill),
            reports: Vec::new(),
            longest: 0,
            largest_id: 0,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.store.entries_len == 0
    }

    pub(super) fn report_mut(&mut self, task: TaskId) -> &mut TaskReport {
        let index = task.index();
        if self.reports.len() <= index {
            self.reports.resize(index + 1, TaskReport::default());
        }
        &mut self.reports[index]
    }

    /// Appends an example; the ends and the content's print of `entry` are set on the way.
    pub(super) fn push(&mut self, ids: &[u32], labels: &[LabelSpan], entry: Entry) -> Result<(), DataError> {
        let report = self.report_mut(TaskId(entry.task));
        report.examples += 1;
        report.tokens += ids.len() as u64;
        let predicted = |s: &LabelSpan| (s.positions.len() - usize::from(s.positions.start == 0)) as u64;
        report.label_tokens += labels.iter().map(predicted).sum::<u64>();
        self.longest = self.longest.max(ids.len());
        let used = ids.iter().copied().chain(labels.iter().filter_map(|s| s.token));
        self.largest_id = used.fold(self.largest_id, u32::max);
        self.store.push(ids, labels, entry)
    }

    pub(super) fn mark(&mut self, mark: Mark) -> Result<(), DataError> {
        self.store.mark(mark)
    }

    /// The dataset; `tasks` are all tasks there are now.
    pub(super) fn finish(mut self, tasks: &Tasks) -> Result<Dataset, DataError> {
        self.reports.resize(tasks.len(), TaskReport::default());
        let (store, trouble) = match self.store.finish()? {
            Finished::Memory { store, trouble } => (store, trouble),
            Finished::Disk { spill, columns } => {
                let mut meta = Meta::new(tasks, &self.reports, columns);
                (meta.longest, meta.largest_id) = (self.longest, self.largest_id);
                spill.publish(meta)?
            }
        };
        Ok(Dataset {
            tasks: Arc::new(tasks.clone()),
            files: Arc::new(self.files),
            store: Arc::new(store),
            view: None,
            reports: self.reports,
            longest: self.longest,
            largest_id: self.largest_id,
            notes: trouble.into_iter().collect(),
        })
    }
}

/// The dataset of the key that `key` makes, from the cache where it has it, else from `build`, which is
/// given where to put what outgrows memory. `tasks` gains the dataset's.
pub(super) fn cached(
    options: &CacheOptions,
    files: Vec<PathBuf>,
    tasks: &mut Tasks,
    key: impl FnOnce(&Tasks) -> Result<Key, DataError>,
    build: impl FnOnce(DatasetBuilder, &mut Tasks) -> Result<Dataset, DataError>,
) -> Result<Dataset, DataError> {
    let Some(root) = &options.root else { return build(DatasetBuilder::new(files, None), tasks) };
    let key = key(tasks)?.finish();
    let mut note = None;
    if !options.overwrite {
        match cache::open(root, &key) {
            Ok(Some((store, meta))) => {
                *tasks = Tasks { names: meta.tasks };
                return Ok(Dataset {
                    tasks: Arc::new(tasks.clone()),
                    files: Arc::new(files),
                    store: Arc::new(store),
                    view: None,
                    reports: meta.reports,
                    longest: meta.longest,
                    largest_id: meta.largest_id,
                    notes: Vec::new(),
                });
            }
            Ok(None) => {}
            Err(reason) => {
                let place = root.join(&key);
                note = Some(format!(
                    "the tokenised data in {} is damaged ({reason}); it was made again",
                    place.display()
                ));
            }
        }
    }
    let spill = Spill::new(root, key, options.threshold);
    let mut dataset = build(DatasetBuilder::new(files, Some(spill)), tasks)?;
    dataset.notes.extend(note);
    Ok(dataset)
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
