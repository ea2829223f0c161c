//! Where tokenised examples lie: three columns (ids, label spans, entries), and a fourth of the documents
//! that pre-training joined. Each column is a vector, or, once the ids outgrow a threshold, a file that is
//! written while the rows are tokenised and then mapped.

use super::cache::Spill;
use super::error::DataError;
use bytemuck::{Pod, Zeroable};
use medley_model::template::LabelSpan;
use medley_tensor::io::MappedFile;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// A [`LabelSpan`] as it is stored; `token` is [`OWN_IDS`] where each position's label is its own id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Span {
    start: u32,
    end: u32,
    token: u32,
}

/// No vocabulary has this id: ids index a tensor of fewer rows.
const OWN_IDS: u32 = u32::MAX;

impl From<&LabelSpan> for Span {
    fn from(span: &LabelSpan) -> Span {
        let (start, end) = (span.positions.start, span.positions.end);
        Span { start, end, token: span.token.unwrap_or(OWN_IDS) }
    }
}

impl From<Span> for LabelSpan {
    fn from(span: Span) -> LabelSpan {
        LabelSpan {
            positions: span.start..span.end,
            token: Some(span.token).filter(|&token| token != OWN_IDS),
        }
    }
}

/// One example: where its ids and spans end, where it came from, and the prints by which it is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Entry {
    pub ids_end: u64,
    pub labels_end: u64,
    pub line: u64,
    /// Print of ids and spans: what is trained on.
    pub content: u64,
    /// Prints of the text in its normal form (see [`super::duplicates`]); 0: there are none.
    pub prompt: u64,
    pub row: u64,
    pub file: u32,
    pub task: u16,
    pub truncated: u16,
}

/// One document of pre-training: its print in normal form, and where it came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Mark {
    pub print: u64,
    pub line: u64,
    pub file: u32,
    pub task: u32,
}

/// The first eight bytes of a SHA-256: stable over versions and machines, unlike the standard hasher.
pub(super) fn print(parts: &[&[u8]]) -> u64 {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    let digest = hasher.finalize();
    digest[..8].iter().fold(0, |value, &byte| value << 8 | u64::from(byte))
}

/// A column in memory or in a mapped file of little-endian values.
#[derive(Debug)]
enum Column<T> {
    Memory(Vec<T>),
    Mapped(MappedFile),
}

impl<T> Default for Column<T> {
    fn default() -> Self {
        Column::Memory(Vec::new())
    }
}

impl<T: Pod> Column<T> {
    fn as_slice(&self) -> &[T] {
        match self {
            Column::Memory(values) => values,
            // Length and alignment were looked at when the file was mapped.
            Column::Mapped(map) => bytemuck::try_cast_slice(map.bytes()).unwrap_or_default(),
        }
    }

    fn map(path: &Path) -> Result<Column<T>, DataError> {
        let map = MappedFile::open(path)?;
        if map.bytes().is_empty() {
            // An empty slice lies nowhere, and so need not be aligned.
            return Ok(Column::default());
        }
        if bytemuck::try_cast_slice::<u8, T>(map.bytes()).is_err() {
            let reason = format!("its length, {}, is no multiple of a value's", map.bytes().len());
            return Err(DataError::io(path, std::io::Error::new(std::io::ErrorKind::InvalidData, reason)));
        }
        Ok(Column::Mapped(map))
    }
}

/// All columns.
#[derive(Debug, Default)]
pub(super) struct Store {
    ids: Column<u32>,
    spans: Column<Span>,
    entries: Column<Entry>,
    marks: Column<Mark>,
}

/// Names of the columns' files, in the order in which their digests are kept.
pub(super) const COLUMNS: [&str; 4] = ["ids.bin", "spans.bin", "entries.bin", "documents.bin"];

impl Store {
    pub(super) fn entries(&self) -> &[Entry] {
        self.entries.as_slice()
    }

    pub(super) fn marks(&self) -> &[Mark] {
        self.marks.as_slice()
    }

    /// Ids, spans and entry of one example; `None` past the end.
    pub(super) fn get(&self, index: usize) -> Option<(&[u32], &[Span], &Entry)> {
        let entries = self.entries();
        let entry = entries.get(index)?;
        let (ids, spans) = match index.checked_sub(1).and_then(|i| entries.get(i)) {
            Some(before) => (before.ids_end as usize, before.labels_end as usize),
            None => (0, 0),
        };
        let ids = self.ids.as_slice().get(ids..entry.ids_end as usize)?;
        let spans = self.spans.as_slice().get(spans..entry.labels_end as usize)?;
        Some((ids, spans, entry))
    }

