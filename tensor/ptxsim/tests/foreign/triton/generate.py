"""Compiles Triton kernels for cuda:80 (no GPU needed) and computes what they must give with NumPy.

    python generate.py [FOLDER]      # default: this folder; needs triton 3.x and numpy
"""
import pathlib
import sys

import numpy as np
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from fixture import Case, round_bf16  # noqa: E402

OUT = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else HERE
ONLY = sys.argv[2:]


def compile_kernel(fn, signature, constants, warps=4, stages=3):
    names = list(signature) + list(constants)
    full = {n: signature.get(n, "constexpr") for n in fn.arg_names}
    assert set(names) == set(fn.arg_names), (names, fn.arg_names)
    order = fn.arg_names
    aligned = {(order.index(n),): [["tt.divisibility", 16]] for n, t in signature.items() if t[0] == "*" or n.startswith("stride") or (fn is matmul and n in "KN")}
    source = ASTSource(fn=fn, signature=full, constexprs={(order.index(n),): v for n, v in constants.items()}, attrs=aligned)
    return triton.compile(source, target=GPUTarget("cuda", 80, 32), options={"num_warps": warps, "num_stages": stages})


def finish(case, kernel):
    """Triton appends two pointers (global and profile scratch) to every kernel."""
    case.null()
    case.null()
    case.shared = kernel.metadata.shared
    case.block = [32 * kernel.metadata.num_warps, 1, 1]
    case.write(OUT, kernel.asm["ptx"], kernel.metadata.name)


CASES = []


def case(f):
    if not ONLY or f.__name__ in ONLY:
        CASES.append(f)
    return f


@triton.jit
def matmul(a, b, c, M, N, K, stride_a, stride_b, stride_c, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
           BT: tl.constexpr):
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    columns = tl.program_id(1) * BN + tl.arange(0, BN)
    k = tl.arange(0, BK)
    total = tl.zeros((BM, BN), dtype=tl.float32)
    for start in range(0, K, BK):
        x = tl.load(a + rows[:, None] * stride_a + (start + k)[None, :], mask=(rows[:, None] < M) & (start + k < K)[None, :], other=0.0)
        if BT:
            p = b + columns[None, :] * stride_b + (start + k)[:, None]
        else:
            p = b + (start + k)[:, None] * stride_b + columns[None, :]
        y = tl.load(p, mask=(columns[None, :] < N) & (start + k < K)[:, None], other=0.0)
        total += tl.dot(x, y)
    tl.store(c + rows[:, None] * stride_c + columns[None, :], total.to(c.dtype.element_ty), mask=(rows[:, None] < M) & (columns[None, :] < N))


