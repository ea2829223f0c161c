//! The `pt` stage: plain text as blocks of tokens.

use super::cache::{CacheOptions, Key};
use super::dataset::{Dataset, DatasetBuilder, TaskId, Tasks, cached};
use super::duplicates::document_print;
use super::error::DataError;
use super::load::{Findings, LoadOptions};
use super::rows::Row;
use super::select;
use super::source::DataFile;
use super::store::{Entry, Mark};
use medley_model::template::LabelSpan;
use medley_model::tokenizer::Tokenizer;
use rayon::prelude::*;
use std::collections::{HashSet, VecDeque};

/// How text becomes examples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PtOptions {
    /// The most ids of an example.
    pub cutoff_len: usize,
    /// Join the documents of a task, each ended by eos, and cut the stream into blocks of `cutoff_len`
    /// (LLaMA-Factory's default for `pt`). Without, each document is an example, cut to `cutoff_len`.
    pub packing: bool,
    /// Leave out documents that repeat an earlier one, case and white space apart.
    pub drop_duplicates: bool,
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
            for document in documents? {
                out.push(document?);
            }
        }
    }
    Ok(out)
}

/// Reads and tokenises `files` for pre-training, in memory.
///
/// Packed, the documents of each task form one stream, in the order of files and documents, with an eos
/// after each; every position of a block is learned. A block stands where its last document does; the
/// last, short block of each task at the end. Where the tokenizer asks for it (`add_bos_token`), the
/// first token of each block is replaced by bos, as LLaMA-Factory does; unpacked, bos is put in front.
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
    load_pt_cached(files, tokenizer, pt, options, &CacheOptions::default(), tasks)
}

/// As [`load_pt`], from the cache where it has the data (see [`super::load_sft_cached`]).
///
/// # Errors
/// As [`load_pt`].
pub fn load_pt_cached(
    files: &[DataFile],
    tokenizer: &Tokenizer,
    pt: PtOptions,
    options: &LoadOptions,
    cache: &CacheOptions,
    tasks: &mut Tasks,
) -> Result<Dataset, DataError> {
    let key = |tasks: &Tasks| {
        let mut key = Key::new("pt", files, tasks)?;
        key.add(&options.key(files));
        key.add(&format!("{pt:?}"));
        key.tokenizer(tokenizer)?;
        let probe = tokenizer.encode("  Ünïcode 12345\n\t<s>", true);
        key.add(&format!("{:?}", probe.map_err(|e| e.to_string())));
        Ok(key)
    };
    cached(cache, select::paths(files), tasks, key, |builder, tasks| {
        read_pt(builder, files, Some(tokenizer), pt, options, tasks, None)
    })
}

/// Reads every document and notes all that is wrong, instead of stopping at the first; as
/// [`super::check_sft`], without a tokenizer what it has no say in, and without keeping ids.
///
/// # Errors
/// A tokenizer without eos.
pub fn check_pt(
    files: &[DataFile],
    tokenizer: Option<&Tokenizer>,
    pt: PtOptions,
    options: &LoadOptions,
    most: usize,
    tasks: &mut Tasks,
) -> Result<(Dataset, Findings), DataError> {
    let mut findings = Findings::new(most);
    let builder = DatasetBuilder::new(select::paths(files), None);
    let dataset = read_pt(builder, files, tokenizer, pt, options, tasks, Some(&mut findings))?;
    Ok((dataset, findings))
}

