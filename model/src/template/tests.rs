use super::*;
use crate::tokenizer::{BpeOptions, CHATML_TEMPLATE, train_bpe};
use tempfile::TempDir;

/// A byte-level tokenizer with `specials` in its vocabulary; `config` overrides tokenizer_config.json.
fn tokenizer_with(specials: &[&str], config: serde_json::Value) -> (TempDir, Arc<Tokenizer>) {
    let dir = tempfile::tempdir().unwrap();
    let special_tokens: Vec<String> = specials.iter().map(|s| s.to_string()).collect();
    let options = BpeOptions {
        vocab_size: 300 + specials.len(),
        eos_token: special_tokens[0].clone(),
        special_tokens,
        min_frequency: 1,
        chat_template: None,
    };
    train_bpe(["### Instruction: Response: Human Assistant user system"].iter(), &options, dir.path())
        .unwrap();
    std::fs::write(dir.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    let tokenizer = Arc::new(Tokenizer::from_folder(dir.path()).unwrap());
    (dir, tokenizer)
}

const SPECIALS: &[&str] = &[
    "</s>",
    "<s>",
    "<|im_start|>",
    "<|im_end|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<end_of_turn>",
    "<|end|>",
    "[gMASK]",
    "sop",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|observation|>",
];

/// A tokenizer that has every token that any template of the table asks for.
fn rich() -> (TempDir, Arc<Tokenizer>) {
    tokenizer_with(SPECIALS, serde_json::json!({"bos_token": "<s>", "eos_token": "</s>"}))
}

fn renderer(template: &str, tokenizer: &Arc<Tokenizer>, options: RenderOptions) -> Renderer {
    Renderer::new(Some(template), tokenizer.clone(), options).unwrap()
}

/// The text of a rendered conversation with its labelled parts in ⟦ ⟧.
fn marked(renderer: &Renderer, rendered: &Rendered) -> String {
    let mask = rendered.label_mask();
    let mut out = String::new();
    let mut start = 0;
    while start < mask.len() {
        let end = (start..mask.len()).find(|&i| mask[i] != mask[start]).unwrap_or(mask.len());
        let text = renderer.tokenizer().decode(&rendered.ids[start..end], false).unwrap();
        out.push_str(&if mask[start] { format!("⟦{text}⟧") } else { text });
        start = end;
    }
    out
}

fn two_turns() -> Vec<Message> {
    vec![
        Message::system("S"),
        Message::user("U1"),
        Message::assistant("A1"),
        Message::user("U2"),
        Message::assistant("A2"),
    ]
}

/// Each template's text, written out by hand from LLaMA-Factory's definitions. ⟦ ⟧ marks labels.
#[test]
fn golden_texts() {
    let im = "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU1<|im_end|>\n<|im_start|>assistant\n⟦A1<|im_end|>\n⟧<|im_start|>user\nU2<|im_end|>\n<|im_start|>assistant\n⟦A2<|im_end|>\n⟧";
    let glm = "<|system|>\nS<|user|>\nU1<|assistant|>⟦\nA1<|user|>⟧\nU2<|assistant|>⟦\nA2</s>⟧";
    let phi = "<|system|>\nS<|end|>\n<|user|>\nU1<|end|>\n<|assistant|>\n⟦A1<|end|>\n⟧<|user|>\nU2<|end|>\n<|assistant|>\n⟦A2<|end|>\n⟧";
    let gemma = "<s><start_of_turn>user\nS\n\nU1<end_of_turn>\n<start_of_turn>model\n⟦A1<end_of_turn>\n⟧<start_of_turn>user\nU2<end_of_turn>\n<start_of_turn>model\n⟦A2<end_of_turn>\n⟧";
    let header = |role: &str| format!("<|start_header_id|>{role}<|end_header_id|>\n\n");
    let (system, user, assistant) = (header("system"), header("user"), header("assistant"));
    let llama3 = format!(
        "<s>{system}S<|eot_id|>{user}U1<|eot_id|>{assistant}⟦A1<|eot_id|>⟧{user}U2<|eot_id|>{assistant}⟦A2<|eot_id|>⟧"
    );
    let granite = |role: &str| format!("<|start_of_role|>{role}<|end_of_role|>");
    let (gs, gu, ga) = (granite("system"), granite("user"), granite("assistant"));
    let granite3 = format!(
        "{gs}S<|end_of_text|>\n{gu}U1<|end_of_text|>\n{ga}⟦A1<|end_of_text|>\n⟧{gu}U2<|end_of_text|>\n{ga}⟦A2<|end_of_text|>\n⟧"
    );
    let golden: &[(&str, &str)] = &[
        (
            "alpaca",
            "S### Instruction:\nU1\n\n### Response:\n⟦A1</s>\n\n⟧### Instruction:\nU2\n\n### Response:\n⟦A2</s>\n\n⟧",
        ),
        ("chatml", im),
        ("qwen", im),
        ("qwen3_nothink", im),
        ("yi", im),
        ("smollm", im),
        ("smollm2", im),
        ("opencoder", im),
        ("default", "System: S</s>\nHuman: U1</s>\nAssistant:⟦A1</s>\n⟧Human: U2</s>\nAssistant:⟦A2</s>\n⟧"),
        ("llama2", "<s>[INST] <<SYS>>\nS\n<</SYS>>\n\nU1 [/INST]⟦A1</s>⟧<s>[INST] U2 [/INST]⟦A2</s>⟧"),
        ("llama2_zh", "<s>[INST] <<SYS>>\nS\n<</SYS>>\n\nU1 [/INST]⟦A1</s>⟧<s>[INST] U2 [/INST]⟦A2</s>⟧"),
        ("llama3", &llama3),
        ("mistral", "<s>[INST] S\n\nU1[/INST]⟦ A1</s>⟧[INST] U2[/INST]⟦ A2</s>⟧"),
        ("ministral", "<s>[INST]S\n\nU1[/INST]⟦A1</s>⟧[INST]U2[/INST]⟦A2</s>⟧"),
        (
            "mistral_small",
            "<s>[SYSTEM_PROMPT]S[/SYSTEM_PROMPT][INST]U1[/INST]⟦A1</s>⟧[INST]U2[/INST]⟦A2</s>⟧",
        ),
        ("vicuna", "SUSER: U1 ASSISTANT:⟦A1</s>⟧USER: U2 ASSISTANT:⟦A2</s>⟧"),
        (
            "zephyr",
            "<|system|>\nS</s><|user|>\nU1</s><|assistant|>\n⟦A1</s>⟧<|user|>\nU2</s><|assistant|>\n⟦A2</s>⟧",
        ),
        ("gemma", gemma),
        ("gemma3", gemma),
        ("phi", phi),
        ("deepseek", "<s>S\n\nUser: U1\n\nAssistant:⟦A1</s>⟧User: U2\n\nAssistant:⟦A2</s>⟧"),
        ("deepseek3", "<s>S<｜User｜>U1<｜Assistant｜>⟦A1</s>⟧<｜User｜>U2<｜Assistant｜>⟦A2</s>⟧"),
        (
            "openchat",
            "<s>SGPT4 Correct User: U1</s>GPT4 Correct Assistant:⟦A1</s>⟧GPT4 Correct User: U2</s>GPT4 Correct Assistant:⟦A2</s>⟧",
        ),
        ("granite3", &granite3),
        (
            "starchat",
            "<|system|>\nS<|end|>\n<|user|>\nU1<|end|>\n<|assistant|>⟦A1<|end|>\n⟧<|user|>\nU2<|end|>\n<|assistant|>⟦A2<|end|>\n⟧",
        ),
        ("empty", "SU1⟦A1⟧U2⟦A2⟧"),
        // efficient_eos: the first token of the second turn carries the label eos; the end is an eos.
        ("chatglm3", &format!("[gMASK]sop{glm}")),
        ("glm4", &format!("[gMASK]<sop>{glm}")),
    ];
    let (_dir, tokenizer) = rich();
    for (name, text) in golden {
        let renderer = renderer(name, &tokenizer, RenderOptions::default());
        let rendered = renderer.render(&two_turns(), Some("qa")).unwrap();
        assert_eq!(marked(&renderer, &rendered), *text, "{name}");
    }
    for spec in templates() {
        assert!(spec.name == "empty" || !spec.user.is_empty());
        assert!(!spec.replace_eos || !spec.stop_words.is_empty(), "{}", spec.name);
    }
    let mut names: Vec<&str> = templates().iter().map(|s| s.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), templates().len(), "names are unique");
}