def matmul_case(name, dtype, triton_dtype, transposed, out="f32", tile=(32, 32, 32), warps=2, stages=3, atol=1e-5):
    m, n, k = 45, 48, 112
    signature = {"a": f"*{triton_dtype}", "b": f"*{triton_dtype}", "c": {"f32": "*fp32", "f16": "*fp16", "bf16": "*bf16", "i32": "*i32"}[out],
                 "M": "i32", "N": "i32", "K": "i32", "stride_a": "i32", "stride_b": "i32", "stride_c": "i32"}
    kernel = compile_kernel(matmul, signature, {"BM": tile[0], "BN": tile[1], "BK": tile[2], "BT": transposed}, warps, stages)
    c = Case(name, [-(-m // tile[0]), -(-n // tile[1]), 1], None)
    a = c.input(dtype, m * k, 1).astype(np.float64).reshape(m, k)
    b = c.input(dtype, n * k, 2).astype(np.float64)
    b = b.reshape(n, k).T if transposed else b.reshape(k, n)
    c.output(out, a @ b, atol=atol, rtol=1e-2 if out in ("bf16", "f16") else 1e-5)
    for value in (m, n, k, k, k if transposed else n, n):
        c.scalar("i32", value)
    finish(c, kernel)


@case
def matmul_bf16():
    matmul_case("matmul_bf16", "bf16", "bf16", False, "bf16")


@case
def matmul_f16_transposed():
    matmul_case("matmul_f16_transposed", "f16", "fp16", True, "f16", stages=4)


@triton.jit
def dot_int8(a, b, c, K: tl.constexpr, N: tl.constexpr):
    i, j, k = tl.arange(0, 32), tl.arange(0, N), tl.arange(0, K)
    x = tl.load(a + i[:, None] * K + k[None, :])
    y = tl.load(b + j[None, :] * K + k[:, None])
    tl.store(c + i[:, None] * N + j[None, :], tl.dot(x, y, out_dtype=tl.int32))


@case
def matmul_int8():
    kernel = compile_kernel(dot_int8, {"a": "*i8", "b": "*i8", "c": "*i32"}, {"K": 64, "N": 32}, 2)
    c = Case("matmul_int8", [1, 1, 1], None)
    a = c.input("i8", 32 * 64, 3).astype(np.int64).reshape(32, 64)
    b = c.input("i8", 32 * 64, 4).astype(np.int64).reshape(32, 64).T
    c.output("i32", a @ b)
    finish(c, kernel)


@triton.jit
def dot_tf32(a, b, c):
    i, k = tl.arange(0, 32), tl.arange(0, 16)
    x = tl.load(a + i[:, None] * 16 + k[None, :])
    y = tl.load(b + k[:, None] * 32 + i[None, :])
    tl.store(c + i[:, None] * 32 + i[None, :], tl.dot(x, y, input_precision="tf32"))


@case
def matmul_tf32():
    kernel = compile_kernel(dot_tf32, {"a": "*fp32", "b": "*fp32", "c": "*fp32"}, {}, 1)
    c = Case("matmul_tf32", [1, 1, 1], None)
    a = c.input("f32", 32 * 16, 3).astype(np.float64).reshape(32, 16)
    b = c.input("f32", 16 * 32, 4).astype(np.float64).reshape(16, 32)
    c.output("f32", a @ b, atol=1e-5, rtol=1e-5)  # eleven-bit inputs are exact in tf32
    finish(c, kernel)


@triton.jit
def softmax_rows(out, x, columns, stride, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    i = tl.arange(0, BLOCK)
    v = tl.load(x + row * stride + i, mask=i < columns, other=-float("inf"))
    v = v - tl.max(v, axis=0)
    e = tl.exp(v)
    tl.store(out + row * stride + i, e / tl.sum(e, axis=0), mask=i < columns)


@case
def softmax():
    rows, columns = 3, 200
    kernel = compile_kernel(softmax_rows, {"out": "*fp32", "x": "*fp32", "columns": "i32", "stride": "i32"}, {"BLOCK": 256})
    c = Case("softmax", [rows, 1, 1], None)
    from fixture import values
    x = values("f32", rows * columns, 5).astype(np.float64).reshape(rows, columns)
    e = np.exp(x - x.max(1, keepdims=True))
    c.output("f32", e / e.sum(1, keepdims=True), atol=1e-8, rtol=1e-5)
    c.input("f32", rows * columns, 5)
    c.scalar("i32", columns)
    c.scalar("i32", columns)
    finish(c, kernel)


@triton.jit
def layer_norm_rows(x, y, w, b, mean, rstd, stride, N, eps, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    x += row * stride
    y += row * stride
    total = tl.zeros([BLOCK], dtype=tl.float32)
    for start in range(0, N, BLOCK):
        i = start + tl.arange(0, BLOCK)
        total += tl.load(x + i, mask=i < N, other=0.0).to(tl.float32)
    m = tl.sum(total, axis=0) / N
    total = tl.zeros([BLOCK], dtype=tl.float32)
    for start in range(0, N, BLOCK):
        i = start + tl.arange(0, BLOCK)
        d = tl.where(i < N, tl.load(x + i, mask=i < N, other=0.0).to(tl.float32) - m, 0.0)
        total += d * d
    r = 1 / tl.sqrt(tl.sum(total, axis=0) / N + eps)
    tl.store(mean + row, m)
    tl.store(rstd + row, r)
    for start in range(0, N, BLOCK):
        i = start + tl.arange(0, BLOCK)
        mask = i < N
        v = (tl.load(x + i, mask=mask, other=0.0).to(tl.float32) - m) * r
        tl.store(y + i, (v * tl.load(w + i, mask=mask) + tl.load(b + i, mask=mask)).to(tl.float16), mask=mask)


@case
def layer_norm():
    rows, n = 4, 300
    kernel = compile_kernel(layer_norm_rows, {"x": "*fp16", "y": "*fp16", "w": "*fp32", "b": "*fp32", "mean": "*fp32", "rstd": "*fp32",
                                              "stride": "i32", "N": "i32", "eps": "fp32"}, {"BLOCK": 128}, 2)
    c = Case("layer_norm", [rows, 1, 1], None)
    x = c.input("f16", rows * n, 6).astype(np.float64).reshape(rows, n)
    from fixture import values
    w, b = values("f32", n, 7).astype(np.float64), values("f32", n, 8).astype(np.float64)
    m = x.mean(1, keepdims=True)
    r = 1 / np.sqrt(((x - m) ** 2).mean(1, keepdims=True) + 1e-5)
    c.output("f16", (x - m) * r * w + b, atol=1e-3, rtol=1e-3)
    c.input("f32", n, 7)
    c.input("f32", n, 8)
    c.output("f32", m, atol=1e-6)
    c.output("f32", r, rtol=1e-5)
    c.scalar("i32", n)
    c.scalar("i32", n)
    c.scalar("f32", 1e-5)
    finish(c, kernel)


@triton.jit
def attention(q, k, v, o, N, scale, stride_h, BM: tl.constexpr, BN: tl.constexpr, D: tl.constexpr):
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    head = tl.program_id(1) * stride_h
    d = tl.arange(0, D)
    x = tl.load(q + head + rows[:, None] * D + d[None, :], mask=rows[:, None] < N, other=0.0)
    top = tl.full([BM], -float("inf"), tl.float32)
    total = tl.zeros([BM], tl.float32)
    out = tl.zeros([BM, D], tl.float32)
    for start in range(0, tl.minimum(N, (tl.program_id(0) + 1) * BM), BN):
        columns = start + tl.arange(0, BN)
        y = tl.load(k + head + columns[None, :] * D + d[:, None], mask=columns[None, :] < N, other=0.0)
        s = tl.dot(x, y) * scale
        s = tl.where((rows[:, None] >= columns[None, :]) & (columns[None, :] < N), s, -float("inf"))
        new = tl.maximum(top, tl.max(s, 1))
        p = tl.exp2(s - new[:, None])
        alpha = tl.exp2(top - new)
        total = total * alpha + tl.sum(p, 1)
        z = tl.load(v + head + columns[:, None] * D + d[None, :], mask=columns[:, None] < N, other=0.0)
        out = out * alpha[:, None] + tl.dot(p.to(z.dtype), z)
        top = new
    tl.store(o + head + rows[:, None] * D + d[None, :], (out / total[:, None]).to(tl.float16), mask=rows[:, None] < N)


@case
def flash_attention():
    heads, n, dim = 2, 50, 32
    kernel = compile_kernel(attention, {"q": "*fp16", "k": "*fp16", "v": "*fp16", "o": "*fp16", "N": "i32", "scale": "fp32", "stride_h": "i32"},
                            {"BM": 32, "BN": 32, "D": dim}, 2, 3)
    c = Case("flash_attention", [-(-n // 32), heads, 1], None)
    q, k, v = (c.input("f16", heads * n * dim, s).astype(np.float64).reshape(heads, n, dim) for s in (9, 10, 11))
    s = q @ k.transpose(0, 2, 1) / np.sqrt(dim)
    s = np.where(np.tril(np.ones((n, n), bool)), s, -np.inf)
    p = np.exp(s - s.max(-1, keepdims=True))
    c.output("f16", p / p.sum(-1, keepdims=True) @ v, atol=2e-3, rtol=2e-3)
    c.scalar("i32", n)
    c.scalar("f32", float(np.float32(1.4426950408889634 / np.sqrt(dim))))
    c.scalar("i32", n * dim)
    finish(c, kernel)


@triton.jit
def atomics_kernel(x, bins, total, top, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    v = tl.load(x + i, mask=i < n, other=0)
    tl.atomic_add(bins + (v & 15), 1, mask=i < n)
    tl.atomic_add(total, tl.sum(v.to(tl.float32), axis=0))
    tl.atomic_max(top, tl.max(v, axis=0))


@case
def atomics():
    n = 500
    kernel = compile_kernel(atomics_kernel, {"x": "*i32", "bins": "*i32", "total": "*fp32", "top": "*i32", "n": "i32"}, {"BLOCK": 128})
    c = Case("atomics", [4, 1, 1], None)
    x = c.input("i32", n, 12)
    c.output("i32", np.bincount(x & 15, minlength=16), start="zero")
    c.output("f32", [x.sum()], start="zero")
    c.output("i32", [x.max()], start="zero")
    c.scalar("i32", n)
    finish(c, kernel)


@triton.jit
def scan_sort(x, sums, sorted_, best, product, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    v = tl.load(x + i)
    tl.store(sums + i, tl.cumsum(v, axis=0))
    tl.store(sorted_ + i, tl.sort(v))
    tl.store(best, tl.argmax(v, axis=0))
    tl.store(best + 1, tl.argmin(v, axis=0))
    tl.store(product + i, tl.cumprod(1.0 + v.to(tl.float32) * 0.001, axis=0))


@case
def scans():
    n = 128
    kernel = compile_kernel(scan_sort, {"x": "*i32", "sums": "*i32", "sorted_": "*i32", "best": "*i32", "product": "*fp32"}, {"BLOCK": n}, 2)
    c = Case("scans", [1, 1, 1], None)
    x = c.input("i32", n, 13)
    c.output("i32", np.cumsum(x))
    c.output("i32", np.sort(x))
    c.output("i32", [x.argmax(), x.argmin()])
    c.output("f32", np.cumprod(1 + x.astype(np.float64) * 0.001), rtol=1e-5)
    finish(c, kernel)


for f in CASES:
    f()
    print(f.__name__)
