//! Templates of one's own, in YAML.
//!
//! ```yaml
//! name: mine                      # how it is called in messages; the file's name where not given
//! prefix: ["{bos_token}"]
//! system: "<|system|>\n{{content}}\n"
//! user: ["<|user|>\n{{content}}\n", {token: "<|assistant|>"}]
//! assistant: ["{{content}}", "{eos_token}"]
//! default_system: You answer briefly.
//! stop_words: ["<|user|>"]
//! efficient_eos: false
//! replace_eos: false
//! fuse_system: false              # the system text at the head of the first user message, as in LLaMA-2
//! headings: false                 # a task header above the first line rather than in the user's text
//! thought_words: ["<think>\n", "\n</think>\n\n"]   # only for models that think
//! ```
//!
//! What is left out has LLaMA-Factory's default: messages as they are, replies followed by the eos token.

use super::error::TemplateError;
use super::slots::{CONTENT, Template};
use super::table::{Slot, Thought};
use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use std::path::Path;

const BOS: &str = "{bos_token}";
const EOS: &str = "{eos_token}";

/// Whether the value of `template` is a file rather than a name.
pub(super) fn is_file(name: &str) -> bool {
    let extension = Path::new(name).extension().and_then(|e| e.to_str());
    matches!(extension, Some("yaml" | "yml"))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Form {
    name: Option<String>,
    #[serde(default)]
    prefix: Slots,
    system: Option<Slots>,
    user: Slots,
    assistant: Option<Slots>,
    #[serde(default)]
    default_system: String,
    #[serde(default)]
    stop_words: Vec<String>,
    #[serde(default)]
    efficient_eos: bool,
    #[serde(default)]
    replace_eos: bool,
    #[serde(default)]
    fuse_system: bool,
    #[serde(default)]
    headings: bool,
    thought_words: Option<[String; 2]>,
}

/// Reads a template file.
pub(super) fn read(path: &Path) -> Result<Template, TemplateError> {
    let error = |reason: String| TemplateError::File { path: path.display().to_string(), reason };
    let text = std::fs::read_to_string(path).map_err(|e| error(format!("cannot be read: {e}")))?;
    let stem = path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
    parse(&text, stem).map_err(error)
}

fn parse(text: &str, stem: String) -> Result<Template, String> {
    let form: Form = serde_saphyr::from_str(text).map_err(|e| e.to_string())?;
    // Where a key stands, for what only shows once all keys are read.
    let at = |key: &str, problem: &str| {
        let line = text.lines().position(|l| l.trim_start().starts_with(&format!("{key}:")));
        let place = line.map(|l| format!("line {}, ", l + 1)).unwrap_or_default();
        Err(format!("{place}{key}: {problem}"))
    };
    let content = || Slots(vec![Slot::Text(CONTENT.to_string())]);
    let reply = || {
        let mut slots = content();
        if !form.efficient_eos {
            slots.0.push(Slot::Eos);
        }
        slots
    };
    let template = Template {
        name: form.name.clone().unwrap_or(stem),
        assistant: form.assistant.unwrap_or_else(reply).0,
        prefix: form.prefix.0,
        system: form.system.unwrap_or_else(content).0,
        user: form.user.0,
        default_system: form.default_system,
        stop_words: form.stop_words,
        efficient_eos: form.efficient_eos,
        replace_eos: form.replace_eos,
        fuse_system: form.fuse_system,
        headings: form.headings,
        thought: form.thought_words.map(|[open, close]| Thought { open, close, empty_closes_only: false }),
    };
    let parts = [("system", &template.system), ("user", &template.user), ("assistant", &template.assistant)];
    for (key, slots) in parts {
        let texts = slots.iter().filter_map(|s| if let Slot::Text(t) = s { Some(t) } else { None });
        let times: usize = texts.map(|t| t.matches(CONTENT).count()).sum();
        if times != 1 {
            return at(
                key,
                &format!("expected `{CONTENT}` once, where the message goes; found it {times} times"),
            );
        }
    }
    if template.prefix.iter().any(|s| matches!(s, Slot::Text(t) if t.contains(CONTENT))) {
        return at("prefix", &format!("`{CONTENT}` has no message here; put it into `system` or `user`"));
    }
    if template.fuse_system && !matches!(&template.system[..], [Slot::Text(_)]) {
        return at("system", "with fuse_system it must be one text, which goes into the first user message");
    }
    if template.replace_eos && template.stop_words.is_empty() {
        return at("replace_eos", "the first of stop_words takes the eos token's place, and there is none");
    }
    if template.stop_words.iter().any(String::is_empty) {
        return at("stop_words", "a stop word is empty");
    }
    Ok(template)
}

/// A text, or a list of texts and tokens.
#[derive(Default)]
struct Slots(Vec<Slot<String>>);

impl Slots {
    /// A text, cut at `{bos_token}` and `{eos_token}`.
    fn push(&mut self, mut text: &str) {
        loop {
            let next = [(BOS, Slot::Bos), (EOS, Slot::Eos)];
            let found = next.into_iter().filter_map(|(name, slot)| Some((text.find(name)?, name, slot)));
            let Some((start, name, slot)) = found.min_by_key(|(start, ..)| *start) else { break };
            if start > 0 {
                self.0.push(Slot::Text(text[..start].to_string()));
            }
            self.0.push(slot);
            text = &text[start + name.len()..];
        }
        if !text.is_empty() {
            self.0.push(Slot::Text(text.to_string()));
        }
    }
}

impl<'de> Deserialize<'de> for Slots {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = Slots;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(
                    "a text, or a list of texts, `{bos_token}`, `{eos_token}` and `{token: \"<sep>\"}`",
                )
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Slots, E> {
                let mut slots = Slots::default();
                slots.push(text);
                Ok(slots)
            }

            fn visit_unit<E: de::Error>(self) -> Result<Slots, E> {
                Ok(Slots::default())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Slots, A::Error> {
                let mut slots = Slots::default();
                while let Some(Element(more)) = items.next_element()? {
                    slots.0.extend(more);
                }
                Ok(slots)
            }
        }
        deserializer.deserialize_any(List)
    }
}

