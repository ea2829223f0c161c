//! From entries as written to typed settings: each is looked up in the table, then filled in, noted or refused.

use std::collections::HashMap;
use std::path::Path;

use medley_train::config::{ConfigError, Device, TrainConfig};
use serde_json::{Map, Value};

use super::coerce::coerce;
use super::option::{Kind, Opt, Section, Status};
use super::settings::CommandArgs;
use super::{Cmd, Entry, Node, Origin, Settings, UsageError, line::Line, table, yaml};

/// Settings, and what the user should know about how they were read.
#[derive(Debug)]
pub struct Assembled {
    /// Checked settings.
    pub settings: Settings,
    /// One line each, for stderr.
    pub notes: Vec<String>,
}

/// Reads the config file, lets the command line win over it, and checks the result.
///
/// # Errors
/// Every unknown, refused or mistyped option at once; then the first missing or contradictory one.
pub fn assemble(cmd: Cmd, line: Line) -> Result<Assembled, UsageError> {
    let file = line.config.as_deref().map(yaml::read_config).transpose()?.unwrap_or_default();
    assemble_entries(cmd, line.config.as_deref(), file, line.entries)
}

pub(super) fn assemble_entries(
    cmd: Cmd,
    config: Option<&Path>,
    file: Vec<Entry>,
    line: Vec<Entry>,
) -> Result<Assembled, UsageError> {
    let mut gathered =
        Gathered { cmd, sections: Map::new(), origins: HashMap::new(), notes: vec![], unused: vec![] };
    let mut problems = Vec::new();
    for entry in file.into_iter().chain(line) {
        if let Err(problem) = gathered.take(&entry) {
            problems.push(format!("{}: {problem}", entry.origin));
        }
    }
    if !problems.is_empty() {
        return Err(UsageError { problems });
    }
    gathered.require()?;
    gathered.finish(config)
}

struct Gathered {
    cmd: Cmd,
    /// Section key → option name → value.
    sections: Map<String, Value>,
    origins: HashMap<&'static str, Origin>,
    notes: Vec<String>,
    unused: Vec<&'static str>,
}

impl Gathered {
    fn take(&mut self, entry: &Entry) -> Result<(), String> {
        let typed_as_option = matches!(entry.origin, Origin::Option(_));
        let mut opt = lookup(&entry.name, typed_as_option)?;
        if let Status::Renamed(to) = opt.status {
            opt = lookup(to, typed_as_option)?;
        }
        let name = opt.name;
        match opt.status {
            Status::Field(section) => {
                let hint = |problem| {
                    if opt.instead.is_empty() { problem } else { format!("{problem}; {}", opt.instead) }
                };
                let at_key = |problem| if typed_as_option { problem } else { format!("{name}: {problem}") };
                let value = coerce(opt.kind, &entry.value).map_err(|problem| at_key(hint(problem)))?;
                if value != Value::Null {
                    probe(opt, section, &value).map_err(at_key)?;
                }
                if !opt.commands.contains(&self.cmd) {
                    if typed_as_option {
                        return Err(self.misplaced(opt));
                    }
                    self.unused.push(name);
                    return Ok(());
                }
                let fields = self.sections.entry(section.key()).or_insert_with(|| Value::Object(Map::new()));
                if let Value::Object(fields) = fields {
                    // `null` gives an option of the file back its default.
                    match value {
                        Value::Null => fields.remove(name),
                        value => fields.insert(name.to_string(), value),
                    };
                }
                self.origins.insert(name, entry.origin.clone());
            }
            Status::NoEffect => {
                if !asks_for_nothing(&entry.value, &["false", "none"]) {
                    self.notes.push(format!("{}: {name} has no effect here: {}", entry.origin, opt.help));
                }
            }
            Status::Refused { unless } => {
                if !asks_for_nothing(&entry.value, unless) {
                    return Err(format!("`{name}: {}` is not available: {}", entry.value, opt.help));
                }
            }
            Status::Renamed(to) => {
                return Err(format!("`{name}` is another name of `{to}`, which is unknown"));
            }
        }
        Ok(())
    }

    fn misplaced(&self, opt: &Opt) -> String {
        let commands: Vec<String> =
            opt.commands.iter().map(|cmd| format!("`medley {}`", cmd.spec().name)).collect();
        format!("`medley {}` has no such option; it belongs to {}", self.cmd.spec().name, commands.join(", "))
    }