#[test]
fn default_system_messages_are_llama_factorys() {
    let (_dir, tokenizer) = rich();
    let messages = [Message::user("U"), Message::assistant("A")];
    let text = |name: &str, options: RenderOptions| {
        let r = renderer(name, &tokenizer, options);
        marked(&r, &r.render(&messages, None).unwrap())
    };
    let alpaca = "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n### Instruction:\nU\n\n### Response:\n⟦A</s>\n\n⟧";
    assert_eq!(text("alpaca", RenderOptions::default()), alpaca);
    assert!(text("qwen", RenderOptions::default()).starts_with(
        "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
    ));
    assert_eq!(text("llama2", RenderOptions::default()), "<s>[INST] U [/INST]⟦A</s>⟧");
    let other = RenderOptions { default_system: Some("D".into()), ..RenderOptions::default() };
    assert_eq!(text("alpaca", other.clone()), "D### Instruction:\nU\n\n### Response:\n⟦A</s>\n\n⟧");
    assert_eq!(text("llama2", other), "<s>[INST] <<SYS>>\nD\n<</SYS>>\n\nU [/INST]⟦A</s>⟧");
}

#[test]
fn the_task_header_stands_above_the_first_heading_or_in_the_first_message() {
    let (_dir, tokenizer) = rich();
    let options = RenderOptions { task_prefix: true, ..RenderOptions::default() };
    let text = |name: &str| {
        let r = renderer(name, &tokenizer, options.clone());
        marked(&r, &r.render(&two_turns(), Some("qa")).unwrap())
    };
    assert_eq!(
        text("alpaca"),
        "S### Task: QA\n### Instruction:\nU1\n\n### Response:\n⟦A1</s>\n\n⟧### Instruction:\nU2\n\n### Response:\n⟦A2</s>\n\n⟧"
    );
    assert!(text("chatml").contains("<|im_start|>user\n### Task: QA\nU1<|im_end|>"));
    assert!(text("llama2").starts_with("<s>[INST] <<SYS>>\nS\n<</SYS>>\n\n### Task: QA\nU1 [/INST]"));
    // Without a task there is nothing to write.
    let r = renderer("alpaca", &tokenizer, options.clone());
    assert!(!marked(&r, &r.render(&two_turns(), None).unwrap()).contains("Task"));
}

