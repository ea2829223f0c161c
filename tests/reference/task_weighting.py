"""Golden values for train/src/weighting: the papers' formulas once more, in NumPy and PyTorch.

    python tests/reference/task_weighting.py > tests/fixtures/weighting/task_weighting.json

Each method is written here from its paper and with other means than in the program: gradients by autograd,
steps by torch.optim.Adam, slopes by numpy.polyfit, PCGrad on whole vectors. `losses` holds three tasks' losses
for 30 steps, null where a task was absent; an entry of `weights` is what a method answers after that step,
scaled to a mean of 1.
"""

import json

import numpy as np
import torch

STEPS, TASKS = 30, 3


def series(rng, gaps):
    steps = np.arange(STEPS)
    curves = [
        0.4 + 2.6 * np.exp(-steps / 8),  # falls fast
        2.1 + 0.9 * np.exp(-steps / 25),  # falls slowly
        1.2 + 0.02 * np.maximum(0, steps - 14) - 0.02 * np.minimum(steps, 14),  # turns round and rises
    ]
    losses = np.stack(curves, axis=1) * (1 + 0.05 * rng.standard_normal((STEPS, TASKS)))
    rows = [[round(float(x), 4) for x in row] for row in losses]
    if gaps:
        for step, task in [(0, 1), (3, 0), (4, 2), (5, 2), (17, 1), (18, 0), (18, 1)]:
            rows[step][task] = None
    return rows


def mean_one(weights):
    weights = np.asarray(weights, dtype=np.float64)
    return weights / weights.mean()


def uncertainty(losses, lr=0.01):
    """Kendall et al., eq. 10: sum exp(-s) L + s / 2, each s with an Adam of its own."""
    s = [torch.zeros((), dtype=torch.float64, requires_grad=True) for _ in range(TASKS)]
    adam = [torch.optim.Adam([x], lr=lr) for x in s]
    for row in losses:
        for x, optimizer, loss in zip(s, adam, row):
            if loss is not None:
                optimizer.zero_grad()
                (torch.exp(-x) * loss + x / 2).backward()
                optimizer.step()
        yield mean_one([torch.exp(-x).item() for x in s])


def block_means(losses, window):
    """After each step: the means of the whole blocks so far, by task, over the steps that had it."""
    means = [[] for _ in range(TASKS)]
    for step in range(1, STEPS + 1):
        if step % window == 0:
            for task in range(TASKS):
                block = [row[task] for row in losses[step - window : step] if row[task] is not None]
                if block:
                    means[task].append(np.mean(block))
        yield means


def dwa(losses, window, temperature=2.0):
    """Liu et al. 2019, eq. 7."""
    for means in block_means(losses, window):
        r = np.array([m[-1] / m[-2] if len(m) > 1 else 1.0 for m in means])
        powers = np.exp(r / temperature)
        yield TASKS * powers / powers.sum()


def loss_rate(losses, window, temperature=1.0):
    for means in block_means(losses, window):
        falls = np.array([max(0.0, 1 - m[-1] / m[-2]) if len(m) > 1 else np.nan for m in means])
        mean = 0.0 if np.isnan(falls).all() else np.nanmean(falls)
        if mean <= 0:
            yield np.ones(TASKS)
            continue
        falls = np.where(np.isnan(falls), mean, falls)
        yield mean_one((mean / (falls + mean)) ** (1 / temperature))


def famo_step(logits, adam, before, after):
    """One step on the logits along the softmax's Jacobian times the change of the log-losses."""
    z = torch.softmax(logits, -1)
    known = [i for i in range(TASKS) if before[i] is not None and after[i] is not None]
    if not known:
        return
    change = {i: np.log(before[i] + 1e-8) - np.log(after[i] + 1e-8) for i in known}
    share = z.detach().numpy()
    typical = sum(share[i] * change[i] for i in known) / sum(share[i] for i in known)
    delta = torch.tensor([change.get(i, typical) for i in range(TASKS)], dtype=torch.float64)
    (gradient,) = torch.autograd.grad(z, logits, grad_outputs=delta)
    adam.zero_grad()
    logits.grad = gradient
    adam.step()


