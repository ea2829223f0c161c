//! Reads a config file (YAML, or JSON, which is YAML too), keeping the line of every key.

use std::fmt;
use std::path::Path;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

use super::{Entry, Node, Origin, UsageError};

/// The top-level entries of a config file.
///
/// # Errors
/// The file cannot be read, is not UTF-8 or not YAML, or is not a mapping of option names to values.
pub fn read_config(path: &Path) -> Result<Vec<Entry>, UsageError> {
    let bytes = std::fs::read(path).map_err(|error| {
        UsageError::new(format!("{}: cannot read the config file: {error}", path.display()))
    })?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let offset = error.utf8_error().valid_up_to();
        UsageError::new(format!("{}: not UTF-8 text (byte {offset})", path.display()))
    })?;
    parse_config(&text, path)
}

/// The top-level entries of a config file's text; `path` is for errors only.
///
/// # Errors
/// As [`read_config`].
pub fn parse_config(text: &str, path: &Path) -> Result<Vec<Entry>, UsageError> {
    let options = serde_saphyr::options! { with_snippet: false };
    let document: Document = serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let line = error.location().map_or(String::new(), |location| format!(":{}", location.line()));
        UsageError::new(format!("{}{line}: not a config file: {error}", path.display()))
    })?;
    let entries = document.0.into_iter().map(|(key, value)| Entry {
        name: key.value.replace('-', "_"),
        value,
        origin: Origin::File { path: path.to_path_buf(), line: key.referenced.line() },
    });
    Ok(entries.collect())
}

/// A whole config file: a mapping, or nothing at all.
struct Document(Vec<(Spanned<String>, Node)>);

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TopLevel;

        impl<'de> Visitor<'de> for TopLevel {
            type Value = Document;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("lines of `option: value`")
            }

            fn visit_unit<E>(self) -> Result<Document, E> {
                Ok(Document(Vec::new()))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Document, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Document(entries))
            }
        }

        deserializer.deserialize_any(TopLevel)
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyValue;

        impl<'de> Visitor<'de> for AnyValue {
            type Value = Node;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_unit<E>(self) -> Result<Node, E> {
                Ok(Node::Null)
            }

            fn visit_none<E>(self) -> Result<Node, E> {
                Ok(Node::Null)
            }

            fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
                Node::deserialize(deserializer)
            }

            fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
                Ok(Node::Bool(value))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
                Ok(Node::Int(value))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
                Ok(i64::try_from(value).map_or(Node::Float(value as f64), Node::Int))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
                Ok(Node::Float(value))
            }

            fn visit_str<E>(self, value: &str) -> Result<Node, E> {
                Ok(Node::Text(value.to_string()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    items.push(item);
                }
                Ok(Node::List(items))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Node::Map(entries))
            }
        }

        deserializer.deserialize_any(AnyValue)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Vec<Entry>, UsageError> {
        parse_config(text, Path::new("c.yaml"))
    }

    fn lines(entries: &[Entry]) -> Vec<(String, u64)> {
        let line = |entry: &Entry| match &entry.origin {
            Origin::File { line, .. } => *line,
            Origin::Option(_) => 0,
        };
        entries.iter().map(|entry| (entry.name.clone(), line(entry))).collect()
    }

    #[test]
    fn keys_keep_their_lines_and_values_their_types() {
        let entries = parse(
            "### model\nmodel_name_or_path: a/b  # where\n\nlora_rank: 8\nlearning_rate: 1.0e-4\ndo_train: true\n\
             template: null\nlora_target: [q_proj, v_proj]\ntask_weights:\n  qa: 1\n  sum: 0.5\n",
        )
        .unwrap();
        let expected = [
            ("model_name_or_path", 2),
            ("lora_rank", 4),
            ("learning_rate", 5),
            ("do_train", 6),
            ("template", 7),
            ("lora_target", 8),
            ("task_weights", 9),
        ];
        let expected: Vec<_> = expected.iter().map(|(name, line)| (name.to_string(), *line)).collect();
        assert_eq!(lines(&entries), expected);
        assert_eq!(entries[0].value, Node::Text("a/b".into()));
        assert_eq!(entries[1].value, Node::Int(8));
        assert_eq!(entries[3].value, Node::Bool(true));
        assert_eq!(entries[4].value, Node::Null);
        assert_eq!(
            entries[5].value,
            Node::List(vec![Node::Text("q_proj".into()), Node::Text("v_proj".into())])
        );
        let weights = vec![("qa".into(), Node::Int(1)), ("sum".into(), Node::Float(0.5))];
        assert_eq!(entries[6].value, Node::Map(weights));
    }

    #[test]
    fn json_is_read_too_and_an_empty_file_is_no_options() {
        let entries = parse("{\n  \"lora_rank\": 4,\n  \"template\": \"alpaca\"\n}\n").unwrap();
        assert_eq!(lines(&entries), [("lora_rank".to_string(), 2), ("template".to_string(), 3)]);
        assert_eq!(parse("# nothing yet\n").unwrap(), []);
    }

    #[test]
    fn broken_files_say_where() {
        let cases =
            [("lora_rank: 8\nlora_rank: 4\n", "2"), ("a: 1\nb: [1, 2\n", "2"), ("a: 1\n\tb: 2\n", "1")];
        for (text, line) in cases {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.starts_with(&format!("c.yaml:{line}: not a config file: ")), "{error}");
        }
        let error = parse("- just\n- a list\n").unwrap_err().to_string();
        assert!(error.contains("option: value"), "{error}");
    }

    #[test]
    fn unreadable_files_name_the_path() {
        let error = read_config(Path::new("/nowhere/c.yaml")).unwrap_err().to_string();
        assert!(error.contains("/nowhere/c.yaml") && error.contains("No such file"), "{error}");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.yaml");
        std::fs::write(&path, b"a: \xff\n").unwrap();
        let error = read_config(&path).unwrap_err().to_string();
        assert!(error.contains("not UTF-8") && error.contains("byte 3"), "{error}");
    }
}
