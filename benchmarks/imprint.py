"""Acceptance figures of the imprint attacks, as JSON lines: python benchmarks/imprint.py [NAME...].

peeling, deep, fedavg, one_shot, noise, cost: each takes one to five minutes on one core.
"""

import json
import math
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from seepage import zoo
from seepage.analysis import expected
from seepage.attacks import Imprint, OneShot, SparseImprint
from seepage.attacks.imprint.block import block_of, gradients
from seepage.attacks.imprint.invert import invert
from seepage.clients import FedAvg, FedSGD, SecureSum
from seepage.core import Batch, Model, observe, stream
from seepage.defenses import Clip, Noise
from seepage.forms import Images
from seepage.papers.imprint_rounds import answered, crops

Row = dict[str, Any]


def cells(crafted: Model, x: Tensor) -> Tensor:
    """The bin of each private image in each direction, by brute force."""
    _, _, notes = block_of(crafted.module)
    h = x.flatten(1).double() @ notes.measures.T
    return torch.stack(
        [
            torch.searchsorted(
                notes.lower[notes.direction == p].sort().values, h[:, p].contiguous()
            )
            for p in range(len(notes.measures))
        ]
    )


def peeling() -> Iterator[Row]:
    """Several directions against the combinatorial peel of the same draw, six seeds each."""
    cases = [(64, 128, 3), (64, 112, 4), (64, 96, 4), (64, 96, 3), (256, 384, 3)]
    for split in ("private", "both"):
        public = zoo.photos(6000, 32, split="public" if split == "private" else "both", seed=1000)
        public = public.normalised()
        for measure in ("fine", "randn"):
            for n, bins, directions in cases:
                counts, best, false = [], [], 0
                for seed in range(6):
                    sample = crops(n, 32, 1100 + seed, 100, split)
                    model = sample.model(zoo.convnet(8, 100, seed=0))
                    attack = Imprint(bins, measure, directions=directions, public=public.x)
                    crafted = attack.craft(model, stream(seed, "craft"))
                    client = SecureSum(FedSGD(), n // 64)
                    one = answered(attack, crafted, sample.batch, client, seed)
                    counts.append(one.certified)
                    best.append(expected.peeled(cells(crafted, sample.x)))
                    false += one.false
                yield {
                    "public": "other photographs" if split == "private" else "same photographs",
                    "measure": measure,
                    "n": n,
                    "rows": bins,
                    "directions": directions,
                    "certified": counts,
                    "combinatorial": best,
                    "false": false,
                }


def deep() -> Iterator[Row]:
    """64 images, 128 bins, connection "linear", before a ResNet-18 of 1000 classes."""
    public = zoo.photos(3000, 32, split="both", seed=1001).normalised()
    for seed in range(3):
        sample = crops(64, 32, 1200 + seed, 1000)
        model = sample.model(zoo.resnet18("cifar", 1000, seed=seed))
        attack = Imprint(128, "avg", connection="linear", public=public.x)
        crafted = attack.craft(model, stream(seed, "craft"))
        one = answered(attack, crafted, sample.batch, SecureSum(FedSGD(), 4), seed)
        yield {
            "seed": seed,
            "above 60 dB": one.above(60),
            "certified": one.certified,
            "singletons": expected.peeled(cells(crafted, sample.x)),
            "false": one.false,
            "mean dB": round(float(one.decibels.mean()), 1),
        }


class Branch(nn.Module):
    """The rows alone: their sum is the output, so each example's gradient is its own label."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).mean(1) + self.bias


def weighted(output: Tensor, weight: Tensor) -> Tensor:
    """A loss with a gradient of one's choice."""
    return (output * weight).mean()


def unsnapped(crafted: Model) -> Model:
    """The same model for an attacker who knows of no grid: nothing is certified or snapped."""
    _, block, notes = block_of(crafted.module)
    reader = replace(notes.reader, judge=lambda x: (x.new_full((len(x),), math.inf), x))
    block.notes = replace(notes, reader=reader)
    return crafted


def fedavg() -> Iterator[Row]:
    """Eight local steps of eight images, gradients of random sign and U(.5, 1.5) times a size."""
    public = zoo.photos(6000, 32, split="both", seed=1002).normalised()
    sample = crops(64, 32, 1300, 100)
    rng, lr, bins = stream(0, "weights"), 1e-4, 128
    signs = torch.randint(2, (64,), generator=rng) * 2.0 - 1
    sizes = signs * (0.5 + torch.rand(64, generator=rng))
    form = sample.form
    assert isinstance(form, Images)
    for measure in ("avg", "randn", "fine"):
        for step in (1e-3, 1e-4, 1e-5, 1e-6):
            gain = max(1.0, (0.05 / (step * 3072)) ** 0.5)
            kinds = {
                "plain": {"offset": "bias", "scale": "bias", "gain": 1.0},
                "buffer": {"offset": "buffer", "gain": 1.0},
                "feature": {"offset": "feature", "gain": 1.0},
                "plain+bin": {"offset": "bias", "scale": "bin", "gain": 1.0},
                "buffer, rescaled": {"offset": "buffer", "gain": gain},
                "frozen": {},
            }
            for kind, fields in kinds.items():
                attack = SparseImprint(bins, measure, public=public.x, out=bins, **fields)
                model = Model.of(Branch(), weighted, form)
                batch = Batch(sample.x, sizes * 8 * step / lr)
                client = FedAvg(batch_size=8, lr=lr)
                crafted = attack.craft(model, stream(0, "craft"))
                one = answered(attack, crafted, batch, client)
                raw = answered(attack, unsnapped(crafted), batch, client)
                yield {
                    "measure": measure,
                    "lr*g": step,
                    "kind": kind,
                    "mean dB before snapping": round(float(raw.decibels.mean()), 1),
                    "mean dB": round(float(one.decibels.mean()), 1),
                    "above 30 dB before snapping": raw.above(30),
                    "above 60 dB": one.above(60),
                    "certified": one.certified,
                    "false": one.false,
                }


def one_shot() -> Iterator[Row]:
    """One image of 4096 in repeated rounds: success, decibels, and whether the server knows."""
    n, public = 4096, zoo.photos(3000, 32, split="both", seed=1003).normalised()
    sample = crops(n, 32, 1400, 100)
    net = _tiny()
    for rows in ("pair", "clamp"):
        decibels, single, false = [], 0, 0
        for seed in range(12):
            attack = OneShot(n, "randn", public=public.x, rows=rows)  # type: ignore[arg-type]
            crafted = attack.craft(sample.model(net), stream(seed, "craft"))
            _, _, notes = block_of(crafted.module)
            h = sample.x.flatten(1).double() @ notes.measures[0]
            alone = int(((h >= notes.lower[0]) & (h < notes.upper[0])).sum()) == 1
            single += alone
            one = answered(attack, crafted, sample.batch, SecureSum(FedSGD(), 16), seed)
            false += one.false
            if one.certified:
                decibels.append(round(float(one.decibels.max()), 1))
        yield {
            "rows": rows,
            "n": n,
            "rounds": 12,
            "singletons": single,
            "certified dB": decibels,
            "false": false,
            "peak MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        }


def _tiny() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 256, 100))


