//! From files to tokenised examples: read, convert and render in parallel, keep the order of the rows.

use super::dataset::{Dataset, Tasks};
use super::error::DataError;
use super::rows::Row;
use super::select;
use super::source::{DataFile, RowContent};
use crate::config::TrainConfig;
use medley_model::template::{Message, Rendered, Renderer};
use rayon::prelude::*;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

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
    let mut dataset = Dataset::new(Arc::new(tasks.clone()), Arc::new(select::paths(files)));
    let (mut rows, mut last_cutoff) = (0, 0);
    let mut others: BTreeSet<String> = BTreeSet::new();
    for (index, source) in files.iter().enumerate() {
        let render = |row: &Row| -> Result<(Rendered, Option<String>), DataError> {
            let RowContent { messages, task } = content(source, row)?;
            let name = task.as_deref().unwrap_or(&source.task);
            let rendered = renderer.render(&messages, Some(name)).map_err(|e| DataError::Template {
                path: row.path().to_path_buf(),
                line: row.line,
                source: e,
            })?;
            Ok((rendered, task))
        };
        for chunk in select::chunks(files, index, options, false)? {
            let chunk = chunk?;
            // Collected with their errors and looked through in order: which error is reported must not
            // depend on which thread was first.
            let results: Vec<_> = chunk.par_iter().map(render).collect();
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
                dataset.push_rendered(&rendered, id, row.file, row.line);
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
