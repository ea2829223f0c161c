//! From files to tokenised examples: read, convert and render in parallel, keep the order of the rows.

use super::cache::{CacheOptions, Key};
use super::dataset::{Dataset, DatasetBuilder, STREAM_SAMPLES, Tasks, cached, stream};
use super::duplicates::{Place, prints};
use super::error::DataError;
use super::rows::{RowFile, RowSpan};
use super::source::{DataFile, RowContent};
use super::store::{Entry, print};
use medley_model::template::{Message, Rendered, Renderer};
use medley_tensor::rng::Philox;
use rayon::prelude::*;
use std::path::{Path, PathBuf};

/// Which rows of the files are used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LoadOptions {
    /// Only the first so many rows of each file.
    pub max_samples: Option<usize>,
    /// Seed for the rows that a dataset's `num_samples` draws.
    pub seed: u64,
}

/// A row as a conversation, for evaluation by generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conversation {
    /// All messages, the reference reply last.
    pub messages: Vec<Message>,
    /// The task.
    pub task: String,
    /// The file it came from.
    pub file: PathBuf,
    /// The line it came from, counted from 1.
    pub line: u64,
}

/// Rows handled between two hand-overs from the worker threads: bounds the memory of rendered rows that
/// are not yet stored.
pub(super) const CHUNK: usize = 8192;

/// Rows of one kind: how many, and where the first of them are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listed {
    /// How many there are.
    pub count: usize,
    /// The first of them.
    pub places: Vec<Place>,
}

impl Listed {
    pub(super) fn add(&mut self, most: usize, file: &Path, line: u64) {
        self.count += 1;
        if self.places.len() < most {
            self.places.push((file.to_path_buf(), line));
        }
    }
}

/// What reading all rows brought up.
#[derive(Debug, Default)]
pub struct Findings {
    /// How many places of each kind are kept.
    pub most: usize,
    /// Rows read, those that cannot be used included.
    pub rows: usize,
    /// Rows that cannot be used, of which `problems` are the first.
    pub unusable: usize,
    /// Why rows cannot be used, in order.
    pub problems: Vec<DataError>,
    /// Rows whose reply is empty or white space.
    pub empty_replies: Listed,
    /// Rows longer than `cutoff_len`.
    pub cut: Listed,
    /// Rows of whose replies the cutoff leaves nothing.
    pub left_out: Listed,
}

impl Findings {
    /// Findings that keep the first `most` of each kind.
    pub fn new(most: usize) -> Findings {
        Findings { most, ..Findings::default() }
    }

    pub(super) fn problem(&mut self, error: DataError) {
        self.unusable += 1;
        if self.problems.len() < self.most {
            self.problems.push(error);
        }
    }
}

/// Reads, renders and tokenises the rows of `files` for supervised fine-tuning, in memory.
///
/// The examples stand in the order of files and rows, whatever the number of threads. `tasks` gains the
/// tasks that are new; pass the training set's to give an evaluation set the same ids. A row whose
/// replies the cutoff takes away entirely is left out and counted in [`Dataset::reports`].
///
/// # Errors
/// The first row, in order, that cannot be used, with file and line; or no row left.
pub fn load_sft(
    files: &[DataFile],
    renderer: &Renderer,
    options: &LoadOptions,
    tasks: &mut Tasks,
) -> Result<Dataset, DataError> {
    load_sft_cached(files, renderer, options, &CacheOptions::default(), tasks)
}

/// As [`load_sft`], from the cache where it has the data; a data set above the cache's threshold is
/// written to it row by row, so that memory does not grow with it.
///
/// # Errors
/// As [`load_sft`]; data that fits neither the cache's disk nor the memory. A cache that cannot be
/// written, or is damaged, is a warning of the dataset.
pub fn load_sft_cached(
    files: &[DataFile],
    renderer: &Renderer,
    options: &LoadOptions,
    cache: &CacheOptions,
    tasks: &mut Tasks,
) -> Result<Dataset, DataError> {
    let key = |tasks: &Tasks| {
        let mut key = Key::new("sft", files, tasks)?;
        key.add(&options.key(files));
        key.renderer(renderer)?;
        Ok(key)
    };
    cached(cache, paths(files), tasks, key, |builder, tasks| {
        read_sft(builder, files, Some(renderer), options, tasks, None)
    })
}