#[test]
fn stop_ids_hold_the_eos_tokens_and_the_stop_words() {
    let (_dir, tokenizer) = rich();
    let ids = |name: &str| renderer(name, &tokenizer, RenderOptions::default()).stop_ids().to_vec();
    let id = |token: &str| tokenizer.token_id(token).unwrap();
    assert_eq!(ids("alpaca"), [id("</s>")]);
    assert_eq!(ids("chatml"), [id("</s>"), id("<|im_end|>"), id("<|im_start|>")]);
    // <|eom_id|> is not in the vocabulary.
    assert_eq!(ids("llama3"), [id("</s>"), id("<|eot_id|>")]);
}

#[test]
fn missing_tokens_are_refused_by_name() {
    let (_dir, tokenizer) = tokenizer_with(&["<e>"], serde_json::json!({}));
    let message = |name: &str| {
        Renderer::new(Some(name), tokenizer.clone(), RenderOptions::default()).unwrap_err().to_string()
    };
    for (name, token) in
        [("chatml", "<|im_end|>"), ("yi", "<|im_end|>"), ("chatglm3", "[gMASK]"), ("alpaca", "eos_token")]
    {
        let text = message(name);
        assert!(
            text.contains(&format!("{name:?}")) && text.contains(token) && text.contains("choose"),
            "{text}"
        );
    }
    assert!(Renderer::new(Some("empty"), tokenizer.clone(), RenderOptions::default()).is_ok());
    let text = message("alpacca");
    assert!(text.contains("did you mean \"alpaca\"?") && text.contains("zephyr"), "{text}");
    assert!(message("qwen3_nothnk").contains("did you mean \"qwen3_nothink\"?"));
    let none = Renderer::new(None, tokenizer, RenderOptions::default()).unwrap_err().to_string();
    assert!(none.contains("no chat template"), "{none}");
}

