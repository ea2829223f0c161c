"""How long PyTorch and bitsandbytes take on this machine's GPU for what `gpu-verify` times.

    python benches/peers/gpu_peers.py

One JSON object a line: {"name", "ms", "flops"}, or {"name", "skipped"} with the reason. `gpu-verify` runs it and
prints its lines below its own tables; the shapes are those of cli/gpu_verify/bench.rs.
"""

from __future__ import annotations

import json
import statistics


def report(**entry: object) -> None:
    print(json.dumps(entry), flush=True)


def median_ms(torch, run, budget_ms: float = 500.0) -> float:
    for _ in range(3):
        run()
    torch.cuda.synchronize()
    times: list[float] = []
    while len(times) < 5 or (sum(times) < budget_ms and len(times) < 1000):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)


def gemms(torch) -> None:
    for m in (1, 16, 256, 4096):
        for n, k in ((4096, 4096), (11008, 4096), (4096, 11008)):
            x = torch.randn(m, k, device="cuda", dtype=torch.bfloat16)
            w = torch.randn(n, k, device="cuda", dtype=torch.bfloat16)
            ms = median_ms(torch, lambda: torch.nn.functional.linear(x, w))
            report(name=f"torch linear bf16 {m}×{n}×{k}", ms=ms, flops=2 * m * n * k)


def four_bit(torch) -> None:
    try:
        import bitsandbytes as bnb
        from bitsandbytes import functional
    except ImportError as error:
        report(name="bitsandbytes", skipped=str(error))
        return
    for n, k in ((4096, 4096), (11008, 4096), (4096, 11008)):
        weight = torch.randn(n, k, device="cuda", dtype=torch.bfloat16)
        packed, state = functional.quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
        ms = median_ms(torch, lambda: functional.dequantize_4bit(packed, state))
        report(name=f"bitsandbytes {bnb.__version__} dequantize nf4 {n}×{k}", ms=ms)
        for m in (1, 16, 256, 4096):
            x = torch.randn(m, k, device="cuda", dtype=torch.bfloat16)
            ms = median_ms(torch, lambda: bnb.matmul_4bit(x, packed.t(), quant_state=state))
            report(name=f"bitsandbytes {bnb.__version__} matmul nf4 {m}×{n}×{k}", ms=ms, flops=2 * m * n * k)


def attention(torch) -> None:
    for length in (2048, 4096):
        q, k, v = (
            torch.randn(1, 32, length, 128, device="cuda", dtype=torch.bfloat16, requires_grad=True)
            for _ in range(3)
        )
        upstream = torch.randn_like(q)
        pairs = length * (length + 1) // 2

        def forward():
            return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)

        def both():
            forward().backward(upstream)

        ms = median_ms(torch, forward)
        report(name=f"torch attention forward {length}×32×128", ms=ms, flops=2 * 2 * pairs * 4096)
        ms = median_ms(torch, both)
        report(name=f"torch attention forward and backward {length}×32×128", ms=ms, flops=7 * 2 * pairs * 4096)


def main() -> None:
    try:
        import torch
    except ImportError as error:
        report(name="torch", skipped=str(error))
        return
    if not torch.cuda.is_available():
        report(name="torch", skipped=f"torch {torch.__version__} finds no CUDA device")
        return
    for part in (gemms, four_bit, attention):
        try:
            part(torch)
        except Exception as error:  # one part that fails (memory, an old version) must not cost the others
            report(name=f"torch {part.__name__}", skipped=f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
