"""Opens what Medley wrote with transformers and PEFT and compares the logits.

    medley logits --model_name_or_path BASE --adapter_name_or_path ADAPTER \\
        --input_ids 1,5,9 --output adapter.safetensors
    python tests/reference/check_outputs.py --model BASE --adapter ADAPTER \\
        --input_ids 1,5,9 --logits adapter.safetensors

    medley export --model_name_or_path BASE --adapter_name_or_path ADAPTER --export_dir MERGED
    medley logits --model_name_or_path MERGED --input_ids 1,5,9 --output merged.safetensors
    python tests/reference/check_outputs.py --model MERGED --input_ids 1,5,9 --logits merged.safetensors

Exit code 0 and a line of figures when everything agrees, 1 and what differs when not. An adapter's
file must hold exactly the tensors PEFT expects for its adapter_config.json, with its shapes; a model
folder must load without missing or unexpected weights, and its tokenizer, where it has one, must load
and give back a text it encoded. A folder written with rounded weights (bf16) is compared with what
`medley logits` computes from that same folder, so the tolerance stays that of float32.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import safetensors.torch
import torch
from peft import PeftModel, get_peft_model_state_dict
from transformers import AutoModelForCausalLM, AutoTokenizer

torch.set_num_threads(1)

TEXT = "Grüße: 3 names, 2 files\n\tand a tab."


class Mismatch(Exception):
    """Something Medley wrote is not what the reference reads."""


def load_model(folder: Path):
    """The folder's model in float32; fails on weights that are missing or not used."""
    model, report = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if report.get(kind):
            raise Mismatch(f"{folder}: {kind}: {sorted(map(str, report[kind]))}")
    return model.eval()


def load_adapter(model, folder: Path):
    """The model with the folder's adapter; fails unless the file holds exactly PEFT's tensors."""
    stored = safetensors.torch.load_file(folder / "adapter_model.safetensors")
    adapted = PeftModel.from_pretrained(model, folder)
    expected = get_peft_model_state_dict(adapted)
    # PEFT's weight-free names: both sides carry the `base_model.model.` prefix.
    missing = sorted(set(expected) - set(stored))
    extra = sorted(set(stored) - set(expected))
    if missing or extra:
        raise Mismatch(f"{folder}: PEFT misses {missing}, and does not know {extra}")
    for name, value in expected.items():
        if not torch.equal(value.float(), stored[name].float()):
            raise Mismatch(f"{folder}: {name} did not reach the model")
    if all(not value.any() for name, value in stored.items() if "lora_B" in name):
        raise Mismatch(f"{folder}: every lora_B is zero; nothing was trained")
    return adapted.eval()


def check_tokenizer(folder: Path) -> str:
    """What there is to say about the folder's tokenizer."""
    if not (folder / "tokenizer.json").exists():
        return "no tokenizer"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(TEXT, add_special_tokens=False).input_ids
    if tokenizer.decode(ids) != TEXT:
        raise Mismatch(f"{folder}: the tokenizer turns {TEXT!r} into {tokenizer.decode(ids)!r}")
    return f"tokenizer of {len(tokenizer)}"


def compare(logits: torch.Tensor, path: Path, tolerance: float) -> str:
    """Compares with the tensor `logits` [T, vocab] of Medley's file."""
    tensors = safetensors.torch.load_file(path)
    if "logits" not in tensors:
        raise Mismatch(f"{path}: no tensor `logits`, only {sorted(tensors)}")
    ours = tensors["logits"]
    if ours.dtype != torch.float32 or ours.shape != logits.shape:
        raise Mismatch(
            f"{path}: logits are {ours.dtype} {list(ours.shape)}, expected float32 {list(logits.shape)}"
        )
    worst = (ours - logits).abs().max().item()
    agree = (ours.argmax(-1) == logits.argmax(-1)).float().mean().item()
    figures = f"max abs error {worst:.2e}, same most likely token at {100 * agree:.1f} % of positions"
    if not worst <= tolerance:
        raise Mismatch(f"{path}: {figures}; the tolerance is {tolerance:g}")
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, help="base or merged model folder")
    parser.add_argument("--adapter", type=Path, help="adapter folder that Medley wrote")
    parser.add_argument("--input_ids", required=True, help="the ids given to `medley logits`")
    parser.add_argument("--logits", type=Path, required=True, help="the file `medley logits` wrote")
    parser.add_argument("--tolerance", type=float, default=2e-3, help="max abs error of a logit")
    arguments = parser.parse_args()
    ids = torch.tensor([int(token) for token in arguments.input_ids.split(",")])
    try:
        model = load_model(arguments.model)
        if arguments.adapter is not None:
            model = load_adapter(model, arguments.adapter)
        with torch.no_grad():
            logits = model(input_ids=ids[None]).logits[0]
        figures = compare(logits, arguments.logits, arguments.tolerance)
        tokenizer = check_tokenizer(arguments.model)
    except Mismatch as mismatch:
        print(f"differs: {mismatch}", file=sys.stderr)
        return 1
    print(f"agrees: {figures}; {tokenizer}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
