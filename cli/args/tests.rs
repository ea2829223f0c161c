//! The table against the structs it fills and against the names that other programs' users write.

use std::collections::BTreeSet;

use medley_train::config::TrainConfig;
use serde_json::Value;

use super::option::{Kind, Section, Status};
use super::settings::CommandArgs;
use super::{Cmd, table};

const COMMANDS: [Cmd; 12] = [
    Cmd::Quickstart,
    Cmd::Train,
    Cmd::Eval,
    Cmd::Predict,
    Cmd::Generate,
    Cmd::Chat,
    Cmd::Export,
    Cmd::Convert,
    Cmd::Logits,
    Cmd::DataCheck,
    Cmd::DataShow,
    Cmd::DataStats,
];

fn paths_of_structs() -> BTreeSet<(String, String)> {
    let mut sections = serde_json::to_value(TrainConfig::default()).unwrap();
    sections["command"] = serde_json::to_value(CommandArgs::default()).unwrap();
    let Value::Object(sections) = sections else { panic!("sections are a mapping") };
    let mut paths = BTreeSet::new();
    for (section, fields) in sections {
        let Value::Object(fields) = fields else { panic!("{section} is a mapping") };
        paths.extend(fields.into_iter().map(|(name, _)| (section.clone(), name)));
    }
    paths
}

#[test]
fn every_field_has_one_row_and_every_row_its_field() {
    let mut rows = BTreeSet::new();
    for opt in table::all() {
        if let Status::Field(section) = opt.status {
            assert!(rows.insert((section.key().to_string(), opt.name.to_string())), "{} twice", opt.name);
        }
    }
    assert_eq!(rows, paths_of_structs());
}

#[test]
fn names_are_unique_and_every_row_is_explained() {
    let mut names = BTreeSet::new();
    for opt in table::all() {
        assert!(names.insert(opt.name), "{} twice", opt.name);
        match opt.status {
            Status::Field(_) => assert!(!opt.commands.is_empty() && !opt.help.is_empty(), "{}", opt.name),
            Status::NoEffect | Status::Refused { .. } => assert!(!opt.help.is_empty(), "{}", opt.name),
            Status::Renamed(to) => assert!(table::find(to).is_some(), "{}", opt.name),
        }
    }
}

#[test]
fn every_choice_is_a_value_of_its_field() {
    for opt in table::all() {
        let (Kind::Choice(choices), Status::Field(section)) = (opt.kind, opt.status) else { continue };
        assert_ne!(section, Section::Command);
        for choice in choices {
            let mut config = serde_json::to_value(TrainConfig::default()).unwrap();
            config[section.key()][opt.name] = Value::from(*choice);
            let read = serde_json::from_value::<TrainConfig>(config);
            assert!(read.is_ok(), "{}: {choice}: {:?}", opt.name, read.err());
        }
    }
}

#[test]
fn what_commands_require_they_take() {
    for cmd in COMMANDS {
        for name in cmd.spec().required.iter().copied().flatten() {
            let opt = table::find(name).unwrap_or_else(|| panic!("{name}"));
            assert!(opt.commands.contains(&cmd), "`{}` requires {name}", cmd.spec().name);
        }
    }
}

#[test]
fn examples_of_every_command_are_read() {
    for cmd in COMMANDS {
        let spec = cmd.spec();
        for (_, example) in spec.examples {
            let words: Vec<String> = shell_words(example);
            let prefix: Vec<&str> = ["medley"].into_iter().chain(spec.name.split(' ')).collect();
            assert_eq!(words[..prefix.len()], prefix, "{example}");
            let line = super::read_line(&spec, &words[prefix.len()..]).unwrap();
            for entry in &line.entries {
                let opt = table::find(&entry.name).unwrap_or_else(|| panic!("{} in {example}", entry.name));
                assert!(opt.commands.contains(&cmd), "{} in {example}", entry.name);
            }
            if line.config.is_none() {
                super::assemble(cmd, line).unwrap();
            }
        }
    }
}

/// Words of a command line with single quotes and continued lines.
fn shell_words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (index, part) in text.replace("\\\n", " ").split('\'').enumerate() {
        if index % 2 == 1 {
            words.push(part.to_string());
        } else {
            words.extend(part.split_whitespace().map(str::to_string));
        }
    }
    words
}

#[test]
fn every_name_of_the_peers_is_known() {
    let names = include_str!("../../tests/fixtures/cli/peer_option_names.txt");
    let names: Vec<&str> = names.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).collect();
    assert!(names.len() > 300, "{}", names.len());
    let unknown: Vec<&&str> = names.iter().filter(|name| table::find(name).is_none()).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

#[test]
fn misspelt_names_find_their_neighbour() {
    let cases = [
        ("lora_rnak", Some("lora_rank")),
        ("learning_rat", Some("learning_rate")),
        ("task_weight", Some("task_weights")),
        ("cutoff_length", Some("cutoff_len")),
        ("batch_size_per_gpu_and_more", None),
        ("xyz", None),
    ];
    for (name, near) in cases {
        assert_eq!(table::nearest(name), near, "{name}");
    }
}