#[test]
fn a_missing_bos_is_left_out_with_a_note() {
    let (_dir, tokenizer) = tokenizer_with(&["</s>"], serde_json::json!({"eos_token": "</s>"}));
    let r = renderer("llama2", &tokenizer, RenderOptions::default());
    let rendered = r.render(&[Message::user("U"), Message::assistant("A")], None).unwrap();
    assert_eq!(marked(&r, &rendered), "[INST] U [/INST]⟦A</s>⟧");
    assert!(r.notes()[0].contains("bos"), "{:?}", r.notes());
}

#[test]
fn options_that_exclude_each_other() {
    let (_dir, tokenizer) = rich();
    let both = RenderOptions { train_on_prompt: true, mask_history: true, ..RenderOptions::default() };
    assert!(Renderer::new(Some("alpaca"), tokenizer.clone(), both).is_err());
    let prompt = RenderOptions { train_on_prompt: true, ..RenderOptions::default() };
    assert!(Renderer::new(Some("glm4"), tokenizer, prompt).is_err());
}

#[test]
fn the_order_of_messages_is_checked() {
    let (_dir, tokenizer) = rich();
    let r = renderer("alpaca", &tokenizer, RenderOptions::default());
    let (s, u, a) = (Message::system("S"), Message::user("U"), Message::assistant("A"));
    for bad in
        [vec![], vec![s.clone()], vec![u.clone()], vec![a.clone(), u.clone()], vec![u.clone(), s, a.clone()]]
    {
        assert!(r.render(&bad, None).is_err(), "{bad:?}");
    }
    let text = r.render(&[u.clone(), u.clone()], None).unwrap_err().to_string();
    assert!(text.contains("message 1") && text.contains("Assistant"), "{text}");
    assert!(r.render_prompt(&[u.clone(), a], None).is_err());
    assert!(r.render_prompt(&[u], None).is_ok());
}

#[test]
fn the_cutoff_is_kept() {
    let (_dir, tokenizer) = rich();
    for name in ["alpaca", "llama2", "glm4"] {
        for cutoff in 1..60 {
            let options = RenderOptions { cutoff_len: Some(cutoff), ..RenderOptions::default() };
            let r = renderer(name, &tokenizer, options);
            let rendered = r.render(&two_turns(), None).unwrap();
            assert!(rendered.ids.len() <= cutoff, "{name} {cutoff}");
            let full =
                renderer(name, &tokenizer, RenderOptions::default()).render(&two_turns(), None).unwrap();
            assert_eq!(rendered.truncated, rendered.ids != full.ids);
        }
    }
}

mod every_template;

mod own_chat_template {
    use super::*;

    fn with_template(template: &str) -> (TempDir, Arc<Tokenizer>) {
        let config = serde_json::json!({"bos_token": "<s>", "eos_token": "</s>", "chat_template": template});
        tokenizer_with(SPECIALS, config)
    }

    fn own(template: &str, options: RenderOptions) -> (TempDir, Renderer) {
        let (dir, tokenizer) = with_template(template);
        (dir, Renderer::new(None, tokenizer, options).unwrap())
    }

    #[test]
    fn agrees_with_the_slots_for_chatml() {
        let (_dir, r) = own(CHATML_TEMPLATE, RenderOptions::default());
        let by_slots = renderer("chatml", r.tokenizer(), RenderOptions::default());
        let messages = two_turns();
        assert_eq!(r.render(&messages, None).unwrap(), by_slots.render(&messages, None).unwrap());
        assert_eq!(
            r.render_prompt(&messages[..4], None).unwrap(),
            by_slots.render_prompt(&messages[..4], None).unwrap()
        );
        let close = r.tokenizer().token_id("<|im_end|>").unwrap();
        assert_eq!(r.stop_ids(), [r.tokenizer().eos().unwrap().id, close]);
        assert_eq!(r.name(), "chat_template");
    }

    #[test]
    fn task_header_and_system_go_where_they_belong() {
        let options = RenderOptions {
            task_prefix: true,
            default_system: Some("D".into()),
            mask_history: true,
            ..RenderOptions::default()
        };
        let (_dir, r) = own(CHATML_TEMPLATE, options);
        let rendered = r.render(&two_turns()[1..], Some("summarization")).unwrap();
        assert_eq!(
            marked(&r, &rendered),
            "<|im_start|>system\nD<|im_end|>\n<|im_start|>user\n### Task: Summarization\nU1<|im_end|>\n<|im_start|>assistant\nA1<|im_end|>\n<|im_start|>user\nU2<|im_end|>\n<|im_start|>assistant\n⟦A2<|im_end|>\n⟧"
        );
    }

