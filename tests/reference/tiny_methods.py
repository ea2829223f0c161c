"""Makes tests/fixtures/llama/methods/: ways of training beside plain LoRA and full fine-tuning, by PEFT and PyTorch.

    python tests/reference/tiny_methods.py

modules_to_save: on tied_bf16, LoRA (r 2 on q_proj) with embed_tokens and the norms trained in full beside it, which PEFT
    unties from the head; the adapter the run starts from, as PEFT saves it, its logits, and five steps in LoRA+'s groups
    (ratio 16) as `create_loraplus_optimizer` makes them.
freeze: on gqa_f32, the MLP of the last block and the last norm.

Batches, clipping and AdamW are tiny_training's. `final_norm/<parameter>` is the L2 norm of what the parameter has moved.
"""

from __future__ import annotations

import shutil

import torch
from peft import LoraConfig, get_peft_model
from peft.optimizers import create_loraplus_optimizer

from fixtures import FIXTURES, save
from tiny_llama import load
from tiny_training import BETAS, EPSILON, LEARNING_RATE, MAX_GRAD_NORM, adapter_fields, batches, packed, token_mean, trainable

torch.set_num_threads(1)

OUT = FIXTURES / "llama" / "methods"
RATIO = 16.0


def run(model, steps, optimizer) -> dict[str, torch.Tensor]:
    """Five clipped steps: losses, norms before clipping, and how far each parameter moved."""
    parameters = {name.replace("modules_to_save.", ""): p for name, p in trainable(model).items()}
    start = {name: p.detach().clone() for name, p in parameters.items()}
    losses, norms = [], []
    for sequences in steps:
        optimizer.zero_grad()
        loss = token_mean(model, sequences)
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(parameters.values(), MAX_GRAD_NORM).detach())
        optimizer.step()
        losses.append(loss.detach())
    result = {"losses": torch.stack(losses), "grad_norms": torch.stack(norms)}
    return result | {f"final_norm/{name}": (p.detach() - start[name]).norm() for name, p in parameters.items()}


def modules_to_save(steps) -> None:
    folder = OUT / "modules_to_save"
    config = LoraConfig(
        r=2, lora_alpha=4, target_modules=["q_proj"], modules_to_save=["embed_tokens", "norm"], task_type="CAUSAL_LM"
    )
    model = get_peft_model(load(FIXTURES / "llama" / "tied_bf16"), config).eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in trainable(model).values():
            p.add_(0.1 * torch.randn(p.shape, generator=generator))
    model.save_pretrained(folder)
    adapter_fields(folder, "tests/fixtures/llama/tied_bf16")
    ids = steps[0][0][0]
    with torch.no_grad():
        tensors = {"logits_input_ids": ids, "logits": model(input_ids=ids[None]).logits[0]} | packed(steps)
    optimizer = create_loraplus_optimizer(
        model, torch.optim.AdamW, lr=LEARNING_RATE, loraplus_lr_ratio=RATIO, betas=BETAS, eps=EPSILON
    )
    save(folder / "reference.safetensors", tensors | run(model, steps, optimizer))


def freeze(steps) -> None:
    model = load(FIXTURES / "llama" / "gqa_f32").eval()
    for name, p in model.named_parameters():
        p.requires_grad_(".1.mlp." in name or name == "model.norm.weight")
    optimizer = torch.optim.AdamW(trainable(model).values(), lr=LEARNING_RATE, betas=BETAS, eps=EPSILON, weight_decay=0.0)
    save(OUT / "freeze" / "reference.safetensors", packed(steps) | run(model, steps, optimizer))


def main() -> None:
    shutil.rmtree(OUT, ignore_errors=True)
    steps = batches()
    modules_to_save(steps)
    freeze(steps)


if __name__ == "__main__":
    main()