    fn is_set(&self, name: &str) -> bool {
        let Some(Status::Field(section)) = table::find(name).map(|opt| opt.status) else { return false };
        self.sections.get(section.key()).is_some_and(|fields| fields.get(name).is_some())
    }

    fn require(&self) -> Result<(), UsageError> {
        let spec = self.cmd.spec();
        let missing = spec.required.iter().filter(|group| !group.iter().any(|name| self.is_set(name)));
        let problems: Vec<String> = missing
            .map(|group| {
                let names: Vec<String> = group.iter().map(|name| format!("--{name}")).collect();
                let help = table::find(group[0]).map_or("", |opt| opt.help);
                format!("`medley {}` needs {} ({help})", spec.name, names.join(" or "))
            })
            .collect();
        if problems.is_empty() { Ok(()) } else { Err(UsageError { problems }) }
    }

    fn finish(mut self, config: Option<&Path>) -> Result<Assembled, UsageError> {
        if let (Some(path), false) = (config, self.unused.is_empty()) {
            let names = self.unused.join(", ");
            self.notes.push(format!(
                "{}: not used by `medley {}`: {names}",
                path.display(),
                self.cmd.spec().name
            ));
        }
        // Every value was tried in its field before, so this cannot fail on one of them.
        let settings =
            settings_of(std::mem::take(&mut self.sections)).map_err(|e| UsageError::new(e.to_string()))?;
        settings.validate().map_err(|ConfigError { key, problem }| {
            UsageError::new(format!("{}: {problem}", self.place(key)))
        })?;
        self.note_half_precision(&settings);
        Ok(Assembled { settings, notes: self.notes })
    }

    /// Whoever asks for half precision should know when the device has none.
    fn note_half_precision(&mut self, settings: &Settings) {
        let run = &settings.config.run;
        if run.device.resolved() != Device::Cpu {
            return;
        }
        for (name, on) in [("bf16", run.bf16), ("fp16", run.fp16)] {
            if let (true, Some(origin)) = (on, self.origins.get(name)) {
                self.notes.push(format!(
                    "{origin}: {name} has no effect here: the CPU computes in f32, whatever dtype the weights are stored in"
                ));
            }
        }
    }

    /// Where an option was written, with its name; a default has no place.
    fn place(&self, key: &str) -> String {
        match self.origins.get(key) {
            Some(origin @ Origin::File { .. }) => format!("{origin}: {key}"),
            Some(Origin::Option(typed)) => typed.clone(),
            None => key.to_string(),
        }
    }
}

/// Both structs from their serde form, one key a section.
fn settings_of(mut sections: Map<String, Value>) -> Result<Settings, serde_json::Error> {
    let command = sections.remove("command").map(serde_json::from_value::<CommandArgs>).transpose()?;
    let config: TrainConfig = serde_json::from_value(Value::Object(sections))?;
    Ok(Settings { config, command: command.unwrap_or_default() })
}

/// Tries one value in its field alone, so that a value beyond the field's range is traced to its option.
fn probe(opt: &Opt, section: Section, value: &Value) -> Result<(), String> {
    let fields = Map::from_iter([(opt.name.to_string(), value.clone())]);
    let sections = Map::from_iter([(section.key().to_string(), Value::Object(fields))]);
    match settings_of(sections) {
        Ok(_) => Ok(()),
        Err(_) if matches!(opt.kind, Kind::Int | Kind::IntList) => {
            Err(format!("expected {} of at least 0, got `{value}`", opt.kind.expected()))
        }
        Err(error) => Err(error.to_string()),
    }
}

fn lookup(name: &str, typed_as_option: bool) -> Result<&'static Opt, String> {
    let dashes = if typed_as_option { "--" } else { "" };
    table::find(name).ok_or_else(|| match table::nearest(name) {
        Some(near) => format!("unknown option `{name}`; did you mean `{dashes}{near}`?"),
        None => format!("unknown option `{name}`; `medley help train` lists those there are"),
    })
}

/// A value that only spells out that a feature is off, or leaves it alone.
fn asks_for_nothing(value: &Node, off: &[&str]) -> bool {
    let text = value.to_string();
    *value == Node::Null || off.iter().any(|off| text.eq_ignore_ascii_case(off)) || {
        // `0` and `0.0` are one value.
        let number: Option<f64> = text.parse().ok();
        number.is_some() && off.iter().any(|off| off.parse().ok() == number)
    }
}

#[cfg(test)]
mod tests;
