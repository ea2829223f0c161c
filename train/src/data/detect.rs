//! What the rows of a directly named file look like: told by its first row.

use super::error::DataError;
use super::format::Format;
use super::rows::{self, Wanted};
use super::source::{AlpacaColumns, ChatColumns, Formatting};
use serde_json::Value;
use std::path::Path;

/// `sharegpt` or `openai` for a file whose first row has `conversations` or `messages` and no
/// `instruction`, by the keys of its first message; else alpaca.
///
/// # Errors
/// A file that cannot be opened.
pub(super) fn formatting(path: &Path) -> Result<Formatting, DataError> {
    let alpaca = Formatting::Alpaca(AlpacaColumns::default());
    match Format::of(path) {
        // A file of another kind is refused where it is read, since only there is known what is read.
        None | Some((Format::Text, _)) => return Ok(alpaca),
        Some(_) => {}
    }
    let columns = ["messages", "conversations", "instruction"].map(String::from);
    let wanted =
        Wanted { blank_is_missing: columns.to_vec(), columns: columns.to_vec(), text: String::new() };
    // A first row that cannot be read tells nothing; it is an error where it is read, with all others of the file.
    let first = rows::open(path, 0, &wanted, false)?.next_row();
    let Some(row) = first.ok().flatten().and_then(|row| row.object().ok()) else { return Ok(alpaca) };
    let there = |column: &str| row.get(column).filter(|v| !v.is_null());
    if there("instruction").is_some() {
        return Ok(alpaca);
    }
    let Some(column) = ["messages", "conversations"].into_iter().find(|c| there(c).is_some()) else {
        return Ok(alpaca);
    };
    let first = there(column).and_then(|v| v.get(0)).and_then(Value::as_object);
    let formatting = match first {
        Some(message) if message.contains_key("role") => "openai",
        Some(message) if message.contains_key("from") => "sharegpt",
        _ if column == "messages" => "openai",
        _ => "sharegpt",
    };
    Ok(Formatting::Chat(ChatColumns { messages: column.to_string(), ..ChatColumns::named(formatting) }))
}
