"""Makes tests/fixtures/llama/: tiny random LLaMA checkpoints and what transformers computes with them.

    python tests/reference/tiny_llama.py [NAME ...]

Each folder is a Hugging Face model folder (config.json, model.safetensors or shards) and a
reference.safetensors; README.md beside this file lists its tensors. All arithmetic is float32 with
eager attention; bf16 checkpoints are widened on loading. Weights are drawn wide enough (std 0.2)
that a wrong rotation, head map or bias moves the logits by far more than rounding does, and the
script fails if it would not: see `must_matter`.
"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from fixtures import FIXTURES, next_token_nll, save

torch.set_num_threads(1)

BASE = dict(
    vocab_size=96,
    hidden_size=48,
    intermediate_size=60,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
    rms_norm_eps=1e-5,
    bos_token_id=1,
    eos_token_id=2,
    tie_word_embeddings=False,
)
DEFAULT_ROPE = {"rope_type": "default", "rope_theta": 10000.0}


@dataclass(frozen=True)
class Variant:
    """One checkpoint: what differs from BASE, how it is stored, and what must matter."""

    config: dict = field(default_factory=dict)
    dtype: torch.dtype = torch.bfloat16
    length: int = 24
    # Fields of config.json replaced by hand after saving; None removes a field.
    edit: dict = field(default_factory=dict)
    # Settings which, put back to this, must change the logits.
    must_matter: dict = field(default_factory=dict)
    max_shard_size: str = "5GB"


VARIANTS: dict[str, Variant] = {
    "gqa_f32": Variant(dtype=torch.float32),
    "tied_bf16": Variant(config=dict(tie_word_embeddings=True)),
    "mha_bias": Variant(
        config=dict(attention_bias=True, mlp_bias=True, num_key_value_heads=4, intermediate_size=44),
    ),
    # Old-style fields: rope_theta at the top, rope_scaling with `type`.
    "rope_linear_old": Variant(
        config=dict(rope_parameters={"rope_type": "linear", "rope_theta": 5000.0, "factor": 4.0}),
        edit=dict(
            rope_parameters=None,
            rope_theta=5000.0,
            rope_scaling={"type": "linear", "factor": 4.0},
        ),
        must_matter=dict(rope_parameters={"rope_type": "default", "rope_theta": 5000.0}),
    ),
    # 48 tokens against 32 positions: the base of the rotation grows with the sequence.
    "rope_dynamic": Variant(
        config=dict(
            max_position_embeddings=32,
            rope_parameters={"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0},
        ),
        length=48,
        must_matter=dict(rope_parameters=DEFAULT_ROPE),
    ),
    # Wavelengths 6.3, 29, 135, ... against 64 / 4 and 64 / 1: one in each of the three bands.
    "rope_llama3": Variant(
        config=dict(
            max_position_embeddings=512,
            rope_parameters={
                "rope_type": "llama3",
                "rope_theta": 10000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            },
        ),
        length=40,
        must_matter=dict(rope_parameters=DEFAULT_ROPE),
    ),
    "rope_llama3_old": Variant(
        config=dict(
            max_position_embeddings=512,
            rope_parameters={
                "rope_type": "llama3",
                "rope_theta": 500000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            },
        ),
        length=40,
        edit=dict(
            rope_parameters=None,
            rope_theta=500000.0,
            rope_scaling={
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            },
        ),
        must_matter=dict(rope_parameters={"rope_type": "default", "rope_theta": 500000.0}),
    ),
    "rope_yarn": Variant(
        config=dict(
            max_position_embeddings=128,
            rope_parameters={
                "rope_type": "yarn",
                "rope_theta": 10000.0,
                "factor": 4.0,
                "original_max_position_embeddings": 32,
                # Ramp between these many turns over the original 32 positions: with 12 wide heads
                # the published 32 and 1 would put every frequency on one side of it.
                "beta_fast": 4.0,
                "beta_slow": 0.25,
            },
        ),
        length=48,
        must_matter=dict(rope_parameters=DEFAULT_ROPE),
    ),
    # head_dim 10 is not 48 / 4, half of it is odd, and the vocabulary is odd.
    "head_dim_explicit": Variant(
        config=dict(head_dim=10, vocab_size=97, num_key_value_heads=1),
    ),
    "sharded": Variant(max_shard_size="48KB"),
}


def randomise(model: LlamaForCausalLM, seed: int) -> None:
    """Matrices N(0, 0.2²), norms 1 + N(0, 0.2²), biases N(0, 0.3²)."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if name.endswith(".bias"):
                parameter.copy_(0.3 * noise)
            elif parameter.dim() == 1:
                parameter.copy_(1.0 + 0.2 * noise)
            else:
                parameter.copy_(0.2 * noise)