    pub(super) fn is_mapped(&self) -> bool {
        matches!(self.ids, Column::Mapped(_))
    }

    /// Maps the files of `folder`.
    pub(super) fn map(folder: &Path) -> Result<Store, DataError> {
        let at = |column: usize| folder.join(COLUMNS[column]);
        Ok(Store {
            ids: Column::map(&at(0))?,
            spans: Column::map(&at(1))?,
            entries: Column::map(&at(2))?,
            marks: Column::map(&at(3))?,
        })
    }
}

/// Bytes of a file between two digests: they are made and checked block by block, by all threads.
pub(super) const BLOCK: usize = 8 << 20;

/// The digest of a stream: the SHA-256 of the SHA-256 of its blocks.
#[derive(Default)]
struct BlockHasher {
    block: Sha256,
    filled: usize,
    blocks: Sha256,
}

impl BlockHasher {
    fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (now, rest) = bytes.split_at(bytes.len().min(BLOCK - self.filled));
            self.block.update(now);
            self.filled += now.len();
            if self.filled == BLOCK {
                self.blocks.update(self.block.finalize_reset());
                self.filled = 0;
            }
            bytes = rest;
        }
    }

    fn finish(mut self) -> String {
        if self.filled > 0 {
            self.blocks.update(self.block.finalize_reset());
        }
        hex(&self.blocks.finalize())
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// A column's file and its digest.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ColumnDigest {
    /// Bytes of the file.
    pub bytes: u64,
    /// See [`BlockHasher`]; [`super::cache::digest_of`] makes the same of a file.
    pub sha256: String,
}

struct ColumnFile {
    file: File,
    path: PathBuf,
    hasher: BlockHasher,
    bytes: u64,
}

/// A column that grows: all of it in memory, or what its file does not have yet.
struct Growing<T> {
    values: Vec<T>,
    file: Option<ColumnFile>,
}

impl<T> Default for Growing<T> {
    fn default() -> Self {
        Growing { values: Vec::new(), file: None }
    }
}

impl<T: Pod> Growing<T> {
    /// Bytes kept in memory before they go to the file.
    const BUFFER: usize = 1 << 20;

    fn start(&mut self, path: PathBuf) -> std::io::Result<()> {
        let file = File::create(&path)?;
        self.file = Some(ColumnFile { file, path, hasher: BlockHasher::default(), bytes: 0 });
        self.flush()
    }

    fn flush_if_full(&mut self) -> std::io::Result<()> {
        match self.file.is_some() && self.values.len() * size_of::<T>() >= Self::BUFFER {
            true => self.flush(),
            false => Ok(()),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        let Some(out) = &mut self.file else { return Ok(()) };
        let bytes: &[u8] = bytemuck::cast_slice(&self.values);
        out.file.write_all(bytes)?;
        out.hasher.update(bytes);
        out.bytes += bytes.len() as u64;
        // A first flush leaves a vector of the threshold's size behind.
        self.values = Vec::with_capacity(Self::BUFFER / size_of::<T>() + 1);
        Ok(())
    }

    fn sync(&mut self) -> std::io::Result<()> {
        self.flush()?;
        self.file.as_ref().map_or(Ok(()), |out| out.file.sync_all())
    }

    fn digest(&mut self) -> ColumnDigest {
        match self.file.take() {
            Some(out) => ColumnDigest { bytes: out.bytes, sha256: out.hasher.finish() },
            None => ColumnDigest { bytes: 0, sha256: BlockHasher::default().finish() },
        }
    }

    /// Takes what the file has back into memory, in front of what it does not have.
    fn recall(&mut self) -> Result<(), DataError> {
        let Some(out) = self.file.take() else { return Ok(()) };
        let written = out.bytes as usize / size_of::<T>();
        let mut all: Vec<T> = Vec::new();
        all.try_reserve_exact(written + self.values.len())
            .map_err(|_| DataError::NoRoom { bytes: out.bytes })?;
        all.resize(written, T::zeroed());
        let mut file = File::open(&out.path).map_err(|e| DataError::io(&out.path, e))?;
        file.read_exact(bytemuck::cast_slice_mut(&mut all)).map_err(|e| DataError::io(&out.path, e))?;
        all.extend_from_slice(&self.values);
        self.values = all;
        Ok(())
    }
}

/// Columns that grow, in memory at first and then, where a [`Spill`] says where, in files.
#[derive(Default)]
pub(super) struct StoreBuilder {
    ids: Growing<u32>,
    spans: Growing<Span>,
    entries: Growing<Entry>,
    marks: Growing<Mark>,
    ids_len: u64,
    spans_len: u64,
    pub(super) entries_len: usize,
    spill: Option<Spill>,
    on_disk: bool,
    /// What went wrong with the files, where something did.
    trouble: Option<String>,
}

/// The finished columns: in memory, or files that stand in a folder and wait for their final name.
pub(super) enum Finished {
    Memory { store: Store, trouble: Option<String> },
    Disk { spill: Spill, columns: [ColumnDigest; 4] },
}

impl StoreBuilder {
    pub(super) fn new(spill: Option<Spill>) -> StoreBuilder {
        StoreBuilder { spill, ..StoreBuilder::default() }
    }

