//! From the command line and a YAML file to typed settings, through one table of options.
//!
//! ```text
//! argv ─ line.rs ─┐
//!                 ├─ assemble.rs (table: find, coerce, note, refuse) ─ serde ─ Settings ─ validate
//! YAML ─ yaml.rs ─┘
//! ```
//! An option is one row of [`table`]: parsing, help, defaults shown, notes and refusals all come from it.

mod assemble;
mod coerce;
mod command;
mod help;
mod line;
mod option;
#[cfg(test)]
mod reference;
mod settings;
mod table;
mod yaml;

pub use assemble::assemble;
pub use command::{Cmd, CommandSpec};
pub use help::{command_help, compatibility_help, overview};
pub use line::read_line;
pub use settings::Settings;

use std::fmt;
use std::path::PathBuf;

/// The arguments cannot be used; every problem is a line, each naming where it was written.
#[derive(Debug, PartialEq, Eq)]
pub struct UsageError {
    /// What is wrong, in the order it was written.
    pub problems: Vec<String>,
}

impl UsageError {
    /// One problem.
    pub fn new(problem: impl Into<String>) -> Self {
        Self { problems: vec![problem.into()] }
    }
}

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problems.join("\n       "))
    }
}

impl std::error::Error for UsageError {}

/// Where a value was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A line of the config file.
    File {
        /// The file, as named on the command line.
        path: PathBuf,
        /// Counted from 1.
        line: u64,
    },
    /// The option as typed, e.g. `--lora_rank`.
    Option(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Option(typed) => f.write_str(typed),
        }
    }
}

/// A value as written, before its option says what type it must have.
#[derive(Debug, Clone, PartialEq)]
pub enum Node {
    /// `null`, `~` or nothing.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A number with a point or an exponent.
    Float(f64),
    /// Anything else, and every value of the command line.
    Text(String),
    /// A sequence.
    List(Vec<Node>),
    /// A mapping, in the order written.
    Map(Vec<(String, Node)>),
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool(value) => write!(f, "{value}"),
            Self::Int(value) => write!(f, "{value}"),
            Self::Float(value) => write!(f, "{value}"),
            Self::Text(value) => f.write_str(value),
            Self::List(items) => {
                let items: Vec<String> = items.iter().map(Node::to_string).collect();
                write!(f, "[{}]", items.join(", "))
            }
            Self::Map(entries) => {
                let entries: Vec<String> =
                    entries.iter().map(|(key, value)| format!("{key}: {value}")).collect();
                write!(f, "{{{}}}", entries.join(", "))
            }
        }
    }
}

/// One `name: value` as written, with its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The option's name, dashes already turned into underscores.
    pub name: String,
    /// Its value.
    pub value: Node,
    /// Where it stands.
    pub origin: Origin,
}

#[cfg(test)]
mod tests;