def load(folder: Path, **overrides) -> LlamaForCausalLM:
    """The model of a folder in float32 with eager attention, eval mode."""
    config = LlamaConfig.from_pretrained(folder, **overrides)
    model = LlamaForCausalLM.from_pretrained(
        folder, config=config, dtype=torch.float32, attn_implementation="eager"
    )
    return model.eval()


def write_checkpoint(folder: Path, variant: Variant, seed: int) -> None:
    """Saves the random checkpoint and edits its config.json."""
    if folder.exists():
        shutil.rmtree(folder)
    config = LlamaConfig(**{**BASE, **variant.config})
    model = LlamaForCausalLM(config)
    randomise(model, seed)
    model.to(variant.dtype).save_pretrained(folder, max_shard_size=variant.max_shard_size)
    (folder / "generation_config.json").unlink(missing_ok=True)
    path = folder / "config.json"
    fields = json.loads(path.read_text())
    for key, value in variant.edit.items():
        if value is None:
            fields.pop(key, None)
        else:
            fields[key] = value
    path.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n")


def must_matter(folder: Path, name: str, variant: Variant, ids: torch.Tensor, logits) -> None:
    """Fails unless undoing the variant's setting moves the logits visibly."""
    overrides = dict(variant.must_matter)
    if not overrides:
        return
    with torch.no_grad():
        other = load(folder, **overrides)(ids[None]).logits[0]
    moved = (other - logits).abs().max().item()
    print(f"{name}: without {list(overrides)} the logits move by up to {moved:.3f}")
    if moved < 0.05:
        raise SystemExit(f"{name}: the setting does not matter; the fixture could not fail")


def nf4_logits(folder: Path, ids: torch.Tensor, double_quant: bool) -> torch.Tensor:
    """Logits with every linear layer but lm_head rounded to bitsandbytes' NF4, computed in float32."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    model = load(folder)
    with torch.no_grad():
        for layer in model.model.layers:
            for module in layer.modules():
                if isinstance(module, torch.nn.Linear):
                    codes, state = quantize_4bit(
                        module.weight.data,
                        blocksize=64,
                        compress_statistics=double_quant,
                        quant_type="nf4",
                    )
                    module.weight.copy_(dequantize_4bit(codes, state))
        return model(ids[None]).logits[0]


def reference(folder: Path, name: str, variant: Variant, seed: int) -> None:
    """Computes and saves reference.safetensors from what is on disk."""
    model = load(folder)
    vocab = model.config.vocab_size
    generator = torch.Generator().manual_seed(1000 + seed)
    ids = torch.randint(3, vocab, (variant.length,), generator=generator)
    short = torch.randint(3, vocab, (9,), generator=generator)

    logits = model(ids[None]).logits[0]
    loss = next_token_nll(logits, ids, torch.ones_like(ids, dtype=torch.bool)) / (len(ids) - 1)
    loss.backward()
    with torch.no_grad():
        short_logits = model(short[None]).logits[0]
    must_matter(folder, name, variant, ids, logits.detach())

    tensors: dict[str, object] = {
        "input_ids": ids,
        "logits": logits,
        "short_input_ids": short,
        "short_logits": short_logits,
        "loss": loss,
    }
    for parameter_name, parameter in model.named_parameters():
        tensors[f"grad_norm/{parameter_name}"] = parameter.grad.norm()
    whole = ["model.embed_tokens.weight", "model.norm.weight"]
    whole.append("model.layers.0.self_attn.q_proj.weight")
    if variant.config.get("attention_bias"):
        whole.append("model.layers.0.self_attn.k_proj.bias")
        whole.append("model.layers.1.mlp.down_proj.bias")
    parameters = dict(model.named_parameters())
    for parameter_name in whole:
        tensors[f"grad/{parameter_name}"] = parameters[parameter_name].grad
    if name == "gqa_f32":
        tensors["nf4_logits"] = nf4_logits(folder, ids, double_quant=False)
        tensors["nf4_double_quant_logits"] = nf4_logits(folder, ids, double_quant=True)
    save(folder / "reference.safetensors", tensors)


def main() -> None:
    chosen = sys.argv[1:] or list(VARIANTS)
    for name in chosen:
        if name not in VARIANTS:
            raise SystemExit(f"{name!r} is none of {', '.join(VARIANTS)}")
        folder = FIXTURES / "llama" / name
        seed = list(VARIANTS).index(name)
        write_checkpoint(folder, VARIANTS[name], seed)
        reference(folder, name, VARIANTS[name], seed)


if __name__ == "__main__":
    main()