    /// Appends an example; `entry` says where it came from, its ends are set here.
    pub(super) fn push(&mut self, ids: &[u32], labels: &[LabelSpan], entry: Entry) -> Result<(), DataError> {
        self.ids.values.extend_from_slice(ids);
        let first = self.spans.values.len();
        self.spans.values.extend(labels.iter().map(Span::from));
        self.ids_len += ids.len() as u64;
        self.spans_len += labels.len() as u64;
        let spans = bytemuck::cast_slice(&self.spans.values[first..]);
        let content = print(&[bytemuck::cast_slice(ids), spans]);
        let (ids_end, labels_end) = (self.ids_len, self.spans_len);
        self.entries.values.push(Entry { ids_end, labels_end, content, ..entry });
        self.entries_len += 1;
        self.after_push()
    }

    /// Appends a document of pre-training.
    pub(super) fn mark(&mut self, mark: Mark) -> Result<(), DataError> {
        self.marks.values.push(mark);
        self.after_push()
    }

    fn after_push(&mut self) -> Result<(), DataError> {
        let result = if self.on_disk {
            self.flush_if_full()
        } else if self.spill.as_ref().is_some_and(|s| self.ids_len * 4 >= s.threshold) {
            self.start()
        } else {
            return Ok(());
        };
        match result {
            Ok(()) => Ok(()),
            Err(e) => self.give_up_disk(&e),
        }
    }

    fn start(&mut self) -> std::io::Result<()> {
        let Some(spill) = &mut self.spill else { return Ok(()) };
        let folder = spill.begin()?.to_path_buf();
        self.on_disk = true;
        self.ids.start(folder.join(COLUMNS[0]))?;
        self.spans.start(folder.join(COLUMNS[1]))?;
        self.entries.start(folder.join(COLUMNS[2]))?;
        self.marks.start(folder.join(COLUMNS[3]))
    }

    fn flush_if_full(&mut self) -> std::io::Result<()> {
        self.spill.as_ref().map_or(Ok(()), |s| s.check_room(self.ids_len * 4))?;
        self.ids.flush_if_full()?;
        self.spans.flush_if_full()?;
        self.entries.flush_if_full()?;
        self.marks.flush_if_full()
    }

    /// Takes everything back into memory: a full disk must not cost the run.
    fn give_up_disk(&mut self, error: &std::io::Error) -> Result<(), DataError> {
        self.ids.recall()?;
        self.spans.recall()?;
        self.entries.recall()?;
        self.marks.recall()?;
        self.on_disk = false;
        let place = self.spill.take().map(|s| s.root().display().to_string()).unwrap_or_default();
        self.trouble = Some(format!(
            "the tokenised data is kept in memory ({} MB): {place} cannot be written: {error}; free space, or \
             name another folder in tokenized_path or MEDLEY_CACHE",
            (self.ids_len * 4) >> 20
        ));
        Ok(())
    }

    /// Ends the columns. What failed to reach the disk is in memory again.
    pub(super) fn finish(mut self) -> Result<Finished, DataError> {
        if self.on_disk {
            let synced = self
                .ids
                .sync()
                .and_then(|()| self.spans.sync())
                .and_then(|()| self.entries.sync())
                .and_then(|()| self.marks.sync());
            if let Err(e) = synced {
                self.give_up_disk(&e)?;
            }
        }
        match (self.on_disk, self.spill.take()) {
            (true, Some(spill)) => {
                let columns =
                    [self.ids.digest(), self.spans.digest(), self.entries.digest(), self.marks.digest()];
                Ok(Finished::Disk { spill, columns })
            }
            _ => {
                let trouble = self.trouble.take();
                Ok(Finished::Memory { store: self.into_memory(), trouble })
            }
        }
    }

    fn into_memory(self) -> Store {
        Store {
            ids: Column::Memory(self.ids.values),
            spans: Column::Memory(self.spans.values),
            entries: Column::Memory(self.entries.values),
            marks: Column::Memory(self.marks.values),
        }
    }
}
