//! Which files a run reads, and how a row of each becomes a conversation.

use super::error::DataError;
use super::expand::{self, Choice};
use super::rows::{Wanted, kind};
use super::{detect, info};
use crate::config::DataArgs;
use medley_model::template::Message;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// Whether a run's training or evaluation data is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// `data_files` and `dataset`.
    Train,
    /// `eval_data_files` and `eval_dataset`.
    Eval,
}

/// One file, or several that are read as one, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataFile {
    /// What was named: the file, or the folder or pattern.
    pub path: PathBuf,
    /// The files, in the order in which they are read.
    pub parts: Vec<PathBuf>,
    /// The task of rows that name none.
    pub task: String,
    /// What a row looks like.
    pub formatting: Formatting,
    /// Draw this many rows at random, each at most once before any comes again.
    pub num_samples: Option<usize>,
}

/// What a row looks like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Formatting {
    /// Instruction, input, output.
    Alpaca(AlpacaColumns),
    /// A list of messages.
    Chat(ChatColumns),
}

/// The columns of an alpaca row; `None`: not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AlpacaColumns {
    /// The instruction.
    pub prompt: Option<String>,
    /// What the instruction is about; joined to it with a line break.
    pub query: Option<String>,
    /// The reply.
    pub response: Option<String>,
    /// Earlier turns: a list of `[prompt, reply]`.
    pub history: Option<String>,
    /// The system message.
    pub system: Option<String>,
    /// The text of a pre-training row.
    pub text: Option<String>,
    /// The task.
    pub task_name: Option<String>,
}

impl Default for AlpacaColumns {
    fn default() -> Self {
        let name = |s: &str| Some(s.to_string());
        AlpacaColumns {
            prompt: name("instruction"),
            query: name("input"),
            response: name("output"),
            history: name("history"),
            system: name("system"),
            text: name("text"),
            task_name: name("task_name"),
        }
    }
}

/// The columns and role names of a chat row (`sharegpt`, `openai`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatColumns {
    /// The list of messages.
    pub messages: String,
    /// The system message; a first message of the system role wins.
    pub system: Option<String>,
    /// The task.
    pub task_name: Option<String>,
    /// Key of a message's role.
    pub role_tag: String,
    /// Key of a message's text.
    pub content_tag: String,
    /// The user's role.
    pub user_tag: String,
    /// The model's role.
    pub assistant_tag: String,
    /// The system role.
    pub system_tag: String,
}

impl ChatColumns {
    /// The defaults of `sharegpt` (LLaMA-Factory's) and of `openai` (the API's own names).
    ///
    /// LLaMA-Factory's `openai` keeps the sharegpt names unless `tags` says otherwise, and appends
    /// "detailed thinking off" to every system message; neither is done here.
    pub fn named(formatting: &str) -> ChatColumns {
        let [messages, role, content, user, assistant] = match formatting {
            "openai" => ["messages", "role", "content", "user", "assistant"],
            _ => ["conversations", "from", "value", "human", "gpt"],
        };
        ChatColumns {
            messages: messages.to_string(),
            system: Some("system".to_string()),
            task_name: Some("task_name".to_string()),
            role_tag: role.to_string(),
            content_tag: content.to_string(),
            user_tag: user.to_string(),
            assistant_tag: assistant.to_string(),
            system_tag: "system".to_string(),
        }
    }
}

