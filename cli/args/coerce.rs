//! From a value as written to the type its option wants.

use serde_json::{Map, Number, Value};

use super::Node;
use super::option::Kind;

/// The value in the settings' serde form; [`Value::Null`] leaves the default.
///
/// # Errors
/// What was expected and what was found.
pub fn coerce(kind: Kind, node: &Node) -> Result<Value, String> {
    if matches!(node, Node::Null) || matches!(node, Node::Text(text) if text == "null") {
        return Ok(Value::Null);
    }
    let wrong = || format!("expected {}, got `{node}`", kind.expected());
    match kind {
        Kind::Flag => flag(node).map(Value::Bool).ok_or_else(wrong),
        Kind::Int => whole(node).map(Value::from).ok_or_else(wrong),
        Kind::Float => number(node).map(Value::Number).ok_or_else(wrong),
        Kind::Text | Kind::Path => scalar(node).map(Value::String).ok_or_else(wrong),
        Kind::List => {
            let items: Option<Vec<Value>> =
                items(node).iter().map(|item| scalar(item).map(Value::String)).collect();
            items.filter(|items| !items.is_empty()).map(Value::Array).ok_or_else(wrong)
        }
        Kind::IntList => {
            let items: Option<Vec<Value>> =
                items(node).iter().map(|item| whole(item).map(Value::from)).collect();
            items.filter(|items| !items.is_empty()).map(Value::Array).ok_or_else(wrong)
        }
        Kind::Numbers => numbers(node).map(Value::Object).ok_or_else(wrong),
        Kind::Shares => {
            let in_order: Option<Vec<Value>> =
                items(node).iter().map(|item| number(item).map(Value::Number)).collect();
            let in_order = in_order.filter(|shares| !shares.is_empty()).map(Value::Array);
            in_order.or_else(|| numbers(node).map(Value::Object)).ok_or_else(wrong)
        }
        Kind::Structure => {
            let parsed = match node {
                Node::Text(text) => serde_saphyr::from_str(text).map_err(|_| wrong())?,
                other => other.clone(),
            };
            Some(structure(&parsed)).filter(Value::is_array).ok_or_else(wrong)
        }
        Kind::Choice(names) => {
            // YAML 1.1 reads a bare `no` as false; `eval_strategy: no` means the word.
            let word = if *node == Node::Bool(false) { Some("no".to_string()) } else { scalar(node) };
            word.filter(|word| names.contains(&word.as_str())).map(Value::String).ok_or_else(wrong)
        }
        Kind::FlagOrPath => match flag(node) {
            Some(value) => Ok(Value::Bool(value)),
            None => scalar(node).map(Value::String).ok_or_else(wrong),
        },
        Kind::FlagOrList => match flag(node) {
            Some(value) => Ok(Value::Bool(value)),
            None => coerce(Kind::List, node).map_err(|_| wrong()),
        },
        Kind::TextOrMap => match by_name(node) {
            Some(entries) => {
                let texts: Option<Map<String, Value>> = entries
                    .into_iter()
                    .map(|(name, value)| Some((name, Value::String(scalar(&value)?))))
                    .collect();
                texts.filter(|texts| !texts.is_empty()).map(Value::Object).ok_or_else(wrong)
            }
            None => scalar(node).map(Value::String).ok_or_else(wrong),
        },
        Kind::Any => Ok(Value::Null),
    }
}

/// The entries of a mapping: YAML's, or a flow mapping (JSON is one) in a text.
fn by_name(node: &Node) -> Option<Vec<(String, Node)>> {
    match node {
        Node::Map(entries) => Some(entries.clone()),
        Node::Text(text) if text.trim_start().starts_with('{') => match serde_saphyr::from_str(text).ok()? {
            Node::Map(entries) => Some(entries),
            _ => None,
        },
        _ => None,
    }
}

/// The words that YAML 1.1 reads as true and false.
pub fn flag_word(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" => Some(true),
        "false" | "no" | "off" => Some(false),
        _ => None,
    }
}

fn flag(node: &Node) -> Option<bool> {
    match node {
        Node::Bool(value) => Some(*value),
        Node::Text(text) => flag_word(text),
        _ => None,
    }
}

fn whole(node: &Node) -> Option<i64> {
    /// Beyond this, f64 no longer holds every whole number.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    let from_float = |value: f64| (value.fract() == 0.0 && value.abs() <= EXACT).then_some(value as i64);
    match node {
        Node::Int(value) => Some(*value),
        Node::Float(value) => from_float(*value),
        Node::Text(text) => {
            text.trim().parse().ok().or_else(|| text.trim().parse().ok().and_then(from_float))
        }
        _ => None,
    }
}

