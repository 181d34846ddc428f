"""How well BiasRatio recovers, setting by setting: prints a JSON line each, then a table.

python benchmarks/bias_ratio.py [--quick]     (quick: 32x32 crops and digits only)
"""

import dataclasses
import json
import sys
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from seepage import zoo
from seepage.attacks import BiasRatio
from seepage.clients import FedAvg, FedSGD, SecureSum
from seepage.core import Batch, Client, observe, stream
from seepage.defenses import Clip, Noise, Prune
from seepage.metrics.score import Context, score

PAPER = BiasRatio(absent=False, rounds=0)
ABSENT = BiasRatio(rounds=0)
PLAIN = FedSGD()
COLUMNS = (
    "what",
    "attack",
    "seed",
    "mean_psnr",
    "min_psnr",
    "over_20",
    "over_60",
    "n",
    "certified",
)


def main() -> None:
    rows = []
    for row in settings("--quick" in sys.argv):
        print(json.dumps(row), flush=True)
        rows.append(row)
    cells = [COLUMNS, *([str(row[name]) for name in COLUMNS] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(COLUMNS))]
    for line in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)))


def settings(quick: bool) -> Iterator[dict[str, Any]]:
    for seed in range(5):
        net = zoo.mlp(64, 32, 10, activation="tanh", seed=seed)
        yield measured("digits, tanh MLP, n=1", zoo.digits(1, seed=seed), net, BiasRatio(), seed)
    yield from classifiers(32, (0, 1), (PAPER, ABSENT, BiasRatio()))
    yield from clients()
    yield from batches()
    if not quick:
        yield from classifiers(224, (0,), (PAPER, BiasRatio()))


def classifiers(
    size: int, seeds: tuple[int, ...], attacks: tuple[BiasRatio, ...]
) -> Iterator[dict[str, Any]]:
    """Logistic regression on 64 crops with labels of their own, and all with the same."""
    for seed in seeds:
        sample = zoo.photos(64, size, seed=seed).normalised()
        for classes, zero in ((1000, False), (1000, True), (100, False), (70, False), (64, False)):
            if size > 32 and classes < 1000:
                continue
            net = zoo.linear(3 * size * size, classes, seed=seed)
            if zero:
                torch.nn.init.zeros_(net.linear1.weight)
                torch.nn.init.zeros_(net.linear1.bias)
            what = f"C{size}, {classes} classes, {'zero head' if zero else 'default init'}"
            unique = sample.distinct(classes)
            for attack in attacks:
                yield measured(f"{what}, unique", unique, net, attack, seed)
            same = zoo.Sample(Batch(unique.x, torch.full((64,), 5)), unique.form)
            yield measured(f"{what}, one label", same, net, attacks[-1], seed)


def clients() -> Iterator[dict[str, Any]]:
    sample = zoo.photos(64, 32, seed=0).normalised().distinct(1000)
    net = zoo.linear(3072, 1000, seed=0)
    for client in (
        FedAvg(lr=0.1),
        FedAvg(lr=0.01, weight_decay=0.1),
        FedAvg(lr=1e-3, epochs=3, batch_size=16),
        FedAvg(lr=1e-2, epochs=3, batch_size=16),
        SecureSum(FedSGD(), 4),
        Clip(FedSGD(), 0.1),
        Prune(FedSGD(), 0.5),
        Prune(FedSGD(), 0.9),
        Noise(FedSGD(), 1e-4),
        Noise(FedSGD(), 1e-3),
        Noise(FedSGD(), 1e-2),
    ):
        yield measured(f"C32, 1000 classes, {client}", sample, net, BiasRatio(), 0, client)


def batches() -> Iterator[dict[str, Any]]:
    for activation in ("relu", "tanh"):
        for n in (2, 4, 8, 16):
            for seed in (0, 1, 2):
                sample = zoo.digits(n, seed=seed)
                net = zoo.mlp(64, 256, 10, activation=activation, seed=seed)
                yield measured(f"digits, {activation} MLP", sample, net, BiasRatio(), seed)


def measured(
    what: str,
    sample: zoo.Sample,
    net: nn.Module,
    attack: BiasRatio,
    seed: int,
    client: Client = PLAIN,
) -> dict[str, Any]:
    model = sample.model(net)
    seen = observe(model, sample.batch, client, stream(seed, "client"))
    began = time.process_time()
    found = attack(seen, stream(seed, "attack"))
    seconds = time.process_time() - began
    context = Context(None, stream(seed, "score"))
    scores = score(sample.form, sample.batch, found.x, found.y, context)
    psnr = torch.tensor(scores.scores["psnr"])
    finite = found.residual[~found.residual.isnan()].double()
    return {
        "what": what,
        "attack": repr(attack),
        "seed": seed,
        "n": len(sample.batch),
        "mean_psnr": round(float(psnr.mean()), 1),
        "min_psnr": round(float(psnr.min()), 1),
        "over_20": int((psnr > 20).sum()),
        "over_30": int((psnr > 30).sum()),
        "over_60": int((psnr > 60).sum()),
        "certified": found.note.split(" ")[0].replace("not", "not recovered"),
        "note": found.note,
        "candidates": len(found),
        "residual": [float(finite.min()), float(finite.max())] if len(finite) else None,
        "grey_psnr": round(float(torch.tensor(scores.baselines["mid-grey"]["psnr"]).mean()), 1),
        "labels": dataclasses.asdict(scores)["labels"],
        "seconds": round(seconds, 2),
    }


if __name__ == "__main__":
    main()
