//! The templates, one declarative entry each, with LLaMA-Factory's names and exact texts
//! (its `data/template.py`, 0.9.5; `baichuan` and `baichuan2`, which it has dropped, from 0.9.1). To add a
//! template, add an entry to the file of its letter and run the tests: they rewrite `docs/templates.md` under
//! `MEDLEY_WRITE_DOCS=1`.
//!
//! Not taken over: tool calling, pictures and sound.

mod a_to_g;
mod h_to_z;
mod reasoning;

/// One element of a template: the elements of a message are tokenised one by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slot<S = &'static str> {
    /// Text; the first `{{content}}` in it is replaced by the message.
    Text(S),
    /// The tokenizer's bos token, or nothing where it has none (as LLaMA-Factory does).
    Bos,
    /// The eos token: the tokenizer's, or the first stop word under `replace_eos`.
    Eos,
    /// One token that must be in the vocabulary.
    Token(S),
}

/// A chat format: how each role's message is written.
///
/// A conversation is `prefix`, `system` (where there is a system message or a default one), then
/// `user` and `assistant` in turns.
#[derive(Debug, Clone, Copy)]
pub struct TemplateSpec {
    /// The value of the `template` option.
    pub name: &'static str,
    /// Before everything else.
    pub prefix: &'static [Slot],
    /// The system message.
    pub system: &'static [Slot],
    /// A user message and all that precedes the reply.
    pub user: &'static [Slot],
    /// A reply and what ends it; all of it is learned.
    pub assistant: &'static [Slot],
    /// The system message of a conversation without one; empty for none.
    pub default_system: &'static str,
    /// Texts that end a reply; those that are single tokens stop generation.
    pub stop_words: &'static [&'static str],
    /// The eos token is not part of the reply: it is appended once at the end of the sequence and is the
    /// label of each following turn's first token.
    pub efficient_eos: bool,
    /// The first stop word takes the place of the tokenizer's eos token.
    pub replace_eos: bool,
    /// The system text is put in front of the first user message (LLaMA-2's way).
    pub fuse_system: bool,
    /// The format writes headings (`### Instruction:`): a task header stands above the first of them
    /// rather than at the head of the user's text.
    pub headings: bool,
    /// How a model that thinks before it replies writes its thoughts.
    pub thought: Option<Thought>,
}

/// What stands around a thought at the head of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thought<S = &'static str> {
    /// Before the thought.
    pub open: S,
    /// After it.
    pub close: S,
    /// An empty thought is written as `close` alone (GLM-4.7).
    pub empty_closes_only: bool,
}

use Slot::{Bos, Eos, Text};

const CONTENT: &[Slot] = &[Text("{{content}}")];
const CONTENT_EOS: &[Slot] = &[Text("{{content}}"), Eos];

/// What an entry gets where it says nothing: LLaMA-Factory's `register_template` defaults.
const BASE: TemplateSpec = TemplateSpec {
    name: "",
    prefix: &[],
    system: CONTENT,
    user: CONTENT,
    assistant: CONTENT_EOS,
    default_system: "",
    stop_words: &[],
    efficient_eos: false,
    replace_eos: false,
    fuse_system: false,
    headings: false,
    thought: None,
};

/// The most common marks of a thought.
const THINK: Thought = Thought { open: "<think>\n", close: "\n</think>\n\n", empty_closes_only: false };

/// The ChatML texts that many models share; `<|im_end|>` does not become eos here.
const IM: TemplateSpec = TemplateSpec {
    system: &[Text("<|im_start|>system\n{{content}}<|im_end|>\n")],
    user: &[Text("<|im_start|>user\n{{content}}<|im_end|>\n<|im_start|>assistant\n")],
    assistant: &[Text("{{content}}<|im_end|>\n")],
    stop_words: &["<|im_end|>"],
    ..BASE
};

const INTERNLM_SYSTEM: &str = "You are an AI assistant whose name is InternLM (书生·浦语).\n- InternLM (书生·浦语) is a conversational language model that is developed by Shanghai AI Laboratory (上海人工智能实验室). It is designed to be helpful, honest, and harmless.\n- InternLM (书生·浦语) can understand and communicate fluently in the language chosen by the user such as English and 中文.";
const VICUNA_SYSTEM: &str = "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, and polite answers to the user's questions.";

const LLAMA2: TemplateSpec = TemplateSpec {
    name: "llama2",
    system: &[Text("<<SYS>>\n{{content}}\n<</SYS>>\n\n")],
    user: &[Bos, Text("[INST] {{content}} [/INST]")],
    fuse_system: true,
    ..BASE
};
const GEMMA: TemplateSpec = TemplateSpec {
    name: "gemma",
    prefix: &[Bos],
    system: &[Text("{{content}}\n\n")],
    user: &[Text("<start_of_turn>user\n{{content}}<end_of_turn>\n<start_of_turn>model\n")],
    assistant: &[Text("{{content}}<end_of_turn>\n")],
    stop_words: &["<end_of_turn>"],
    replace_eos: true,
    fuse_system: true,
    ..BASE
};
const GLM4: TemplateSpec = TemplateSpec {
    name: "glm4",
    prefix: &[Text("[gMASK]<sop>")],
    system: &[Text("<|system|>\n{{content}}")],
    user: &[Text("<|user|>\n{{content}}<|assistant|>")],
    assistant: &[Text("\n{{content}}")],
    stop_words: &["<|user|>", "<|observation|>"],
    efficient_eos: true,
    ..BASE
};

/// Every template, sorted by name.
pub fn templates() -> Vec<&'static TemplateSpec> {
    let parts = [a_to_g::TEMPLATES, h_to_z::TEMPLATES, reasoning::TEMPLATES];
    let mut all: Vec<&TemplateSpec> = parts.into_iter().flatten().collect();
    all.sort_by_key(|spec| spec.name);
    all
}

/// The template of this name.
pub fn find(name: &str) -> Option<&'static TemplateSpec> {
    templates().into_iter().find(|spec| spec.name == name)
}
