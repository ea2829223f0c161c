//! Conversations as token ids: templates, task headers, loss masks, truncation.
//!
//! [`Renderer`] is the one place where a conversation becomes ids. Training, evaluation, generation and
//! chat all call it, so a prompt at generation is, token for token, the beginning of the sequence that
//! was trained on: each turn's prompt and reply are tokenised apart.

mod assemble;
mod error;
mod file;
mod jinja;
mod slots;
mod table;
mod task;

pub use assemble::{LabelSpan, Rendered, infer_seqlen};
pub use error::TemplateError;
pub use table::{Slot, TemplateSpec, Thought, templates};
pub use task::{task_header, task_label};

use crate::tokenizer::Tokenizer;
use assemble::{MaskRule, Turn, assemble};
use jinja::JinjaTemplate;
use slots::{SlotTemplate, Template};
use std::path::Path;
use std::sync::Arc;

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions for the whole conversation; only as the first message.
    System,
    /// The one who asks.
    User,
    /// The model.
    Assistant,
}

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub content: String,
}

impl Message {
    /// A system message.
    pub fn system(content: impl Into<String>) -> Message {
        Message { role: Role::System, content: content.into() }
    }

    /// A user message.
    pub fn user(content: impl Into<String>) -> Message {
        Message { role: Role::User, content: content.into() }
    }

    /// A reply.
    pub fn assistant(content: impl Into<String>) -> Message {
        Message { role: Role::Assistant, content: content.into() }
    }
}

/// How conversations are rendered; the names and defaults are LLaMA-Factory's, `task_prefix` is ours.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RenderOptions {
    /// Learn prompts too.
    pub train_on_prompt: bool,
    /// Learn the last reply only; on truncation, the last turns are kept first.
    pub mask_history: bool,
    /// Put `### Task: <label>` in front of the first prompt (see [`task_label`]): above the first
    /// heading where the template has headings (alpaca), else at the head of the first user message.
    pub task_prefix: bool,
    /// Replaces the template's default system message.
    pub default_system: Option<String>,
    /// Whether a model with a thinking template thinks.
    pub enable_thinking: Thinking,
    /// Keep the thoughts of earlier turns under `mask_history`.
    pub preserve_thinking: bool,
    /// The most ids a rendered conversation may have; `None` for no limit. Prompts for generation are
    /// not cut.
    pub cutoff_len: Option<usize>,
}

/// What becomes of the thoughts of a model that thinks before it replies (`qwen3`, `deepseekr1`, …):
/// LLaMA-Factory's `enable_thinking`. Templates without thoughts do not heed it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Thinking {
    /// The model thinks: a reply without a thought is learned with an empty one.
    #[default]
    #[serde(rename = "true")]
    On,
    /// It does not: thoughts are taken out of replies, and an empty one is part of the prompt.
    #[serde(rename = "false")]
    Off,
    /// Both: thoughts are learned where there are any; where there is none, an empty one is part of the
    /// prompt, as it is in generation.
    #[serde(rename = "none")]
    Mixed,
}

/// How the turns of a conversation are written.
enum Form {
    Slots(SlotTemplate),
    Jinja(Box<JinjaTemplate>),
}

/// Writes conversations with one template for one tokenizer.
pub struct Renderer {
    tokenizer: Arc<Tokenizer>,
    form: Form,
    options: RenderOptions,
    mask: MaskRule,
    stop_ids: Vec<u32>,
    notes: Vec<String>,
    /// The chat template writes the head of a reply after every conversation, asked for or not.
    always_prompts: bool,
}

impl std::fmt::Debug for Renderer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Renderer")
            .field("template", &self.name())
            .field("options", &self.options)
            .field("stop_ids", &self.stop_ids)
            .finish_non_exhaustive()
    }
}

