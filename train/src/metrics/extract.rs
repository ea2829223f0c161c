//! The answer inside a reply, by a regular expression: `answer_regex`.

use std::collections::BTreeMap;

use regex::Regex;
use serde::{Deserialize, Serialize};

/// `answer_regex`: one pattern for every task, or one a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum AnswerRegex {
    /// One pattern for every task.
    All(String),
    /// Patterns by task; other tasks' replies are taken whole.
    ByTask(BTreeMap<String, String>),
}

/// A pattern that is no regular expression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{of_task}`{pattern}` is not a regular expression: {reason}")]
pub struct PatternError {
    of_task: String,
    pattern: String,
    reason: String,
}

/// Compiled patterns.
#[derive(Debug, Clone, Default)]
pub struct Extraction {
    all: Option<Regex>,
    by_task: BTreeMap<String, Regex>,
    /// Also take the answer out of the references.
    on_label: bool,
}

impl Extraction {
    /// Compiles the patterns; with `on_label` they apply to references too.
    ///
    /// # Errors
    /// The first pattern that the `regex` crate does not read (it has no look-around and no back-references).
    pub fn new(patterns: Option<&AnswerRegex>, on_label: bool) -> Result<Self, PatternError> {
        let compile = |task: Option<&str>, pattern: &str| {
            Regex::new(pattern).map_err(|error| PatternError {
                of_task: task.map(|task| format!("task `{task}`: ")).unwrap_or_default(),
                pattern: pattern.to_string(),
                // The crate draws the place over several lines; the last one says what is wrong.
                reason: error
                    .to_string()
                    .lines()
                    .last()
                    .unwrap_or_default()
                    .trim_start_matches("error: ")
                    .to_string(),
            })
        };
        Ok(match patterns {
            None => Self { on_label, ..Self::default() },
            Some(AnswerRegex::All(pattern)) => {
                Self { all: Some(compile(None, pattern)?), on_label, ..Self::default() }
            }
            Some(AnswerRegex::ByTask(patterns)) => {
                let by_task = patterns
                    .iter()
                    .map(|(task, pattern)| Ok((task.clone(), compile(Some(task), pattern)?)))
                    .collect::<Result<_, PatternError>>()?;
                Self { all: None, by_task, on_label }
            }
        })
    }

    /// The tasks that patterns are given for by name.
    pub fn tasks(&self) -> impl Iterator<Item = &str> {
        self.by_task.keys().map(String::as_str)
    }

    fn pattern(&self, task: &str) -> Option<&Regex> {
        self.by_task.get(task).or(self.all.as_ref())
    }

    /// Whether replies of this task are searched.
    pub fn applies_to(&self, task: &str) -> bool {
        self.pattern(task).is_some()
    }

    /// The answer in a reply of `task`: the first capture group of the first match (the whole match where the pattern
    /// has no group), trimmed. `None` where a pattern applies and does not match: there is no answer.
    pub fn answer<'t>(&self, task: &str, reply: &'t str) -> Option<&'t str> {
        match self.pattern(task) {
            None => Some(reply),
            Some(pattern) => {
                let found = pattern.captures(reply)?;
                found.get(1).or_else(|| found.get(0).filter(|_| found.len() == 1)).map(|m| m.as_str().trim())
            }
        }
    }

    /// The reference that a reply is compared with: as it is, or searched too where `answer_regex_on_label` says so. A
    /// reference that does not match stays as it is.
    pub fn reference<'t>(&self, task: &str, reference: &'t str) -> &'t str {
        if self.on_label { self.answer(task, reference).unwrap_or(reference) } else { reference }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_group_of_the_first_match_is_the_answer() {
        let all = |pattern: &str, on_label| {
            Extraction::new(Some(&AnswerRegex::All(pattern.into())), on_label).unwrap()
        };
        let last = all(r"(?i)answer:\s*(\S+)", false);
        assert_eq!(last.answer("qa", "So. Answer: 42 or Answer: 7"), Some("42"));
        assert_eq!(last.answer("qa", "No idea"), None);
        assert_eq!(last.reference("qa", "Answer: 42"), "Answer: 42");
        assert_eq!(all(r"\d+", false).answer("qa", "about 12 or 13"), Some("12"));
        assert_eq!(all(r"答案是(.+?)。", false).answer("qa", "所以答案是 北京 。"), Some("北京"));
        // A group that took no part in the match gives no answer.
        assert_eq!(all(r"x(y)?", false).answer("qa", "x"), None);
        let both = all(r"####\s*(.*)$", true);
        assert_eq!((both.reference("qa", "2+2\n#### 4"), both.reference("qa", "4")), ("4", "4"));
        let none = Extraction::default();
        assert!(none.answer("qa", "whole") == Some("whole") && !none.applies_to("qa"));
    }

    #[test]
    fn tasks_have_patterns_of_their_own() {
        let patterns: AnswerRegex = serde_json::from_str(r#"{"math": "= (\\d+)"}"#).unwrap();
        let by_task = Extraction::new(Some(&patterns), false).unwrap();
        assert_eq!(by_task.answer("math", "1 + 1 = 2"), Some("2"));
        assert_eq!(by_task.answer("qa", "1 + 1 = 2"), Some("1 + 1 = 2"));
        assert_eq!(by_task.tasks().collect::<Vec<_>>(), ["math"]);
        let bad = AnswerRegex::ByTask([("math".to_string(), "(".to_string())].into());
        let error = Extraction::new(Some(&bad), false).unwrap_err().to_string();
        assert_eq!(error, "task `math`: `(` is not a regular expression: unclosed group");
    }
}
