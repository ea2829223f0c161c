//! Splits the words after a command into a config file, options and overrides.

use std::path::PathBuf;

use super::option::Kind;
use super::{CommandSpec, Entry, Node, Origin, UsageError, coerce, table};

/// The words after a command, sorted.
#[derive(Debug, Default, PartialEq)]
pub struct Line {
    /// `--help` or `-h` was given.
    pub help: bool,
    /// The config file, if one was named.
    pub config: Option<PathBuf>,
    /// Options and overrides, in order.
    pub entries: Vec<Entry>,
}

/// Reads `[CONFIG.yaml] [--option value | --option=value | --flag | --no_flag | option=value]…`.
///
/// An option's type decides whether the word after it is its value, so the table is asked; unknown options take
/// the next word unless it is an option, and are reported later, together with every other problem.
///
/// # Errors
/// An option without its value, a second file, or a word that is none of these.
pub fn read_line(spec: &CommandSpec, words: &[String]) -> Result<Line, UsageError> {
    let mut line = Line::default();
    let mut words = words.iter().peekable();
    while let Some(word) = words.next() {
        if word == "--help" || word == "-h" {
            line.help = true;
        } else if let Some(option) = word.strip_prefix("--") {
            let (name, inline) = match option.split_once('=') {
                Some((name, value)) => (name, Some(value.to_string())),
                None => (option, None),
            };
            let name = name.replace('-', "_");
            let origin = Origin::Option(format!("--{name}"));
            if let Some(value) = inline {
                line.entries.push(Entry { name, value: Node::Text(value), origin });
                continue;
            }
            let kind = table::find(&name).map(|opt| opt.kind);
            let negated = name.strip_prefix("no_").filter(|flag| is_flag(flag));
            let (name, value) = match (kind, negated) {
                (None, Some(flag)) => (flag.to_string(), Node::Bool(false)),
                (Some(Kind::Flag), _) => {
                    let word = words.next_if(|next| coerce::flag_word(next).is_some());
                    (name, word.map_or(Node::Bool(true), |word| Node::Text(word.clone())))
                }
                // The value may be left out here: bare, it means `true`.
                (Some(Kind::FlagOrPath | Kind::FlagOrList | Kind::Any) | None, _) => {
                    let word = words.next_if(|next| !next.starts_with("--"));
                    (name, word.map_or(Node::Bool(true), |word| Node::Text(word.clone())))
                }
                (Some(kind), _) => {
                    let missing = || UsageError::new(format!("--{name} needs a value: {}", kind.expected()));
                    let word = words.next_if(|next| !next.starts_with("--")).ok_or_else(missing)?;
                    (name, Node::Text(word.clone()))
                }
            };
            line.entries.push(Entry { name, value, origin });
        } else if let Some((name, value)) = word.split_once('=') {
            let name = name.replace('-', "_");
            let origin = Origin::Option(format!("{name}=…"));
            line.entries.push(Entry { name, value: Node::Text(value.to_string()), origin });
        } else if word.starts_with('-') && word.len() > 1 {
            return Err(UsageError::new(format!("`{word}` is not an option; options begin with two dashes")));
        } else if !spec.takes_config {
            let usage = format!("`{word}` is not an option; try `medley {} --help`", spec.name);
            return Err(UsageError::new(usage));
        } else if let Some(first) = &line.config {
            return Err(UsageError::new(format!(
                "`{word}` is one word too many: the config file is `{}`, and a list's items are joined by commas",
                first.display()
            )));
        } else {
            line.config = Some(PathBuf::from(word));
        }
    }
    Ok(line)
}

fn is_flag(name: &str) -> bool {
    table::find(name).is_some_and(|opt| opt.kind == Kind::Flag)
}

#[cfg(test)]
mod tests {
    use super::super::Cmd;
    use super::*;

    fn read(words: &str) -> Result<Line, UsageError> {
        let words: Vec<String> = words.split_whitespace().map(str::to_string).collect();
        read_line(&Cmd::Train.spec(), &words)
    }

    fn entries(words: &str) -> Vec<(String, String)> {
        let line = read(words).unwrap();
        line.entries.into_iter().map(|entry| (entry.name, entry.value.to_string())).collect()
    }

    fn pair(name: &str, value: &str) -> (String, String) {
        (name.to_string(), value.to_string())
    }

    #[test]
    fn options_come_in_every_form() {
        assert_eq!(
            entries("--lora_rank 8 --template=llama2 --learning-rate 1e-4 seed=7 --max_steps -1"),
            [
                pair("lora_rank", "8"),
                pair("template", "llama2"),
                pair("learning_rate", "1e-4"),
                pair("seed", "7"),
                pair("max_steps", "-1"),
            ]
        );
    }

    #[test]
    fn flags_stand_alone_or_take_a_word() {
        assert_eq!(entries("--do_train --plot_loss"), [pair("do_train", "true"), pair("plot_loss", "true")]);
        assert_eq!(
            entries("--do_sample false --no_do_sample"),
            [pair("do_sample", "false"), pair("do_sample", "false")]
        );
        let line = read("--do_train conf.yaml --plot_loss").unwrap();
        assert_eq!(line.config, Some("conf.yaml".into()));
        assert_eq!(line.entries.len(), 2);
    }

    #[test]
    fn options_without_effect_stand_alone_or_take_a_word() {
        assert_eq!(
            entries("--fp16 --ddp_timeout 180 --bf16"),
            [pair("fp16", "true"), pair("ddp_timeout", "180"), pair("bf16", "true")]
        );
        assert_eq!(entries("--resume_from_checkpoint --do_train")[0], pair("resume_from_checkpoint", "true"));
        assert_eq!(entries("--resume_from_checkpoint out/checkpoint-5")[0].1, "out/checkpoint-5");
    }

    #[test]
    fn values_may_hold_equals_signs() {
        assert_eq!(entries("--task_weights qa=1,sum=0.5"), [pair("task_weights", "qa=1,sum=0.5")]);
        assert_eq!(entries("--task_weights=qa=1"), [pair("task_weights", "qa=1")]);
        assert_eq!(entries("task_weights=qa=1"), [pair("task_weights", "qa=1")]);
    }

    #[test]
    fn misplaced_words_are_explained() {
        let problem = |words: &str| read(words).unwrap_err().to_string();
        assert_eq!(problem("--lora_rank --do_train"), "--lora_rank needs a value: a whole number");
        assert_eq!(problem("--lora_rank"), "--lora_rank needs a value: a whole number");
        assert!(problem("c.yaml b.jsonl").contains("joined by commas"));
        assert!(problem("-x").contains("two dashes"));
        let words = ["c.yaml".to_string()];
        let error = read_line(&Cmd::Convert.spec(), &words).unwrap_err().to_string();
        assert!(error.contains("medley convert --help"), "{error}");
    }

    #[test]
    fn help_is_seen_anywhere() {
        assert!(read("--lora_rank 8 --help").unwrap().help);
        assert!(read("-h").unwrap().help);
        assert!(!read("c.yaml").unwrap().help);
    }
}
