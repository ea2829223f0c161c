"""Compiles the CUDA C++ of this folder with NVRTC (no GPU needed) and computes the results with NumPy.

    python generate.py CUDA [FOLDER]    # CUDA: a site-packages folder `nvidia` with cuda_nvrtc, cuda_runtime, cuda_nvcc
                                        # and cuda_cccl (wheels nvidia-*-cu12 12.4, cccl 12.9)
"""
import collections
import ctypes
import glob
import pathlib
import re
import sys

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from fixture import Case, values  # noqa: E402

CUDA = pathlib.Path(sys.argv[1])
OUT = pathlib.Path(sys.argv[2]) if len(sys.argv) > 2 else HERE


def nvrtc(file):
    """PTX of a .cu file for compute_80."""
    ctypes.CDLL(glob.glob(f"{CUDA}/cuda_nvrtc/lib/libnvrtc-builtins.so*")[0], mode=ctypes.RTLD_GLOBAL)
    lib = ctypes.CDLL(glob.glob(f"{CUDA}/cuda_nvrtc/lib/libnvrtc.so*")[0])
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    lib.nvrtcCreateProgram(ctypes.byref(program), file.read_bytes(), file.name.encode(), 0, None, None)
    options = ["--gpu-architecture=compute_80", "--std=c++17", "-default-device", f"-I{CUDA}/cuda_cccl/include",
               f"-I{CUDA}/cuda_runtime/include",
               f"-I{CUDA}/cuda_nvcc/include"]
    array = (ctypes.c_char_p * len(options))(*[o.encode() for o in options])
    failed = lib.nvrtcCompileProgram(program, len(options), array)
    lib.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    lib.nvrtcGetProgramLog(program, log)
    if failed:
        sys.exit(log.value.decode())
    lib.nvrtcGetPTXSize(program, ctypes.byref(size))
    text = ctypes.create_string_buffer(size.value)
    lib.nvrtcGetPTX(program, text)
    return text.value.decode()


def entry(ptx, name):
    """The module with only one of its entries, and without the globals it does not name (CCCL's headers
    define about 1,500)."""
    kept, place = [], 0
    for start in re.finditer(r"^(?:\.visible |\.weak )?\.entry (\w+)", ptx, flags=re.M):
        depth, end = 0, ptx.index("{", start.end())
        while True:
            depth += {"{": 1, "}": -1}.get(ptx[end], 0)
            end += 1
            if depth == 0:
                break
        kept.append(ptx[place:start.start()])
        if start.group(1) == name:
            kept.append(ptx[start.start():end])
        place = end
    text = "".join(kept) + ptx[place:]
    words = collections.Counter(re.findall(r"[\w$]+", text))
    unused = lambda m: "" if words[m.group(1)] == 1 else m.group(0)
    return re.sub(r"^(?:\.weak |\.visible )?\.global [^\n=]*?([\w$]+)(?:\[\d*\])?(?: = [^\n]*)?;\n", unused, text, flags=re.M)


def write(case, ptx):
    case.write(OUT, entry(ptx, case.name), case.name)


def f64(x):
    return np.asarray(x, np.float64)


wmma = nvrtc(HERE / "wmma.cu")
c = Case("wmma_f16", [1, 1, 1], [128, 1, 1])
a, b = f64(c.input("f16", 32 * 48, 1)).reshape(32, 48), f64(c.input("f16", 32 * 48, 2)).reshape(32, 48).T
c.output("f32", (a @ b + 0.5) * 2, atol=1e-5, rtol=1e-5)
write(c, wmma)

c = Case("wmma_bf16_m32n8", [1, 1, 1], [32, 1, 1])
a, b = f64(c.input("bf16", 32 * 16, 3)).reshape(16, 32).T, f64(c.input("bf16", 16 * 8, 4)).reshape(16, 8)
c.output("f32", a @ b + f64(values("f32", 32 * 8, 5)).reshape(32, 8), atol=1e-5, rtol=1e-5, start=5)
write(c, wmma)

c = Case("wmma_tf32", [1, 1, 1], [32, 1, 1])
a, b = f64(c.input("f32", 256, 6)).reshape(16, 16), f64(c.input("f32", 256, 7)).reshape(16, 16)
c.output("f32", (a @ b).T, atol=1e-5, rtol=1e-5)
write(c, wmma)

