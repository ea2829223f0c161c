//! From a name to the files behind it: a file, a folder of shards, a folder that Hugging Face's
//! `save_to_disk` wrote, or a pattern.

use super::error::DataError;
use super::format::Format;
use super::source::Split;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Which part of a folder that holds several splits is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Choice<'s> {
    /// This one.
    Named(&'s str),
    /// The one that goes by the usual name: `train`, or for evaluation `validation`, else `test`.
    Usual(Split),
}

/// The data files at `path`, in order: the file itself; of a folder all data files, sorted by name, or
/// in the order that its `state.json` gives.
///
/// # Errors
/// A folder without data files, with several types of them or with files that are none; a split that is
/// not there, or is asked of what has no splits; a shard that is missing.
pub(super) fn files(path: &Path, choice: Choice<'_>) -> Result<Vec<PathBuf>, DataError> {
    if !path.is_dir() {
        std::fs::metadata(path).map_err(|e| DataError::io(path, e))?;
        return match choice {
            Choice::Named(split) if split != "train" => Err(no_splits(path, split)),
            _ => Ok(vec![path.to_path_buf()]),
        };
    }
    if path.join("dataset_dict.json").is_file() {
        let chosen = path.join(choose(path, &dict_splits(path)?, choice)?);
        return saved(&chosen);
    }
    if path.join("state.json").is_file() {
        return match choice {
            // The folder's own split has no name that matters: it is the folder.
            Choice::Named(split) if split != "train" => Err(no_splits(path, split)),
            _ => saved(path),
        };
    }
    let found = of_one_type(path)?;
    let by_split = shards(&found);
    match (by_split.len(), choice) {
        (2.., _) => {
            let names: Vec<String> = by_split.keys().cloned().collect();
            let chosen = choose(path, &names, choice)?;
            Ok(by_split.get(&chosen).cloned().unwrap_or_default())
        }
        (1, Choice::Named(split)) if by_split.contains_key(split) => Ok(found),
        (_, Choice::Named(split)) if split != "train" => Err(no_splits(path, split)),
        _ => Ok(found),
    }
}

/// The files that match a pattern (`*`, `?`, `[ab]`, `**`), sorted; `None` where `path` is not a pattern.
///
/// # Errors
/// A pattern that is malformed or that nothing matches.
pub(super) fn pattern(path: &Path) -> Result<Option<Vec<PathBuf>>, DataError> {
    let Some(text) = path.to_str().filter(|t| t.contains(['*', '?', '['])) else { return Ok(None) };
    let matches = glob::glob(text).map_err(|e| DataError::file(path, format!("not a pattern: {e}")))?;
    let mut found = Vec::new();
    for entry in matches {
        found.push(entry.map_err(|e| DataError::io(e.path().to_path_buf().as_path(), e.into()))?);
    }
    found.sort();
    Ok(Some(found))
}

fn no_splits(path: &Path, split: &str) -> DataError {
    DataError::file(
        path,
        format!("there is no split {split:?} in it; remove `split`, or name the split's own file"),
    )
}

fn choose(path: &Path, names: &[String], choice: Choice<'_>) -> Result<String, DataError> {
    let usual: &[&str] = match choice {
        Choice::Named(name) => &[name],
        Choice::Usual(Split::Train) => &["train"],
        Choice::Usual(Split::Eval) => &["validation", "test"],
    };
    if let Some(name) = usual.iter().find(|u| names.iter().any(|n| n == *u)) {
        return Ok((*name).to_string());
    }
    match (names, choice) {
        ([only], Choice::Usual(_)) => Ok(only.clone()),
        _ => Err(DataError::file(
            path,
            format!("no split {}; the folder has {}; name one of them", usual.join(" or "), names.join(", ")),
        )),
    }
}

