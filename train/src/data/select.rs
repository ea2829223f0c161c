//! Which rows of a source are used, and their way to the worker threads in chunks.
//!
//! Files are read from front to back, a chunk at a time, so that their size does not matter. Only a draw
//! (`num_samples`) keeps rows: it reads the files twice, to count the rows and to fetch the drawn ones,
//! and holds as many as were asked for.

use super::dataset::{STREAM_SAMPLES, stream};
use super::error::DataError;
use super::format::Format;
use super::load::LoadOptions;
use super::rows::{self, Row, RowReader, Wanted};
use super::source::DataFile;
use medley_tensor::rng::Philox;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Rows of a chunk, at most: bounds the memory of rendered rows that are not yet stored.
const CHUNK_ROWS: usize = 8192;
/// Bytes of a chunk's rows beyond which it ends.
const CHUNK_BYTES: usize = 32 << 20;

/// The paths of all files of all sources; a row's `file` is an index into it.
pub(super) fn paths(sources: &[DataFile]) -> Vec<PathBuf> {
    sources.iter().flat_map(|s| s.parts.iter().cloned()).collect()
}

/// The rows of `sources[index]` that are used, in chunks: `num_samples` drawn at random, of these (or of
/// the rows in their order) the first `max_samples`. `texts`: `.txt` files may be among them.
///
/// As in LLaMA-Factory, drawing more rows than there are takes all of them in random order and fills up
/// with repeats (each drawn on its own).
pub(super) fn chunks<'s>(
    sources: &'s [DataFile],
    index: usize,
    options: &LoadOptions,
    texts: bool,
) -> Result<Chunks<'s>, DataError> {
    let source = &sources[index];
    let first = sources[..index].iter().map(|s| s.parts.len()).sum::<usize>();
    let mut all = Chunks {
        source,
        wanted: source.formatting.wanted(),
        texts,
        first_file: first as u32,
        next_part: 0,
        reader: None,
        left: options.max_samples.unwrap_or(usize::MAX),
        drawn: None,
        failed: None,
        found: false,
        ended: false,
    };
    if let Some(count) = source.num_samples {
        let mut rng = Philox::new(options.seed, stream(STREAM_SAMPLES, index as u64, 0));
        all.drawn = Some(draw(&mut all, count, &mut rng)?.into_iter());
    }
    Ok(all)
}

/// The rows of one source, in chunks.
pub(super) struct Chunks<'s> {
    source: &'s DataFile,
    wanted: Wanted,
    texts: bool,
    first_file: u32,
    next_part: usize,
    reader: Option<Box<dyn RowReader>>,
    /// Rows that may still be handed out.
    left: usize,
    drawn: Option<std::vec::IntoIter<Row>>,
    /// An error that waits until the rows before it have been handed out.
    failed: Option<DataError>,
    /// Whether there was a row.
    found: bool,
    ended: bool,
}

impl Chunks<'_> {
    /// The next row of the files, whether used or not.
    fn next_row(&mut self) -> Result<Option<Row>, DataError> {
        loop {
            if let Some(reader) = &mut self.reader
                && let Some(row) = reader.next_row()?
            {
                self.found = true;
                return Ok(Some(row));
            }
            self.reader = None;
            let Some(path) = self.source.parts.get(self.next_part) else {
                if !self.found {
                    return Err(self.empty());
                }
                return Ok(None);
            };
            let file = self.first_file + self.next_part as u32;
            self.reader = Some(rows::open(path, file, &self.wanted, self.texts)?);
            self.next_part += 1;
        }
    }

    fn empty(&self) -> DataError {
        let path: &Path = self.source.parts.first().map_or(&self.source.path, PathBuf::as_path);
        let expected = Format::of(path).map_or("rows", |(format, _)| format.expected());
        DataError::Empty { path: self.source.path.clone(), expected }
    }

    fn rewind(&mut self) {
        (self.next_part, self.reader) = (0, None);
    }

    fn next_used(&mut self) -> Result<Option<Row>, DataError> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        match &mut self.drawn {
            Some(drawn) => Ok(drawn.next()),
            None => self.next_row(),
        }
    }
}

/// `count` rows in the order drawn, `all.left` of them at most.
fn draw(all: &mut Chunks<'_>, count: usize, rng: &mut Philox) -> Result<Vec<Row>, DataError> {
    let mut rows = 0;
    while all.next_row()?.is_some() {
        rows += 1;
    }
    all.rewind();
    let mut numbers: Vec<usize> = (0..rows).collect();
    rng.shuffle(&mut numbers);
    numbers.truncate(count);
    while numbers.len() < count {
        numbers.push(rng.below(rows));
    }
    numbers.truncate(all.left);
    let mut kept: HashMap<usize, Option<Row>> = numbers.iter().map(|&n| (n, None)).collect();
    let mut number = 0;
    while let Some(row) = all.next_row()? {
        if let Some(slot) = kept.get_mut(&number) {
            *slot = Some(row);
        }
        number += 1;
    }
    Ok(numbers.iter().filter_map(|n| kept.get(n).cloned().flatten()).collect())
}

impl Iterator for Chunks<'_> {
    type Item = Result<Vec<Row>, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(error) = self.failed.take() {
            self.ended = true;
            return Some(Err(error));
        }
        if self.ended {
            return None;
        }
        let (mut rows, mut bytes) = (Vec::new(), 0);
        while rows.len() < CHUNK_ROWS && bytes < CHUNK_BYTES {
            match self.next_used() {
                Ok(Some(row)) => {
                    bytes += row.size();
                    rows.push(row);
                }
                Ok(None) => {
                    self.ended = true;
                    break;
                }
                Err(error) => {
                    // What is wrong with an earlier row is to be reported first.
                    self.failed = Some(error);
                    break;
                }
            }
        }
        match (rows.is_empty(), self.failed.take()) {
            (false, failed) => {
                self.failed = failed;
                Some(Ok(rows))
            }
            (true, Some(error)) => {
                self.ended = true;
                Some(Err(error))
            }
            (true, None) => None,
        }
    }
}
