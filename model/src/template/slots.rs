//! Writing a conversation by a [`TemplateSpec`], or by a user's own template file.

use super::assemble::Turn;
use super::error::TemplateError;
use super::table::{Slot, TemplateSpec, Thought};
use super::{Message, RenderOptions, Role, Thinking};
use crate::tokenizer::Tokenizer;

/// Stands for the message in a text.
pub(super) const CONTENT: &str = "{{content}}";

/// A template, of the table or of a file: the fields are those of [`TemplateSpec`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Template {
    pub name: String,
    pub prefix: Vec<Slot<String>>,
    pub system: Vec<Slot<String>>,
    pub user: Vec<Slot<String>>,
    pub assistant: Vec<Slot<String>>,
    pub default_system: String,
    pub stop_words: Vec<String>,
    pub efficient_eos: bool,
    pub replace_eos: bool,
    pub fuse_system: bool,
    pub headings: bool,
    pub thought: Option<Thought<String>>,
}

impl From<&TemplateSpec> for Template {
    fn from(spec: &TemplateSpec) -> Template {
        let owned = |slots: &[Slot]| {
            let each = slots.iter().map(|slot| match *slot {
                Slot::Text(text) => Slot::Text(text.to_string()),
                Slot::Token(token) => Slot::Token(token.to_string()),
                Slot::Bos => Slot::Bos,
                Slot::Eos => Slot::Eos,
            });
            each.collect()
        };
        Template {
            name: spec.name.to_string(),
            prefix: owned(spec.prefix),
            system: owned(spec.system),
            user: owned(spec.user),
            assistant: owned(spec.assistant),
            default_system: spec.default_system.to_string(),
            stop_words: spec.stop_words.iter().map(|word| word.to_string()).collect(),
            efficient_eos: spec.efficient_eos,
            replace_eos: spec.replace_eos,
            fuse_system: spec.fuse_system,
            headings: spec.headings,
            thought: spec.thought.map(|t| Thought {
                open: t.open.to_string(),
                close: t.close.to_string(),
                empty_closes_only: t.empty_closes_only,
            }),
        }
    }
}

/// A template checked against a tokenizer.
pub(super) struct SlotTemplate {
    template: Template,
    eos: Option<u32>,
}

impl SlotTemplate {
    /// What is written around the messages.
    pub(super) fn template(&self) -> &Template {
        &self.template
    }

