//! Templates of models that think before they reply.

use super::Slot::{Bos, Eos, Text};
use super::{BASE, GEMMA, GLM4, IM, THINK, TemplateSpec, Thought};

pub(super) const TEMPLATES: &[TemplateSpec] = &[
    TemplateSpec {
        name: "aeva",
        default_system: "You are an AI assistant named Aeva created by Zongzhi Lou. Your answer should be friendly, unbiased, faithful, informative and detailed.",
        thought: Some(Thought { open: "<think>", close: "</think>", empty_closes_only: true }),
        ..GLM4
    },
    TemplateSpec {
        name: "deepseekr1",
        prefix: &[Bos],
        user: &[Text("<｜User｜>{{content}}<｜Assistant｜>")],
        thought: Some(THINK),
        ..BASE
    },
    TemplateSpec {
        name: "gemma4",
        system: &[Text("<|turn>system\n<|think|>{{content}}<turn|>\n")],
        user: &[Text("<|turn>user\n{{content}}<turn|>\n<|turn>model\n")],
        assistant: &[Text("{{content}}<turn|>\n")],
        default_system: "You are a helpful assistant.",
        stop_words: &["<turn|>"],
        fuse_system: false,
        thought: Some(Thought { open: "<|channel>thought\n", close: "<channel|>", empty_closes_only: false }),
        ..GEMMA
    },
    TemplateSpec {
        name: "gemma4n",
        system: &[Text("<|turn>system\n<|think|>{{content}}<turn|>\n")],
        user: &[Text("<|turn>user\n{{content}}<turn|>\n<|turn>model\n")],
        assistant: &[Text("{{content}}<turn|>\n")],
        default_system: "You are a helpful assistant.",
        stop_words: &["<turn|>"],
        fuse_system: false,
        thought: Some(Thought { open: "<|channel>thought\n", close: "<channel|>", empty_closes_only: false }),
        ..GEMMA
    },
    TemplateSpec {
        name: "glm4_7",
        thought: Some(Thought { open: "<think>", close: "</think>", empty_closes_only: true }),
        ..GLM4
    },
    TemplateSpec { name: "glm4_moe", thought: Some(THINK), ..GLM4 },
    TemplateSpec { name: "glmz1", thought: Some(THINK), ..GLM4 },
    TemplateSpec {
        name: "gpt_oss",
        system: &[Text("<|start|>system<|message|>{{content}}<|end|>")],
        user: &[Text("<|start|>user<|message|>{{content}}<|end|><|start|>assistant")],
        assistant: &[Text("{{content}}")],
        default_system: "You are ChatGPT, a large language model trained by OpenAI.",
        efficient_eos: true,
        thought: Some(Thought {
            open: "<|channel|>analysis<|message|>",
            close: "<|end|><|start|>assistant<|channel|>final<|message|>",
            empty_closes_only: false,
        }),
        ..BASE
    },
    TemplateSpec {
        name: "hy3",
        prefix: &[Bos],
        user: &[Text("<｜hy_User｜>{{content}}<｜hy_Assistant｜>")],
        assistant: &[Text("{{content}}<｜hy_eos｜>")],
        stop_words: &["<｜hy_eos｜>"],
        replace_eos: true,
        thought: Some(Thought { open: "<think>", close: "</think>", empty_closes_only: false }),
        ..BASE
    },
    TemplateSpec {
        name: "mimo",
        default_system: "You are a helpful assistant.",
        replace_eos: true,
        thought: Some(THINK),
        ..IM
    },
    TemplateSpec {
        name: "mimo_v2",
        default_system: "You are MiMo, a helpful AI assistant engineered by Xiaomi.",
        replace_eos: true,
        thought: Some(Thought { open: "<think>", close: "</think>", empty_closes_only: false }),
        ..IM
    },
    TemplateSpec {
        name: "minimax2",
        system: &[Text("]~!b[]~b]system\n{{content}}[e~[\n")],
        user: &[Text("]~b]user\n{{content}}[e~[\n]~b]ai\n")],
        assistant: &[Text("{{content}}[e~[\n")],
        default_system: "You are a helpful assistant. Your name is MiniMax-M2.1 and is built by MiniMax.",
        stop_words: &["[e~["],
        thought: Some(THINK),
        ..BASE
    },
    TemplateSpec { name: "qwen3", replace_eos: true, thought: Some(THINK), ..IM },
    TemplateSpec { name: "qwen3_5", replace_eos: true, thought: Some(THINK), ..IM },
    TemplateSpec { name: "qwen3_6", replace_eos: true, thought: Some(THINK), ..IM },
    TemplateSpec {
        name: "seed_oss",
        system: &[Bos, Text("system\n{{content}}"), Eos],
        user: &[Bos, Text("user\n{{content}}"), Eos, Bos, Text("assistant\n")],
        thought: Some(Thought { open: "<seed:think>", close: "</seed:think>", empty_closes_only: false }),
        ..BASE
    },
    TemplateSpec {
        name: "youtu",
        prefix: &[Bos],
        user: &[Text("<|User|>{{content}}<|Assistant|>")],
        assistant: &[Text("{{content}}<|end_of_text|>")],
        stop_words: &["<|end_of_text|>"],
        replace_eos: true,
        thought: Some(THINK),
        ..BASE
    },
];
