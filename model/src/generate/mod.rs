//! Generation with a KV cache: many prompts at once, each leaving the batch when it is done and
//! the next one taking its place, prompts and single tokens in one pass.

mod cache;
mod sampler;
#[cfg(test)]
mod tests;
mod trie;

pub use sampler::{Sampler, SamplingParams};
pub use trie::TokenTrie;

use crate::llama::Llama;
use crate::{Error, Result};
use cache::KvCache;
use medley_autograd::{Var, no_grad};
use medley_tensor::Tensor;
use std::collections::VecDeque;
use std::sync::Arc;
use trie::{Next, Place};

/// How to generate.
#[derive(Debug, Clone)]
pub struct GenerateOptions {
    /// How the next token is chosen.
    pub sampling: SamplingParams,
    /// At most this many tokens after the prompt.
    pub max_new_tokens: usize,
    /// Generation of a sequence ends at one of these ids, which is not part of the result.
    pub stop_ids: Vec<u32>,
    /// Sequences in flight at once.
    pub batch_size: usize,
    /// Seeds sampling; sequence `i` draws from its own stream, whatever shares its batch.
    pub seed: u64,
}

/// Why a sequence ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// A stop id was chosen.
    Stop,
    /// `max_new_tokens` was reached.
    Length,
    /// The receiver of tokens asked to stop.
    Cancelled,
}

/// One finished sequence.
#[derive(Debug, Clone)]
pub struct Completion {
    /// The tokens after the prompt, without the stop id.
    pub ids: Vec<u32>,
    /// Why it ended.
    pub finish: Finish,
}

/// One sequence to complete.
#[derive(Debug, Clone, Default)]
pub struct Prompt {
    /// Its tokens, at least one.
    pub ids: Vec<u32>,
    /// The replies there may be; `None` for any.
    pub constraint: Option<Arc<TokenTrie>>,
    /// A limit below [`GenerateOptions::max_new_tokens`]; a constrained reply is never cut.
    pub max_new_tokens: Option<usize>,
}

/// What [`generate_each`] reports as it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// A token of prompt `prompt` was chosen.
    Token {
        /// Index of the prompt.
        prompt: usize,
        /// The token.
        id: u32,
    },
    /// The completion of prompt `prompt` is complete.
    Done {
        /// Index of the prompt.
        prompt: usize,
    },
}

struct Slot {
    prompt: usize,
    /// Prompt and completion.
    ids: Vec<u32>,
    prompt_len: usize,
    cache: KvCache,
    sampler: Sampler,
    /// What may be written, and how far it is.
    constraint: Option<(Arc<TokenTrie>, Place)>,
    limit: usize,
}

/// Completes every prompt. `on_token(prompt, id)` is called as tokens are chosen; returning
/// `false` ends that sequence.
///
/// # Errors
/// When a prompt is empty, an id is not in the vocabulary, or the model yields a non-finite logit.
pub fn generate(
    model: &Llama,
    prompts: &[Vec<u32>],
    options: &GenerateOptions,
    on_token: &mut dyn FnMut(usize, u32) -> bool,
) -> Result<Vec<Completion>> {
    let prompts: Vec<Prompt> =
        prompts.iter().map(|ids| Prompt { ids: ids.clone(), ..Prompt::default() }).collect();
    generate_each(model, &prompts, options, &mut |step| match step {
        Step::Token { prompt, id } => on_token(prompt, id),
        Step::Done { .. } => true,
    })
}

/// As [`generate`], with limits and constraints of each prompt's own. `on_step` hears of every token and of every
/// finished sequence; returning `false` at a token ends that sequence.
///
/// Nothing is padded, so prompts of unequal length share a batch at no cost. Tokens that a constraint leaves no
/// choice about are taken without a pass of their own.
///
/// # Errors
/// As [`generate`]; also when a constraint allows no reply.
pub fn generate_each(
    model: &Llama,
    prompts: &[Prompt],
    options: &GenerateOptions,
    on_step: &mut dyn FnMut(Step) -> bool,
) -> Result<Vec<Completion>> {
    if let Some(empty) = prompts.iter().position(|p| p.ids.is_empty()) {
        return Err(Error::Request(format!("prompt {empty} has no tokens; give it some text")));
    }
    let barred = |p: &Prompt| p.constraint.as_ref().is_some_and(|trie| trie.is_empty());
    if let Some(barred) = prompts.iter().position(barred) {
        return Err(Error::Request(format!("the constraint of prompt {barred} allows no reply at all")));
    }
    let layers = model.config().num_hidden_layers;
    let mut waiting: VecDeque<usize> = (0..prompts.len()).collect();
    let mut slots: Vec<Slot> = vec![];
    let mut done: Vec<Option<Completion>> = vec![None; prompts.len()];
    loop {
        while slots.len() < options.batch_size.max(1)
            && let Some(prompt) = waiting.pop_front()
        {
            let asked = &prompts[prompt];
            let limit = asked.max_new_tokens.unwrap_or(usize::MAX).min(options.max_new_tokens);
            let mut slot = Slot {
                prompt,
                ids: asked.ids.clone(),
                prompt_len: asked.ids.len(),
                cache: KvCache::new(&model.placement().device, layers),
                sampler: Sampler::new(options.sampling, options.seed, prompt as u64),
                constraint: asked.constraint.clone().map(|trie| (trie, Place::default())),
                limit: if asked.constraint.is_some() { usize::MAX } else { limit },
            };
            let finish = if slot.limit == 0 { Some(Finish::Length) } else { slot.forced(on_step) };
            match finish {
                Some(finish) => slot.finish(finish, &mut done, on_step),
                None => slots.push(slot),
            }
        }
        if slots.is_empty() {
            break;
        }
        let logits = next_logits(model, &mut slots)?;
        let vocab = model.config().vocab_size;
        for (i, mut slot) in std::mem::take(&mut slots).into_iter().enumerate() {
            match slot.choose(&logits[i * vocab..(i + 1) * vocab], &options.stop_ids, on_step)? {
                None => slots.push(slot),
                Some(finish) => slot.finish(finish, &mut done, on_step),
            }
        }
    }
    done.into_iter()
        .map(|c| c.ok_or_else(|| Error::Request("a prompt was left without a completion".into())))
        .collect()
}

