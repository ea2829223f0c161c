//! Which files a run reads, and how a row of each becomes a conversation.

use super::error::DataError;
use super::info;
use super::rows::kind;
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

/// One file and how it is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataFile {
    /// Where it is.
    pub path: PathBuf,
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
/// Files named directly are looked for in `dataset_dir`, then where the path says, and hold alpaca rows; the task of a row that names
/// none is the file's name up to its first dot (`qa.dev.jsonl` → `qa`), for a dataset its `task_name` in
/// `dataset_info.json`, else the dataset's name.
///
/// # Errors
/// Nothing named, or a `dataset_info.json` that cannot be used.
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
    let mut sources = if names.is_empty() { Vec::new() } else { info::files_of(&args.dataset_dir, names)? };
    for file in files {
        // `dataset_dir` first, as the article's command has it; then as typed, since most people
        // give paths from where they stand and leave dataset_dir at its default.
        let in_dir = args.dataset_dir.join(file);
        let path = if in_dir.exists() { in_dir.clone() } else { file.clone() };
        if let Err(source) = std::fs::metadata(&path) {
            let hint = match file.is_relative() {
                true => format!(" (looked there and, in dataset_dir, at {})", in_dir.display()),
                false => String::new(),
            };
            return Err(DataError::Io { path, source, hint });
        }
        sources.push(DataFile {
            task: task_of(&path),
            path,
            formatting: Formatting::Alpaca(AlpacaColumns::default()),
            num_samples: None,
        });
    }
    Ok(sources)
}

/// The file's name up to its first dot.
fn task_of(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.split('.').find(|part| !part.is_empty()).unwrap_or_default().to_string()
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

    /// The text of a pre-training row, and the task it names.
    ///
    /// # Errors
    /// As [`Formatting::conversation`].
    pub(super) fn text(&self, row: &Map<String, Value>) -> Result<(String, Option<String>), String> {
        let Formatting::Alpaca(AlpacaColumns { text: Some(column), task_name, .. }) = self else {
            return Err("pre-training reads rows with a `text`; use formatting alpaca".to_string());
        };
        let text = text_field(row, Some(column))?.ok_or_else(|| missing(row, &[column]))?;
        Ok((text.to_string(), task_field(row, task_name.as_deref())?))
    }
}

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
    if keys.contains(&"messages") || keys.contains(&"conversations") {
        reason.push_str(
            " (a chat file needs an entry in dataset_info.json with formatting sharegpt or openai)",
        );
    }
    reason
}
