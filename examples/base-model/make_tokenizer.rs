//! Trains the byte-level BPE of the small base model on a text file:
//! `cargo run --release --example make_tokenizer -- corpus.txt 4096 examples/base-model/init`.

use medley_model::tokenizer::{BpeOptions, CHATML_TEMPLATE, train_bpe};

fn main() -> anyhow::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [corpus, vocab_size, out_dir] = words.as_slice() else {
        anyhow::bail!("usage: make_tokenizer CORPUS.txt VOCAB_SIZE OUT_DIR");
    };
    let text = std::fs::read_to_string(corpus)?;
    let options = BpeOptions {
        vocab_size: vocab_size.parse()?,
        special_tokens: ["<|endoftext|>", "<|im_start|>", "<|im_end|>"].map(String::from).to_vec(),
        eos_token: "<|endoftext|>".into(),
        min_frequency: 2,
        chat_template: Some(CHATML_TEMPLATE.into()),
    };
    let tokenizer = train_bpe(text.split("\n\n"), &options, out_dir.as_ref())?;
    let ids = tokenizer.encode(&text[..100_000.min(text.len())], false)?;
    println!("{} ids, {:.2} bytes a token", tokenizer.vocab_size(), 100_000.0 / ids.len() as f64);
    Ok(())
}
