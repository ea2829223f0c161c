//! The cache of tokenised data: a folder an input, named by what its content depends on.
//!
//! ```text
//! <root>/<key>/ids.bin        u32 a token
//!              spans.bin      start, end, label id or 2³²−1 for the position's own (u32 each)
//!              entries.bin    an example each, 56 bytes
//!              documents.bin  a document of pre-training each, 24 bytes
//!              meta.json      tasks, counts, and the digest of each of the above
//! ```
//!
//! The key is a SHA-256 over the contents of the files (not their paths), how their rows are read, the
//! template's texts, the tokenizer's files, every option of rendering, and a version. Values are
//! little-endian. A folder is written under another name, synced and renamed, so that it is whole or
//! absent; runs that make the same one at once replace each other's by an equal one.

use super::dataset::{TaskReport, Tasks};
use super::error::DataError;
use super::format::Format;
use super::source::DataFile;
use super::store::{BLOCK, COLUMNS, ColumnDigest, Store, hex};
use medley_model::template::{Message, Renderer};
use medley_model::tokenizer::Tokenizer;
use medley_tensor::io::{sync_folder, write_atomic};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Raised when the files' layout or the way from rows to ids changes.
const FORMAT: u32 = 1;
const META: &str = "meta.json";
/// What a run that was killed left behind is removed once it is so old.
const STALE: Duration = Duration::from_secs(24 * 3600);

/// Bytes of token ids from which a data set is written to the cache and mapped instead of held in memory.
pub const CACHE_THRESHOLD: u64 = 64 << 20;

/// Whether and where tokenised data is stored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CacheOptions {
    /// Folder of the cache; `None`: everything stays in memory.
    pub root: Option<PathBuf>,
    /// Bytes of token ids from which a data set is stored; 0 stores every one.
    pub threshold: u64,
    /// Tokenise again even where the cache has the data.
    pub overwrite: bool,
}

impl CacheOptions {
    /// The folder that `tokenized_path` names, where all data is stored whatever its size; else
    /// `$MEDLEY_CACHE/tokenized`, else `$XDG_CACHE_HOME/medley/tokenized`, else
    /// `~/.cache/medley/tokenized`, for data above [`CACHE_THRESHOLD`].
    pub fn new(tokenized_path: Option<&Path>, overwrite: bool) -> CacheOptions {
        if let Some(path) = tokenized_path {
            return CacheOptions { root: Some(path.to_path_buf()), threshold: 0, overwrite };
        }
        let variable = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let root = variable("MEDLEY_CACHE").or_else(|| {
            let caches = variable("XDG_CACHE_HOME").or_else(|| variable("HOME").map(|h| h.join(".cache")));
            caches.map(|c| c.join("medley"))
        });
        CacheOptions { root: root.map(|r| r.join("tokenized")), threshold: CACHE_THRESHOLD, overwrite }
    }
}

/// Where a data set that outgrows memory goes, and under which name.
pub(super) struct Spill {
    pub(super) threshold: u64,
    root: PathBuf,
    key: String,
    /// The folder while it is written; removed when this is dropped.
    folder: Option<tempfile::TempDir>,
    /// Bytes of ids after which the disk plays full.
    #[cfg(test)]
    pub(super) capacity: Option<u64>,
}

