//! Writing a conversation by a [`TemplateSpec`].

use super::assemble::Turn;
use super::error::TemplateError;
use super::table::{Slot, TemplateSpec};
use super::{Message, Role};
use crate::tokenizer::Tokenizer;

const CONTENT: &str = "{{content}}";

/// A template of the table, checked against a tokenizer.
pub(super) struct SlotTemplate {
    spec: &'static TemplateSpec,
    eos: Option<u32>,
}

impl SlotTemplate {
    /// Checks that the tokenizer has what the template needs: its single tokens, the stop word that ends
    /// a reply, and an eos token where one is written.
    pub(super) fn new(
        spec: &'static TemplateSpec,
        tokenizer: &Tokenizer,
    ) -> Result<SlotTemplate, TemplateError> {
        let missing = |token: &str, purpose: &'static str| TemplateError::MissingToken {
            template: spec.name.to_string(),
            token: token.to_string(),
            purpose,
        };
        let slots = || [spec.prefix, spec.system, spec.user, spec.assistant].into_iter().flatten();
        for slot in slots() {
            if let Slot::Token(token) = slot
                && tokenizer.token_id(token).is_none()
            {
                return Err(missing(token, "it frames the messages"));
            }
        }
        // Spelled out in pieces, the end of a reply could never stop a generation.
        let ends_reply =
            |word: &&&str| spec.assistant.iter().any(|s| matches!(s, Slot::Text(t) if t.contains(**word)));
        if let Some(word) = spec.stop_words.iter().find(ends_reply)
            && tokenizer.token_id(word).is_none()
        {
            return Err(missing(word, "it ends each reply"));
        }
        let eos = match spec.stop_words.first() {
            Some(word) if spec.replace_eos => Some(
                tokenizer
                    .token_id(word)
                    .ok_or_else(|| missing(word, "it takes the place of the eos token"))?,
            ),
            _ => tokenizer.eos().map(|t| t.id),
        };
        let writes_eos = spec.efficient_eos || slots().any(|s| *s == Slot::Eos);
        if writes_eos && eos.is_none() {
            return Err(missing("eos_token", "it ends each reply"));
        }
        Ok(SlotTemplate { spec, eos })
    }

    pub(super) fn spec(&self) -> &'static TemplateSpec {
        self.spec
    }

    /// The eos id where the sequence, not the reply, carries it.
    pub(super) fn efficient_eos(&self) -> Option<u32> {
        self.eos.filter(|_| self.spec.efficient_eos)
    }

    /// Adds the eos token and those stop words that are single tokens.
    pub(super) fn add_stop_ids(&self, tokenizer: &Tokenizer, stop_ids: &mut Vec<u32>) {
        let words = self.spec.stop_words.iter().filter_map(|word| tokenizer.token_id(word));
        for id in self.eos.into_iter().chain(words) {
            if !stop_ids.contains(&id) {
                stop_ids.push(id);
            }
        }
    }

    /// What is left out because the tokenizer has no bos token.
    pub(super) fn note(&self, tokenizer: &Tokenizer) -> Option<String> {
        let writes_bos = [self.spec.prefix, self.spec.user].into_iter().flatten().any(|s| *s == Slot::Bos);
        (writes_bos && tokenizer.bos().is_none()).then(|| {
            format!(
                "template {:?} begins with the bos token, which this tokenizer does not have; it is left out",
                self.spec.name
            )
        })
    }

    /// The turns of a conversation whose order has been checked.
    pub(super) fn turns(
        &self,
        tokenizer: &Tokenizer,
        messages: &[Message],
        default_system: Option<&str>,
        header: &str,
    ) -> Result<Vec<Turn>, TemplateError> {
        let spec = self.spec;
        let mut system = default_system.unwrap_or(spec.default_system);
        let mut rest = messages;
        if let [Message { role: Role::System, content }, tail @ ..] = messages {
            // As in LLaMA-Factory, an empty system message stands for the default one.
            if !content.is_empty() {
                system = content;
            }
            rest = tail;
        }
        let mut turns = Vec::with_capacity(rest.len().div_ceil(2));
        for (i, pair) in rest.chunks(2).enumerate() {
            let mut source = Vec::new();
            let mut user = String::new();
            let mut heading = "";
            if i == 0 {
                self.write(spec.prefix, "", "", tokenizer, &mut source)?;
                if !system.is_empty() {
                    match spec.fuse_system {
                        true => user = fill(first_text(spec.system), system),
                        false => self.write(spec.system, system, "", tokenizer, &mut source)?,
                    }
                }
                match spec.headings {
                    true => heading = header,
                    false => user.push_str(header),
                }
            }
            user.push_str(&pair[0].content);
            self.write(spec.user, &user, heading, tokenizer, &mut source)?;
            let mut target = Vec::new();
            if let Some(reply) = pair.get(1) {
                self.write(spec.assistant, &reply.content, "", tokenizer, &mut target)?;
            }
            turns.push(Turn { source, target });
        }
        Ok(turns)
    }

    /// Tokenises the elements one by one; `heading` goes in front of the first text.
    fn write(
        &self,
        slots: &[Slot],
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

fn fill(text: &str, content: &str) -> String {
    text.replacen(CONTENT, content, 1)
}

fn first_text(slots: &'static [Slot]) -> &'static str {
    let text = |slot: &Slot| match slot {
        Slot::Text(text) => Some(*text),
        _ => None,
    };
    slots.iter().find_map(text).unwrap_or(CONTENT)
}
