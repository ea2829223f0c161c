//! The `pt` stage: plain text as blocks of tokens.

use super::dataset::{Dataset, TaskId, Tasks};
use super::error::DataError;
use super::load::LoadOptions;
use super::rows::Row;
use super::select;
use super::source::DataFile;
use medley_model::template::LabelSpan;
use medley_model::tokenizer::Tokenizer;
use rayon::prelude::*;
use std::sync::Arc;

/// How text becomes examples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PtOptions {
    /// The most ids of an example.
    pub cutoff_len: usize,
    /// Join the documents of a task, each ended by eos, and cut the stream into blocks of `cutoff_len`
    /// (LLaMA-Factory's default for `pt`). Without, each document is an example, cut to `cutoff_len`.
    pub packing: bool,
}

/// One document of a text file or a row's `text`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// The text.
    pub text: String,
    /// The task.
    pub task: String,
    /// The line it begins at, or the row of a Parquet or Arrow file; counted from 1.
    pub line: u64,
    /// The file, as an index into the paths of all files.
    pub(super) file: u32,
}

/// The documents of the files: of a `.txt` file the paragraphs between blank lines, of the others the
/// rows' `text`.
///
/// # Errors
/// A file that cannot be read, is empty or not UTF-8; a row without `text`; with file and line.
pub fn read_documents(files: &[DataFile], options: &LoadOptions) -> Result<Vec<Document>, DataError> {
    let mut out = Vec::new();
    for index in 0..files.len() {
        for documents in documents_of(files, index, options)? {
            out.extend(documents?);
        }
    }
    Ok(out)
}

/// Reads and tokenises `files` for pre-training.
///
/// Packed, the documents of each task form one stream, in the order of files and documents, with an eos
/// after each; every position of a block is learned. The last, short block is kept. Where the tokenizer
/// asks for it (`add_bos_token`), the first token of each block is replaced by bos, as LLaMA-Factory
/// does; unpacked, bos is put in front.
///
/// # Errors
/// As [`read_documents`]; a tokenizer without eos; fewer than two tokens in all.
pub fn load_pt(
    files: &[DataFile],
    tokenizer: &Tokenizer,
    pt: PtOptions,
    options: &LoadOptions,
    tasks: &mut Tasks,
) -> Result<Dataset, DataError> {
    let eos = tokenizer.eos().ok_or(DataError::NoEos)?.id;
    let bos = tokenizer.bos().filter(|_| tokenizer.add_bos_token()).map(|t| t.id);
    let mut dataset = Dataset::new(Arc::new(tasks.clone()), Arc::new(select::paths(files)));
    let mut streams: Vec<Stream> = Vec::new();
    for index in 0..files.len() {
        for documents in documents_of(files, index, options)? {
            let documents = documents?;
            let encoded: Vec<_> = documents.par_iter().map(|d| tokenizer.encode(&d.text, true)).collect();
            for (document, ids) in documents.iter().zip(encoded) {
                let (mut ids, task) = (ids?, tasks.id(&document.task)?);
                ids.push(eos);
                dataset.report_mut(task).rows += 1;
                if pt.packing {
                    if streams.len() <= task.index() {
                        streams.resize_with(task.index() + 1, Stream::default);
                    }
                    streams[task.index()].add(&ids, document.file, document.line);
                } else {
                    ids.splice(0..0, bos);
                    dataset.report_mut(task).truncated += usize::from(ids.len() > pt.cutoff_len);
                    ids.truncate(pt.cutoff_len);
                    push_block(&mut dataset, &ids, task, document.file, document.line);
                }
            }
        }
    }
    for (task, stream) in streams.iter_mut().enumerate() {
        stream.cut(pt.cutoff_len, bos, TaskId(task as u16), &mut dataset);
    }
    dataset.set_tasks(tasks);
    if dataset.is_empty() {
        return Err(DataError::TooShort { tokens: streams.iter().map(|s| s.ids.len()).sum() });
    }
    Ok(dataset)
}

/// The joined documents of one task, and where each begins: (position, file, line).
#[derive(Default)]
struct Stream {
    ids: Vec<u32>,
    starts: Vec<(usize, u32, u64)>,
}

impl Stream {
    fn add(&mut self, ids: &[u32], file: u32, line: u64) {
        self.starts.push((self.ids.len(), file, line));
        self.ids.extend_from_slice(ids);
    }

    fn cut(&mut self, block: usize, bos: Option<u32>, task: TaskId, dataset: &mut Dataset) {
        for (i, ids) in self.ids.chunks_mut(block).enumerate() {
            // The document that the block begins in.
            let document = self.starts.partition_point(|(start, _, _)| *start <= i * block);
            let Some((_, file, line)) = document.checked_sub(1).and_then(|d| self.starts.get(d)) else {
                continue;
            };
            if let (Some(bos), Some(first)) = (bos, ids.first_mut()) {
                *first = bos;
            }
            push_block(dataset, ids, task, *file, *line);
        }
    }
}

/// Stores a block that is learned throughout; a block of one token has nothing to predict.
fn push_block(dataset: &mut Dataset, ids: &[u32], task: TaskId, file: u32, line: u64) {
    if ids.len() > 1 {
        let all = LabelSpan { positions: 0..ids.len() as u32, token: None };
        dataset.push(ids, &[all], task, file, line);
    }
}

/// The documents of a source, a chunk at a time.
fn documents_of<'f>(
    files: &'f [DataFile],
    index: usize,
    options: &LoadOptions,
) -> Result<impl Iterator<Item = Result<Vec<Document>, DataError>> + 'f, DataError> {
    let source = &files[index];
    let document = |row: &Row| {
        let (text, task) = source.formatting.text(&row.object()?).map_err(|reason| row.error(reason))?;
        let task = task.unwrap_or_else(|| source.task.clone());
        Ok(Document { text, task, line: row.line, file: row.file })
    };
    let chunks = select::chunks(files, index, options, true)?;
    Ok(chunks.map(move |chunk| {
        // Collected first, since the first bad row is to be reported, not the first that a thread met.
        let results: Vec<Result<Document, DataError>> = chunk?.par_iter().map(document).collect();
        results.into_iter().collect()
    }))
}
