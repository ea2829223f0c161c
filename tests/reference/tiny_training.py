"""Makes tests/fixtures/llama/training/: five AdamW steps of PEFT and PyTorch on the tiny gqa_f32 model.

    python tests/reference/tiny_training.py

One folder a run: lora_qv (r 4 on q_proj and v_proj), lora_all_rslora (r 4 on every linear layer,
rank-stabilised), dora_q_down (DoRA with a rank and an alpha by layer), lora_patterns (one block, ranks
and alphas by layer), full (every weight). A LoRA folder also holds the adapter the run starts from, as
PEFT saves it, with a non-zero B. Every run is made twice, with weight decay 0 and with 0.1 (large, so
that decay stands out from rounding); README.md beside this file lists the tensors.

Sequences are run one by one without padding, so nothing here depends on padding or attention masks.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model

from fixtures import FIXTURES, next_token_nll, save
from tiny_llama import load

torch.set_num_threads(1)

BASE = FIXTURES / "llama" / "gqa_f32"
OUT = FIXTURES / "llama" / "training"
STEPS = 5
LEARNING_RATE = 1e-3
BETAS = (0.9, 0.999)
EPSILON = 1e-8
MAX_GRAD_NORM = 1.0
WEIGHT_DECAYS = {"no_decay": 0.0, "decay": 0.1}
# Lengths of the three sequences of each step, and their tasks.
LENGTHS = [(17, 9, 23), (12, 31, 5), (20, 20, 20), (7, 40, 2), (33, 6, 11)]
TASKS = (0, 1, 0)
TASK_WEIGHTS = (1.0, 0.6)
ALL_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ADAPTERS = {
    "lora_qv": LoraConfig(
        r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"
    ),
    "lora_all_rslora": LoraConfig(
        r=4, lora_alpha=6, target_modules=ALL_LINEAR, use_rslora=True, task_type="CAUSAL_LM"
    ),
    "dora_q_down": LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules=["q_proj", "down_proj"],
        rank_pattern={"layers.1.mlp.down_proj": 3},
        alpha_pattern={"down_proj": 10},
        use_dora=True,
        task_type="CAUSAL_LM",
    ),
    # One block of two, ranks and scales that differ by layer.
    "lora_patterns": LoraConfig(
        r=2,
        lora_alpha=3,
        target_modules=["k_proj", "gate_proj"],
        layers_to_transform=[1],
        rank_pattern={"gate_proj": 3},
        alpha_pattern={"self_attn.k_proj": 5},
        use_rslora=True,
        task_type="CAUSAL_LM",
    ),
}


def batches() -> list[list[tuple[torch.Tensor, torch.Tensor]]]:
    """For each step its (ids, labelled) sequences; the first third of each is an unlabelled prompt."""
    generator = torch.Generator().manual_seed(77)
    steps = []
    for lengths in LENGTHS:
        sequences = []
        for length in lengths:
            ids = torch.randint(3, 96, (length,), generator=generator)
            labelled = torch.arange(length) >= max(1, length // 3)
            sequences.append((ids, labelled))
        steps.append(sequences)
    return steps


def packed(steps) -> dict[str, torch.Tensor]:
    """The batches as packed tensors: input_ids [T], labelled [T], cu_seqlens [sequences + 1]."""
    tensors = {}
    for step, sequences in enumerate(steps):
        tensors[f"step{step}/input_ids"] = torch.cat([ids for ids, _ in sequences])
        tensors[f"step{step}/labelled"] = torch.cat([labelled for _, labelled in sequences])
        ends = torch.tensor([0] + [len(ids) for ids, _ in sequences]).cumsum(0)
        tensors[f"step{step}/cu_seqlens"] = ends
    return tensors


def sequence_losses(model, sequences) -> tuple[list[torch.Tensor], list[int]]:
    """Per sequence the summed NLL over its labelled tokens, and how many there are."""
    sums, counts = [], []
    for ids, labelled in sequences:
        sums.append(next_token_nll(model(input_ids=ids[None]).logits[0], ids, labelled))
        counts.append(int(labelled[1:].sum()))
    return sums, counts


def token_mean(model, sequences, weights=None) -> torch.Tensor:
    """sum_t w_t nll_t / sum_t 1, w being the weight of the token's task (1 without weights)."""
    sums, counts = sequence_losses(model, sequences)
    scale = [1.0 if weights is None else weights[task] for task in TASKS]
    return sum(w * s for w, s in zip(scale, sums)) / sum(counts)


def task_mean(model, sequences, weights) -> torch.Tensor:
    """sum_i w_i * (mean NLL over the labelled tokens of task i)."""
    sums, counts = sequence_losses(model, sequences)
    total = torch.zeros(())
    for task, weight in enumerate(weights):
        rows = [i for i, t in enumerate(TASKS) if t == task]
        total = total + weight * sum(sums[i] for i in rows) / sum(counts[i] for i in rows)
    return total