/// Numbers may be quoted, and YAML 1.1 readers take `1e-4` for a string: both are numbers here.
fn number(node: &Node) -> Option<Number> {
    match node {
        Node::Int(value) => Number::from_f64(*value as f64),
        Node::Float(value) => Number::from_f64(*value),
        Node::Text(text) => text.trim().parse().ok().and_then(Number::from_f64),
        _ => None,
    }
}

fn scalar(node: &Node) -> Option<String> {
    match node {
        Node::List(_) | Node::Map(_) | Node::Null => None,
        other => Some(other.to_string()),
    }
}

fn items(node: &Node) -> Vec<Node> {
    match node {
        Node::List(items) => items.clone(),
        Node::Text(text) => {
            let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
            parts.map(|part| Node::Text(part.to_string())).collect()
        }
        other => vec![other.clone()],
    }
}

/// A YAML value as JSON; text that is a number (`1e-1` in YAML 1.1) stays text for its field to judge.
fn structure(node: &Node) -> Value {
    match node {
        Node::Null => Value::Null,
        Node::List(items) => items.iter().map(structure).collect(),
        Node::Map(entries) => {
            Value::Object(entries.iter().map(|(name, value)| (name.clone(), structure(value))).collect())
        }
        Node::Bool(value) => Value::Bool(*value),
        Node::Int(value) => Value::from(*value),
        Node::Float(value) => Value::from(*value),
        Node::Text(text) => Value::String(text.clone()),
    }
}