/// The files that `args` names: those of the datasets first, then the ones named directly.
///
/// What is named directly is a file, a folder (see [`DataFile::parts`]) or a pattern (`data/*.jsonl`: each
/// file that matches stands for itself), looked for in `dataset_dir`, then where the path says. It holds
/// alpaca rows, or chat rows where its first row has `messages` or `conversations`. `NAME=PATH` gives the
/// task of rows that name none; otherwise it is the file's or folder's name up to its first dot
/// (`qa.dev.jsonl` → `qa`), for a dataset its `task_name` in `dataset_info.json`, else the dataset's name.
///
/// Of a folder with several splits, `data_files` take `train`, `eval_data_files` `validation`, else `test`.
///
/// # Errors
/// Nothing named, a file that is missing, a folder that cannot be used, or a `dataset_info.json` that cannot
/// be used.
pub fn data_files(args: &DataArgs, split: Split) -> Result<Vec<DataFile>, DataError> {
    let (names, files) = match split {
        Split::Train => (&args.dataset, &args.data_files),
        Split::Eval => (&args.eval_dataset, &args.eval_data_files),
    };
    if names.is_empty() && files.is_empty() {
        return Err(match split {
            Split::Train => DataError::NoSource { files: "data_files", dataset: "dataset" },
            Split::Eval => DataError::NoSource { files: "eval_data_files", dataset: "eval_dataset" },
        });
    }
    let mut sources =
        if names.is_empty() { Vec::new() } else { info::files_of(&args.dataset_dir, names, split)? };
    for file in files {
        let named = Named::new(file, &args.dataset_dir)?;
        for path in named.paths {
            let parts = expand::files(&path, Choice::Usual(split))?;
            sources.push(DataFile {
                task: named.task.clone().unwrap_or_else(|| task_of(&path)),
                formatting: parts.first().map_or_else(
                    || Ok(Formatting::Alpaca(AlpacaColumns::default())),
                    |part| detect::formatting(part),
                )?,
                parts,
                path,
                num_samples: None,
            });
        }
    }
    Ok(sources)
}

/// What one entry of `data_files` names.
struct Named {
    task: Option<String>,
    paths: Vec<PathBuf>,
}

impl Named {
    fn new(entry: &Path, dataset_dir: &Path) -> Result<Named, DataError> {
        // A path that is there is meant as it stands, whatever is in its name.
        let there =
            |path: &Path| [dataset_dir.join(path), path.to_path_buf()].into_iter().find(|p| p.exists());
        if let Some(path) = there(entry) {
            return Ok(Named { task: None, paths: vec![path] });
        }
        let (task, file) = match entry.to_str().and_then(|text| text.split_once('=')) {
            Some((task, file)) if !task.is_empty() && !task.contains('/') => {
                (Some(task.to_string()), Path::new(file))
            }
            _ => (None, entry),
        };
        if let Some(path) = there(file) {
            return Ok(Named { task, paths: vec![path] });
        }
        // `dataset_dir` first, as the article's command has it; then as typed, since most people
        // give paths from where they stand and leave dataset_dir at its default.
        let in_dir = dataset_dir.join(file);
        let is_pattern = expand::pattern(file)?;
        for found in [expand::pattern(&in_dir)?, is_pattern.clone()].into_iter().flatten() {
            if !found.is_empty() {
                return Ok(Named { task, paths: found });
            }
        }
        let also = match file.is_relative() {
            true => format!(" (looked there and, in dataset_dir, at {})", in_dir.display()),
            false => String::new(),
        };
        if is_pattern.is_some() {
            return Err(DataError::file(file, format!("no file matches this pattern{also}")));
        }
        // In the system's words.
        let source = std::fs::metadata(file).err().unwrap_or_else(|| std::io::ErrorKind::NotFound.into());
        Err(DataError::Io { path: file.to_path_buf(), source, hint: also })
    }
}

/// The file's name up to its first dot, without `-00000-of-00002`.
fn task_of(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let stem = name.split('.').find(|part| !part.is_empty()).unwrap_or_default();
    expand::without_shard(stem).unwrap_or(stem).to_string()
}

/// A row as a conversation that ends with the reply, and the task it names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RowContent {
    pub messages: Vec<Message>,
    pub task: Option<String>,
}

impl Formatting {
    /// Makes a conversation of a row.
    ///
    /// # Errors
    /// What is missing or of the wrong type, as text for an error that names file and line.
    pub(super) fn conversation(&self, row: &Map<String, Value>) -> Result<RowContent, String> {
        match self {
            Formatting::Alpaca(columns) => columns.conversation(row),
            Formatting::Chat(columns) => columns.conversation(row),
        }
    }