def trainable(model) -> dict[str, torch.nn.Parameter]:
    """The trainable parameters under the names their files use."""
    return {
        name.replace(".default.", ".").replace("magnitude_vector.weight", "magnitude_vector"): parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def run(model, steps, weight_decay: float) -> dict[str, torch.Tensor]:
    """Five clipped AdamW steps: losses [5], grad_norms [5] (before clipping), final weights.

    Vectors (norms, biases) are not decayed, as in the Hugging Face Trainer.
    """
    parameters = trainable(model)
    groups = [
        {"params": [p for p in parameters.values() if p.dim() > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters.values() if p.dim() == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=BETAS, eps=EPSILON)
    losses, norms = [], []
    for sequences in steps:
        optimizer.zero_grad()
        loss = token_mean(model, sequences)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters.values(), MAX_GRAD_NORM)
        optimizer.step()
        losses.append(loss.detach())
        norms.append(norm.detach())
    result = {"losses": torch.stack(losses), "grad_norms": torch.stack(norms)}
    for name, parameter in parameters.items():
        result[f"final/{name}"] = parameter.detach().clone()
    return result


def task_losses(model, sequences) -> dict[str, torch.Tensor]:
    """The weighted multi-task losses of step 0 and the gradient norm of each trainable parameter."""
    result = {"task_weights": torch.tensor(TASK_WEIGHTS), "tasks": torch.tensor(TASKS)}
    for name, loss_of in (("task_mean", task_mean), ("token_mean", token_mean)):
        model.zero_grad()
        loss = loss_of(model, sequences, TASK_WEIGHTS)
        loss.backward()
        result[f"{name}/loss"] = loss.detach()
        for parameter_name, parameter in trainable(model).items():
            result[f"{name}/grad_norm/{parameter_name}"] = parameter.grad.norm()
    model.zero_grad()
    return result


def write_adapter(folder: Path, config: LoraConfig, seed: int) -> None:
    """Saves an adapter with A ~ N(0, 0.2²) and B ~ N(0, 0.1²) the way PEFT saves it."""
    model = get_peft_model(load(BASE), config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in trainable(model).items():
            noise = torch.randn(parameter.shape, generator=generator)
            if "magnitude" in name:  # around what it is: the norms of the rows
                parameter.mul_(1 + 0.2 * noise)
            else:
                parameter.copy_((0.2 if "lora_A" in name else 0.1) * noise)
    model.save_pretrained(folder)
    adapter_fields(folder, "tests/fixtures/llama/gqa_f32")


def adapter_fields(folder: Path, base: str) -> None:
    """Makes adapter_config.json the same wherever it is written: the base's name, sorted keys and targets."""
    (folder / "README.md").unlink(missing_ok=True)
    path = folder / "adapter_config.json"
    fields = json.loads(path.read_text())
    fields["base_model_name_or_path"] = base
    fields["target_modules"] = sorted(fields["target_modules"])
    path.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n")


def adapted(folder: Path):
    """The base model with the folder's adapter, trainable."""
    model = PeftModel.from_pretrained(load(BASE), folder, is_trainable=True)
    return model.eval()  # no dropout anywhere, and eval keeps it so


def write_lora(name: str, config: LoraConfig, steps, seed: int) -> None:
    folder = OUT / name
    write_adapter(folder, config, seed)
    ids = steps[0][0][0]
    model = adapted(folder)
    with torch.no_grad():
        tensors = {"logits_input_ids": ids, "logits": model(input_ids=ids[None]).logits[0]}
        base_logits = load(BASE)(ids[None]).logits[0]
        merged = adapted(folder).merge_and_unload()(ids[None]).logits[0]
    moved = (base_logits - tensors["logits"]).abs().max().item()
    rounding = (merged - tensors["logits"]).abs().max().item()
    print(f"{name}: the adapter moves the logits by {moved:.3f}, merging by {rounding:.1e}")
    if moved < 0.05 or rounding > 1e-4:
        raise SystemExit(f"{name}: the adapter does nothing, or merging is wrong")

    tensors.update(packed(steps))
    tensors.update(task_losses(model, steps[0]))
    token_mean(model, steps[0]).backward()
    for parameter_name, parameter in trainable(model).items():
        tensors[f"grad/{parameter_name}"] = parameter.grad.clone()
    for label, weight_decay in WEIGHT_DECAYS.items():
        for key, value in run(adapted(folder), steps, weight_decay).items():
            tensors[f"{label}/{key}"] = value
    report(name, tensors)
    save(folder / "training.safetensors", tensors)


def write_full(steps) -> None:
    """Full fine-tuning; of the final weights only a few are kept, to keep the file small."""
    keep = {
        "final/model.embed_tokens.weight",
        "final/model.layers.0.self_attn.q_proj.weight",
        "final/model.layers.1.mlp.down_proj.weight",
        "final/model.layers.1.input_layernorm.weight",
        "final/model.norm.weight",
    }
    tensors: dict[str, object] = packed(steps)
    for label, weight_decay in WEIGHT_DECAYS.items():
        for key, value in run(load(BASE), steps, weight_decay).items():
            if not key.startswith("final/") or key in keep:
                tensors[f"{label}/{key}"] = value
    report("full", tensors)
    save(OUT / "full" / "training.safetensors", tensors)


def report(name: str, tensors) -> None:
    for label in WEIGHT_DECAYS:
        losses = [round(x, 5) for x in tensors[f"{label}/losses"].tolist()]
        norms = [round(x, 4) for x in tensors[f"{label}/grad_norms"].tolist()]
        print(f"{name} {label}: losses {losses} grad norms {norms}")


def main() -> None:
    shutil.rmtree(OUT, ignore_errors=True)
    steps = batches()
    for seed, (name, config) in enumerate(ADAPTERS.items()):
        write_lora(name, config, steps, seed)
    write_full(steps)


if __name__ == "__main__":
    main()
