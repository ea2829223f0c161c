//! `dataset_info.json`: LLaMA-Factory's register of datasets, its local-file part.
//!
//! LLaMA-Factory passes over keys it does not know; here such a key is an error with the nearest known
//! one, and a key for a feature that is not here is refused by name. Only the entries that a run asks
//! for are looked at. One key is ours: `task_name`, the task of all rows that do not name one.

use super::error::{DataError, nearest};
use super::expand::{self, Choice};
use super::rows::kind;
use super::source::{AlpacaColumns, ChatColumns, DataFile, Formatting, Split};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

const FILE: &str = "dataset_info.json";
/// Keys that LLaMA-Factory knows and that need what is not here, with what to do instead.
const REFUSED: [(&str, &str); 6] = [
    ("hf_hub_url", DOWNLOAD),
    ("ms_hub_url", DOWNLOAD),
    ("om_hub_url", DOWNLOAD),
    (
        "script_url",
        "loading scripts are not run; save the data as JSON Lines or Parquet and name the file in `file_name`",
    ),
    ("cloud_file_name", "data is not fetched from a bucket; copy the file and name it in `file_name`"),
    ("revision", "revisions belong to downloaded data; name a local file or folder in `file_name`"),
];
const DOWNLOAD: &str = "data is not downloaded; fetch it once (`hf download REPOSITORY --repo-type dataset --local-dir FOLDER`) and name the folder, or the file in it, in `file_name`";
const REFUSED_COLUMNS: [&str; 7] = ["tools", "images", "videos", "audios", "chosen", "rejected", "kto_tag"];
const KEYS: [&str; 11] = [
    "file_name",
    "file_sha1",
    "formatting",
    "ranking",
    "subset",
    "split",
    "folder",
    "num_samples",
    "columns",
    "tags",
    "task_name",
];
const COLUMNS: [&str; 7] = ["prompt", "query", "response", "history", "messages", "system", "task_name"];
const TAGS: [&str; 7] =
    ["role_tag", "content_tag", "user_tag", "assistant_tag", "observation_tag", "function_tag", "system_tag"];

/// The files of the datasets `names`, in their order. An entry is one source, however many files it has:
/// `num_samples` and `max_samples` count its rows in all. `split` says whether they are trained or evaluated
/// on, which chooses among the splits of a folder where the entry's own `split` does not.
///
/// # Errors
/// A missing or malformed `dataset_info.json`, an unknown dataset or key, a feature that is not here.
pub(super) fn files_of(
    dataset_dir: &Path,
    names: &[String],
    split: Split,
) -> Result<Vec<DataFile>, DataError> {
    let path = dataset_dir.join(FILE);
    let text = std::fs::read_to_string(&path).map_err(|e| DataError::io(&path, e))?;
    let info: Map<String, Value> = serde_json::from_str(&text).map_err(|e| DataError::Info {
        path: path.clone(),
        key: "the file".to_string(),
        reason: format!("expected a JSON object of datasets: {e}"),
    })?;
    let mut files = Vec::new();
    for name in names {
        let entry = info.get(name).ok_or_else(|| DataError::UnknownDataset {
            path: path.clone(),
            name: name.clone(),
            nearest: nearest(name, info.keys().map(String::as_str)),
            known: info.keys().cloned().collect::<Vec<_>>().join(", "),
        })?;
        let entry = Entry { path: &path, name, map: as_object(&path, name, entry)? };
        files.push(entry.source(dataset_dir, split)?);
    }
    Ok(files)
}

fn as_object<'v>(path: &Path, key: &str, value: &'v Value) -> Result<&'v Map<String, Value>, DataError> {
    value.as_object().ok_or_else(|| DataError::Info {
        path: path.to_path_buf(),
        key: key.to_string(),
        reason: format!("expected an object, got {}", kind(value)),
    })
}

struct Entry<'a> {
    path: &'a Path,
    name: &'a str,
    map: &'a Map<String, Value>,
}

