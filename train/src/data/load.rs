//! From files to tokenised examples: read, convert and render in parallel, keep the order of the rows.

use super::cache::{CacheOptions, Key};
use super::dataset::{Dataset, DatasetBuilder, Tasks, cached};
use super::duplicates::{Place, prints};
use super::error::DataError;
use super::rows::Row;
use super::select;
use super::source::{DataFile, RowContent};
use super::store::{Entry, print};
use crate::config::TrainConfig;
use medley_model::template::{Message, Rendered, Renderer};
use rayon::prelude::*;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Which rows of the files are used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoadOptions {
    /// Only the first so many rows of each file or dataset.
    pub max_samples: Option<usize>,
    /// Seed for the rows that a dataset's `num_samples` draws.
    pub seed: u64,
    /// Only the rows of these tasks; empty: of all.
    pub only_tasks: Vec<String>,
}

impl LoadOptions {
    /// What a run's options say.
    pub fn of(config: &TrainConfig) -> LoadOptions {
        LoadOptions {
            max_samples: config.data.max_samples,
            seed: crate::trainer::setup::data_seed(config),
            only_tasks: config.data.only_tasks.clone(),
        }
    }

    /// What of these options decides the examples: a seed only where rows are drawn.
    pub(super) fn key(&self, files: &[DataFile]) -> String {
        let seed = if files.iter().any(|f| f.num_samples.is_some()) { self.seed } else { 0 };
        format!("{:?}", LoadOptions { seed, ..self.clone() })
    }

    /// Whether rows of a task are used.
    pub fn wants(&self, task: &str) -> bool {
        self.only_tasks.is_empty() || self.only_tasks.iter().any(|name| name == task)
    }
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
    /// The line it came from, or the row of a Parquet or Arrow file; counted from 1.
    pub line: u64,
}

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

    fn add(&mut self, rendered: &Rendered, empty_reply: bool, row: &Row) {
        let kinds = [
            (&mut self.empty_replies, empty_reply),
            (&mut self.cut, rendered.truncated),
            (&mut self.left_out, rendered.reply_tokens == 0),
        ];
        for (list, _) in kinds.into_iter().filter(|(_, is)| *is) {
            list.add(self.most, row.path(), row.line);
        }
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
    cached(cache, select::paths(files), tasks, key, |builder, tasks| {
        read_sft(builder, files, Some(renderer), options, tasks, None)
    })
}

/// Reads every row of `files` and notes all that is wrong, instead of stopping at the first; without a
/// renderer, whatever the template and its cutoff have no say in. The dataset has the rows' places and
/// texts to compare (see [`super::duplicates`]), not their ids: memory grows by some 80 bytes a row.
///
/// # Errors
/// Only what keeps the files from being read at all; unusable rows are in the findings. A file that
/// breaks off in the middle of a row counts twice: for the row, and for the end that is missing.
pub fn check_sft(
    files: &[DataFile],
    renderer: Option<&Renderer>,
    options: &LoadOptions,
    most: usize,
    tasks: &mut Tasks,
) -> Result<(Dataset, Findings), DataError> {
    let mut findings = Findings::new(most);
    let builder = DatasetBuilder::new(select::paths(files), None);
    let dataset = read_sft(builder, files, renderer, options, tasks, Some(&mut findings))?;
    Ok((dataset, findings))
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
    source: &DataFile,
    renderer: Option<&Renderer>,
    row: &Row,
    check: bool,
) -> Result<Read, DataError> {
    let RowContent { messages, task } = content(source, row)?;
    let name = task.as_deref().unwrap_or(&source.task);
    let rendered = renderer.map(|renderer| renderer.render(&messages, Some(name))).transpose();
    let rendered = rendered.map_err(|e| DataError::Template {
        path: row.path().to_path_buf(),
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
    let mut others: BTreeSet<String> = BTreeSet::new();
    for (index, source) in files.iter().enumerate() {
        let chunks = match (select::chunks(files, index, options, false), &mut findings) {
            (Ok(chunks), _) => chunks,
            (Err(e), Some(findings)) => {
                findings.problem(e);
                continue;
            }
            (Err(e), None) => return Err(e),
        };
        for chunk in chunks {
            let chunk = match (chunk, &mut findings) {
                (Ok(chunk), _) => chunk,
                // The source ends here.
                (Err(e), Some(findings)) => {
                    rows += 1;
                    findings.problem(e);
                    break;
                }
                (Err(e), None) => return Err(e),
            };
            // Collected with their errors and looked through in order: which error is reported must not
            // depend on which thread was first.
            let results: Vec<_> =
                chunk.par_iter().map(|row| read_row(source, renderer, row, check)).collect();
            for (row, result) in chunk.iter().zip(results) {
                let read = match (result, &mut findings) {
                    (Ok(read), _) => read,
                    (Err(e), Some(findings)) => {
                        rows += 1;
                        findings.problem(e);
                        continue;
                    }
                    (Err(e), None) => return Err(e),
                };
                let Read { rendered, task, prints: (prompt, whole), empty_reply } = read;
                let name = task.as_deref().unwrap_or(&source.task);
                if !options.wants(name) {
                    if !others.contains(name) {
                        others.insert(name.to_string());
                    }
                    continue;
                }
                let id = tasks.id(name)?;
                rows += 1;
                let report = builder.report_mut(id);
                report.rows += 1;
                report.truncated += usize::from(rendered.truncated);
                if let Some(findings) = &mut findings {
                    findings.add(&rendered, empty_reply, row);
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
                    file: row.file,
                    task: id.0,
                    truncated: u16::from(rendered.truncated),
                    ..Entry::default()
                };
                builder.push(&rendered.ids, &rendered.labels, entry)?;
            }
        }
    }
    if let Some(findings) = findings {
        findings.rows = rows;
    } else if rows == 0 && !others.is_empty() {
        return Err(DataError::OnlyTasks {
            wanted: options.only_tasks.join(", "),
            there: Vec::from_iter(others).join(", "),
        });
    } else if builder.is_empty() {
        return Err(DataError::NothingLeft { rows, cutoff_len: last_cutoff });
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
        for chunk in select::chunks(files, index, options, false)? {
            let chunk = chunk?;
            let results: Vec<_> = chunk.par_iter().map(|row| content(source, row)).collect();
            for (row, result) in chunk.iter().zip(results) {
                let RowContent { messages, task } = result?;
                let task = task.unwrap_or_else(|| source.task.clone());
                if !options.wants(&task) {
                    continue;
                }
                out.push(Conversation { messages, task, file: row.path().to_path_buf(), line: row.line });
            }
        }
    }
    Ok(out)
}

fn content(source: &DataFile, row: &Row) -> Result<RowContent, DataError> {
    source.formatting.conversation(&row.object()?).map_err(|reason| row.error(reason))
}