impl Renderer {
    /// A renderer for the template of this name, for the template file of this path (`.yaml`), or for the
    /// model's own chat template where none is named.
    ///
    /// # Errors
    /// An unknown name; a file that cannot be read or is no template; no name and no chat template; a token that the template needs and the tokenizer
    /// lacks; `train_on_prompt` with `mask_history` or with a template of `efficient_eos`.
    pub fn new(
        template: Option<&str>,
        tokenizer: Arc<Tokenizer>,
        options: RenderOptions,
    ) -> Result<Renderer, TemplateError> {
        if options.train_on_prompt && options.mask_history {
            return Err(TemplateError::Options(
                "`train_on_prompt` and `mask_history` exclude each other; set one",
            ));
        }
        let mut mask = MaskRule {
            train_on_prompt: options.train_on_prompt,
            mask_history: options.mask_history,
            efficient_eos: None,
        };
        let mut stop_ids = tokenizer.eos_ids().to_vec();
        let mut notes = Vec::new();
        let form = match template {
            Some(name) => {
                let template = match file::is_file(name) {
                    true => file::read(Path::new(name))?,
                    false => Template::from(table::find(name).ok_or_else(|| unknown(name))?),
                };
                let slots = SlotTemplate::new(template, &tokenizer)?;
                mask.efficient_eos = slots.efficient_eos();
                if mask.efficient_eos.is_some() && options.train_on_prompt {
                    return Err(TemplateError::Options(
                        "`train_on_prompt` cannot be used with this template, whose replies share one end token; choose another template",
                    ));
                }
                slots.add_stop_ids(&tokenizer, &mut stop_ids);
                notes.extend(slots.note(&tokenizer));
                Form::Slots(slots)
            }
            None => {
                let source = tokenizer.chat_template().ok_or_else(|| TemplateError::NoChatTemplate {
                    folder: tokenizer.folder().display().to_string(),
                })?;
                Form::Jinja(Box::new(JinjaTemplate::new(source, &tokenizer, options.enable_thinking)?))
            }
        };
        let mut renderer =
            Renderer { tokenizer, form, options, mask, stop_ids, notes, always_prompts: false };
        renderer.probe_jinja();
        Ok(renderer)
    }

    /// The whole conversation with its labels, cut to `cutoff_len`.
    ///
    /// `messages`: an optional system message, then user and assistant in turns, an assistant last.
    /// `task` is used under `task_prefix` only.
    ///
    /// # Errors
    /// Messages in another order, or a conversation that the model's chat template refuses.
    pub fn render(&self, messages: &[Message], task: Option<&str>) -> Result<Rendered, TemplateError> {
        if self.always_prompts {
            return Err(TemplateError::AlwaysPrompts);
        }
        let turns = self.turns(messages, task, true)?;
        Ok(assemble(&turns, self.mask, self.options.cutoff_len))
    }

    /// The prompt for the next reply: the conversation and all that the template writes before a reply.
    ///
    /// `messages`: an optional system message, then user and assistant in turns, a user last. The ids
    /// are the beginning of what [`Renderer::render`] gives when the reply is appended.
    ///
    /// # Errors
    /// As [`Renderer::render`].
    pub fn render_prompt(&self, messages: &[Message], task: Option<&str>) -> Result<Vec<u32>, TemplateError> {
        let turns = self.turns(messages, task, false)?;
        Ok(turns.into_iter().flat_map(|turn| [turn.source, turn.target]).flatten().collect())
    }

    /// The last reply of a conversation as it stands in a training sequence, what ends it included.
    ///
    /// # Errors
    /// As [`Renderer::render`].
    pub fn render_reply(&self, messages: &[Message], task: Option<&str>) -> Result<Vec<u32>, TemplateError> {
        if self.always_prompts {
            return Err(TemplateError::AlwaysPrompts);
        }
        Ok(self.turns(messages, task, true)?.pop().map(|turn| turn.target).unwrap_or_default())
    }

    /// The ids that end a reply: the template's and the tokenizer's.
    pub fn stop_ids(&self) -> &[u32] {
        &self.stop_ids
    }

    /// The template's name; `chat_template` for the model's own.
    pub fn name(&self) -> &str {
        match &self.form {
            Form::Slots(slots) => slots.name(),
            Form::Jinja(_) => "chat_template",
        }
    }

    /// All that decides how a conversation is written, the tokenizer apart: two renderers of equal
    /// fingerprints and tokenizers render alike. For keys of caches; its form may change.
    pub fn fingerprint(&self) -> String {
        let form = match &self.form {
            Form::Slots(slots) => format!("{:?}", slots.template()),
            Form::Jinja(_) => self.tokenizer.chat_template().unwrap_or_default().to_string(),
        };
        format!("{form}\n{:?}", self.options)
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.tokenizer
    }

    /// The options this renderer was made with.
    pub fn options(&self) -> &RenderOptions {
        &self.options
    }

