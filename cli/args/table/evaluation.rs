//! The options of evaluation, of the best checkpoint and of early stopping.

use super::super::Cmd::{self, Compare, Eval, Predict, Train};
use super::super::option::Kind::{Choice, Flag, FlagOrList, Float, Int, Text, TextOrMap};
use super::super::option::{Opt, Section};

const TRAIN: &[Cmd] = &[Train, Compare];
const EVALUATES: &[Cmd] = &[Train, Compare, Eval];
const SCORES: &[Cmd] = &[Train, Compare, Eval, Predict];

const fn field(
    name: &'static str,
    kind: super::super::option::Kind,
    commands: &'static [Cmd],
    help: &'static str,
) -> Opt {
    Opt::field(Section::Evaluation, name, kind, help).on(commands)
}

pub const EVALUATION: &[Opt] = &[
    field(
        "predict_with_generate",
        Flag,
        SCORES,
        "let the model answer in every evaluation, greedily, and score its answers",
    ),
    field(
        "eval_generate_samples",
        Int,
        EVALUATES,
        "examples of each task to answer in an evaluation, at most",
    ),
    field(
        "eval_max_new_tokens",
        Int,
        EVALUATES,
        "most tokens of an answer in an evaluation; unset: by the task's longest reference",
    ),
    field(
        "constrain_labels",
        FlagOrList,
        SCORES,
        "tasks whose answers can only be one of their labels; true: all that have labels",
    ),
    field(
        "answer_regex",
        TextOrMap,
        SCORES,
        "where the answer stands in a reply (first group, else match); or one pattern a task",
    ),
    field("answer_regex_on_label", Flag, SCORES, "search the references by answer_regex too"),
    field(
        "metric_language",
        Choice(&["auto", "en", "zh"]),
        SCORES,
        "words for ROUGE, BLEU and F1: at spaces (en), Chinese characters (zh), by the text (auto)",
    ),
    field(
        "compute_accuracy",
        Flag,
        EVALUATES,
        "each task's share of label tokens found likeliest, as <task>/token_accuracy",
    ),
    field(
        "metric_for_best_model",
        Text,
        TRAIN,
        "eval_loss, qa/f1, or a mean such as 0.5*qa/f1+0.5*classification/macro_f1",
    ),
    field(
        "greater_is_better",
        Flag,
        TRAIN,
        "of metric_for_best_model; unset: false for losses and perplexities",
    ),
    field(
        "load_best_model_at_end",
        Flag,
        TRAIN,
        "save each new best evaluation's checkpoint, end with the best weights",
    ),
    field("early_stopping_steps", Int, TRAIN, "stop after so many evaluations in a row without improvement"),
    field("early_stopping_threshold", Float, TRAIN, "least improvement that counts"),
    field(
        "early_stopping_tasks",
        FlagOrList,
        TRAIN,
        "stop when each of these has stopped improving: all, or qa,summarization/rougeL",
    ),
];

pub const RENAMED: &[Opt] = &[Opt::renamed("early_stopping_patience", "early_stopping_steps")];