impl Spill {
    pub(super) fn new(root: &Path, key: String, threshold: u64) -> Spill {
        Spill {
            threshold,
            root: root.to_path_buf(),
            key,
            folder: None,
            #[cfg(test)]
            capacity: None,
        }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Makes the folder that the columns are written to.
    pub(super) fn begin(&mut self) -> std::io::Result<&Path> {
        std::fs::create_dir_all(&self.root)?;
        remove_stale(&self.root);
        let prefix = format!(".{}.", &self.key[..16]);
        let folder = tempfile::Builder::new().prefix(&prefix).suffix(".tmp").tempdir_in(&self.root)?;
        Ok(self.folder.insert(folder).path())
    }

    #[cfg(not(test))]
    pub(super) fn check_room(&self, _bytes: u64) -> std::io::Result<()> {
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn check_room(&self, bytes: u64) -> std::io::Result<()> {
        match self.capacity.is_some_and(|most| bytes > most) {
            true => Err(std::io::ErrorKind::StorageFull.into()),
            false => Ok(()),
        }
    }

    /// Gives the written columns their name, and maps them. Where that fails they are mapped without one:
    /// the data is good for this run; the second value says why the next must make it again.
    pub(super) fn publish(mut self, mut meta: Meta) -> Result<(Store, Option<String>), DataError> {
        let Some(folder) = self.folder.take() else { return Ok((Store::default(), None)) };
        meta.key.clone_from(&self.key);
        let target = self.root.join(&self.key);
        // Before it gets its name: from then on another run may put its own in its place.
        let store = Store::map(folder.path())?;
        let published = write_meta(folder.path(), &meta).and_then(|()| put(folder.path(), &target));
        match published {
            Ok(()) => {
                // It has another name now: there is nothing left to remove.
                let _ = folder.keep();
                Ok((store, None))
            }
            Err(reason) => {
                let text = format!("the tokenised data is not kept for the next run: {reason}");
                Ok((store, Some(text)))
            }
        }
    }
}

fn write_meta(folder: &Path, meta: &Meta) -> Result<(), String> {
    let text = serde_json::to_vec_pretty(meta).map_err(|e| e.to_string())?;
    write_atomic(&folder.join(META), &text).map_err(|e| e.to_string())
}

/// Renames `folder` to `target`, whatever is there.
fn put(folder: &Path, target: &Path) -> Result<(), String> {
    // Another run may put its own in place between the two renames: then once more.
    for _ in 0..5 {
        let Err(first) = std::fs::rename(folder, target) else {
            return sync_folder(target.parent()).map_err(|e| e.to_string());
        };
        if !target.exists() {
            return Err(format!("{}: {first}", target.display()));
        }
        let aside = tempfile::Builder::new()
            .prefix(".old.")
            .suffix(".tmp")
            .tempdir_in(target.parent().unwrap_or(Path::new(".")))
            .map_err(|e| format!("{}: {e}", target.display()))?;
        match std::fs::rename(target, aside.path().join("old")) {
            // Gone meanwhile: as good.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(format!("{}: {e}", target.display())),
            Ok(()) => {}
        }
    }
    Err(format!("{}: other runs keep replacing it", target.display()))
}

/// Removes folders that killed runs left half-written. Best effort: they only take room.
fn remove_stale(root: &Path) {
    let Ok(list) = std::fs::read_dir(root) else { return };
    for entry in list.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with('.') && name.ends_with(".tmp") && last_change(&entry.path()) >= Some(STALE) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// How long ago the newest of a folder's files was written.
fn last_change(folder: &Path) -> Option<Duration> {
    let files = std::fs::read_dir(folder).ok()?.flatten().map(|f| f.path());
    let times =
        files.chain([folder.to_path_buf()]).filter_map(|p| std::fs::metadata(p).ok()?.modified().ok());
    SystemTime::now().duration_since(times.max()?).ok()
}

/// What stands beside the columns.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Meta {
    pub format: u32,
    pub key: String,
    /// All tasks, in the order of their ids.
    pub tasks: Vec<String>,
    pub reports: Vec<TaskReport>,
    pub longest: usize,
    pub largest_id: u32,
    pub columns: Vec<ColumnDigest>,
}

impl Meta {
    pub(super) fn new(tasks: &Tasks, reports: &[TaskReport], columns: [ColumnDigest; 4]) -> Meta {
        let (tasks, reports) = (tasks.names().to_vec(), reports.to_vec());
        Meta { format: FORMAT, tasks, reports, columns: columns.to_vec(), ..Meta::default() }
    }
}

/// The stored data of `key`; `None` where there is none.
///
/// # Errors
/// Why what is there cannot be used, as text: it is made again then.
pub(super) fn open(root: &Path, key: &str) -> Result<Option<(Store, Meta)>, String> {
    let folder = root.join(key);
    let text = match std::fs::read(folder.join(META)) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && !folder.exists() => return Ok(None),
        Err(e) => return Err(format!("{META}: {e}")),
    };
    let meta: Meta = serde_json::from_slice(&text).map_err(|e| format!("{META}: {e}"))?;
    if meta.format != FORMAT || meta.key != key || meta.columns.len() != COLUMNS.len() {
        return Err(format!("{META} belongs to other data"));
    }
    for (name, wanted) in COLUMNS.iter().zip(&meta.columns) {
        let found = digest_of(&folder.join(name)).map_err(|e| e.to_string())?;
        if found != *wanted {
            return Err(format!("{name} has changed since it was written"));
        }
    }
    let store = Store::map(&folder).map_err(|e| e.to_string())?;
    Ok(Some((store, meta)))
}

/// The digest of a file's content, its blocks hashed by all threads. Reads instead of mapping: what is
/// only passed over once should not fill the run's memory.
pub(super) fn digest_of(path: &Path) -> Result<ColumnDigest, DataError> {
    let error = |e| DataError::io(path, e);
    let bytes = std::fs::metadata(path).map_err(error)?.len();
    let digests: Vec<std::io::Result<_>> = (0..bytes.div_ceil(BLOCK as u64))
        .into_par_iter()
        .map(|block| {
            let start = block * BLOCK as u64;
            let mut file = File::open(path)?;
            file.seek(SeekFrom::Start(start))?;
            let (mut left, mut hasher) = ((bytes - start).min(BLOCK as u64) as usize, Sha256::new());
            let mut buffer = vec![0; left.min(1 << 18)];
            while left > 0 {
                let part = left.min(buffer.len());
                file.read_exact(&mut buffer[..part])?;
                hasher.update(&buffer[..part]);
                left -= part;
            }
            Ok(hasher.finalize())
        })
        .collect();
    let mut blocks = Sha256::new();
    for digest in digests {
        blocks.update(digest.map_err(error)?);
    }
    Ok(ColumnDigest { bytes, sha256: hex(&blocks.finalize()) })
}

/// Gathers what a data set depends on.
pub(super) struct Key(Sha256);

impl Key {
    /// A key of data of this `kind`, from `files`, whose tasks are numbered after those of `tasks`.
    pub(super) fn new(kind: &str, files: &[DataFile], tasks: &Tasks) -> Result<Key, DataError> {
        let mut key = Key(Sha256::new());
        key.add(&format!("medley {} format {FORMAT} {kind}", env!("CARGO_PKG_VERSION")));
        for file in files {
            // Everything but the paths: the same rows under another name are the same data.
            let nameless = DataFile { path: PathBuf::new(), parts: Vec::new(), ..file.clone() };
            key.add(&format!("{nameless:?} of {}", file.parts.len()));
            for part in &file.parts {
                key.add(&format!("{:?}", Format::of(part)));
                key.content(part)?;
            }
        }
        key.add(&format!("{:?}", tasks.names()));
        Ok(key)
    }