    /// What is read of a row.
    pub(super) fn wanted(&self) -> Wanted {
        let (columns, not_text) = match self {
            Formatting::Alpaca(c) => (
                vec![&c.prompt, &c.query, &c.response, &c.history, &c.system, &c.text, &c.task_name],
                vec![&c.history, &c.task_name],
            ),
            Formatting::Chat(c) => (vec![&c.system, &c.task_name], vec![&c.task_name]),
        };
        let names =
            |columns: Vec<&Option<String>>| columns.into_iter().flatten().cloned().collect::<Vec<_>>();
        let (mut columns, mut blank_is_missing) = (names(columns), names(not_text));
        if let Formatting::Chat(chat) = self {
            columns.extend([chat.messages.clone(), TEXT.to_string()]);
            blank_is_missing.push(chat.messages.clone());
        }
        let text = match self {
            Formatting::Alpaca(AlpacaColumns { text: Some(text), .. }) => text.clone(),
            _ => TEXT.to_string(),
        };
        Wanted { columns, blank_is_missing, text }
    }

    /// The text of a pre-training row, and the task it names.
    ///
    /// # Errors
    /// As [`Formatting::conversation`].
    pub(super) fn text(&self, row: &Map<String, Value>) -> Result<(String, Option<String>), String> {
        let (column, task_name) = match self {
            Formatting::Alpaca(c) => (c.text.as_deref(), c.task_name.as_deref()),
            Formatting::Chat(c) => (Some(TEXT), c.task_name.as_deref()),
        };
        let column =
            column.ok_or("`columns` names no `prompt`, which is where pre-training reads its text")?;
        let text = text_field(row, Some(column))?.ok_or_else(|| missing(row, &[column]))?;
        Ok((text.to_string(), task_field(row, task_name)?))
    }
}

/// The column of a pre-training row, where `columns` says nothing.
const TEXT: &str = "text";

impl AlpacaColumns {
    fn conversation(&self, row: &Map<String, Value>) -> Result<RowContent, String> {
        let mut messages = Vec::new();
        if let Some(system) = text_field(row, self.system.as_deref())?.filter(|s| !s.is_empty()) {
            messages.push(Message::system(system));
        }
        if let Some(history) = field(row, self.history.as_deref()) {
            push_history(history, self.history.as_deref().unwrap_or_default(), &mut messages)?;
        }
        let prompt = text_field(row, self.prompt.as_deref())?;
        let query = text_field(row, self.query.as_deref())?;
        if prompt.is_none() && query.is_none() {
            let columns: Vec<&str> =
                [&self.prompt, &self.query].into_iter().flatten().map(String::as_str).collect();
            return Err(missing(row, &columns));
        }
        let parts: Vec<&str> = [prompt, query].into_iter().flatten().filter(|s| !s.is_empty()).collect();
        messages.push(Message::user(parts.join("\n")));
        let response = text_field(row, self.response.as_deref())?
            .ok_or_else(|| missing(row, &[self.response.as_deref().unwrap_or("output")]))?;
        messages.push(Message::assistant(response));
        Ok(RowContent { messages, task: task_field(row, self.task_name.as_deref())? })
    }
}

fn push_history(history: &Value, column: &str, messages: &mut Vec<Message>) -> Result<(), String> {
    let expected =
        |got: &Value| format!("{column:?}: expected a list of [prompt, reply] pairs, got {}", kind(got));
    for turn in history.as_array().ok_or_else(|| expected(history))? {
        match turn.as_array().map(Vec::as_slice) {
            Some([Value::String(prompt), Value::String(reply)]) => {
                messages.push(Message::user(prompt.as_str()));
                messages.push(Message::assistant(reply.as_str()));
            }
            Some(pair) if pair.len() != 2 => {
                return Err(format!(
                    "{column:?}: expected [prompt, reply] pairs, got a list of {}",
                    pair.len()
                ));
            }
            Some(pair) => {
                let odd = pair.iter().find(|v| !v.is_string()).unwrap_or(turn);
                return Err(format!("{column:?}: expected pairs of strings, got {} in one", kind(odd)));
            }
            None => return Err(expected(turn)),
        }
    }
    Ok(())
}

