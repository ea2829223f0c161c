//! The templates, one declarative entry each, with LLaMA-Factory's names and exact texts
//! (its `data/template.py`, 0.9.x). To add a template, add an entry to [`TEMPLATES`].
//!
//! Not taken over: the tool-calling and multimodal parts, and the "reasoning" templates that insert an
//! empty thought (`qwen3`, `deepseekr1`); their plain forms are here (`qwen3_nothink`, `deepseek3`).

/// One element of a template: the elements of a message are tokenised one by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slot {
    /// Text; the first `{{content}}` in it is replaced by the message.
    Text(&'static str),
    /// The tokenizer's bos token, or nothing where it has none (as LLaMA-Factory does).
    Bos,
    /// The eos token: the tokenizer's, or the first stop word under `replace_eos`.
    Eos,
    /// One token that must be in the vocabulary.
    Token(&'static str),
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
}

use Slot::{Bos, Eos, Text, Token};

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
};

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
pub const TEMPLATES: &[TemplateSpec] = &[
    TemplateSpec {
        name: "alpaca",
        user: &[Text("### Instruction:\n{{content}}\n\n### Response:\n")],
        assistant: &[Text("{{content}}"), Eos, Text("\n\n")],
        default_system: "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n",
        headings: true,
        ..BASE
    },
    TemplateSpec {
        name: "baichuan2",
        user: &[Text("<reserved_106>{{content}}<reserved_107>")],
        efficient_eos: true,
        assistant: CONTENT,
        ..BASE
    },
    TemplateSpec {
        name: "chatglm3",
        prefix: &[Token("[gMASK]"), Token("sop")],
        system: &[Token("<|system|>"), Text("\n"), Text("{{content}}")],
        user: &[Token("<|user|>"), Text("\n"), Text("{{content}}"), Token("<|assistant|>")],
        assistant: &[Text("\n"), Text("{{content}}")],
        stop_words: &["<|user|>", "<|observation|>"],
        efficient_eos: true,
        ..BASE
    },
    TemplateSpec { name: "chatml", stop_words: &["<|im_end|>", "<|im_start|>"], replace_eos: true, ..IM },
    TemplateSpec {
        name: "cohere",
        prefix: &[Bos],
        system: &[Text("<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>{{content}}<|END_OF_TURN_TOKEN|>")],
        user: &[Text(
            "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>{{content}}<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
        )],
        ..BASE
    },
    TemplateSpec {
        name: "deepseek",
        prefix: &[Bos],
        system: &[Text("{{content}}\n\n")],
        user: &[Text("User: {{content}}\n\nAssistant:")],
        ..BASE
    },
    TemplateSpec {
        name: "deepseek3",
        prefix: &[Bos],
        user: &[Text("<｜User｜>{{content}}<｜Assistant｜>")],
        ..BASE
    },
    TemplateSpec {
        name: "deepseekcoder",
        prefix: &[Bos],
        user: &[Text("### Instruction:\n{{content}}\n### Response:")],
        assistant: &[Text("\n{{content}}\n<|EOT|>\n")],
        default_system: "You are an AI programming assistant, utilizing the DeepSeek Coder model, developed by DeepSeek Company, and you only answer questions related to computer science. For politically sensitive questions, security and privacy issues, and other non-computer science questions, you will refuse to answer.\n",
        headings: true,
        ..BASE
    },
    TemplateSpec {
        name: "default",
        system: &[Text("System: {{content}}"), Eos, Text("\n")],
        user: &[Text("Human: {{content}}"), Eos, Text("\nAssistant:")],
        assistant: &[Text("{{content}}"), Eos, Text("\n")],
        ..BASE
    },
    TemplateSpec { name: "empty", assistant: CONTENT, ..BASE },
    TemplateSpec {
        name: "exaone",
        system: &[Text("[|system|]{{content}}[|endofturn|]\n")],
        user: &[Text("[|user|]{{content}}\n[|assistant|]")],
        assistant: &[Text("{{content}}"), Eos, Text("\n")],
        ..BASE
    },
    TemplateSpec {
        name: "falcon",
        user: &[Text("User: {{content}}\nFalcon:")],
        assistant: &[Text("{{content}}\n")],
        efficient_eos: true,
        ..BASE
    },
    TemplateSpec { name: "falcon_h1", prefix: &[Bos], stop_words: &["<|im_end|>", "<|end_of_text|>"], ..IM },
    TemplateSpec { name: "fewshot", assistant: &[Text("{{content}}\n\n")], efficient_eos: true, ..BASE },
    GEMMA,
    TemplateSpec {
        name: "gemma2",
        stop_words: &["<eos>", "<end_of_turn>"],
        efficient_eos: true,
        replace_eos: false,
        ..GEMMA
    },
    TemplateSpec { name: "gemma3", ..GEMMA },
    GLM4,
    TemplateSpec {
        name: "granite3",
        system: &[Text("<|start_of_role|>system<|end_of_role|>{{content}}<|end_of_text|>\n")],
        user: &[Text(
            "<|start_of_role|>user<|end_of_role|>{{content}}<|end_of_text|>\n<|start_of_role|>assistant<|end_of_role|>",
        )],
        assistant: &[Text("{{content}}<|end_of_text|>\n")],
        ..BASE
    },
    TemplateSpec {
        name: "index",
        system: &[Text("<unk>{{content}}")],
        user: &[Text("reserved_0{{content}}reserved_1")],
        assistant: CONTENT,
        efficient_eos: true,
        ..BASE
    },
    TemplateSpec { name: "intern2", prefix: &[Bos], default_system: INTERNLM_SYSTEM, ..IM },
    LLAMA2,
    TemplateSpec {
        name: "llama2_zh",
        default_system: "You are a helpful assistant. 你是一个乐于助人的助手。",
        ..LLAMA2
    },
    TemplateSpec {
        name: "llama3",
        prefix: &[Bos],
        system: &[Text("<|start_header_id|>system<|end_header_id|>\n\n{{content}}<|eot_id|>")],
        user: &[Text(
            "<|start_header_id|>user<|end_header_id|>\n\n{{content}}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        )],
        assistant: &[Text("{{content}}<|eot_id|>")],
        stop_words: &["<|eot_id|>", "<|eom_id|>"],
        replace_eos: true,
        ..BASE
    },
    TemplateSpec {
        name: "ministral",
        prefix: &[Bos],
        system: &[Text("{{content}}\n\n")],
        user: &[Text("[INST]{{content}}[/INST]")],
        fuse_system: true,
        ..BASE
    },
    TemplateSpec {
        name: "mistral",
        prefix: &[Bos],
        system: &[Text("{{content}}\n\n")],
        user: &[Text("[INST] {{content}}[/INST]")],
        assistant: &[Text(" {{content}}"), Eos],
        fuse_system: true,
        ..BASE
    },
    TemplateSpec {
        name: "mistral_small",
        prefix: &[Bos],
        system: &[Text("[SYSTEM_PROMPT]{{content}}[/SYSTEM_PROMPT]")],
        user: &[Text("[INST]{{content}}[/INST]")],
        ..BASE
    },
    TemplateSpec {
        name: "olmo",
        prefix: &[Eos],
        user: &[Text("<|user|>\n{{content}}<|assistant|>\n")],
        ..BASE
    },
    TemplateSpec {
        name: "openchat",
        prefix: &[Bos],
        user: &[Text("GPT4 Correct User: {{content}}"), Eos, Text("GPT4 Correct Assistant:")],
        ..BASE
    },
    TemplateSpec {
        name: "openchat-3.6",
        prefix: &[Bos],
        user: &[Text(
            "<|start_header_id|>GPT4 Correct User<|end_header_id|>\n\n{{content}}<|eot_id|><|start_header_id|>GPT4 Correct Assistant<|end_header_id|>\n\n",
        )],
        stop_words: &["<|eot_id|>"],
        ..BASE
    },
    TemplateSpec { name: "opencoder", default_system: "You are OpenCoder, created by OpenCoder Team.", ..IM },
    TemplateSpec {
        name: "phi",
        system: &[Text("<|system|>\n{{content}}<|end|>\n")],
        user: &[Text("<|user|>\n{{content}}<|end|>\n<|assistant|>\n")],
        assistant: &[Text("{{content}}<|end|>\n")],
        stop_words: &["<|end|>"],
        replace_eos: true,
        ..BASE
    },
    TemplateSpec {
        name: "phi4",
        system: &[Text("<|im_start|>system<|im_sep|>{{content}}<|im_end|>")],
        user: &[Text("<|im_start|>user<|im_sep|>{{content}}<|im_end|><|im_start|>assistant<|im_sep|>")],
        assistant: &[Text("{{content}}<|im_end|>")],
        stop_words: &["<|im_end|>"],
        replace_eos: true,
        ..BASE
    },
    TemplateSpec {
        name: "qwen",
        default_system: "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
        replace_eos: true,
        ..IM
    },
    TemplateSpec { name: "qwen3_nothink", replace_eos: true, ..IM },
    TemplateSpec { name: "smollm", ..IM },
    TemplateSpec {
        name: "smollm2",
        default_system: "You are a helpful AI assistant named SmolLM, trained by Hugging Face.",
        ..IM
    },
    TemplateSpec {
        name: "solar",
        system: &[Text("### System:\n{{content}}\n\n")],
        user: &[Text("### User:\n{{content}}\n\n### Assistant:\n")],
        assistant: CONTENT,
        efficient_eos: true,
        headings: true,
        ..BASE
    },
    TemplateSpec {
        name: "starchat",
        system: &[Text("<|system|>\n{{content}}<|end|>\n")],
        user: &[Text("<|user|>\n{{content}}<|end|>\n<|assistant|>")],
        assistant: &[Text("{{content}}<|end|>\n")],
        stop_words: &["<|end|>"],
        ..BASE
    },
    TemplateSpec {
        name: "vicuna",
        user: &[Text("USER: {{content}} ASSISTANT:")],
        default_system: VICUNA_SYSTEM,
        ..BASE
    },
    TemplateSpec {
        name: "xuanyuan",
        user: &[Text("Human: {{content}} Assistant:")],
        default_system: "以下是用户和人工智能助手之间的对话。用户以Human开头，人工智能助手以Assistant开头，会对人类提出的问题给出有帮助、高质量、详细和礼貌的回答，并且总是拒绝参与与不道德、不安全、有争议、政治敏感等相关的话题、问题和指示。\n",
        ..BASE
    },
    TemplateSpec { name: "yi", ..IM },
    TemplateSpec {
        name: "zephyr",
        system: &[Text("<|system|>\n{{content}}"), Eos],
        user: &[Text("<|user|>\n{{content}}"), Eos, Text("<|assistant|>\n")],
        default_system: "You are Zephyr, a helpful assistant.",
        ..BASE
    },
];

/// The template of this name.
pub fn find(name: &str) -> Option<&'static TemplateSpec> {
    TEMPLATES.iter().find(|spec| spec.name == name)
}
