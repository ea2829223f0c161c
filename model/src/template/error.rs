//! What can go wrong when a conversation is written out for a model.

use crate::tokenizer::TokenizerError;

/// Errors of [`super::Renderer`]; each names the template, the token or the message, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// No template has this name.
    #[error("there is no template {name:?}{}; `template` takes the path of a .yaml file or one of: {known}", suggestion(.nearest))]
    Unknown {
        /// The name as given.
        name: String,
        /// The known name closest to it, where one is close.
        nearest: Option<&'static str>,
        /// All names, comma separated.
        known: String,
    },
    /// A template file cannot be used.
    #[error("template file {path}: {reason}")]
    File {
        /// Its path.
        path: String,
        /// What is wrong, with line and key.
        reason: String,
    },
    /// No template was named and the model brings none.
    #[error(
        "no `template` was named and the model has no chat template of its own ({folder}); name one, e.g. `template: alpaca` for a base model, `chatml`, `llama2` or `llama3` for their chat models"
    )]
    NoChatTemplate {
        /// The model's folder.
        folder: String,
    },
    /// The template needs a single token that the tokenizer does not have.
    #[error(
        "template {template:?} needs the token {token:?} ({purpose}), which this tokenizer does not have; choose the template that the model was made with, or one that needs no special tokens: alpaca, default, vicuna"
    )]
    MissingToken {
        /// The template's name.
        template: String,
        /// The token's text, or `eos_token`.
        token: String,
        /// What the template does with it.
        purpose: &'static str,
    },
    /// Two options exclude each other.
    #[error("{0}")]
    Options(&'static str),
    /// The messages are not a conversation that the template can write.
    #[error("message {index} of the conversation: {reason}")]
    Conversation {
        /// Counted from 0.
        index: usize,
        /// What is wrong.
        reason: String,
    },
    /// The model's chat template is not valid Jinja.
    #[error("the model's chat template cannot be read: {reason}; name a `template` instead")]
    Syntax {
        /// The template engine's reason, with the line.
        reason: String,
    },
    /// The model's chat template refused the conversation.
    #[error("the model's chat template refused the conversation: {reason}")]
    Refused {
        /// What the template raised, or the engine's reason.
        reason: String,
    },
    /// The chat template writes earlier messages differently once later ones follow.
    #[error(
        "the model's chat template rewrites earlier turns when turn {turn} follows, so their replies cannot be learned as they will be seen; set `mask_history: true` to learn the last reply only, or name a `template`"
    )]
    HistoryRewritten {
        /// The turn, counted from 0.
        turn: usize,
    },
    /// The reply does not continue the text of the generation prompt.
    #[error(
        "with the model's chat template the reply of turn {turn} does not begin where the generation prompt ends, so training and generation would see different texts; name a `template` instead"
    )]
    ReplyNotAppended {
        /// The turn, counted from 0.
        turn: usize,
    },
    /// The chat template always ends with the head of a next reply.
    #[error(
        "the model's chat template ignores `add_generation_prompt` and writes the head of a next reply after every conversation, which must not be learned; name a `template`, e.g. `llama3`"
    )]
    AlwaysPrompts,
    /// The tokenizer failed.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}

fn suggestion(name: &Option<&'static str>) -> String {
    match name {
        Some(name) => format!(" (did you mean {name:?}?)"),
        None => String::new(),
    }
}