    pub(super) fn add(&mut self, text: &str) {
        self.0.update((text.len() as u64).to_le_bytes());
        self.0.update(text);
    }

    fn content(&mut self, path: &Path) -> Result<(), DataError> {
        let ColumnDigest { bytes, sha256 } = digest_of(path)?;
        self.add(&format!("{bytes} {sha256}"));
        Ok(())
    }

    /// The files that a tokenizer is read from.
    pub(super) fn tokenizer(&mut self, tokenizer: &Tokenizer) -> Result<(), DataError> {
        const FILES: [&str; 6] = [
            "tokenizer.json",
            "tokenizer_config.json",
            "special_tokens_map.json",
            "generation_config.json",
            "config.json",
            "chat_template.jinja",
        ];
        for name in FILES {
            let path = tokenizer.folder().join(name);
            self.add(name);
            if path.is_file() {
                self.content(&path)?;
            }
        }
        Ok(())
    }

    /// The template and the options, and what they make of two conversations: code that renders
    /// otherwise than before gives another key.
    pub(super) fn renderer(&mut self, renderer: &Renderer) -> Result<(), DataError> {
        self.add(&renderer.fingerprint());
        self.tokenizer(renderer.tokenizer())?;
        let turns = [("  Is 12345 even?\n", "No. "), ("Ünïcode\u{1F600} \t<s>", "y")];
        let turns: Vec<Message> =
            turns.iter().flat_map(|(q, a)| [Message::user(*q), Message::assistant(*a)]).collect();
        let with_system: Vec<Message> =
            std::iter::once(Message::system("Be kind.")).chain(turns.clone()).collect();
        for probe in [&turns[..2], &turns, &with_system] {
            // A template may refuse a probe; that it does is part of the key.
            self.add(&format!("{:?}", renderer.render(probe, Some("qa")).map_err(|e| e.to_string())));
        }
        Ok(())
    }

    pub(super) fn finish(self) -> String {
        hex(&self.0.finalize())
    }
}
