//! Templates from H to Z.

use super::Slot::{Bos, Eos, Text, Token};
use super::{BASE, CONTENT, GEMMA, IM, INTERNLM_SYSTEM, LLAMA2, TemplateSpec, VICUNA_SYSTEM};

pub(super) const TEMPLATES: &[TemplateSpec] = &[
    TemplateSpec {
        name: "hunyuan",
        prefix: &[Text("<|startoftext|>")],
        system: &[Text("{{content}}<|extra_4|>")],
        user: &[Text("{{content}}<|extra_0|>")],
        assistant: &[Text("{{content}}<|eos|>")],
        stop_words: &["<|eos|>"],
        ..BASE
    },
    TemplateSpec {
        name: "hunyuan_small",
        prefix: &[Text("<｜hy_begin▁of▁sentence｜>")],
        system: &[Text("{{content}}<｜hy_place▁holder▁no▁3｜>")],
        user: &[Text("<｜hy_User｜>{{content}}<｜hy_place▁holder▁no▁8｜>")],
        assistant: &[Text("{{content}}<｜hy_place▁holder▁no▁2｜>")],
        stop_words: &["<｜hy_place▁holder▁no▁2｜>"],
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
    TemplateSpec { name: "intern_s1", prefix: &[Bos], ..IM },
    TemplateSpec { name: "lfm2", default_system: "You are a helpful AI assistant.", replace_eos: true, ..IM },
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
        name: "llama4",
        system: &[Text("<|header_start|>system<|header_end|>\n\n{{content}}<|eot|>")],
        user: &[Text(
            "<|header_start|>user<|header_end|>\n\n{{content}}<|eot|><|header_start|>assistant<|header_end|>\n\n",
        )],
        assistant: &[Text("{{content}}<|eot|>")],
        stop_words: &["<|eot|>", "<|eom|>"],
        fuse_system: false,
        ..GEMMA
    },
    TemplateSpec {
        name: "minimax1",
        system: &[Text("<beginning_of_sentence>system ai_setting=assistant\n{{content}}<end_of_sentence>\n")],
        user: &[Text(
            "<beginning_of_sentence>user name=user\n{{content}}<end_of_sentence>\n<beginning_of_sentence>ai name=assistant\n",
        )],
        assistant: &[Text("{{content}}<end_of_sentence>\n")],
        default_system: "You are a helpful assistant.",
        stop_words: &["<end_of_sentence>"],
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
        name: "ministral3",
        user: &[Text("[INST]{{content}}[/INST]")],
        assistant: &[Text("{{content}}"), Eos],
        stop_words: &[],
        replace_eos: false,
        ..GEMMA
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
        name: "moonlight",
        system: &[Text("<|im_system|>system<|im_middle|>{{content}}<|im_end|>")],
        user: &[Text(
            "<|im_user|>user<|im_middle|>{{content}}<|im_end|><|im_assistant|>assistant<|im_middle|>",
        )],
        assistant: &[Text("{{content}}<|im_end|>")],
        default_system: "You are a helpful assistant provided by Moonshot-AI.",
        replace_eos: true,
        ..IM
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
        name: "phi4_mini",
        system: &[Text("<|system|>{{content}}<|end|>")],
        user: &[Text("<|user|>{{content}}<|end|><|assistant|>")],
        assistant: &[Text("{{content}}<|end|>")],
        stop_words: &["<|end|>"],
        replace_eos: true,
        ..BASE
    },
    TemplateSpec {
        name: "phi_small",
        system: &[Text("<|system|>\n{{content}}<|end|>\n")],
        user: &[Text("<|user|>\n{{content}}<|end|>\n<|assistant|>\n")],
        assistant: &[Text("{{content}}<|end|>\n")],
        stop_words: &["<|end|>"],
        replace_eos: true,
        ..BASE
    },
    TemplateSpec {
        name: "qwen",
        default_system: "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
        replace_eos: true,
        ..IM
    },
    TemplateSpec { name: "qwen3_5_nothink", replace_eos: true, ..IM },
    TemplateSpec { name: "qwen3_nothink", replace_eos: true, ..IM },
    TemplateSpec {
        name: "sailor",
        user: &[Text("<|im_start|>question\n{{content}}<|im_end|>\n<|im_start|>answer\n")],
        default_system: "You are an AI assistant named Sailor created by Sea AI Lab. Your answer should be friendly, unbiased, faithful, informative and detailed.",
        ..IM
    },
    TemplateSpec {
        name: "seed_coder",
        system: &[Bos, Text("system\n{{content}}"), Eos],
        user: &[Bos, Text("user\n{{content}}"), Eos, Bos, Text("assistant\n")],
        default_system: "You are an AI programming assistant, utilizing the Seed-Coder model, developed by ByteDance Seed, and you only answer questions related to computer science. For politically sensitive questions, security and privacy issues, and other non-computer science questions, you will refuse to answer.\n\n",
        ..BASE
    },
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
        name: "telechat2",
        system: &[Text("<_system>{{content}}")],
        user: &[Text("<_user>{{content}}<_bot>")],
        default_system: "你是中国电信星辰语义大模型，英文名是TeleChat，你是由中电信人工智能科技有限公司和中国电信人工智能研究院（TeleAI）研发的人工智能助手。",
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
        name: "yuan",
        user: &[Text("{{content}}"), Token("<sep>")],
        assistant: &[Text("{{content}}<eod>\n")],
        stop_words: &["<eod>"],
        ..BASE
    },
    TemplateSpec {
        name: "zephyr",
        system: &[Text("<|system|>\n{{content}}"), Eos],
        user: &[Text("<|user|>\n{{content}}"), Eos, Text("<|assistant|>\n")],
        default_system: "You are Zephyr, a helpful assistant.",
        ..BASE
    },
];