fn numbers(node: &Node) -> Option<Map<String, Value>> {
    let entries = match (by_name(node), node) {
        (Some(entries), _) => entries,
        (None, Node::Text(text)) => {
            let pair = |part: &str| {
                let (name, value) = part.split_once('=')?;
                Some((name.trim().to_string(), Node::Text(value.trim().to_string())))
            };
            text.split(',').map(pair).collect::<Option<Vec<_>>>()?
        }
        _ => return None,
    };
    let mut map = Map::new();
    for (name, value) in entries {
        let repeated = map.insert(name.clone(), Value::Number(number(&value)?)).is_some();
        if name.is_empty() || repeated {
            return None;
        }
    }
    Some(map)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn text(kind: Kind, text: &str) -> Result<Value, String> {
        coerce(kind, &Node::Text(text.into()))
    }

    #[test]
    fn numbers_come_in_every_spelling() {
        for spelling in ["1.0e-4", "1e-4", "0.0001", "1E-4"] {
            assert_eq!(text(Kind::Float, spelling), Ok(json!(1e-4)), "{spelling}");
        }
        assert_eq!(coerce(Kind::Float, &Node::Int(3)), Ok(json!(3.0)));
        assert_eq!(coerce(Kind::Int, &Node::Float(3.0)), Ok(json!(3)));
        assert_eq!(text(Kind::Int, "-1"), Ok(json!(-1)));
        for nonsense in ["", "fast", "inf", "nan", "1,5"] {
            let error = text(Kind::Float, nonsense).unwrap_err();
            assert_eq!(error, format!("expected a number, got `{nonsense}`"));
        }
        assert!(coerce(Kind::Int, &Node::Float(2.5)).is_err());
        assert!(coerce(Kind::Int, &Node::Float(1e300)).is_err());
        assert!(coerce(Kind::Int, &Node::Bool(true)).is_err());
    }

    #[test]
    fn flags_come_as_words() {
        for (word, value) in [("true", true), ("True", true), ("yes", true), ("off", false), ("False", false)]
        {
            assert_eq!(text(Kind::Flag, word), Ok(json!(value)), "{word}");
        }
        assert_eq!(text(Kind::Flag, "maybe").unwrap_err(), "expected true or false, got `maybe`");
        assert!(coerce(Kind::Flag, &Node::Int(1)).is_err());
    }

    #[test]
    fn lists_come_as_lists_or_with_commas() {
        let both = json!(["a", "b"]);
        assert_eq!(text(Kind::List, "a, b"), Ok(both.clone()));
        assert_eq!(
            coerce(Kind::List, &Node::List(vec![Node::Text("a".into()), Node::Text("b".into())])),
            Ok(both)
        );
        assert_eq!(text(Kind::IntList, "1,2,3"), Ok(json!([1, 2, 3])));
        assert!(text(Kind::IntList, "1,x").is_err());
        assert!(text(Kind::List, " , ").is_err());
        assert!(coerce(Kind::List, &Node::List(vec![Node::List(vec![])])).is_err());
    }

    #[test]
    fn weights_come_as_mapping_json_or_pairs() {
        let weights = json!({"qa": 1.0, "sum": 0.8});
        assert_eq!(text(Kind::Numbers, "qa=1.0,sum=0.8"), Ok(weights.clone()));
        assert_eq!(text(Kind::Numbers, r#"{"qa": 1.0, "sum": 0.8}"#), Ok(weights.clone()));
        assert_eq!(text(Kind::Numbers, "{qa: 1, sum: 0.8}"), Ok(weights.clone()));
        let map = Node::Map(vec![("qa".into(), Node::Int(1)), ("sum".into(), Node::Text("0.8".into()))]);
        assert_eq!(coerce(Kind::Numbers, &map), Ok(weights));
        for nonsense in ["qa", "qa=high", "qa=1,qa=2", "=1", "{qa", "qa=1,"] {
            assert!(
                text(Kind::Numbers, nonsense).unwrap_err().contains("qa=1.0,summarization=0.8"),
                "{nonsense}"
            );
        }
    }

    #[test]
    fn a_list_may_be_a_flag_and_a_text_a_mapping() {
        assert_eq!(text(Kind::FlagOrList, "true"), Ok(json!(true)));
        assert_eq!(text(Kind::FlagOrList, "qa, sum"), Ok(json!(["qa", "sum"])));
        assert_eq!(coerce(Kind::FlagOrList, &Node::Bool(false)), Ok(json!(false)));
        assert!(text(Kind::FlagOrList, ",").unwrap_err().contains("true, false or a list"));
        // A pattern with a comma, a brace or an equals sign is still one text.
        for pattern in [r"x=(\d{1,3}), .*", r"answer: (\w+)"] {
            assert_eq!(text(Kind::TextOrMap, pattern), Ok(json!(pattern)));
        }
        assert_eq!(text(Kind::TextOrMap, r#"{"math": "= (.*)"}"#), Ok(json!({"math": "= (.*)"})));
        let map = Node::Map(vec![("math".into(), Node::Text("= (.*)".into()))]);
        assert_eq!(coerce(Kind::TextOrMap, &map), Ok(json!({"math": "= (.*)"})));
        let nested = Node::Map(vec![("math".into(), Node::List(vec![]))]);
        assert!(coerce(Kind::TextOrMap, &nested).is_err());
    }

    #[test]
    fn shares_come_in_order_or_by_name() {
        assert_eq!(text(Kind::Shares, "0.5, 0.3,2"), Ok(json!([0.5, 0.3, 2.0])));
        assert_eq!(text(Kind::Shares, "qa=0.5,sum=1"), Ok(json!({"qa": 0.5, "sum": 1.0})));
        let list = Node::List(vec![Node::Float(0.5), Node::Int(1)]);
        assert_eq!(coerce(Kind::Shares, &list), Ok(json!([0.5, 1.0])));
        assert!(text(Kind::Shares, "qa,sum").unwrap_err().contains("`0.5,0.3,0.2`"));
    }

    #[test]
    fn structures_come_as_lists_of_mappings() {
        let points = json!([{"at": 0, "strategy": "balanced"}, {"at": 0.5, "shares": {"qa": 1}}]);
        assert_eq!(
            text(Kind::Structure, "[{at: 0, strategy: balanced}, {at: 0.5, shares: {qa: 1}}]"),
            Ok(points.clone())
        );
        assert_eq!(text(Kind::Structure, &points.to_string()), Ok(points));
        assert!(text(Kind::Structure, "balanced").unwrap_err().contains("list of mappings"));
        assert!(text(Kind::Structure, "[{").is_err());
    }

    #[test]
    fn choices_list_what_there_is() {
        let kind = Kind::Choice(&["no", "steps"]);
        assert_eq!(coerce(kind, &Node::Bool(false)), Ok(json!("no")));
        assert_eq!(text(kind, "steps"), Ok(json!("steps")));
        assert_eq!(text(kind, "epoch").unwrap_err(), "expected one of no, steps, got `epoch`");
        assert!(coerce(kind, &Node::Bool(true)).is_err());
    }

    #[test]
    fn null_leaves_the_default() {
        for kind in [Kind::Int, Kind::Text, Kind::List, Kind::Numbers] {
            assert_eq!(coerce(kind, &Node::Null), Ok(Value::Null));
            assert_eq!(text(kind, "null"), Ok(Value::Null));
        }
    }
}