/// Reads every row of `files` and notes all that is wrong, instead of stopping at the first; without a
/// renderer, whatever the template and its cutoff have no say in. The dataset has the rows' places and
/// texts to compare (see [`super::duplicates`]), not their ids: memory grows by some 80 bytes a row.
///
/// # Errors
/// Only what keeps the files from being read at all; unusable rows are in the findings. A file that
/// breaks off in the middle counts as one unusable row.
pub fn check_sft(
    files: &[DataFile],
    renderer: Option<&Renderer>,
    options: &LoadOptions,
    most: usize,
    tasks: &mut Tasks,
) -> Result<(Dataset, Findings), DataError> {
    let mut findings = Findings::new(most);
    let builder = DatasetBuilder::new(paths(files), None);
    let dataset = read_sft(builder, files, renderer, options, tasks, Some(&mut findings))?;
    Ok((dataset, findings))
}

pub(super) fn paths(files: &[DataFile]) -> Vec<PathBuf> {
    files.iter().map(|f| f.path.clone()).collect()
}

impl LoadOptions {
    /// What of these options decides the examples.
    pub(super) fn key(&self, files: &[DataFile]) -> String {
        let seed = files.iter().any(|f| f.num_samples.is_some()).then_some(self.seed);
        format!("{:?} {seed:?}", self.max_samples)
    }
}

/// A row on its way into the dataset.
struct Read {
    rendered: Rendered,
    task: Option<String>,
    prints: (u64, u64),
    empty_reply: bool,
}

/// With `check`, the prints of the texts stand for the ids: equal rows are found, and no more is kept.
fn read_row(
    file: &RowFile,
    source: &DataFile,
    renderer: Option<&Renderer>,
    row: RowSpan,
    check: bool,
) -> Result<Read, DataError> {
    let RowContent { messages, task } = content(file, source, row)?;
    let name = task.as_deref().unwrap_or(&source.task);
    let rendered = renderer.map(|renderer| renderer.render(&messages, Some(name))).transpose();
    let rendered = rendered.map_err(|e| DataError::Template {
        path: file.path().to_path_buf(),
        line: row.line,
        source: e,
    })?;
    let rendered = match rendered {
        Some(rendered) if !check => rendered,
        rendered => stand_in(&messages, rendered.as_ref()),
    };
    let empty_reply = messages.last().is_some_and(|m| m.content.trim().is_empty());
    Ok(Read { rendered, task, prints: prints(&messages), empty_reply })
}

/// The print of the texts for ids, with what `rendered` says of its length.
fn stand_in(messages: &[Message], rendered: Option<&Rendered>) -> Rendered {
    let texts: Vec<&[u8]> = messages.iter().map(|m| m.content.as_bytes()).collect();
    let print = print(&texts);
    Rendered {
        ids: vec![(print >> 32) as u32, print as u32],
        labels: Vec::new(),
        reply_tokens: rendered.map_or(1, |r| r.reply_tokens),
        truncated: rendered.is_some_and(|r| r.truncated),
    }
}

