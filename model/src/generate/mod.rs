//! Generation with a KV cache: many prompts at once, each leaving the batch when it is done and
//! the next one taking its place, prompts and single tokens in one pass.

mod cache;
mod sampler;
#[cfg(test)]
mod tests;

pub use sampler::{Sampler, SamplingParams};

use crate::llama::Llama;
use crate::{Error, Result};
use cache::KvCache;
use medley_autograd::{Var, no_grad};
use medley_kernels::ops::IndexSelect;
use medley_tensor::Tensor;
use std::collections::VecDeque;

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

struct Slot {
    prompt: usize,
    /// Prompt and completion.
    ids: Vec<u32>,
    prompt_len: usize,
    cache: KvCache,
    sampler: Sampler,
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
    if let Some(empty) = prompts.iter().position(Vec::is_empty) {
        return Err(Error::Request(format!("prompt {empty} has no tokens; give it some text")));
    }
    let layers = model.config().num_hidden_layers;
    let mut waiting: VecDeque<usize> = (0..prompts.len()).collect();
    let mut slots: Vec<Slot> = vec![];
    let mut done: Vec<Option<Completion>> = vec![None; prompts.len()];
    loop {
        while slots.len() < options.batch_size.max(1)
            && let Some(prompt) = waiting.pop_front()
        {
            if options.max_new_tokens == 0 {
                done[prompt] = Some(Completion { ids: vec![], finish: Finish::Length });
                continue;
            }
            slots.push(Slot {
                prompt,
                ids: prompts[prompt].clone(),
                prompt_len: prompts[prompt].len(),
                cache: KvCache::new(&model.placement().device, layers),
                sampler: Sampler::new(options.sampling, options.seed, prompt as u64),
            });
        }
        if slots.is_empty() {
            break;
        }
        let logits = next_logits(model, &mut slots)?;
        let vocab = model.config().vocab_size;
        for (i, mut slot) in std::mem::take(&mut slots).into_iter().enumerate() {
            let id = slot.sampler.sample(&logits[i * vocab..(i + 1) * vocab], &slot.ids)?;
            let finish = if options.stop_ids.contains(&id) {
                Some(Finish::Stop)
            } else {
                slot.ids.push(id);
                if !on_token(slot.prompt, id) {
                    Some(Finish::Cancelled)
                } else if slot.ids.len() - slot.prompt_len >= options.max_new_tokens {
                    Some(Finish::Length)
                } else {
                    None
                }
            };
            match finish {
                None => slots.push(slot),
                Some(finish) => {
                    let ids = slot.ids.split_off(slot.prompt_len);
                    done[slot.prompt] = Some(Completion { ids, finish });
                }
            }
        }
    }
    done.into_iter()
        .map(|c| c.ok_or_else(|| Error::Request("a prompt was left without a completion".into())))
        .collect()
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
    let logits = no_grad(|| -> Result<Tensor> {
        let [last] = hidden.index_select(IndexSelect { indices: last.into() }, &[])?;
        model.logits(&last)
    })?;
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
