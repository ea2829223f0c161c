//! TensorBoard event files: `events.out.tfevents.<unixtime>.<host>.<pid>.<n>`, written as the run goes.
//!
//! A file is a sequence of TFRecords (length, masked CRC-32C of the length, data, masked CRC-32C of the data;
//! tensorflow/core/lib/io/record_writer.h), each holding one `Event`. Names of scalars are those of Hugging Face's
//! `TensorBoardCallback`: `train/loss`, `train/loss/<task>`, `eval/loss`, `eval/<task>_loss`.

mod crc32c;
mod event;

use crate::state::LogEntry;
use crate::{Error, Result};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// One event file, open for appending.
#[derive(Debug)]
pub struct EventWriter {
    path: PathBuf,
    file: File,
}

impl EventWriter {
    /// Starts an event file in `folder`. Readers forget what older files of the folder hold from `first_step` on.
    ///
    /// # Errors
    /// The folder or the file cannot be made.
    pub fn create(folder: &Path, first_step: u64) -> Result<Self> {
        std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
        let (path, file) = new_file(folder)?;
        let mut writer = Self { path, file };
        let now = wall_time();
        writer.record(&event::file_version(now))?;
        writer.record(&event::session_start(now, first_step))?;
        Ok(writer)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes an entry's finite numbers as scalars of its step.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn entry(&mut self, entry: &LogEntry) -> Result<()> {
        let mut values = vec![(tag("epoch"), entry.epoch)];
        values.extend(entry.values().filter(|(_, value)| value.is_finite()).map(|(name, v)| (tag(name), v)));
        self.record(&event::scalars(wall_time(), entry.step, &values))
    }

    /// Writes a text in Markdown, shown under `name`.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn text(&mut self, name: &str, text: &str) -> Result<()> {
        self.record(&event::text(wall_time(), 0, &format!("{name}/text_summary"), text))
    }

    /// Appends a record in one write: a killed process leaves whole records, which is all that readers need.
    fn record(&mut self, data: &[u8]) -> Result<()> {
        self.file.write_all(&record(data)).map_err(Error::io(&self.path))
    }
}

/// The TFRecord of `data`.
fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut bytes = Vec::with_capacity(data.len() + 16);
    bytes.extend(length);
    bytes.extend(crc32c::masked(&length).to_le_bytes());
    bytes.extend(data);
    bytes.extend(crc32c::masked(data).to_le_bytes());
    bytes
}

/// `eval_loss` is `eval/loss`, and what is no evaluation's is `train/…`, as in `rewrite_logs` of transformers'
/// `integrations/integration_utils.py`.
fn tag(name: &str) -> String {
    match name.strip_prefix("eval_") {
        Some(rest) => format!("eval/{rest}"),
        None => format!("train/{name}"),
    }
}

/// A file that no other run writes. Readers take a folder's files in the order of their names, so one begun in the
/// same second by the same process gets the next number.
fn new_file(folder: &Path) -> Result<(PathBuf, File)> {
    let (seconds, host, process) = (wall_time() as u64, host_name(), std::process::id());
    let mut number = 0;
    loop {
        let path = folder.join(format!("events.out.tfevents.{seconds}.{host}.{process}.{number}"));
        match File::options().create_new(true).append(true).open(&path) {
            Ok(file) => return Ok((path, file)),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => number += 1,
            Err(error) => return Err(Error::io(&path)(error)),
        }
    }
}

/// Seconds since 1970.
fn wall_time() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// The machine's name, only for telling files apart: `localhost` where it is not to be had.
fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .or_else(|_| std::fs::read_to_string("/etc/hostname"));
    let name =
        name.ok().or_else(|| std::env::var("HOSTNAME").ok()).or_else(|| std::env::var("COMPUTERNAME").ok());
    let kept: String = name
        .iter()
        .flat_map(|name| name.trim().chars())
        .map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' })
        .collect();
    if kept.is_empty() { "localhost".into() } else { kept }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_framed_as_tensorflow_does() {
        // tf.io.TFRecordWriter on b"medley"; see tests/reference/tensorboard_events.py.
        let hex: String = record(b"medley").iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "06000000000000007369d5376d65646c65792377b509");
    }

    /// The records of a file, checked.
    fn records(path: &Path) -> Vec<Vec<u8>> {
        let bytes = std::fs::read(path).unwrap();
        let mut rest = bytes.as_slice();
        let mut all = vec![];
        while !rest.is_empty() {
            let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            let data = &rest[12..12 + length];
            assert_eq!(record(data), rest[..length + 16]);
            all.push(data.to_vec());
            rest = &rest[length + 16..];
        }
        all
    }

    #[test]
    fn a_run_is_a_file_of_events() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("runs");
        let mut writer = EventWriter::create(&folder, 0).unwrap();
        writer.text("args", "lora_rank: 8").unwrap();
        writer.entry(&LogEntry::new(10, 0.5).with("loss", 1.5).with("eval_qa_loss", f64::NAN)).unwrap();
        writer.entry(&LogEntry::new(10, 0.5).with("eval_qa_loss", 2.0)).unwrap();
        let found = records(writer.path());
        assert_eq!(found.len(), 5);
        let holds =
            |record: &[u8], text: &str| record.windows(text.len()).any(|part| part == text.as_bytes());
        assert!(holds(&found[0], "brain.Event:2"));
        assert!(holds(&found[2], "args/text_summary") && holds(&found[2], "lora_rank: 8"));
        assert!(holds(&found[3], "train/loss") && !holds(&found[3], "eval/"));
        assert!(holds(&found[4], "eval/qa_loss"));
        // A second writer, in the same second, does not touch the first one's file.
        let second = EventWriter::create(&folder, 11).unwrap();
        assert_ne!(second.path(), writer.path());
        assert_eq!(records(writer.path()).len(), 5);
        let name = second.path().file_name().unwrap().to_string_lossy().into_owned();
        assert!(name.starts_with("events.out.tfevents."), "{name}");
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = EventWriter::create(&file.path().join("runs"), 0).unwrap_err().to_string();
        assert!(error.contains("runs"), "{error}");
    }
}