c = Case("wmma_s8", [1, 1, 1], [32, 1, 1])
a, b = c.input("i8", 8 * 16, 8).astype(int).reshape(8, 16), c.input("i8", 32 * 16, 9).astype(int).reshape(32, 16).T
c.output("i32", a @ b + 1)
write(c, wmma)

c = Case("wmma_f16_sums", [1, 1, 1], [32, 1, 1])
a, b = f64(c.input("f16", 256, 10)).reshape(16, 16), f64(c.input("f16", 256, 11)).reshape(16, 16)
c.output("f16", a @ b, atol=2e-3, rtol=1e-3)
write(c, wmma)

c = Case("wmma_f64", [1, 1, 1], [32, 1, 1])
a, b = c.input("f64", 32, 12).reshape(8, 4), c.input("f64", 32, 13).reshape(8, 4).T
c.output("f64", a @ b + 0.25, atol=1e-14)
write(c, wmma)

groups = nvrtc(HERE / "groups.cu")
c = Case("groups_reduce", [2, 1, 1], [96, 1, 1])
x = f64(c.input("f32", 192, 14))
c.output("f32", x.reshape(24, 8).sum(1), atol=1e-6)
c.output("f32", x.reshape(6, 32).max(1))
c.output("f32", x.reshape(2, 96).sum(1), atol=1e-5)
write(c, groups)

c = Case("groups_compact", [2, 1, 1], [64, 1, 1])
x = c.input("i32", 100, 15)
kept = x[x > 20]
c.output("i32", np.concatenate([np.sort(kept), np.zeros(100 - len(kept), np.int32)]), start="zero")
c.args[-1]["sorted"] = len(kept)
c.output("u32", [len(kept)], start="zero")
c.scalar("i32", 100)
write(c, groups)

c = Case("groups_integers", [1, 1, 1], [64, 1, 1])
x = c.input("i32", 64, 16).astype(np.int64).reshape(2, 32)
total, low = x.sum(1, keepdims=True), x.min(1, keepdims=True)
bits = np.bitwise_xor.reduce(x, axis=1, keepdims=True) & 1
c.output("i32", np.broadcast_to(total + 1000 * low + bits, x.shape))
scan = np.cumsum(x, 1) - x
c.output("i32", scan + 2 * (x > 90).any(1, keepdims=True) + (x > -101).all(1, keepdims=True) + (x > 0).sum(1, keepdims=True))
same = np.array([[(row & 3 == v & 3).sum() for v in row] for row in x])
half = np.array([[((row > 0) == (v > 0)).sum() for v in row] for row in x])
rank = np.array([[((row[:i] > 0) == (v > 0)).sum() for i, v in enumerate(row)] for row in x])
c.output("i32", same * 100 + rank + half * 10000)
write(c, groups)

blocks = nvrtc(HERE / "blocks.cu")
c = Case("blocks_reduce", [3, 1, 1], [128, 1, 1])
x = f64(c.input("f32", 384, 17)).reshape(3, 128)
c.output("f32", x.sum(1), atol=1e-5)
c.output("f32", x.max(1))
write(c, blocks)

c = Case("blocks_scan", [1, 1, 1], [64, 1, 1])
x = c.input("i32", 250, 18).astype(np.int64)
c.output("i32", np.cumsum(x))
c.output("i32", [x[:128].sum(), x[128:].sum()])
write(c, blocks)

c = Case("blocks_sort", [1, 1, 1], [64, 1, 1])
x = c.input("i32", 256, 19)
order = np.argsort(x, kind="stable")
c.output("i32", x[order])
c.output("i32", order)
write(c, blocks)

sync = nvrtc(HERE / "sync.cu")
c = Case("sync_barrier", [1, 1, 1], [64, 1, 1])
x = f64(c.input("f32", 6 * 32, 20)).reshape(6, 32)
c.output("f32", x[:, ::-1])
c.scalar("i32", 6)
write(c, sync)

c = Case("sync_flag", [1, 1, 1], [64, 1, 1])
c.output("i32", c.input("i32", 32, 21)[::-1])
write(c, sync)

c = Case("sync_tile", [1, 1, 1], [128, 1, 1])
x = c.input("i32", 128, 22).astype(np.int64)
c.output("i32", np.repeat(x.reshape(2, 64).sum(1), 64))
write(c, sync)

c = Case("sync_pipeline", [1, 1, 1], [128, 1, 1])
x = f64(c.input("f32", 4 * 128, 23)).reshape(4, 128)
c.output("f32", x[:, ::-1] * 2)
c.scalar("i32", 4)
write(c, sync)