impl Entry<'_> {
    fn error(&self, key: &str, reason: impl Into<String>) -> DataError {
        let key = format!("{}.{key}", self.name);
        DataError::Info { path: self.path.to_path_buf(), key, reason: reason.into() }
    }

    fn source(&self, dataset_dir: &Path, split: Split) -> Result<DataFile, DataError> {
        for key in self.map.keys() {
            if let Some((_, advice)) = REFUSED.iter().find(|(refused, _)| refused == key) {
                return Err(self.error(key, *advice));
            }
            self.check_known("", key, &KEYS)?;
        }
        match self.map.get("ranking") {
            None | Some(Value::Bool(false)) => {}
            Some(_) => return Err(self.error("ranking", "preference data (dpo, kto, rm) is not supported")),
        }
        let choice = match self.text("split")? {
            None => Choice::Usual(split),
            Some(name) if name.contains(['[', '+']) => {
                let reason = "slices and sums of splits are not read; name one split, and use num_samples";
                return Err(self.error("split", reason));
            }
            Some(name) => Choice::Named(name),
        };
        let num_samples = match self.map.get("num_samples") {
            None | Some(Value::Null) => None,
            Some(v) => match v.as_u64().filter(|&n| n > 0) {
                Some(n) => Some(n as usize),
                None => {
                    return Err(self.error("num_samples", format!("expected a number above 0, got {v}")));
                }
            },
        };
        let formatting = self.formatting()?;
        let task = self.text("task_name")?.unwrap_or(self.name).to_string();
        let path = self.path(dataset_dir)?;
        let parts = match if path.exists() { None } else { expand::pattern(&path)? } {
            None => expand::files(&path, choice)?,
            Some(found) if found.is_empty() => {
                return Err(self.error("file_name", format!("no file matches {}", path.display())));
            }
            Some(found) => found,
        };
        Ok(DataFile { path, parts, task, formatting, num_samples })
    }

    /// `file_name`, and in the folder that it names, `subset` and `folder`: folders of a downloaded
    /// repository, where LLaMA-Factory has Hugging Face's loader look them up.
    fn path(&self, dataset_dir: &Path) -> Result<PathBuf, DataError> {
        let file_name = self
            .text("file_name")?
            .ok_or_else(|| self.error("file_name", "is missing; name a file or folder of dataset_dir"))?;
        let mut path = dataset_dir.join(file_name);
        for key in ["subset", "folder"] {
            let Some(name) = self.text(key)? else { continue };
            let inside = path.join(name);
            if !inside.is_dir() {
                let reason =
                    format!("there is no folder {}; remove the key, or correct it", inside.display());
                return Err(self.error(key, reason));
            }
            path = inside;
        }
        Ok(path)
    }

    fn formatting(&self) -> Result<Formatting, DataError> {
        let columns = match self.map.get("columns") {
            None | Some(Value::Null) => None,
            Some(v) => Some(as_object(self.path, &format!("{}.columns", self.name), v)?),
        };
        if let Some(columns) = columns {
            for (key, value) in columns {
                if REFUSED_COLUMNS.contains(&key.as_str()) {
                    let reason = "tools, media and preference data are not supported; remove the column";
                    return Err(self.error(&format!("columns.{key}"), reason));
                }
                self.check_known("columns.", key, &COLUMNS)?;
                if !value.is_string() && !value.is_null() {
                    let reason = format!("expected the name of a column, got {}", kind(value));
                    return Err(self.error(&format!("columns.{key}"), reason));
                }
            }
        }
        // As in LLaMA-Factory, `columns` replaces all default names: what it does not list is not read.
        // `task_name` alone keeps its name, since no file written for LLaMA-Factory would list it.
        let column = |key: &str, default: &str| match columns {
            None => Some(default.to_string()),
            Some(columns) => columns.get(key).and_then(Value::as_str).map(str::to_string),
        };
        let task_name = column("task_name", "task_name").or_else(|| Some("task_name".to_string()));
        match self.text("formatting")?.unwrap_or("alpaca") {
            "alpaca" => Ok(Formatting::Alpaca(AlpacaColumns {
                prompt: column("prompt", "instruction"),
                query: column("query", "input"),
                response: column("response", "output"),
                history: column("history", "history"),
                system: column("system", "system"),
                text: columns.map_or(Some("text".to_string()), |_| column("prompt", "text")),
                task_name,
            })),
            formatting @ ("sharegpt" | "openai") => {
                let mut chat = ChatColumns::named(formatting);
                chat.messages = column("messages", &chat.messages).ok_or_else(|| {
                    self.error("columns.messages", "is missing; name the column that holds the conversation")
                })?;
                chat.system = column("system", "system");
                chat.task_name = task_name;
                self.read_tags(&mut chat)?;
                Ok(Formatting::Chat(chat))
            }
            other => {
                let reason = format!("expected alpaca, sharegpt or openai, got {other:?}");
                Err(self.error("formatting", reason))
            }
        }
    }

    fn read_tags(&self, chat: &mut ChatColumns) -> Result<(), DataError> {
        let Some(value) = self.map.get("tags") else { return Ok(()) };
        for (key, value) in as_object(self.path, &format!("{}.tags", self.name), value)? {
            self.check_known("tags.", key, &TAGS)?;
            let Some(tag) = value.as_str() else {
                let reason = format!("expected a string, got {}", kind(value));
                return Err(self.error(&format!("tags.{key}"), reason));
            };
            let slot = match key.as_str() {
                "role_tag" => &mut chat.role_tag,
                "content_tag" => &mut chat.content_tag,
                "user_tag" => &mut chat.user_tag,
                "assistant_tag" => &mut chat.assistant_tag,
                "system_tag" => &mut chat.system_tag,
                // Roles of tool calls: a message that has one is refused, whatever its name.
                _ => continue,
            };
            *slot = tag.to_string();
        }
        Ok(())
    }

    fn check_known(&self, prefix: &str, key: &str, known: &[&'static str]) -> Result<(), DataError> {
        if known.contains(&key) {
            return Ok(());
        }
        let hint = match nearest(key, known.iter().copied()) {
            Some(near) => format!("did you mean {near:?}?"),
            None => format!("the known keys are {}", known.join(", ")),
        };
        Err(self.error(&format!("{prefix}{key}"), format!("is not a key of this file; {hint}")))
    }

    fn text(&self, key: &str) -> Result<Option<&str>, DataError> {
        match self.map.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(s)) => Ok(Some(s)),
            Some(v) => Err(self.error(key, format!("expected a string, got {}", kind(v)))),
        }
    }
}
