"""Reads and writes the reference files: what the scripts here share.

A reference file is a safetensors file of F32, U32 and U8 tensors only (token ids are U32, masks are
U8), so that any safetensors reader opens it. Its metadata says which versions wrote it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import safetensors.numpy
import torch

ROOT = Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "tests" / "fixtures"


def versions() -> dict[str, str]:
    """The libraries whose arithmetic the reference values are."""
    import peft
    import transformers

    return {
        "torch": torch.__version__.split("+")[0],
        "transformers": transformers.__version__,
        "peft": peft.__version__,
    }


def as_array(value) -> np.ndarray:
    """A tensor, list or number as a contiguous F32, U32 or U8 array with at least one dimension."""
    if isinstance(value, torch.Tensor):
        value = value.detach().to("cpu")
        value = value.float().numpy() if value.is_floating_point() else value.numpy()
    array = np.atleast_1d(np.asarray(value))
    if array.dtype in (np.float64, np.float16):
        array = array.astype(np.float32)
    if array.dtype in (np.int64, np.int32):
        if array.min(initial=0) < 0:
            raise ValueError("negative integers have no place in a reference file; store a mask")
        array = array.astype(np.uint32)
    if array.dtype == np.bool_:
        array = array.astype(np.uint8)
    if array.dtype not in (np.float32, np.uint32, np.uint8):
        raise ValueError(f"dtype {array.dtype} has no place in a reference file")
    return np.ascontiguousarray(array)


def save(path: Path, tensors: dict[str, object], **metadata: str) -> None:
    """Writes `tensors` to `path`, sorted by name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {name: as_array(tensors[name]) for name in sorted(tensors)}
    safetensors.numpy.save_file(arrays, str(path), metadata={**versions(), **metadata})
    print(f"{path.relative_to(ROOT)}: {len(arrays)} tensors, {path.stat().st_size / 1024:.0f} KiB")


def next_token_nll(logits: torch.Tensor, ids: torch.Tensor, labelled: torch.Tensor) -> torch.Tensor:
    """Sum of -log p(ids[t]) over the labelled positions t >= 1.

    logits [T, vocab], ids [T], labelled [T] bool. Position t is predicted by row t - 1; a label at
    position 0 has nothing to predict it and counts for nothing.
    """
    rows = logits[:-1][labelled[1:]]
    targets = ids[1:][labelled[1:]]
    return torch.nn.functional.cross_entropy(rows.float(), targets, reduction="sum")
