"""Golden values of the optimizers: Adafactor by transformers, Lion by bitsandbytes. Writes
tests/fixtures/optimizers/steps.safetensors.

Six steps on a matrix [5, 7] and a vector [9] with the gradients of `gradient` below; the learning rate falls from step
to step. The Rust tests make starts and gradients by the same formulas.
"""

import bitsandbytes
import numpy as np
import torch
from fixtures import FIXTURES, save
from transformers.optimization import Adafactor

STEPS = 6
SHAPES = {"matrix": (5, 7), "vector": (9,)}


def start(shape):
    n = int(np.prod(shape))
    return np.sin(np.arange(n) * 1.7).astype(np.float32).reshape(shape)


def gradient(step, shape):
    """Elements between 1e-3 and 3 in size; one is zero at every step."""
    i = np.arange(int(np.prod(shape)), dtype=np.float64)
    g = np.cos(step + i * 0.9) * (0.001 + (i % 4))
    g[2] = 0.0
    return g.astype(np.float32).reshape(shape)


def lr(step):
    return 1e-2 * (1.0 - step / 10)


def adafactor(weight_decay):
    params = {name: torch.nn.Parameter(torch.from_numpy(start(shape))) for name, shape in SHAPES.items()}
    # What the Hugging Face Trainer passes for `optim: adafactor`.
    optimizer = Adafactor(params.values(), lr=lr(0), scale_parameter=False, relative_step=False, weight_decay=weight_decay)
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = lr(step)
        for name, p in params.items():
            p.grad = torch.from_numpy(gradient(step, SHAPES[name]))
        optimizer.step()
    out = {name: p.detach().numpy() for name, p in params.items()}
    state = {name: optimizer.state[p] for name, p in params.items()}
    out["row"] = state["matrix"]["exp_avg_sq_row"].numpy()
    out["col"] = state["matrix"]["exp_avg_sq_col"].numpy()
    out["v"] = state["vector"]["exp_avg_sq"].numpy()
    return out


def lion(weight_decay):
    params = {name: torch.nn.Parameter(torch.from_numpy(start(shape))) for name, shape in SHAPES.items()}
    optimizer = bitsandbytes.optim.Lion(
        params.values(), lr=lr(0), betas=(0.9, 0.99), weight_decay=weight_decay, optim_bits=32
    )
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = lr(step)
        for name, p in params.items():
            p.grad = torch.from_numpy(gradient(step, SHAPES[name]))
        optimizer.step()
    out = {name: p.detach().numpy() for name, p in params.items()}
    return out | {f"{name}_m": optimizer.state[p]["state1"].numpy() for name, p in params.items()}


def main():
    tensors = {}
    for weight_decay in (0.0, 0.1):
        for optimizer, values in (("adafactor", adafactor(weight_decay)), ("lion", lion(weight_decay))):
            tensors |= {f"{optimizer}/{weight_decay}/{name}": v for name, v in values.items()}
    save(FIXTURES / "optimizers" / "steps.safetensors", tensors, bitsandbytes=bitsandbytes.__version__)


if __name__ == "__main__":
    main()