def famo_weights(logits, losses):
    known = [x for x in losses if x is not None]
    filled = np.array([np.mean(known) if x is None else x for x in losses])
    return mean_one(torch.softmax(logits, -1).detach().numpy() / (filled + 1e-8))


def famo(losses, lr=0.025):
    """Liu et al. 2023, amortised: the next step's losses stand for those after the update."""
    logits = torch.zeros(TASKS, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([logits], lr=lr, weight_decay=0.01)
    last = [None] * TASKS
    for row in losses:
        famo_step(logits, adam, last, row)
        last = [old if new is None else new for old, new in zip(last, row)]
        yield famo_weights(logits, last)


def famo_reevaluated(before, after, lr=0.025):
    """The authors' loop: the weights from the losses before the update, the logits from both."""
    logits = torch.zeros(TASKS, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([logits], lr=lr, weight_decay=0.01)
    for old, new in zip(before, after):
        yield famo_weights(logits, old)
        famo_step(logits, adam, old, new)


def softmax(x):
    powers = np.exp(x - x.max())
    return powers / powers.sum()


def coba(losses, window, warmup, temperature=5.0):
    """Gong et al. 2024, eq. 2 to 5."""
    ratios = np.array(losses) / np.array(losses[0])
    slopes, steepest = [], []
    weights = np.full(TASKS, 1 / TASKS)
    for t in range(STEPS):
        if t >= warmup:
            recent = ratios[max(0, t + 1 - window) : t + 1]
            now = np.polyfit(np.arange(len(recent)), recent, 1)[0]
            slopes.append(now)
            steepest.append(now.max())
            rcs = softmax(TASKS * now / np.abs(now).sum())
            span = np.array(slopes[-window:])
            acs = softmax(-len(span) * now / np.abs(span).sum(axis=0))
            n, all_steepest = len(steepest), np.array(steepest)
            df = min(n * softmax(-temperature * n * all_steepest / np.abs(all_steepest).sum())[-1], 1)
            weights = df * rcs + (1 - df) * acs
        yield mean_one(weights)


def pcgrad(rng):
    """Yu et al., algorithm 1, on whole vectors."""
    for tasks, size in [(2, 5), (3, 4), (4, 6)]:
        gradients = np.round(rng.standard_normal((tasks, size)), 3)
        orders = [[int(j) for j in rng.permutation([j for j in range(tasks) if j != i])] for i in range(tasks)]
        projected = torch.tensor(gradients)
        for i, order in enumerate(orders):
            for j in order:
                other = torch.tensor(gradients[j])
                product = projected[i] @ other
                if product < 0:
                    projected[i] -= product / (other @ other) * other
        yield {
            "gradients": gradients.tolist(),
            "orders": orders,
            "sum": [round(x, 9) for x in projected.sum(0).tolist()],
        }


def main():
    rng = np.random.default_rng(11)
    full, gaps = series(rng, False), series(rng, True)
    after = [[round(x * f, 4) for x, f in zip(row, (0.97, 0.995, 1.002))] for row in full]
    weights = {
        "uncertainty": uncertainty(gaps),
        "dwa": dwa(gaps, window=4),
        "loss_rate": loss_rate(gaps, window=5),
        "famo": famo(gaps),
        "famo_reevaluated": famo_reevaluated(full, after),
        "coba": coba(full, window=6, warmup=3),
    }
    golden = {
        "losses": full,
        "losses_with_gaps": gaps,
        "losses_after": after,
        "weights": {name: [[round(float(w), 8) for w in row] for row in rows] for name, rows in weights.items()},
        "pcgrad": list(pcgrad(rng)),
    }
    print(json.dumps(golden, separators=(",", ":")))


if __name__ == "__main__":
    main()
