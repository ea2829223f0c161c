//! Training a byte-level BPE vocabulary (the GPT-2 kind) and writing it as a Hugging Face tokenizer.

use super::{Tokenizer, TokenizerError, library};
use serde_json::json;
use std::path::Path;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{
    AddedToken, DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper,
    TokenizerBuilder,
};

/// ChatML as a Jinja chat template: what a newly trained tokenizer carries.
pub const CHATML_TEMPLATE: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

/// What [`train_bpe`] makes.
#[derive(Debug, Clone)]
pub struct BpeOptions {
    /// Ids in all: 256 bytes, the special tokens, and merges for the rest.
    pub vocab_size: usize,
    /// Special tokens, ids from 0 in this order.
    pub special_tokens: Vec<String>,
    /// Which special token ends a text; it must be among `special_tokens`.
    pub eos_token: String,
    /// A pair seen less often is not merged.
    pub min_frequency: u64,
    /// The chat template (Jinja) to write, where there should be one.
    pub chat_template: Option<String>,
}

impl Default for BpeOptions {
    /// 4,096 ids; `<|endoftext|>` ends a text, `<|im_start|>` and `<|im_end|>` frame a message.
    fn default() -> Self {
        BpeOptions {
            vocab_size: 4096,
            special_tokens: ["<|endoftext|>", "<|im_start|>", "<|im_end|>"].map(str::to_string).to_vec(),
            eos_token: "<|endoftext|>".to_string(),
            min_frequency: 2,
            chat_template: Some(CHATML_TEMPLATE.to_string()),
        }
    }
}

/// Trains a byte-level BPE on `texts` and writes `tokenizer.json` and `tokenizer_config.json` into
/// `out_dir` (which must exist). The same texts give the same files.
///
/// The vocabulary ends up smaller than asked for where the texts have too few repeated pairs;
/// [`Tokenizer::vocab_size`] of the result tells.
///
/// # Errors
/// A vocabulary too small for the bytes, an eos token that is not special, no text, or a folder that
/// cannot be written.
pub fn train_bpe<I, S>(texts: I, options: &BpeOptions, out_dir: &Path) -> Result<Tokenizer, TokenizerError>
where
    I: Iterator<Item = S> + Send,
    S: AsRef<str> + Send,
{
    let specials = options.special_tokens.len();
    let needed = 256 + specials;
    if options.vocab_size < needed {
        return Err(TokenizerError::VocabularyTooSmall { vocab_size: options.vocab_size, needed, specials });
    }
    let config_path = out_dir.join("tokenizer_config.json");
    if !options.special_tokens.contains(&options.eos_token) {
        return Err(TokenizerError::NotInVocabulary {
            path: config_path,
            key: "eos_token".to_string(),
            token: options.eos_token.clone(),
        });
    }
    let byte_level = ByteLevel::new(false, true, true);
    let mut tokenizer = TokenizerBuilder::<
        BPE,
        NormalizerWrapper,
        PreTokenizerWrapper,
        PostProcessorWrapper,
        DecoderWrapper,
    >::new()
    .with_model(BPE::default())
    .with_pre_tokenizer(Some(byte_level.into()))
    .with_decoder(Some(byte_level.into()))
    .build()
    .map_err(library("set up a byte-level BPE"))?;
    let mut trainer = BpeTrainer::builder()
        .vocab_size(options.vocab_size)
        .min_frequency(options.min_frequency)
        .show_progress(false)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .special_tokens(options.special_tokens.iter().map(|t| AddedToken::from(t.as_str(), true)).collect())
        .build();
    let seen = std::sync::atomic::AtomicBool::new(false);
    let texts = texts.inspect(|text| {
        if !text.as_ref().is_empty() {
            seen.store(true, std::sync::atomic::Ordering::Relaxed);
        }
    });
    tokenizer.train(&mut trainer, texts).map_err(library("train a byte-level BPE"))?;
    if !seen.into_inner() {
        return Err(TokenizerError::NoText);
    }

    let text = tokenizer.to_string(false).map_err(library("write tokenizer.json"))?;
    write(&out_dir.join("tokenizer.json"), &text)?;
    let mut config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": false,
        "add_prefix_space": false,
        "clean_up_tokenization_spaces": false,
        "bos_token": null,
        "eos_token": options.eos_token,
        "pad_token": options.eos_token,
        "unk_token": null,
    });
    if let Some(template) = &options.chat_template {
        config["chat_template"] = json!(template);
    }
    write(&config_path, &format!("{config:#}\n"))?;
    Tokenizer::from_folder(out_dir)
}

fn write(path: &Path, text: &str) -> Result<(), TokenizerError> {
    std::fs::write(path, text).map_err(|source| TokenizerError::Io { path: path.to_path_buf(), source })
}
