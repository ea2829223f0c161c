//! From a Hugging Face folder to a running model: config, blocks, weights, adapters, cache, generation, tokenizer, templates.

pub mod template;
pub mod tokenizer;