    /// Checks that the tokenizer has what the template needs: its single tokens, the stop word that ends
    /// a reply, and an eos token where one is written.
    pub(super) fn new(template: Template, tokenizer: &Tokenizer) -> Result<SlotTemplate, TemplateError> {
        let missing = |token: &str, purpose: &'static str| TemplateError::MissingToken {
            template: template.name.clone(),
            token: token.to_string(),
            purpose,
        };
        let slots = || {
            [&template.prefix, &template.system, &template.user, &template.assistant].into_iter().flatten()
        };
        for slot in slots() {
            if let Slot::Token(token) = slot
                && tokenizer.token_id(token).is_none()
            {
                return Err(missing(token, "it frames the messages"));
            }
        }
        // Spelled out in pieces, the end of a reply could never stop a generation.
        let ends_reply = |word: &&String| {
            template.assistant.iter().any(|s| matches!(s, Slot::Text(t) if t.contains(word.as_str())))
        };
        if let Some(word) = template.stop_words.iter().find(ends_reply)
            && tokenizer.token_id(word).is_none()
        {
            return Err(missing(word, "it ends each reply"));
        }
        let eos = match template.stop_words.first() {
            Some(word) if template.replace_eos => Some(
                tokenizer
                    .token_id(word)
                    .ok_or_else(|| missing(word, "it takes the place of the eos token"))?,
            ),
            _ => tokenizer.eos().map(|t| t.id),
        };
        let writes_eos = template.efficient_eos || slots().any(|s| *s == Slot::Eos);
        if writes_eos && eos.is_none() {
            return Err(missing("eos_token", "it ends each reply"));
        }
        Ok(SlotTemplate { template, eos })
    }

    pub(super) fn name(&self) -> &str {
        &self.template.name
    }

    /// The eos id where the sequence, not the reply, carries it.
    pub(super) fn efficient_eos(&self) -> Option<u32> {
        self.eos.filter(|_| self.template.efficient_eos)
    }

    /// Adds the eos token and those stop words that are single tokens.
    pub(super) fn add_stop_ids(&self, tokenizer: &Tokenizer, stop_ids: &mut Vec<u32>) {
        let words = self.template.stop_words.iter().filter_map(|word| tokenizer.token_id(word));
        for id in self.eos.into_iter().chain(words) {
            if !stop_ids.contains(&id) {
                stop_ids.push(id);
            }
        }
    }

    /// What is left out because the tokenizer has no bos token.
    pub(super) fn note(&self, tokenizer: &Tokenizer) -> Option<String> {
        let written = [&self.template.prefix, &self.template.user];
        let writes_bos = written.into_iter().flatten().any(|s| *s == Slot::Bos);
        (writes_bos && tokenizer.bos().is_none()).then(|| {
            format!(
                "template {:?} begins with the bos token, which this tokenizer does not have; it is left out",
                self.template.name
            )
        })
    }

    /// The turns of a conversation whose order has been checked.
    ///
    /// The thoughts of a model that thinks are handled as LLaMA-Factory's `ReasoningTemplate.encode_multiturn`
    /// does it for training: a reply without one gets an empty one, learned where thinking is on and given
    /// where it is not; a prompt for generation is what stands before the reply in training.
    pub(super) fn turns(
        &self,
        tokenizer: &Tokenizer,
        messages: &[Message],
        options: &RenderOptions,
        header: &str,
    ) -> Result<Vec<Turn>, TemplateError> {
        let template = &self.template;
        let mut system = options.default_system.as_deref().unwrap_or(&template.default_system);
        let mut rest = messages;
        if let [Message { role: Role::System, content }, tail @ ..] = messages {
            // As in LLaMA-Factory, an empty system message stands for the default one.
            if !content.is_empty() {
                system = content;
            }
            rest = tail;
        }
        let count = rest.len().div_ceil(2);
        let forgets = options.mask_history && !options.preserve_thinking;
        let mut turns = Vec::with_capacity(count);
        for (i, pair) in rest.chunks(2).enumerate() {
            let mut source = Vec::new();
            let mut user = String::new();
            let mut heading = "";
            if i == 0 {
                self.write(&template.prefix, "", "", tokenizer, &mut source)?;
                if !system.is_empty() {
                    match template.fuse_system {
                        true => user = fill(first_text(&template.system), system),
                        false => self.write(&template.system, system, "", tokenizer, &mut source)?,
                    }
                }
                match template.headings {
                    true => heading = header,
                    false => user.push_str(header),
                }
            }
            user.push_str(&pair[0].content);
            self.write(&template.user, &user, heading, tokenizer, &mut source)?;
            let mut target = Vec::new();
            let last = i + 1 == count;
            match (pair.get(1), &template.thought) {
                (Some(reply), None) => {
                    self.write(&template.assistant, &reply.content, "", tokenizer, &mut target)?;
                }
                (Some(reply), Some(thought)) => {
                    let off = options.enable_thinking == Thinking::Off;
                    let content = match off || (forgets && !last) {
                        true => thought.removed_from(&reply.content),
                        false => reply.content.clone(),
                    };
                    let absent =
                        !content.contains(thought.open.trim()) && !content.contains(thought.close.trim());
                    if absent && (last || !forgets) {
                        let into = match options.enable_thinking {
                            Thinking::On => &mut target,
                            Thinking::Off | Thinking::Mixed => &mut source,
                        };
                        into.extend(tokenizer.encode(&thought.empty(), true)?);
                    }
                    self.write(&template.assistant, &content, "", tokenizer, &mut target)?;
                }
                (None, Some(thought)) if options.enable_thinking != Thinking::On => {
                    source.extend(tokenizer.encode(&thought.empty(), true)?);
                }
                (None, _) => {}
            }
            turns.push(Turn { source, target });
        }
        Ok(turns)
    }

    /// Tokenises the elements one by one; `heading` goes in front of the first text.
    fn write(
        &self,
        slots: &[Slot<String>],
        content: &str,
        heading: &str,
        tokenizer: &Tokenizer,
        ids: &mut Vec<u32>,
    ) -> Result<(), TemplateError> {
        let mut heading = heading;
        for slot in slots {
            match slot {
                Slot::Text(text) => {
                    let text = format!("{heading}{}", fill(text, content));
                    heading = "";
                    if !text.is_empty() {
                        ids.extend(tokenizer.encode(&text, true)?);
                    }
                }
                Slot::Bos => ids.extend(tokenizer.bos().map(|t| t.id)),
                // Checked when the template was made: where an eos is written, there is one.
                Slot::Eos => ids.extend(self.eos),
                Slot::Token(token) => ids.extend(tokenizer.token_id(token)),
            }
        }
        Ok(())
    }
}

impl Thought<String> {
    /// A thought of nothing.
    fn empty(&self) -> String {
        let open = if self.empty_closes_only { "" } else { &self.open };
        format!("{open}{}", self.close)
    }

    /// A reply without its thoughts and the line breaks at its head.
    fn removed_from(&self, content: &str) -> String {
        let (mut out, mut rest) = (String::new(), content);
        while let Some((before, tail)) = rest.split_once(self.open.as_str())
            && let Some((_, after)) = tail.split_once(self.close.as_str())
        {
            out.push_str(before);
            rest = after;
        }
        out.push_str(rest);
        out.trim_start_matches('\n').to_string()
    }
}

fn fill(text: &str, content: &str) -> String {
    text.replacen(CONTENT, content, 1)
}

fn first_text(slots: &[Slot<String>]) -> &str {
    let text = |slot| match slot {
        &Slot::Text(ref text) => Some(text as &String),
        _ => None,
    };
    slots.iter().find_map(text).map_or(CONTENT, String::as_str)
}