/// The splits that `dataset_dict.json` names.
fn dict_splits(folder: &Path) -> Result<Vec<String>, DataError> {
    let path = folder.join("dataset_dict.json");
    let splits = json(&path)?
        .get("splits")
        .and_then(Value::as_array)
        .map(|splits| splits.iter().filter_map(Value::as_str).map(str::to_string).collect::<Vec<String>>());
    match splits {
        Some(splits) if !splits.is_empty() => Ok(splits),
        _ => Err(DataError::file(&path, "expected a list of names under \"splits\"")),
    }
}

/// The shards of a folder that `save_to_disk` wrote, as its `state.json` lists them.
fn saved(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    let path = folder.join("state.json");
    let state = json(&path)?;
    if state.get("_indices_data_files").is_some_and(|v| !v.is_null()) {
        let reason =
            "the dataset has an index of rows beside its files; write it again with a current `datasets`";
        return Err(DataError::file(&path, reason));
    }
    let shard = |file: &Value| file.get("filename")?.as_str().map(|name| folder.join(name));
    let shards: Option<Vec<PathBuf>> = state
        .get("_data_files")
        .and_then(Value::as_array)
        .and_then(|files| files.iter().map(shard).collect());
    match shards {
        Some(shards) if !shards.is_empty() => {
            for shard in &shards {
                std::fs::metadata(shard).map_err(|e| DataError::io(shard, e))?;
            }
            Ok(shards)
        }
        _ => Err(DataError::file(&path, "expected a list of {\"filename\": …} under \"_data_files\"")),
    }
}

fn json(path: &Path) -> Result<Value, DataError> {
    let text = std::fs::read_to_string(path).map_err(|e| DataError::io(path, e))?;
    serde_json::from_str(&text).map_err(|e| DataError::file(path, format!("not valid JSON: {e}")))
}

/// What may lie beside data without being data.
fn is_description(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name.starts_with('.')
        || name.ends_with(".md")
        || name.starts_with("license")
        || matches!(name.as_str(), "dataset_info.json" | "dataset_infos.json")
}

/// The data files of a folder, sorted by name, all of one type.
fn of_one_type(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    let mut found: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|e| DataError::io(folder, e))? {
        let path = entry.map_err(|e| DataError::io(folder, e))?.path();
        if path.is_file() && !is_description(&path.file_name().unwrap_or_default().to_string_lossy()) {
            found.push(path);
        }
    }
    found.sort();
    let mut first: Option<(&'static str, &Path)> = None;
    for path in &found {
        let (format, _) = Format::readable(path, true)?;
        let (family, earlier) = *first.get_or_insert((format.family(), path));
        if family != format.family() {
            let name = |p: &Path| p.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let reason = format!(
                "a folder of one type of file is expected, and it has {} and {}; name the files, or give a pattern such as \"*.{family}\"",
                name(earlier),
                name(path)
            );
            return Err(DataError::file(folder, reason));
        }
    }
    if found.is_empty() {
        let reason = "there are no data files in the folder itself; name the folder that holds them";
        return Err(DataError::file(folder, reason));
    }
    Ok(found)
}

/// The files by split, where all are named `<split>-00000-of-00002.<ending>` as the Hugging Face Hub names
/// shards; otherwise nothing.
fn shards(files: &[PathBuf]) -> BTreeMap<String, Vec<PathBuf>> {
    let mut by_split: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for path in files {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let stem = name.split('.').next().unwrap_or_default();
        match without_shard(stem) {
            Some(split) => by_split.entry(split.to_string()).or_default().push(path.clone()),
            None => return BTreeMap::new(),
        }
    }
    by_split
}

/// `train` of `train-00000-of-00002`; `None` for a name without such an ending.
pub(super) fn without_shard(stem: &str) -> Option<&str> {
    let is_number = |text: &str| text.len() >= 5 && text.bytes().all(|b| b.is_ascii_digit());
    let (front, total) = stem.rsplit_once("-of-")?;
    let (split, shard) = front.rsplit_once('-')?;
    (is_number(total) && is_number(shard) && !split.is_empty()).then_some(split)
}