    /// What real templates use: Python methods, namespaces, loop controls, block trimming, `raise_exception`,
    /// `generation` marks.
    #[test]
    fn runs_what_published_templates_use() {
        let template = "
{{- bos_token }}
{%- set ns = namespace(seen=false) %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'].strip() + '\\n\\n' %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = '' %}
{%- endif %}
{%- if tools is not none %}{{- raise_exception('no tools here') }}{%- endif %}
{%- for message in messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
    {%- endif %}
    {%- if message.get('role') == 'user' %}
        {{- '[INST] ' + (system_message if loop.first else '') + message['content'] | trim + ' [/INST]' }}
    {%- else %}
        {%- generation %}
        {{- ' ' + message.content.split('</think>')[-1].lstrip('\\n') + eos_token }}
        {%- endgeneration %}
    {%- endif %}
{%- endfor %}";
        let (_dir, r) = own(template, RenderOptions::default());
        let rendered = r.render(&two_turns(), None).unwrap();
        assert_eq!(marked(&r, &rendered), "<s>[INST] S\n\nU1 [/INST]⟦ A1</s>⟧[INST] U2 [/INST]⟦ A2</s>⟧");
    }

    #[test]
    fn what_the_template_raises_is_passed_on() {
        let (_dir, r) = own(
            "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}{{ m.content }}{% endfor %}",
            RenderOptions::default(),
        );
        let text = r.render(&two_turns(), None).unwrap_err().to_string();
        assert!(text.contains("System role not supported"), "{text}");
        let (_dir, tokenizer) = with_template("{% for m in messages %}");
        let text = Renderer::new(None, tokenizer, RenderOptions::default()).unwrap_err().to_string();
        assert!(text.contains("cannot be read") && text.contains("line 1"), "{text}");
    }

    /// Templates of reasoning models drop the thoughts of earlier replies.
    #[test]
    fn rewritten_history_is_refused_unless_only_the_last_reply_is_learned() {
        let template = "{% for m in messages %}{% if m.role == 'assistant' %}{{ '(' + (m.content if loop.last else '') + ')' }}{% else %}{{ m.content + ':' }}{% endif %}{% endfor %}";
        let (_dir, r) = own(template, RenderOptions::default());
        let messages = &two_turns()[1..];
        let text = r.render(messages, None).unwrap_err().to_string();
        assert!(text.contains("mask_history"), "{text}");
        // A prompt can be written all the same, and agrees with what mask_history trains on.
        let prompt = r.render_prompt(&messages[..3], None).unwrap();
        let (_dir, masked) = own(template, RenderOptions { mask_history: true, ..RenderOptions::default() });
        let rendered = masked.render(messages, None).unwrap();
        assert_eq!(marked(&masked, &rendered), "U1:()U2:⟦(A2)⟧");
        assert_eq!(&rendered.ids[..prompt.len()], &prompt[..]);
    }

    #[test]
    fn a_reply_that_does_not_continue_the_prompt_is_refused() {
        let template = "{% for m in messages %}{{ m.content }}|{% endfor %}{% if add_generation_prompt %}<think>{% endif %}";
        let (_dir, r) = own(template, RenderOptions::default());
        let text = r.render(&two_turns(), None).unwrap_err().to_string();
        assert!(text.contains("does not begin where the generation prompt ends"), "{text}");
    }

    /// LLaMA-3's first chat template: fine for generation, but it cannot tell a finished conversation.
    #[test]
    fn a_template_that_always_prompts_can_generate_but_not_train() {
        let template = "{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>' + m.content + '<|eot_id|>' }}{% endfor %}{{ '<|start_header_id|>assistant<|end_header_id|>' }}";
        for mask_history in [false, true] {
            let (_dir, r) = own(template, RenderOptions { mask_history, ..RenderOptions::default() });
            let text = r.render(&two_turns()[1..3], None).unwrap_err().to_string();
            assert!(text.contains("add_generation_prompt"), "{text}");
            let ids = r.render_prompt(&two_turns()[1..2], None).unwrap();
            assert!(r.tokenizer().decode(&ids, false).unwrap().ends_with("assistant<|end_header_id|>"));
            assert!(r.stop_ids().contains(&r.tokenizer().token_id("<|eot_id|>").unwrap()));
        }
    }
}
