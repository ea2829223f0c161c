//! From files to tokenised examples: read, convert and render in parallel, keep the order of the rows.

use super::dataset::{Dataset, STREAM_SAMPLES, Tasks, stream};
use super::error::DataError;
use super::rows::{RowFile, RowSpan};
use super::source::{DataFile, RowContent};
use crate::config::TrainConfig;
use medley_model::template::{Message, Rendered, Renderer};
use medley_tensor::rng::Philox;
use rayon::prelude::*;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

/// Which rows of the files are used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoadOptions {
    /// Only the first so many rows of each file.
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
    /// The line it came from, counted from 1.
    pub line: u64,
}

/// Rows handled between two hand-overs from the worker threads: bounds the memory of rendered rows that
/// are not yet stored.
const CHUNK: usize = 8192;

/// Reads, renders and tokenises the rows of `files` for supervised fine-tuning.
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
    let paths: Vec<PathBuf> = files.iter().map(|f| f.path.clone()).collect();
    let mut dataset = Dataset::new(Arc::new(tasks.clone()), Arc::new(paths));
    let (mut rows, mut last_cutoff) = (0, 0);
    let mut others: BTreeSet<String> = BTreeSet::new();
    for (index, source) in files.iter().enumerate() {
        let file = open(source)?;
        let render = |row: RowSpan| -> Result<(Rendered, Option<String>), DataError> {
            let RowContent { messages, task } = content(&file, source, row)?;
            let name = task.as_deref().unwrap_or(&source.task);
            let rendered = renderer.render(&messages, Some(name)).map_err(|e| DataError::Template {
                path: file.path().to_path_buf(),
                line: row.line,
                source: e,
            })?;
            Ok((rendered, task))
        };
        for chunk in choose(file.rows(), source, options, index).chunks(CHUNK) {
            // Collected with their errors and looked through in order: which error is reported must not
            // depend on which thread was first.
            let results: Vec<_> = chunk.par_iter().map(|&row| render(row)).collect();
            for (row, result) in chunk.iter().zip(results) {
                let (rendered, task) = result?;
                let name = task.as_deref().unwrap_or(&source.task);
                if !options.wants(name) {
                    if !others.contains(name) {
                        others.insert(name.to_string());
                    }
                    continue;
                }
                let id = tasks.id(name)?;
                rows += 1;
                let report = dataset.report_mut(id);
                report.rows += 1;
                report.truncated += usize::from(rendered.truncated);
                if rendered.reply_tokens == 0 {
                    report.dropped += 1;
                    last_cutoff = renderer.options().cutoff_len.unwrap_or_default();
                    continue;
                }
                dataset.push_rendered(&rendered, id, index as u32, row.line);
            }
        }
    }
    dataset.set_tasks(tasks);
    if rows == 0 && !others.is_empty() {
        return Err(DataError::OnlyTasks {
            wanted: options.only_tasks.join(", "),
            there: Vec::from_iter(others).join(", "),
        });
    }
    if dataset.is_empty() {
        return Err(DataError::NothingLeft { rows, cutoff_len: last_cutoff });
    }
    Ok(dataset)
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
            if !options.wants(&task) {
                continue;
            }
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
