//! What a row of the option table says.

use super::Cmd;

/// An option: its name in YAML and on the command line, and everything that is known about it.
#[derive(Debug, Clone, Copy)]
pub struct Opt {
    /// LLaMA-Factory's or Hugging Face's name where it has one.
    pub name: &'static str,
    /// What values it takes.
    pub kind: Kind,
    /// One line for `--help`; for options without a field, the reason.
    pub help: &'static str,
    /// What happens when it is given.
    pub status: Status,
    /// The commands that read it.
    pub commands: &'static [Cmd],
    /// What to do instead of a value that a [`Kind::Choice`] lacks.
    pub instead: &'static str,
}

/// What happens when an option is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It fills the field of its name in this section of the settings.
    Field(Section),
    /// It is accepted with a note: nothing here depends on it, for the reason in `help`.
    NoEffect,
    /// It is an error unless its value is one of these, which ask for nothing; `help` says what to do instead.
    Refused {
        /// Values that switch the feature off, e.g. `false`.
        unless: &'static [&'static str],
    },
    /// An older or another name of this option.
    Renamed(&'static str),
}

/// A section of the settings: the struct that holds the field, and a heading of `--help`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Section {
    /// Options of one small command (`--prompt`, `--input`, …).
    Command,
    /// `ModelArgs`.
    Model,
    /// `DataArgs`.
    Data,
    /// `TaskArgs`.
    Tasks,
    /// `LoraArgs`.
    Lora,
    /// `TrainArgs`.
    Train,
    /// `EvalArgs`.
    Evaluation,
    /// `OutputArgs`.
    Output,
    /// `GenerateArgs`.
    Generate,
    /// `RunArgs`.
    Run,
}

impl Section {
    /// Every section, in the order of `--help`.
    pub const ALL: [Self; 10] = [
        Self::Command,
        Self::Model,
        Self::Data,
        Self::Tasks,
        Self::Lora,
        Self::Train,
        Self::Evaluation,
        Self::Output,
        Self::Generate,
        Self::Run,
    ];

    /// Key of the section in the settings' serde form.
    pub const fn key(self) -> &'static str {
        match self {
            Self::Command => "command",
            Self::Model => "model",
            Self::Data => "data",
            Self::Tasks => "tasks",
            Self::Lora => "lora",
            Self::Train => "train",
            Self::Evaluation => "evaluation",
            Self::Output => "output",
            Self::Generate => "generate",
            Self::Run => "run",
        }
    }

    /// Heading in `--help`.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Command => "This command",
            Self::Model => "Model",
            Self::Data => "Data",
            Self::Tasks => "Tasks",
            Self::Lora => "What is trained",
            Self::Train => "Optimisation",
            Self::Evaluation => "Evaluation and early stopping",
            Self::Output => "Logging and saving",
            Self::Generate => "Completions",
            Self::Run => "Seeds and hardware",
        }
    }
}

/// The type of an option's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `true` or `false`; bare on the command line it is `true`.
    Flag,
    /// A whole number.
    Int,
    /// Any finite number.
    Float,
    /// Text.
    Text,
    /// A file or folder.
    Path,
    /// Texts: a YAML list, or `a,b`.
    List,
    /// Whole numbers: a YAML list, or `1,2,3`.
    IntList,
    /// Numbers by name: a YAML mapping, JSON, or `qa=1.0,summarization=0.8`.
    Numbers,
    /// Numbers in order (`0.5,0.3,0.2`) or by name.
    Shares,
    /// A YAML list of mappings; on the command line, JSON.
    Structure,
    /// One of these names.
    Choice(&'static [&'static str]),
    /// `true`, `false` or a path.
    FlagOrPath,
    /// `true`, `false` or texts: a YAML list, or `a,b`.
    FlagOrList,
    /// One text, or texts by name: a YAML mapping or JSON.
    TextOrMap,
    /// Anything: options that are never read.
    Any,
}

impl Kind {
    /// What a value looks like in `--help`.
    pub fn metavar(self) -> String {
        match self {
            Self::Flag => String::new(),
            Self::Int => "N".into(),
            Self::Float => "X".into(),
            Self::Text => "TEXT".into(),
            Self::Path => "PATH".into(),
            Self::List => "A,B,…".into(),
            Self::IntList => "1,2,…".into(),
            Self::Numbers => "NAME=X,…".into(),
            Self::Shares => "X,Y,…|NAME=X,…".into(),
            Self::Structure => "JSON".into(),
            Self::Choice(names) => names.join("|"),
            Self::FlagOrPath => "true|PATH".into(),
            Self::FlagOrList => "true|A,B,…".into(),
            Self::TextOrMap => "TEXT|{NAME: TEXT,…}".into(),
            Self::Any => "VALUE".into(),
        }
    }

    /// What a value must be, for an error.
    pub fn expected(self) -> String {
        match self {
            Self::Flag => "true or false".into(),
            Self::Int => "a whole number".into(),
            Self::Float => "a number".into(),
            Self::Text => "text".into(),
            Self::Path => "a path".into(),
            Self::List => "a list such as `a,b`".into(),
            Self::IntList => "whole numbers such as `1,2,3`".into(),
            Self::Numbers => "numbers by name such as `qa=1.0,summarization=0.8`".into(),
            Self::Shares => "numbers such as `0.5,0.3,0.2`, or by name such as `qa=0.5,sum=0.5`".into(),
            Self::Structure => "a list of mappings such as `[{at: 0, strategy: balanced}]`".into(),
            Self::Choice(names) => format!("one of {}", names.join(", ")),
            Self::FlagOrPath => "true, false or a path".into(),
            Self::FlagOrList => "true, false or a list such as `a,b`".into(),
            Self::TextOrMap => "text, or texts by name such as `{qa: TEXT}`".into(),
            Self::Any => "a value".into(),
        }
    }
}

impl Opt {
    /// An option that fills a field.
    pub const fn field(section: Section, name: &'static str, kind: Kind, help: &'static str) -> Self {
        Self { name, kind, help, status: Status::Field(section), commands: &[], instead: "" }
    }

    /// A name that other programs know and that changes nothing here.
    pub const fn no_effect(name: &'static str, why: &'static str) -> Self {
        Self { name, kind: Kind::Any, help: why, status: Status::NoEffect, commands: &[], instead: "" }
    }

    /// A feature of other programs that is not here.
    pub const fn refused(name: &'static str, unless: &'static [&'static str], instead: &'static str) -> Self {
        Self {
            name,
            kind: Kind::Any,
            help: instead,
            status: Status::Refused { unless },
            commands: &[],
            instead: "",
        }
    }

    /// Another name of an option.
    pub const fn renamed(name: &'static str, to: &'static str) -> Self {
        Self { name, kind: Kind::Any, help: "", status: Status::Renamed(to), commands: &[], instead: "" }
    }

    /// The commands that read it.
    pub const fn on(mut self, commands: &'static [Cmd]) -> Self {
        self.commands = commands;
        self
    }

    /// What to do instead of a value it does not take.
    pub const fn instead(mut self, hint: &'static str) -> Self {
        self.instead = hint;
        self
    }
}
