"""What the generating scripts share: reproducible inputs and the manifest of a case.

A case is a folder-less pair `NAME.ptx`, `NAME.json`. The JSON names the entry, grid, block, shared memory
and arguments; inputs are a formula of (count, salt), so that they need not be stored, and expected outputs
are `NAME.<i>.npy`, computed by NumPy. `tests/foreign.rs` runs every case it finds.
"""
import json
import pathlib
import re

import numpy as np

DTYPES = {"f32": np.float32, "f16": np.float16, "f64": np.float64, "i32": np.int32, "u32": np.uint32,
          "i8": np.int8, "u8": np.uint8, "i64": np.int64, "u64": np.uint64}


def raw(count, salt):
    """Pseudo-random 16-bit integers: the same formula as in tests/foreign.rs."""
    i = np.arange(count, dtype=np.uint64)
    x = (i * np.uint64(2654435761) + np.uint64(salt) * np.uint64(40503) + np.uint64(12345)) & np.uint64(0xFFFFFFFF)
    x = (x ^ (x >> np.uint64(15))) * np.uint64(2246822519) & np.uint64(0xFFFFFFFF)
    return (x >> np.uint64(16)).astype(np.int64)


def round_bf16(x):
    """f32 values rounded to bf16, kept as f32."""
    bits = np.asarray(x, np.float32).view(np.uint32).astype(np.uint64)
    bits = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16 << 16
    return bits.astype(np.uint32).view(np.float32)


def values(dtype, count, salt):
    """The input array: floats in [-1, 1) in steps of 1/1024, integers in [-100, 100)."""
    r = raw(count, salt)
    if dtype in ("f32", "f64", "f16"):
        return ((r % 2048 - 1024) / 1024).astype(DTYPES[dtype])
    if dtype == "bf16":
        return round_bf16((r % 2048 - 1024) / 1024)
    if dtype in ("u8", "u32", "u64"):
        return (r % 200).astype(DTYPES[dtype])
    return (r % 200 - 100).astype(DTYPES[dtype])


def strip(ptx):
    """Removes comments and debug information: they only take space."""
    lines = []
    for line in ptx.splitlines():
        line = re.sub(r"//.*", "", line).rstrip()
        if re.match(r"\s*\.(loc|file)\b", line) or not line.strip():
            continue
        if re.match(r"\s*\.section\b", line):
            break
        lines.append(re.sub(r"\s+", " ", line.strip()))
    return "\n".join(lines) + "\n"


class Case:
    """Collects the arguments of one launch and writes the fixture."""

    def __init__(self, name, grid, block, shared=0):
        self.name, self.grid, self.block, self.shared, self.args, self.files = name, grid, block, shared, [], {}

    def input(self, dtype, count, salt):
        self.args.append({"in": dtype, "count": int(count), "salt": salt})
        return values(dtype, count, salt)

    def output(self, dtype, expected, atol=0.0, rtol=0.0, start=None):
        """`expected` is compared; `start` (a salt) makes it an in-out argument, zeros if "zero"."""
        expected = np.asarray(expected)
        file = f"{self.name}.{len(self.args)}.npy"
        arg = {"out": dtype, "count": int(expected.size), "expected": file, "atol": atol, "rtol": rtol}
        if start is not None:
            arg["start"] = start
        if dtype == "bf16":
            stored = round_bf16(expected).view(np.uint32) >> 16
            stored = stored.astype(np.uint16)
        else:
            stored = expected.astype(DTYPES[dtype])
        self.files[file] = stored.reshape(-1)
        self.args.append(arg)

    def scalar(self, kind, value):
        self.args.append({kind: value})

    def scratch(self, size):
        self.args.append({"scratch": size})

    def null(self):
        self.args.append({"null": True})

    def write(self, folder, ptx, entry):
        folder = pathlib.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{self.name}.ptx").write_text(strip(ptx))
        manifest = {"entry": entry, "grid": self.grid, "block": self.block, "shared": self.shared, "args": self.args}
        text = json.dumps(manifest, indent=1)
        text = re.sub(r"\{\s+([^{}\[\]]*?)\s+\}", lambda m: "{" + re.sub(r"\s*\n\s*", " ", m.group(1)) + "}", text)
        text = re.sub(r"\[\s+(\d+),\s+(\d+),\s+(\d+)\s+\]", r"[\1, \2, \3]", text)
        (folder / f"{self.name}.json").write_text(text + "\n")
        for file, array in self.files.items():
            np.save(folder / file, array)
