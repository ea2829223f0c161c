//! `--help`, written from the table.

use serde_json::Value;

use super::option::{Kind, Opt, Section, Status};
use super::settings::CommandArgs;
use super::{Cmd, table};

/// Column where the help text of an option begins.
const HELP_COLUMN: usize = 38;
const WIDTH: usize = 100;
/// A space at which a line is not broken.
const NO_BREAK: char = '\u{a0}';

/// `medley help`: what it is, the commands, where to begin.
pub fn overview(commands: &[Cmd]) -> String {
    let mut text = String::from(
        "Fine-tunes one LLaMA-architecture model on several tasks at once.\n\nUsage: medley COMMAND [CONFIG.yaml] [--option value …]\n\nCommands:\n",
    );
    let width = commands.iter().map(|cmd| cmd.spec().name.len()).max().unwrap_or(0);
    for cmd in commands {
        let spec = cmd.spec();
        text.push_str(&format!("  {:width$}  {}\n", spec.name, spec.about));
    }
    text.push_str(
        "\nOptions have LLaMA-Factory's names; its YAML files run unchanged where the feature exists.\n  \
         medley help COMMAND         options and examples of a command\n  \
         medley help llamafactory    its options that have no effect here, or are not available\n  \
         medley --version\n",
    );
    text
}

/// `medley COMMAND --help`: usage, examples, options by group.
pub fn command_help(cmd: Cmd) -> String {
    let spec = cmd.spec();
    let file = if spec.takes_config { " [CONFIG.yaml]" } else { "" };
    let mut text = format!("{}\n\nUsage: medley {}{file} [--option value …]\n", spec.about, spec.name);
    for (comment, command) in spec.examples {
        text.push_str(&format!("\n  # {comment}\n  {command}\n"));
    }
    for section in Section::ALL {
        let of_section = |opt: &&Opt| opt.status == Status::Field(section) && opt.commands.contains(&cmd);
        let mut options = table::all().filter(of_section).peekable();
        if options.peek().is_some() {
            text.push_str(&format!("\n{}:\n", section.title()));
        }
        for opt in options {
            let required = spec.required.iter().any(|group| *group == [opt.name]);
            put_option(&mut text, opt, section, required);
        }
    }
    if spec.takes_config {
        text.push_str(
            "\nEvery option is also a key of CONFIG.yaml (`lora_rank: 16`); the command line wins over the file.\n\
             Flags may stand alone (`--do_train`) or take a word (`--do_sample false`).\n",
        );
    }
    text
}

/// `medley help llamafactory`: names that are known and do nothing, or are refused.
pub fn compatibility_help() -> String {
    let mut text = String::from("Accepted without effect:\n");
    for opt in table::all().filter(|opt| opt.status == Status::NoEffect) {
        put_row(&mut text, opt.name, opt.help);
    }
    text.push_str("\nNot available; an error unless switched off:\n");
    for opt in table::all().filter(|opt| matches!(opt.status, Status::Refused { .. })) {
        put_row(&mut text, opt.name, opt.help);
    }
    text.push_str("\nOther names:\n");
    for opt in table::all() {
        if let Status::Renamed(to) = opt.status {
            put_row(&mut text, opt.name, to);
        }
    }
    text
}

fn put_option(text: &mut String, opt: &Opt, section: Section, required: bool) {
    let mut left = format!("--{}", opt.name);
    let mut help = opt.help.to_string();
    match opt.kind {
        // Choices are long: they go below, with the help.
        Kind::Choice(names) => help.push_str(&format!(" [{}]", names.join(", "))),
        kind if !kind.metavar().is_empty() => left.push_str(&format!(" {}", kind.metavar())),
        _ => {}
    }
    if required {
        help.push_str(" (required)");
    } else if let Some(value) = default_of(section, opt.name) {
        help.push_str(&format!(" (default\u{a0}{value})"));
    }
    put_row(text, &left, &help);
}

/// The default as the user would write it; `None` where unset, empty or off.
pub(super) fn default_of(section: Section, name: &str) -> Option<String> {
    let defaults = match section {
        Section::Command => serde_json::to_value(CommandArgs::default()).ok()?,
        _ => serde_json::to_value(medley_train::config::TrainConfig::default())
            .ok()?
            .get(section.key())?
            .clone(),
    };
    match defaults.get(name)? {
        Value::Null | Value::Bool(false) => None,
        Value::Array(items) if items.is_empty() => None,
        Value::Object(entries) if entries.is_empty() => None,
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => match number.as_f64() {
            Some(value) if value != 0.0 && value.abs() < 1e-3 => Some(format!("{value:e}")),
            Some(value) => Some(value.to_string()),
            None => Some(number.to_string()),
        },
        other => Some(other.to_string()),
    }
}

/// One row of two columns, the right one wrapped.
fn put_row(text: &mut String, left: &str, right: &str) {
    let mut line = format!("  {left:width$}", width = HELP_COLUMN - 2);
    if left.chars().count() + 4 > HELP_COLUMN {
        text.push_str(line.trim_end());
        text.push('\n');
        line = " ".repeat(HELP_COLUMN);
    }
    let mut column = HELP_COLUMN;
    for word in right.split(' ') {
        let width = word.chars().count() + 1;
        if column + width > WIDTH && column > HELP_COLUMN {
            text.push_str(line.trim_end());
            text.push('\n');
            line = " ".repeat(HELP_COLUMN);
            column = HELP_COLUMN;
        }
        line.push_str(&word.replace(NO_BREAK, " "));
        line.push(' ');
        column += width;
    }
    text.push_str(line.trim_end());
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn train_help_shows_groups_defaults_and_examples() {
        let help = command_help(Cmd::Train);
        for part in [
            "Usage: medley train [CONFIG.yaml] [--option value …]",
            "\nModel:\n",
            "\nTasks:\n",
            "--task_weights NAME=X,…",
            "peak learning rate (default 5e-5)",
            "(required)",
            "(default 42)",
            "[task_mean, token_mean] (default task_mean)",
            "--resume_from_checkpoint true\n",
        ] {
            assert!(help.contains(part), "{part} is missing in:\n{help}");
        }
        assert!(!help.contains("--prompt") && !help.contains("--use_galore") && help.contains("--fp16"));
    }

    #[test]
    fn rows_are_aligned_and_no_wider_than_the_page() {
        let examples_end = |help: &str| help.find("\n\nModel:").unwrap_or(0);
        let help = command_help(Cmd::Train);
        for line in help[examples_end(&help)..].lines().filter(|line| line.starts_with("  --")) {
            assert!(line.chars().count() <= WIDTH, "{line}");
            let right = line.chars().skip(HELP_COLUMN).collect::<String>();
            assert!(right.is_empty() || !right.starts_with(' '), "{line}");
        }
    }

    #[test]
    fn small_commands_show_only_their_own_options() {
        let help = command_help(Cmd::Convert);
        assert!(help.contains("--input PATH") && help.contains("--output PATH"), "{help}");
        assert!(!help.contains("--learning_rate") && !help.contains("CONFIG.yaml"), "{help}");
    }

    #[test]
    fn the_overview_lists_exactly_the_commands_given() {
        let text = overview(&[Cmd::Train, Cmd::DataShow]);
        assert!(text.contains("  train      Fine-tune one model on several tasks\n"), "{text}");
        assert!(text.contains("  data show  ") && !text.contains("logits"), "{text}");
    }

    #[test]
    fn compatibility_help_gives_a_reason_for_every_name() {
        let text = compatibility_help();
        assert!(
            text.contains("ddp_timeout")
                && text.contains("use_galore")
                && text.contains("evaluation_strategy")
        );
    }
}