/// Reads all rows; with `findings` all that is wrong is noted there, without the first wrong row ends it.
fn read_sft(
    mut builder: DatasetBuilder,
    files: &[DataFile],
    renderer: Option<&Renderer>,
    options: &LoadOptions,
    tasks: &mut Tasks,
    mut findings: Option<&mut Findings>,
) -> Result<Dataset, DataError> {
    let (mut rows, mut last_cutoff, check) = (0, 0, findings.is_some());
    for (index, source) in files.iter().enumerate() {
        let file = match (open(source), &mut findings) {
            (Ok(file), _) => file,
            (Err(e), Some(findings)) => {
                findings.problem(e);
                continue;
            }
            (Err(e), None) => return Err(e),
        };
        for chunk in choose(file.rows(), source, options, index).chunks(CHUNK) {
            // Collected with their errors and looked through in order: which error is reported must not
            // depend on which thread was first.
            let results: Vec<_> =
                chunk.par_iter().map(|&row| read_row(&file, source, renderer, row, check)).collect();
            for (row, result) in chunk.iter().zip(results) {
                rows += 1;
                let read = match (result, &mut findings) {
                    (Ok(read), _) => read,
                    (Err(e), Some(findings)) => {
                        findings.problem(e);
                        continue;
                    }
                    (Err(e), None) => return Err(e),
                };
                let Read { rendered, task, prints: (prompt, whole), empty_reply } = read;
                let id = tasks.id(task.as_deref().unwrap_or(&source.task))?;
                let report = builder.report_mut(id);
                report.rows += 1;
                report.truncated += usize::from(rendered.truncated);
                if let Some(findings) = &mut findings {
                    let most = findings.most;
                    if empty_reply {
                        findings.empty_replies.add(most, file.path(), row.line);
                    }
                    if rendered.truncated {
                        findings.cut.add(most, file.path(), row.line);
                    }
                    if rendered.reply_tokens == 0 {
                        findings.left_out.add(most, file.path(), row.line);
                    }
                }
                if rendered.reply_tokens == 0 {
                    report.dropped += 1;
                    last_cutoff = renderer.and_then(|r| r.options().cutoff_len).unwrap_or_default();
                    continue;
                }
                let entry = Entry {
                    line: row.line,
                    prompt,
                    row: whole,
                    file: index as u32,
                    task: id.0,
                    truncated: u16::from(rendered.truncated),
                    ..Entry::default()
                };
                builder.push(&rendered.ids, &rendered.labels, entry)?;
            }
        }
    }
    match findings {
        Some(findings) => findings.rows = rows,
        None if builder.is_empty() => return Err(DataError::NothingLeft { rows, cutoff_len: last_cutoff }),
        None => {}
    }
    builder.finish(tasks)
}

/// Reads the rows of `files` as conversations, without rendering them.
///
/// # Errors
/// As [`load_sft`].
pub fn read_conversations(files: &[DataFile], options: &LoadOptions) -> Result<Vec<Conversation>, DataError> {
    let mut out = Vec::new();
    for (index, source) in files.iter().enumerate() {
        let file = open(source)?;
        let chosen = choose(file.rows(), source, options, index);
        let results: Vec<_> = chosen.par_iter().map(|&row| content(&file, source, row)).collect();
        for (row, result) in chosen.iter().zip(results) {
            let RowContent { messages, task } = result?;
            let task = task.unwrap_or_else(|| source.task.clone());
            out.push(Conversation { messages, task, file: source.path.clone(), line: row.line });
        }
    }
    Ok(out)
}

fn open(source: &DataFile) -> Result<RowFile, DataError> {
    let known = ["json", "jsonl"].iter().any(|e| super::rows::has_extension(&source.path, e));
    if !known {
        return Err(DataError::Extension { path: source.path.clone(), expected: ".json or .jsonl" });
    }
    RowFile::open(&source.path)
}

fn content(file: &RowFile, source: &DataFile, row: RowSpan) -> Result<RowContent, DataError> {
    let object = file.object(row)?;
    source.formatting.conversation(&object).map_err(|reason| DataError::row(file.path(), row.line, reason))
}

/// The rows that are used: `num_samples` drawn at random, then the first `max_samples`.
///
/// As in LLaMA-Factory, drawing more rows than there are takes all of them in random order and fills up
/// with repeats (each drawn on its own).
pub(super) fn choose(
    rows: &[RowSpan],
    source: &DataFile,
    options: &LoadOptions,
    file: usize,
) -> Vec<RowSpan> {
    let mut chosen = match source.num_samples {
        None => rows.to_vec(),
        Some(count) => {
            let mut rng = Philox::new(options.seed, stream(STREAM_SAMPLES, file as u64, 0));
            let mut drawn = rows.to_vec();
            rng.shuffle(&mut drawn);
            drawn.truncate(count);
            while drawn.len() < count && !rows.is_empty() {
                drawn.push(rows[rng.below(rows.len())]);
            }
            drawn
        }
    };
    chosen.truncate(options.max_samples.unwrap_or(usize::MAX));
    chosen
}