def noise() -> Iterator[Row]:
    """Laplace noise beside the size of the gradient, and clipping with Gaussian noise."""
    public = zoo.photos(3000, 32, split="both", seed=1004).normalised()
    sample = crops(64, 32, 1500, 100)
    model = sample.model(zoo.convnet(16, 100, seed=0))
    for out in (1.0, 128.0):
        attack = Imprint(128, "randn", connection="linear", out=out, public=public.x)
        crafted = attack.craft(model, stream(0, "craft"))
        update = FedSGD()(crafted, sample.batch, stream(0, "client"))
        rms = float(update["block.linear.weight"].square().mean().sqrt())
        for share in (1e-4, 1e-3, 5e-3, 5e-2):
            client = Noise(FedSGD(), std=share * rms, kind="laplace")
            one = answered(attack, crafted, sample.batch, client)
            row = {"out": out, "rms": rms, "noise/rms": share, "above 20 dB": one.above(20)}
            yield row | {"certified": one.certified, "false": one.false}
        for multiplier in (1e-4, 1e-3, 1e-2):
            client = Noise(Clip(FedSGD(), 1.0), std=multiplier / 64)
            one = answered(attack, crafted, sample.batch, client)
            yield {"out": out, "clip 1, z": multiplier, "above 20 dB": one.above(20)}


def cost() -> Iterator[Row]:
    """Inverting 128 bins of 150528 values beside one read-and-write pass over that gradient."""
    sample, public = crops(64, 224, 1600, 1000), crops(100, 224, 1601, 1000)
    torch.manual_seed(0)
    net = nn.Sequential(nn.AdaptiveAvgPool2d(7), nn.Flatten(), nn.Linear(147, 1000))
    attack = Imprint(128, public=public.x)
    crafted = attack.craft(sample.model(net), stream(0, "craft"))
    seen = observe(crafted, sample.batch, FedSGD(), stream(0, "client"))
    weight, bias, notes = gradients(seen)
    buffer = torch.empty_like(weight)
    spent = _fastest(
        {
            "copy to new memory": weight.clone,
            "copy to used memory": lambda: torch.mul(weight, 0.5, out=buffer),
            "in place": lambda: buffer.mul_(1.0),
            "inversion": lambda: invert(weight, bias, notes, 64),
            "whole attack": lambda: attack(seen, stream(0, "attack")),
        }
    )
    yield {
        **{f"{name} ms": round(1e3 * seconds, 1) for name, seconds in spent.items()},
        **{
            f"inversion / {name}": round(spent["inversion"] / spent[name], 2)
            for name in list(spent)[:3]
        },
        "certified": sum(attack(seen, stream(0, "attack")).trace["certified"]),
    }


def _fastest(works: dict[str, Callable[[], object]], times: int = 15) -> dict[str, float]:
    """CPU seconds of each, in turn so that all meet the same machine."""
    spent: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(times):
        for name, work in works.items():
            start = time.process_time()
            work()
            spent[name].append(time.process_time() - start)
    return {name: min(each) for name, each in spent.items()}


def main(names: list[str]) -> None:
    parts = {f.__name__: f for f in (peeling, deep, fedavg, one_shot, noise, cost)}
    for name in names or list(parts):
        for row in parts[name]():
            print(json.dumps({"part": name, **row}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