impl ChatColumns {
    fn conversation(&self, row: &Map<String, Value>) -> Result<RowContent, String> {
        if is_preference(row) {
            return Err(PREFERENCE.to_string());
        }
        let list = field(row, Some(&self.messages)).ok_or_else(|| missing(row, &[&self.messages]))?;
        let list = list
            .as_array()
            .ok_or_else(|| format!("{:?}: expected a list of messages, got {}", self.messages, kind(list)))?;
        let mut messages: Vec<Message> = Vec::with_capacity(list.len() + 1);
        for (i, value) in list.iter().enumerate() {
            let at = |reason: String| format!("message {i} of {:?}: {reason}", self.messages);
            let map =
                value.as_object().ok_or_else(|| at(format!("expected an object, got {}", kind(value))))?;
            let text = |tag: &str| {
                let text = text_field(map, Some(tag)).map_err(&at)?;
                text.ok_or_else(|| at(missing(map, &[tag])))
            };
            let (role, content) = (text(&self.role_tag)?, text(&self.content_tag)?);
            let message = match role {
                r if r == self.user_tag => Message::user(content),
                r if r == self.assistant_tag => Message::assistant(content),
                r if r == self.system_tag && i == 0 => Message::system(content),
                r if r == self.system_tag => {
                    return Err(at("a system message can only be the first".to_string()));
                }
                r => {
                    return Err(at(format!(
                        "expected the role {:?}, {:?} or {:?}, got {r:?} (tool calls are not supported)",
                        self.user_tag, self.assistant_tag, self.system_tag
                    )));
                }
            };
            messages.push(message);
        }
        let has_system = messages.first().is_some_and(|m| m.role == medley_model::template::Role::System);
        if !has_system
            && let Some(system) = text_field(row, self.system.as_deref())?.filter(|s| !s.is_empty())
        {
            messages.insert(0, Message::system(system));
        }
        Ok(RowContent { messages, task: task_field(row, self.task_name.as_deref())? })
    }
}

/// A column's value; a null counts as absent.
fn field<'r>(row: &'r Map<String, Value>, column: Option<&str>) -> Option<&'r Value> {
    row.get(column?).filter(|v| !v.is_null())
}

fn text_field<'r>(row: &'r Map<String, Value>, column: Option<&str>) -> Result<Option<&'r str>, String> {
    match field(row, column) {
        None => Ok(None),
        Some(Value::String(s)) => Ok(Some(s)),
        Some(v) => Err(format!("{:?}: expected a string, got {}", column.unwrap_or_default(), kind(v))),
    }
}

fn task_field(row: &Map<String, Value>, column: Option<&str>) -> Result<Option<String>, String> {
    match text_field(row, column)? {
        Some("") => {
            Err(format!("{:?}: expected the name of a task, got an empty string", column.unwrap_or_default()))
        }
        task => Ok(task.map(str::to_string)),
    }
}

fn missing(row: &Map<String, Value>, columns: &[&str]) -> String {
    let wanted: Vec<String> = columns.iter().map(|c| format!("{c:?}")).collect();
    let keys: Vec<&str> = row.keys().map(String::as_str).collect();
    let mut reason = format!(
        "no {}; the row has {}",
        wanted.join(" and no "),
        if keys.is_empty() { "no keys".to_string() } else { keys.join(", ") }
    );
    if is_preference(row) {
        reason.push_str("; ");
        reason.push_str(PREFERENCE);
    } else if keys.contains(&"messages") || keys.contains(&"conversations") {
        reason.push_str(
            " (a file of which only some rows are chats needs to be split; or give it an entry in dataset_info.json with formatting sharegpt or openai)",
        );
    }
    reason
}

const PREFERENCE: &str = "rows with \"chosen\" and \"rejected\" are preference data (dpo, kto, rm), which is not supported; keep the chosen reply as the output";

fn is_preference(row: &Map<String, Value>) -> bool {
    row.contains_key("chosen") && row.contains_key("rejected")
}
