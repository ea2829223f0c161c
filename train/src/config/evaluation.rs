//! How a model is scored, which scores decide, and when a run ends early.

use crate::metrics::{AnswerRegex, Language};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Evaluation by generation, the best checkpoint, early stopping.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EvalArgs {
    /// Every evaluation also lets the model answer, greedily, and scores the answers.
    pub predict_with_generate: bool,
    /// At most so many examples of each task are answered in an evaluation: always the same ones, labels in proportion.
    pub eval_generate_samples: usize,
    /// Most tokens of an answer in an evaluation; `None`: twice the longest reference of its task and 16 more, at most
    /// `max_new_tokens`.
    pub eval_max_new_tokens: Option<usize>,
    /// Tasks whose answers can only be one of the labels of their references.
    pub constrain_labels: TaskChoice,
    /// Where the answer stands in a reply: the first capture group, or the match.
    pub answer_regex: Option<AnswerRegex>,
    /// Search the references by `answer_regex` too.
    pub answer_regex_on_label: bool,
    /// How texts are cut into words before they are compared.
    pub metric_language: Language,
    /// Each task's share of label tokens that the model finds likeliest, in every evaluation.
    pub compute_accuracy: bool,
    /// What the best checkpoint and early stopping go by: `eval_loss`, `<task>/<metric>`, or a weighted mean such as
    /// `0.5*qa/f1+0.5*classification/macro_f1`.
    pub metric_for_best_model: Option<String>,
    /// Whether more of it is better; `None`: not for losses and perplexities, else yes.
    pub greater_is_better: Option<bool>,
    /// Save a checkpoint at each new best evaluation, and end with the weights of the best.
    pub load_best_model_at_end: bool,
    /// Stop after so many evaluations in a row without improvement; `None` never does.
    pub early_stopping_steps: Option<u64>,
    /// What is less than this much better than the best so far is no improvement.
    pub early_stopping_threshold: f64,
    /// Stop when each of these tasks has stopped improving, instead of by `metric_for_best_model`: a task's name stands
    /// for its loss, `<task>/<metric>` for that score, `all` for the loss of every task.
    pub early_stopping_tasks: TaskChoice,
}

impl Default for EvalArgs {
    fn default() -> Self {
        Self {
            predict_with_generate: false,
            eval_generate_samples: 64,
            eval_max_new_tokens: None,
            constrain_labels: TaskChoice::None,
            answer_regex: None,
            answer_regex_on_label: false,
            metric_language: Language::Auto,
            compute_accuracy: false,
            metric_for_best_model: None,
            greater_is_better: None,
            load_best_model_at_end: false,
            early_stopping_steps: None,
            early_stopping_threshold: 0.0,
            early_stopping_tasks: TaskChoice::None,
        }
    }
}

/// No task, all of them (`true`, `all`), or those named.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum TaskChoice {
    /// None (`false`).
    #[default]
    None,
    /// All that it can apply to.
    All,
    /// These.
    Named(Vec<String>),
}

impl TaskChoice {
    /// Whether `task` is among them.
    pub fn contains(&self, task: &str) -> bool {
        match self {
            Self::None => false,
            Self::All => true,
            Self::Named(names) => names.iter().any(|name| name == task),
        }
    }
}

impl Serialize for TaskChoice {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::None => serializer.serialize_bool(false),
            Self::All => serializer.serialize_str("all"),
            Self::Named(names) => names.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for TaskChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Flag(bool),
            One(String),
            Many(Vec<String>),
        }
        let names = match Form::deserialize(deserializer)? {
            Form::Flag(all) => return Ok(if all { Self::All } else { Self::None }),
            Form::One(text) => text.split(',').map(|name| name.trim().to_string()).collect(),
            Form::Many(names) => names,
        };
        let word = match names.as_slice() {
            [one] => one.to_ascii_lowercase(),
            _ => String::new(),
        };
        match word.as_str() {
            "all" | "true" => Ok(Self::All),
            "false" | "none" => Ok(Self::None),
            _ if names.iter().any(String::is_empty) => Err(de::Error::custom(
                "expected true, false, all, or names of tasks such as `qa,classification`",
            )),
            _ => Ok(Self::Named(names)),
        }
    }
}
