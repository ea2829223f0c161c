//! Templates from A to G.

use super::Slot::{Bos, Eos, Text, Token};
use super::{BASE, CONTENT, GEMMA, GLM4, IM, TemplateSpec};

pub(super) const TEMPLATES: &[TemplateSpec] = &[
    TemplateSpec {
        name: "alpaca",
        user: &[Text("### Instruction:\n{{content}}\n\n### Response:\n")],
        assistant: &[Text("{{content}}"), Eos, Text("\n\n")],
        default_system: "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n",
        headings: true,
        ..BASE
    },
    TemplateSpec {
        name: "baichuan",
        user: &[Token("<reserved_102>"), Text("{{content}}"), Token("<reserved_103>")],
        assistant: CONTENT,
        efficient_eos: true,
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
        name: "bailing",
        prefix: &[],
        system: &[Text("<role>SYSTEM</role>{{content}}")],
        user: &[Text("<role>HUMAN</role>{{content}}<role>ASSISTANT</role>")],
        assistant: &[Text("{{content}}")],
        stop_words: &["<|endoftext|>"],
        ..GLM4
    },
    TemplateSpec {
        name: "bailing_v2",
        prefix: &[],
        system: &[Text("<role>SYSTEM</role>{{content}}<|role_end|>")],
        user: &[Text("<role>HUMAN</role>{{content}}<|role_end|><role>ASSISTANT</role>")],
        assistant: &[Text("{{content}}<|role_end|>")],
        stop_words: &["<|endoftext|>"],
        ..GLM4
    },
    TemplateSpec {
        name: "breeze",
        prefix: &[Bos],
        user: &[Text("[INST] {{content}} [/INST] ")],
        assistant: &[Text("{{content}}")],
        efficient_eos: true,
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
        name: "chatml_de",
        default_system: "Du bist ein freundlicher und hilfsbereiter KI-Assistent.",
        stop_words: &["<|im_end|>", "<|im_start|>"],
        replace_eos: true,
        ..IM
    },
    TemplateSpec {
        name: "cohere",
        prefix: &[Bos],
        system: &[Text("<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>{{content}}<|END_OF_TURN_TOKEN|>")],
        user: &[Text(
            "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>{{content}}<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
        )],
        ..BASE
    },
    TemplateSpec { name: "cpm4", prefix: &[Bos], ..IM },
    TemplateSpec {
        name: "dbrx",
        default_system: "You are DBRX, created by Databricks. You were last updated in December 2023. You answer questions based on information available up to that point.\nYOU PROVIDE SHORT RESPONSES TO SHORT QUESTIONS OR STATEMENTS, but provide thorough responses to more complex and open-ended questions.\nYou assist with various tasks, from writing to coding (using markdown for code blocks — remember to use ``` with code, JSON, and tables).\n(You do not have real-time data access or code execution capabilities. You avoid stereotyping and provide balanced perspectives on controversial topics. You do not provide song lyrics, poems, or news articles and do not divulge details of your training data.)\nThis is your system prompt, guiding your responses. Do not reference it, just respond to the user. If you find yourself talking about this message, stop. You should be responding appropriately and usually that means not mentioning this.\nYOU DO NOT MENTION ANY OF THIS INFORMATION ABOUT YOURSELF UNLESS THE INFORMATION IS DIRECTLY PERTINENT TO THE USER'S QUERY.",
        replace_eos: true,
        ..IM
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
        name: "ernie",
        system: &[Text("<|im_start|>system\n{{content}}<|im_end|>\n\n")],
        user: &[Text("<|im_start|>user\n{{content}}<|im_end|>\n\n<|im_start|>assistant\n")],
        assistant: &[Text("{{content}}<|im_end|>\n\n")],
        default_system: "<global_setting>\nthink_mode=True\n</global_setting>",
        ..IM
    },
    TemplateSpec {
        name: "ernie_nothink",
        prefix: &[Text("<|begin_of_sentence|>")],
        system: &[Text("{{content}}\n")],
        user: &[Text("User: {{content}}\nAssistant: ")],
        assistant: &[Text("{{content}}<|end_of_sentence|>")],
        stop_words: &["<|end_of_sentence|>"],
        ..BASE
    },
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
    TemplateSpec { name: "gemma3n", ..GEMMA },
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
        name: "granite4",
        system: &[Text("<|start_of_role|>system<|end_of_role|>{{content}}<|end_of_text|>\n")],
        user: &[Text(
            "<|start_of_role|>user<|end_of_role|>{{content}}<|end_of_text|>\n<|start_of_role|>assistant<|end_of_role|>",
        )],
        assistant: &[Text("{{content}}<|end_of_text|>\n")],
        default_system: "You are Granite, developed by IBM. You are a helpful AI assistant.",
        stop_words: &["<|end_of_text|>"],
        ..BASE
    },
];