    /// What a user should know about this pairing of template and tokenizer; mostly empty.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    fn turns(
        &self,
        messages: &[Message],
        task: Option<&str>,
        complete: bool,
    ) -> Result<Vec<Turn>, TemplateError> {
        check_order(messages, complete)?;
        let header = match task {
            Some(task) if self.options.task_prefix => task_header(task),
            _ => String::new(),
        };
        match &self.form {
            Form::Slots(slots) => slots.turns(&self.tokenizer, messages, &self.options, &header),
            Form::Jinja(template) => self.jinja_turns(template, messages, &header, complete),
        }
    }

    /// Finds prompt and reply of each turn by rendering ever longer beginnings of the conversation.
    fn jinja_turns(
        &self,
        template: &JinjaTemplate,
        messages: &[Message],
        header: &str,
        complete: bool,
    ) -> Result<Vec<Turn>, TemplateError> {
        let mut messages = messages.to_vec();
        if let Some(user) = messages.iter_mut().find(|m| m.role == Role::User) {
            user.content.insert_str(0, header);
        }
        if let Some(system) = &self.options.default_system
            && messages.first().is_some_and(|m| m.role != Role::System)
        {
            messages.insert(0, Message::system(system.clone()));
        }
        let encode = |text: &str| self.tokenizer.encode(text, true);
        let users: Vec<usize> = (0..messages.len()).filter(|&i| messages[i].role == Role::User).collect();
        let mut turns = Vec::with_capacity(users.len());
        let mut done = String::new();
        for (turn, &i) in users.iter().enumerate() {
            let prompt = template.text(&messages[..=i], true)?;
            let source = match prompt.strip_prefix(done.as_str()) {
                Some(source) => source,
                // The last prompt can stand alone where nothing before it has to be learned.
                None if !complete || self.options.mask_history => {
                    turns.clear();
                    let last = users[users.len() - 1];
                    let prompt = template.text(&messages[..=last], true)?;
                    let target = match complete {
                        true => self.reply(template, &messages[..=last + 1], &prompt, users.len() - 1)?,
                        false => Vec::new(),
                    };
                    turns.push(Turn { source: encode(&prompt)?, target });
                    return Ok(turns);
                }
                None => return Err(TemplateError::HistoryRewritten { turn }),
            };
            let source = encode(source)?;
            let target = if i + 1 < messages.len() {
                let target = self.reply(template, &messages[..=i + 1], &prompt, turn)?;
                done = template.text(&messages[..=i + 1], false)?;
                target
            } else {
                Vec::new()
            };
            turns.push(Turn { source, target });
        }
        Ok(turns)
    }

    fn reply(
        &self,
        template: &JinjaTemplate,
        messages: &[Message],
        prompt: &str,
        turn: usize,
    ) -> Result<Vec<u32>, TemplateError> {
        let full = template.text(messages, false)?;
        let reply = full.strip_prefix(prompt).ok_or(TemplateError::ReplyNotAppended { turn })?;
        Ok(self.tokenizer.encode(reply, true)?)
    }

    /// Learns two things about the model's own chat template from a made-up conversation: the token with
    /// which it closes a reply, which also ends a generation, and whether it heeds `add_generation_prompt`
    /// (the first templates of LLaMA-3 do not). A template that refuses the conversation tells nothing.
    fn probe_jinja(&mut self) {
        let Form::Jinja(template) = &self.form else { return };
        let probe = [Message::user("x"), Message::assistant("y"), Message::user("z")];
        let text = |n: usize, prompt: bool| template.text(&probe[..n], prompt);
        if let (Ok(asked), Ok(not_asked), Ok(two), Ok(three)) =
            (text(1, true), text(1, false), text(2, false), text(3, false))
        {
            // What follows the question also follows the finished reply, and goes when a question follows.
            let tail = asked.rsplit_once('x').map_or("", |(_, tail)| tail);
            self.always_prompts =
                asked == not_asked && !tail.is_empty() && two.ends_with(tail) && !three.starts_with(&two);
        }
        let Ok(turns) = self.jinja_turns(template, &probe[..2], "", true) else { return };
        let close = turns.iter().flat_map(|t| &t.target).find(|&&id| self.tokenizer.is_special(id)).copied();
        if let Some(id) = close
            && !self.stop_ids.contains(&id)
        {
            self.stop_ids.push(id);
        }
    }
}

/// An optional system message, then user and assistant in turns; the last is an assistant's where the
/// conversation is `complete`, else a user's.
fn check_order(messages: &[Message], complete: bool) -> Result<(), TemplateError> {
    let first = usize::from(messages.first().is_some_and(|m| m.role == Role::System));
    for (index, message) in messages.iter().enumerate().skip(first) {
        let expected = if (index - first).is_multiple_of(2) { Role::User } else { Role::Assistant };
        if message.role != expected {
            let reason = format!("expected the role {expected:?}, got {:?}", message.role);
            return Err(TemplateError::Conversation { index, reason });
        }
    }
    let last = if complete { Role::Assistant } else { Role::User };
    if messages.len() == first || messages.last().is_some_and(|m| m.role != last) {
        let reason = format!("the conversation must end with the role {last:?}");
        return Err(TemplateError::Conversation { index: messages.len().saturating_sub(1), reason });
    }
    Ok(())
}

fn unknown(name: &str) -> TemplateError {
    let names = || templates().into_iter().map(|spec| spec.name);
    let nearest = names()
        .map(|known| (strsim::damerau_levenshtein(&name.to_lowercase(), known), known))
        .filter(|(distance, known)| *distance <= 2 || known.starts_with(name) || name.starts_with(known))
        .min()
        .map(|(_, known)| known);
    TemplateError::Unknown { name: name.to_string(), nearest, known: names().collect::<Vec<_>>().join(", ") }
}

#[cfg(test)]
mod tests;
