"""Defenses, those who know them, and what they cost: figures of docs/defenses.md.

`python benchmarks/defenses.py [name ...]` prints JSON lines, then a table; without names, all.
"""

import dataclasses
import itertools
import json
import math
from collections.abc import Iterator

import numpy as np
import torch
from parts import Row, printed
from torch import Tensor
from torch.nn.functional import cross_entropy

from seepage import (
    DPSGD,
    Adaptive,
    Batch,
    Client,
    Dropout,
    FedSGD,
    Images,
    InstaHide,
    MixUp,
    Model,
    Noise,
    Prune,
    Quantize,
    Sign,
    Soteria,
    observe,
    stream,
    tradeoffs,
    zoo,
)
from seepage.analysis import bounds, utility
from seepage.attacks.adaptive.attack import ways
from seepage.defenses.precode import precode
from seepage.guard import dp

FORM = Images((1, 8, 8), 10)


def robustness() -> Iterator[Row]:
    """Acceptance 1 and 3: ceilings, the optimal attacker, and Monte Carlo."""
    yield "ReRo, M=100, z=1: bound", f"{bounds.rero(0.01, 1.0).value:.5f}"
    yield "optimum on orthogonal candidates", f"{bounds.optimal_naming(100, 1.0):.5f}"
    random, right, draws = np.random.default_rng(1), 0, 2_000_000
    for _ in range(draws // 100_000):
        seen = random.standard_normal((100_000, 100), dtype=np.float32)
        seen[:, 0] += 1
        right += int((seen.argmax(1) == 0).sum())
    yield "the same by 2e6 draws", f"{right / draws:.5f}"
    for rate, rounds in ((0.01, 100), (0.05, 200)):
        for kappa in (0.1, 0.01):
            exact = bounds.rero(kappa, 1.0, rounds, rate).value
            drawn = bounds.drawn(kappa, 1.0, rounds, rate, 200_000, 1)
            got = f"{exact:.4f} (drawn {drawn.interval[0]:.4f}, certified {drawn.value:.4f})"
            yield f"ReRo, q={rate}, T={rounds}, kappa={kappa}", got


def flower() -> Iterator[Row]:
    """Acceptance 2: what Flower's formula declares beside what holds."""
    for row in dp.flower_table():
        got = f"tight {row['tight']} (2C: {row['tight_replace']}), std {row['std']} needs "
        yield f"Flower, declared {row['declared']:g}", got + f"{row['std_needed']}"
    yield (
        "the claim is false above (C, 2C)",
        f"{dp.false_above():.2f}, {dp.false_above(factor=2):.4f}",
    )


SETTINGS: dict[str, tuple[Client, tuple[int, ...]]] = {
    "Prune .9": (Prune(FedSGD(), 0.9), (64, 128, 10)),
    "Prune .99": (Prune(FedSGD(), 0.99), (64, 128, 10)),
    "Quantize 2": (Quantize(FedSGD(), 2), (64, 128, 10)),
    "entry dropout .1": (Dropout(FedSGD(), 0.1, "entries"), (64, 128, 10)),
    "unit dropout .5": (Dropout(FedSGD(), 0.5), (64, 128, 64, 10)),
    "Soteria .5": (Soteria(FedSGD(), share=0.5), (64, 128, 64, 10)),
    "Sign": (Sign(FedSGD()), (64, 128, 10)),
    "Noise relative .1": (Noise(FedSGD(), 0.1, relative=True), (64, 128, 10)),
    "Noise relative 1": (Noise(FedSGD(), 1.0, relative=True), (64, 128, 10)),
}


def adaptive(n: int = 1, steps: int = 300, seeds: int = 6) -> Iterator[Row]:
    """Acceptance 4: mean PSNR of each way around each defense, digits at init, labels told."""
    for name, (client, sizes) in SETTINGS.items():
        found: dict[str, list[float]] = {}
        for seed in range(100, 100 + seeds):
            for way, decibels in attacked(client, sizes, seed, (n, steps)):
                found.setdefault(way, []).append(decibels)
        got = {way: round(sum(psnr) / len(psnr), 1) for way, psnr in found.items()}
        yield f"{name}, n={n}", json.dumps(got)


def attacked(
    client: Client, sizes: tuple[int, ...], seed: int, how: tuple[int, int]
) -> Iterator[tuple[str, float]]:
    """Every way, and at last the one of the lowest residual."""
    n, steps = how
    sample = zoo.digits(n, seed=seed)
    model = sample.model(zoo.mlp(*sizes, activation="tanh", seed=seed))
    tell = ("n", "y")
    seen = observe(model, sample.batch, client, stream(seed, "client"), tell=tell)
    inner, chosen = dataclasses.replace(Adaptive().inner, steps=steps), (math.inf, 0.0)
    for way in ways(seen):
        answer = Adaptive(inner, (way.name,))(seen, stream(seed, "attack"))
        psnr = -10 * (answer.x - sample.x).square().flatten(1).mean(1).log10()
        yield way.name, float(psnr.mean())
        chosen = min(chosen, (float(answer.residual[0]), float(psnr.mean())))
    yield "chosen", chosen[1]


def mixtures(seeds: int = 3) -> Iterator[Row]:
    """MixUp and InstaHide of digits with different labels: blind, and taken apart."""
    for (name, make), n in itertools.product((("MixUp", MixUp), ("InstaHide", InstaHide)), (2, 4)):
        found: dict[str, list[float]] = {"blind": [], "unmix": []}
        for seed in range(300, 300 + seeds):
            batch = different(n, seed)
            module = zoo.mlp(64, 128, 10, activation="tanh", seed=seed)
            model, rng = Model.of(module, cross_entropy, FORM), stream(seed, "client")
            seen = observe(model, batch, make(FedSGD(), k=2), rng, tell=("n", "y"))
            for way in found:
                answer = Adaptive(only=(way,))(seen, stream(seed, "attack"))
                found[way] += mse_decibels(answer.x, batch.x)
        said = {way: f"{np.mean(psnr):.1f} (least {min(psnr):.1f})" for way, psnr in found.items()}
        yield f"{name} k=2, n={n}", json.dumps(said)


def different(n: int, seed: int) -> Batch:
    """Digits of different classes."""
    batch = zoo.digits(200, seed=seed).batch
    y = [int(label) for label in batch.target]
    return batch[torch.tensor([y.index(label) for label in list(dict.fromkeys(y))[:n]])]


def mse_decibels(x: Tensor, truth: Tensor) -> list[float]:
    """The PSNR of each example, in its own place."""
    found: list[float] = (-10 * (x - truth).square().flatten(1).mean(1).log10()).tolist()
    return found


def bottleneck(seeds: int = 6) -> Iterator[Row]:
    """PRECODE on a network without biases: blind, its layers left out, its encoder read."""
    found: dict[str, list[float]] = {}
    for seed in range(100, 100 + seeds):
        sample = zoo.digits(1, seed=seed)
        plain = sample.model(zoo.mlp(64, 128, 64, 10, activation="tanh", bias=False, seed=seed))
        for name, model in (("undefended", plain), ("precode", precode(plain, code=32))):
            rng = stream(seed, "client")
            seen = observe(model, sample.batch, FedSGD("train"), rng, tell=("n", "y"))
            for way in ways(seen):
                answer = Adaptive(only=(way.name,))(seen, stream(seed, "attack"))
                label = name if name == "undefended" else way.name
                found.setdefault(label, []).extend(mse_decibels(answer.x, sample.x))
    yield "PRECODE, n=1", json.dumps({way: round(float(np.mean(v)), 1) for way, v in found.items()})


def batch_of_four() -> Iterator[Row]:
    """The same at n=4, 500 steps, for pruning."""
    yield from (row for row in adaptive(4, 500, 4) if row[0].startswith("Prune .9,"))


CLIENTS: dict[str, Client] = {
    "none": FedSGD(),
    "Noise relative 3": Noise(FedSGD(), 3.0, relative=True),
    "Prune .9": Prune(FedSGD(), 0.9),
    "Prune .99": Prune(FedSGD(), 0.99),
    "Sign": Sign(FedSGD()),
    "Quantize 2": Quantize(FedSGD(), 2),
    "unit dropout .5": Dropout(FedSGD(), 0.5),
    **{f"DPSGD C=1, z={z}": DPSGD(1.0, z) for z in (0.1, 0.5, 1.0, 2.0)},
}


def accuracies() -> Iterator[Row]:
    """Section 4: accuracy under each client, its rate tuned, seeds paired."""
    one, two = zoo.digits(898, split="public"), zoo.digits(899)
    data = utility.Splits.of(Batch(torch.cat([one.x, two.x]), torch.cat([one.y, two.y])))
    none = None
    for name, client in CLIENTS.items():
        found = utility.utility(
            client,
            lambda seed: one.model(zoo.mlp(64, 128, 10, activation="tanh", seed=seed)),
            data,
            none=none,
        )
        none = none or found
        low, high = found.interval
        got = f"{found.mean:.3f}, cost {found.loss:.3f} [{low:.3f}, {high:.3f}]"
        yield f"accuracy, {name}", got + (" (edge of the grid)" if found.edge else "")


PRICED: dict[str, Client] = {
    name: CLIENTS[name]
    for name in ("none", "Noise relative 3", "Prune .99", "Sign", "DPSGD C=1, z=1.0")
}


def other_tasks() -> Iterator[Row]:
    """Section 4 on photographs by class, faces, a table, and made-up reviews."""
    for name in ("photos", "faces", "table", "reviews"):
        task, none = tradeoffs.named(name), None
        for label, client in PRICED.items():
            found = utility.utility(client, task.make, task.data, none=none)
            none = none or found
            low, high = found.interval
            spread = f"{min(found.accuracy):.3f} to {max(found.accuracy):.3f}"
            edge = " (edge of the grid)" if found.edge else ""
            cost = f"cost {found.loss:.3f} [{low:.3f}, {high:.3f}]"
            yield f"{name}, {label}", f"{found.mean:.3f} ({spread}), {cost}{edge}"


PARTS = {
    "robustness": robustness,
    "flower": flower,
    "adaptive": adaptive,
    "batch_of_four": batch_of_four,
    "mixtures": mixtures,
    "bottleneck": bottleneck,
    "accuracies": accuracies,
    "other_tasks": other_tasks,
}


if __name__ == "__main__":
    printed(PARTS)
