//! The `pt` stage: plain text as blocks of tokens.

use super::dataset::{Dataset, TaskId, Tasks};
use super::error::DataError;
use super::load::{LoadOptions, choose};
use super::rows::{RowFile, has_extension, open_map};
use super::source::DataFile;
use medley_model::template::LabelSpan;
use medley_model::tokenizer::Tokenizer;
use rayon::prelude::*;
use std::path::{Path, PathBuf};
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
    /// The line it begins at, counted from 1.
    pub line: u64,
}

const EXPECTED: &str = "text, its documents separated by blank lines";

/// The documents of the files: of a `.txt` file the paragraphs between blank lines, of `.json` and
/// `.jsonl` the rows' `text`.
///
/// # Errors
/// A file that cannot be read, is empty or not UTF-8; a row without `text`; with file and line.
pub fn read_documents(files: &[DataFile], options: &LoadOptions) -> Result<Vec<Document>, DataError> {
    let mut out = Vec::new();
    for index in 0..files.len() {
        out.extend(documents_of(files, index, options)?);
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
    let paths: Vec<PathBuf> = files.iter().map(|f| f.path.clone()).collect();
    let mut dataset = Dataset::new(Arc::new(tasks.clone()), Arc::new(paths));
    let mut streams: Vec<Stream> = Vec::new();
    for index in 0..files.len() {
        let documents = documents_of(files, index, options)?;
        let encoded: Vec<_> = documents.par_iter().map(|d| tokenizer.encode(&d.text, true)).collect();
        for (document, ids) in documents.iter().zip(encoded) {
            let (mut ids, task) = (ids?, tasks.id(&document.task)?);
            ids.push(eos);
            dataset.report_mut(task).rows += 1;
            if pt.packing {
                if streams.len() <= task.index() {
                    streams.resize_with(task.index() + 1, Stream::default);
                }
                streams[task.index()].add(&ids, index as u32, document.line);
            } else {
                ids.splice(0..0, bos);
                dataset.report_mut(task).truncated += usize::from(ids.len() > pt.cutoff_len);
                ids.truncate(pt.cutoff_len);
                push_block(&mut dataset, &ids, task, index as u32, document.line);
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

fn documents_of(files: &[DataFile], index: usize, options: &LoadOptions) -> Result<Vec<Document>, DataError> {
    let source = &files[index];
    if has_extension(&source.path, "txt") {
        let mut documents = paragraphs(&source.path, &source.task)?;
        documents.truncate(options.max_samples.unwrap_or(usize::MAX));
        return Ok(documents);
    }
    if !["json", "jsonl"].iter().any(|e| has_extension(&source.path, e)) {
        return Err(DataError::Extension { path: source.path.clone(), expected: ".txt, .json or .jsonl" });
    }
    let file = RowFile::open(&source.path)?;
    let results: Vec<_> = choose(file.rows(), source, options, index)
        .into_par_iter()
        .map(|row| {
            let object = file.object(row)?;
            let (text, task) =
                source.formatting.text(&object).map_err(|e| DataError::row(file.path(), row.line, e))?;
            Ok(Document { text, task: task.unwrap_or_else(|| source.task.clone()), line: row.line })
        })
        .collect();
    results.into_iter().collect()
}

/// The paragraphs of a text file: runs of lines that are not blank, their line breaks kept inside.
fn paragraphs(path: &Path, task: &str) -> Result<Vec<Document>, DataError> {
    let map = open_map(path, EXPECTED)?;
    let bytes = map.bytes();
    let text = std::str::from_utf8(bytes).map_err(|e| {
        let at = e.valid_up_to();
        let line = bytes[..at].iter().filter(|&&b| b == b'\n').count() as u64 + 1;
        DataError::Utf8 { path: path.to_path_buf(), line, byte_offset: at as u64 }
    })?;
    let text = text.strip_prefix('\u{FEFF}').unwrap_or(text);
    let mut documents: Vec<Document> = Vec::new();
    let mut inside = false;
    for (i, line) in text.lines().enumerate() {
        if line.trim().is_empty() {
            inside = false;
            continue;
        }
        match documents.last_mut().filter(|_| inside) {
            Some(document) => {
                document.text.push('\n');
                document.text.push_str(line);
            }
            None => {
                documents.push(Document {
                    text: line.to_string(),
                    task: task.to_string(),
                    line: i as u64 + 1,
                });
            }
        }
        inside = true;
    }
    if documents.is_empty() {
        return Err(DataError::Empty { path: path.to_path_buf(), expected: EXPECTED });
    }
    Ok(documents)
}