fn read_pt(
    mut builder: DatasetBuilder,
    files: &[DataFile],
    tokenizer: Option<&Tokenizer>,
    pt: PtOptions,
    options: &LoadOptions,
    tasks: &mut Tasks,
    mut findings: Option<&mut Findings>,
) -> Result<Dataset, DataError> {
    let eos = match tokenizer {
        Some(tokenizer) => Some(tokenizer.eos().ok_or(DataError::NoEos)?.id),
        None => None,
    };
    let bos = tokenizer.filter(|t| t.add_bos_token()).and_then(Tokenizer::bos).map(|t| t.id);
    let all_paths = select::paths(files);
    let blocks = Blocks { length: pt.cutoff_len, bos };
    let mut streams: Vec<Stream> = Vec::new();
    let mut seen: HashSet<u64> = HashSet::new();
    let (mut tokens, check) = (0, findings.is_some());
    for index in 0..files.len() {
        let chunks = match (documents_of(files, index, options), &mut findings) {
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
                    findings.rows += 1;
                    findings.problem(e);
                    continue;
                }
                (Err(e), None) => return Err(e),
            };
            let encode = |document: Result<Document, DataError>| -> Result<_, DataError> {
                let document = document?;
                let ids = tokenizer.map_or(Ok(Vec::new()), |t| t.encode(&document.text, true))?;
                Ok((ids, document_print(&document.text), document))
            };
            let encoded: Vec<_> = chunk.into_par_iter().map(encode).collect();
            for result in encoded {
                if let Some(findings) = &mut findings {
                    findings.rows += 1;
                }
                let (mut ids, print, document) = match (result, &mut findings) {
                    (Ok(encoded), _) => encoded,
                    (Err(e), Some(findings)) => {
                        findings.problem(e);
                        continue;
                    }
                    (Err(e), None) => return Err(e),
                };
                let task = tasks.id(&document.task)?;
                ids.extend(eos);
                tokens += ids.len();
                let (file, line) = (document.file, document.line);
                builder.report_mut(task).rows += 1;
                if pt.drop_duplicates && !seen.insert(print) {
                    builder.report_mut(task).repeated += 1;
                    continue;
                }
                builder.mark(Mark { print, line, file, task: u32::from(task.0) })?;
                let mut entry = Entry { line, file, task: task.0, ..Entry::default() };
                if pt.packing {
                    if streams.len() <= task.index() {
                        streams.resize_with(task.index() + 1, Stream::default);
                    }
                    if !check {
                        streams[task.index()].add(task, &ids, file, line, blocks, &mut builder)?;
                    }
                    continue;
                }
                ids.splice(0..0, bos);
                if ids.len() > pt.cutoff_len {
                    builder.report_mut(task).truncated += 1;
                    entry.truncated = 1;
                    if let Some(findings) = &mut findings {
                        let most = findings.most;
                        findings.cut.add(most, &all_paths[file as usize], line);
                    }
                }
                ids.truncate(pt.cutoff_len);
                if !check {
                    push_block(&mut builder, &ids, entry)?;
                }
            }
        }
    }
    for (task, stream) in streams.iter_mut().enumerate() {
        if let Some(entry) = stream.entry(task as u16) {
            push_block(&mut builder, &blocks.begun(std::mem::take(&mut stream.ids)), entry)?;
        }
    }
    if builder.is_empty() && !check {
        return Err(DataError::TooShort { tokens });
    }
    builder.finish(tasks)
}

/// How a stream is cut.
#[derive(Debug, Clone, Copy)]
struct Blocks {
    length: usize,
    bos: Option<u32>,
}

impl Blocks {
    /// The block with its first token replaced by bos, where there is one.
    fn begun(self, mut ids: Vec<u32>) -> Vec<u32> {
        if let (Some(bos), Some(first)) = (self.bos, ids.first_mut()) {
            *first = bos;
        }
        ids
    }
}

/// The documents of one task, joined, as far as they are not cut into blocks yet.
#[derive(Default)]
struct Stream {
    ids: Vec<u32>,
    /// Where the documents begin: position in `ids` (0 for one that began in an earlier block), file, line.
    starts: VecDeque<(usize, u32, u64)>,
}

impl Stream {
    fn add(
        &mut self,
        task: TaskId,
        ids: &[u32],
        file: u32,
        line: u64,
        blocks: Blocks,
        builder: &mut DatasetBuilder,
    ) -> Result<(), DataError> {
        self.starts.push_back((self.ids.len(), file, line));
        self.ids.extend_from_slice(ids);
        let length = blocks.length;
        let mut cut = 0;
        while self.ids.len() - cut > length {
            // The document that the block begins in is the last that starts at or before it.
            while self.starts.get(1).is_some_and(|&(start, _, _)| start <= cut) {
                self.starts.pop_front();
            }
            if let Some(entry) = self.entry(task.0) {
                push_block(builder, &blocks.begun(self.ids[cut..cut + length].to_vec()), entry)?;
            }
            cut += length;
        }
        self.ids.drain(..cut);
        while self.starts.get(1).is_some_and(|&(start, _, _)| start <= cut) {
            self.starts.pop_front();
        }
        self.starts.iter_mut().for_each(|(start, _, _)| *start = start.saturating_sub(cut));
        Ok(())
    }

    /// Where the first of the ids came from, as the entry of a block of `task`; `None` where there are none.
    fn entry(&self, task: u16) -> Option<Entry> {
        let &(_, file, line) = self.starts.front().filter(|_| !self.ids.is_empty())?;
        Some(Entry { line, file, task, ..Entry::default() })
    }
}

/// Stores a block that is learned throughout; a block of one token has nothing to predict.
fn push_block(builder: &mut DatasetBuilder, ids: &[u32], entry: Entry) -> Result<(), DataError> {
    if ids.len() < 2 {
        return Ok(());
    }
    builder.push(ids, &[LabelSpan { positions: 0..ids.len() as u32, token: None }], entry)
}

/// The documents of a source, a chunk at a time, those that cannot be used as errors.
fn documents_of<'f>(
    files: &'f [DataFile],
    index: usize,
    options: &LoadOptions,
) -> Result<impl Iterator<Item = Result<Vec<Result<Document, DataError>>, DataError>> + 'f, DataError> {
    let source = &files[index];
    let document = |row: &Row| {
        let (text, task) = source.formatting.text(&row.object()?).map_err(|reason| row.error(reason))?;
        let task = task.unwrap_or_else(|| source.task.clone());
        Ok(Document { text, task, line: row.line, file: row.file })
    };
    let chunks = select::chunks(files, index, options, true)?;
    // With their errors: the first bad row is to be reported, not the first that a thread met.
    Ok(chunks.map(move |chunk| Ok(chunk?.par_iter().map(document).collect())))
}