impl Slot {
    /// Chooses the next token by its logits `[vocab]`.
    fn choose(
        &mut self,
        logits: &[f32],
        stop_ids: &[u32],
        on_step: &mut dyn FnMut(Step) -> bool,
    ) -> Result<Option<Finish>> {
        let id = match self.constraint.as_ref().map(|(trie, place)| trie.next(*place)) {
            None => self.sampler.sample(logits, &self.ids)?,
            Some(Next::End) => return Ok(Some(Finish::Stop)),
            Some(Next::Forced(id)) => id,
            Some(Next::Choice { mut tokens, end }) => {
                if end {
                    tokens.extend_from_slice(stop_ids);
                }
                self.sampler.sample_among(logits, &self.ids, &tokens)?
            }
        };
        // In a constraint a stop id may also be part of a label; where it is not, it ends the reply.
        let goes_on = match &self.constraint {
            Some((trie, place)) => trie.after(*place, id).is_some(),
            None => !stop_ids.contains(&id),
        };
        if !goes_on {
            return Ok(Some(Finish::Stop));
        }
        Ok(self.take(id, on_step).or_else(|| self.forced(on_step)))
    }

    fn take(&mut self, id: u32, on_step: &mut dyn FnMut(Step) -> bool) -> Option<Finish> {
        self.ids.push(id);
        if let Some((trie, place)) = &mut self.constraint {
            *place = trie.after(*place, id)?;
        }
        if !on_step(Step::Token { prompt: self.prompt, id }) {
            Some(Finish::Cancelled)
        } else if self.ids.len() - self.prompt_len >= self.limit {
            Some(Finish::Length)
        } else {
            None
        }
    }

    /// Writes what the constraint leaves no choice about.
    fn forced(&mut self, on_step: &mut dyn FnMut(Step) -> bool) -> Option<Finish> {
        loop {
            let (trie, place) = self.constraint.as_ref()?;
            match trie.next(*place) {
                Next::End => return Some(Finish::Stop),
                Next::Forced(id) => {
                    if let Some(finish) = self.take(id, on_step) {
                        return Some(finish);
                    }
                }
                Next::Choice { .. } => return None,
            }
        }
    }

    fn finish(
        mut self,
        finish: Finish,
        done: &mut [Option<Completion>],
        on_step: &mut dyn FnMut(Step) -> bool,
    ) {
        let ids = self.ids.split_off(self.prompt_len);
        done[self.prompt] = Some(Completion { ids, finish });
        on_step(Step::Done { prompt: self.prompt });
    }
}

/// Feeds every slot the tokens its cache has not seen; returns the logits after the last of each,
/// `[slots, vocab]` flat.
fn next_logits(model: &Llama, slots: &mut [Slot]) -> Result<Vec<f32>> {
    let config = model.config();
    let (mut ids, mut positions, mut ends) = (vec![], vec![], vec![]);
    for slot in slots.iter() {
        let seen = slot.cache.len();
        ids.extend_from_slice(&slot.ids[seen..]);
        positions.extend(seen as u32..slot.ids.len() as u32);
        ends.push(ids.len());
    }
    let scale = 1.0 / (config.head_dim as f32).sqrt();
    let mut attend = |layer: usize, q: &Var, k: &Var, v: &Var| {
        let mut caches: Vec<&mut KvCache> = slots.iter_mut().map(|s| &mut s.cache).collect();
        cache::attend(&mut caches, &ends, layer, q.value(), k.value(), v.value(), scale).map(Var::from)
    };
    let hidden = no_grad(|| model.hidden_with(ids.into(), positions.into(), &mut attend))?;
    for slot in slots.iter_mut() {
        slot.cache.set_len(slot.ids.len());
    }
    // Logits are wanted after the last token of each sequence only.
    let last: Vec<u32> = ends.iter().map(|end| *end as u32 - 1).collect();
    let logits = no_grad(|| model.logits_at(&hidden, &last))?;
    Ok(logits.to_vec_f32()?)
}

/// Logits `[T, vocab]` of one sequence, all positions.
///
/// # Errors
/// When an id is not in the vocabulary.
pub fn logits(model: &Llama, ids: &[u32]) -> Result<Tensor> {
    let sequences = crate::Sequences::pack([ids]);
    no_grad(|| {
        let hidden = model.hidden(&sequences, &crate::Pass::default())?;
        model.logits(&hidden)
    })
}