/// One item of a list of slots.
struct Element(Vec<Slot<String>>);

impl<'de> Deserialize<'de> for Element {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct One;
        impl<'de> Visitor<'de> for One {
            type Value = Element;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a text, `{bos_token}`, `{eos_token}` or `{token: \"<sep>\"}`")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Element, E> {
                let mut slots = Slots::default();
                slots.push(text);
                Ok(Element(slots.0))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Element, A::Error> {
                let wrong = |key: &str| {
                    de::Error::custom(format!("expected `token`, `bos_token` or `eos_token`, got `{key}`"))
                };
                let Some(key) = map.next_key::<String>()? else { return Err(wrong("{}")) };
                let slot = match key.as_str() {
                    "token" => Slot::Token(map.next_value::<String>()?),
                    "bos_token" | "eos_token" => {
                        map.next_value::<Option<bool>>()?;
                        if key == "bos_token" { Slot::Bos } else { Slot::Eos }
                    }
                    other => return Err(wrong(other)),
                };
                match map.next_key::<String>()? {
                    Some(more) => Err(wrong(&more)),
                    None => Ok(Element(vec![slot])),
                }
            }
        }
        deserializer.deserialize_any(One)
    }
}

#[cfg(test)]
mod tests {
    use super::super::table;
    use super::*;

    /// A template of the table as someone would write it in YAML.
    fn yaml_of(template: &Template) -> String {
        let text = |s: &str| serde_json::Value::from(s).to_string();
        let slots = |slots: &[Slot<String>]| {
            let each = slots.iter().map(|slot| match slot {
                Slot::Text(t) => text(t),
                Slot::Token(t) => format!("{{token: {}}}", text(t)),
                Slot::Bos => text(BOS),
                Slot::Eos => "{eos_token}".to_string(),
            });
            format!("[{}]", each.collect::<Vec<_>>().join(", "))
        };
        let words: Vec<String> = template.stop_words.iter().map(|w| text(w)).collect();
        let mut yaml = format!(
            "name: {}\nprefix: {}\nsystem: {}\nuser: {}\nassistant: {}\ndefault_system: {}\nstop_words: [{}]\n\
             efficient_eos: {}\nreplace_eos: {}\nfuse_system: {}\nheadings: {}\n",
            text(&template.name),
            slots(&template.prefix),
            slots(&template.system),
            slots(&template.user),
            slots(&template.assistant),
            text(&template.default_system),
            words.join(", "),
            template.efficient_eos,
            template.replace_eos,
            template.fuse_system,
            template.headings
        );
        if let Some(thought) = &template.thought {
            yaml += &format!("thought_words: [{}, {}]\n", text(&thought.open), text(&thought.close));
        }
        yaml
    }

    #[test]
    fn every_template_of_the_table_can_be_written_in_yaml() {
        for spec in table::templates() {
            let mut template = Template::from(spec);
            if let Some(thought) = &mut template.thought {
                // The one thing that is LLaMA-Factory's code rather than its data.
                thought.empty_closes_only = false;
            }
            assert_eq!(parse(&yaml_of(&template), "x".into()), Ok(template));
        }
    }

    #[test]
    fn what_is_left_out_has_the_documented_defaults() {
        let template = parse("user: \"Q: {{content}}{eos_token}A:\"", "mine".into()).unwrap();
        let text = |t: &str| Slot::Text(t.to_string());
        assert_eq!(template.name, "mine");
        assert_eq!(template.user, [text("Q: {{content}}"), Slot::Eos, text("A:")]);
        assert_eq!(template.assistant, [text("{{content}}"), Slot::Eos]);
        assert_eq!(template.system, [text("{{content}}")]);
        let efficient = parse("user: \"{{content}}\"\nefficient_eos: true", "x".into()).unwrap();
        assert_eq!(efficient.assistant, [text("{{content}}")]);
    }

    #[test]
    fn mistakes_are_named_with_their_line_and_key() {
        let user = "user: \"{{content}}\"\n";
        for (yaml, parts) in [
            ("prefix: x\nuser: Hello\n".to_string(), &["line 2", "user", "found it 0 times"][..]),
            (format!("{user}usr: x\n"), &["usr", "2"]),
            (format!("{user}system: [{{tokn: x}}]\n"), &["tokn", "`token`", "2"]),
            (format!("{user}replace_eos: true\n"), &["line 2", "replace_eos", "stop_words"]),
            (format!("{user}efficient_eos: maybe\n"), &["2"]),
            (format!("{user}prefix: \"{{{{content}}}}\"\n"), &["line 2", "prefix"]),
            (format!("{user}assistant: [\"{{{{content}}}}{{{{content}}}}\"]\n"), &["line 2", "2 times"]),
            (
                format!("fuse_system: true\n{user}system: [\"{{{{content}}}}\", \"x\"]\n"),
                &["line 3", "system"],
            ),
            ("name: x\n".to_string(), &["user"]),
        ] {
            let error = parse(&yaml, "x".into()).unwrap_err();
            for part in parts {
                assert!(error.contains(part), "{yaml}: {error}");
            }
        }
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = read(Path::new("nowhere/mine.yaml")).unwrap_err().to_string();
        assert!(error.contains("nowhere/mine.yaml"), "{error}");
        assert!(is_file("a/b.yml") && is_file("b.yaml") && !is_file("qwen3.5") && !is_file("llama2"));
    }
}
