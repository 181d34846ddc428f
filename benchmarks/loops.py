"""Gradient matching beside a loop of thirty lines: the same setting, the same answer?

    python benchmarks/loops.py digits [--draws 30]
    python benchmarks/loops.py lenet [--seconds 3]
    python benchmarks/loops.py convnet [--seconds 30]

`digits`: four digits, a tanh MLP 64-128-10, labels told, unsigned Adam, 300 steps; grouped by how
many of the four labels differ, for equal labels decide. `lenet`: one crop, a ReLU LeNet, TV 0.0125,
signed Adam; beside the crop's own mean colour, for the crop decides. `convnet`: ConvNet(16) with TV
0.0125 on five crops, then ConvNet(64) with TV 1e-5 and 200 steps on parts of two photographs.
"""

import argparse
import dataclasses
import math
import time
from collections import defaultdict

import torch
from torch import Tensor, nn

from seepage import Batch, zoo
from seepage.attacks import TV, Adam, Cosine, Invert, Told
from seepage.metrics.image import psnr
from seepage.metrics.match import assign
from seepage.papers.rounds import Setting, played
from seepage.zoo import Sample
from seepage.zoo.photographs import photograph


@dataclasses.dataclass(frozen=True)
class Loop:
    """The plain loop's settings; `seconds` ends it, else 300 steps."""

    tv: float = 0.0
    signed: bool = False
    center: float = 0.0
    scale: float = 1.0
    seconds: float | None = None

    def __call__(self, net: nn.Module, sample: Sample, seed: int) -> Tensor:
        parameters, lossy = list(net.parameters()), nn.functional.cross_entropy
        given = torch.autograd.grad(lossy(net(sample.x), sample.y), parameters)
        goal = torch.cat([g.flatten() for g in given])
        u = torch.randn(sample.x.shape, generator=torch.Generator().manual_seed(seed))
        u.requires_grad_()
        solver, began, done, steps = torch.optim.Adam([u], 0.1), time.process_time(), 0.0, 0
        low, high = -self.center / self.scale, (1 - self.center) / self.scale
        while done < 1:
            steps += 1
            spent = (time.process_time() - began) / (self.seconds or 1)
            done = steps / 300 if self.seconds is None else spent
            if self.seconds is not None:
                solver.param_groups[0]["lr"] = 0.05 * (1 + math.cos(math.pi * min(done, 1)))
            risk = lossy(net(self.center + self.scale * u), sample.y)
            update = torch.autograd.grad(risk, parameters, create_graph=True)
            flat = torch.cat([g.flatten() for g in update])
            misfit = (flat / flat.norm() - goal / goal.norm()).square().sum() / 2
            rough = torch.diff(u, dim=-1).abs().sum() + torch.diff(u, dim=-2).abs().sum()
            (slope,) = torch.autograd.grad(misfit + self.tv * rough / u.numel(), u)
            u.grad = slope.sign() if self.signed else slope
            solver.step()
            u.data.clamp_(low, high)
        return self.center + self.scale * u.detach()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("digits", "lenet", "convnet"))
    parser.add_argument("--draws", type=int, default=30)
    parser.add_argument("--seconds", type=float)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.what == "digits":
        digits(args.draws)
    elif args.what == "lenet":
        lenet(args.seconds or 3.0)
    else:
        convnet(args.seconds or 30.0)


def digits(draws: int) -> None:
    """Mean decibels of both, by the number of different labels."""
    attack = Invert(
        Cosine(), (), Told(), optimiser=Adam(0.1), schedule="constant", steps=300, units="raw"
    )
    found: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for seed in range(draws):
        sample = zoo.digits(4, seed=seed)
        net = zoo.mlp(64, 128, 10, activation="tanh", seed=seed)
        ours = played(Setting(sample, net, labels=True), attack, seed).decibels
        plain = _decibels(Loop()(net, sample, seed), sample.x)
        found[len(set(sample.y.tolist()))].append((ours, plain))
    print("different labels    draws    Invert    plain loop")
    every = [pair for pairs in found.values() for pair in pairs]
    for labels, pairs in [*sorted(found.items()), ("all", every)]:
        ours, plain = (sum(pair[i] for pair in pairs) / len(pairs) for i in (0, 1))
        print(f"{labels!s:16s} {len(pairs):8d} {ours:9.1f} {plain:13.1f}")


def lenet(seconds: float) -> None:
    """Both, and the crop's mean colour, on five crops."""
    attack = Invert(
        Cosine(), (TV(0.0125),), Told(), schedule="cosine", steps=100_000, seconds=seconds
    )
    loop = Loop(0.0125, True, 0.5, 0.25, seconds)
    print("crop    mean colour    Invert    plain loop")
    for seed in range(5):
        sample = zoo.photos(1, 32, seed=seed)
        net = zoo.lenet(8, activation="relu", spread=None, seed=seed)
        flat = sample.x.mean((2, 3), keepdim=True).expand_as(sample.x)
        ours = played(Setting(sample, net, labels=True), attack, seed).decibels
        plain = _decibels(loop(net, sample, seed), sample.x)
        print(f"{seed:4d} {float(psnr(flat, sample.x)):14.1f} {ours:9.1f} {plain:13.1f}")


def convnet(seconds: float) -> None:
    """Decibels of `Invert`, and of the crop's mean colour."""
    long = Invert(
        Cosine(), (TV(0.0125),), Told(), schedule="cosine", seconds=seconds, steps=100_000
    )
    for seed in range(5):
        sample, net = zoo.photos(1, 32, seed=seed), zoo.convnet(16, seed=seed)
        _told(f"ConvNet(16), crop {seed}", sample, net, long)
    short = Invert(Cosine(), (TV(1e-5),), Told(), schedule="cosine", steps=200)
    for name in ("astronaut.png", "chelsea.png"):
        x = _part(photograph(name))
        sample = Sample(Batch(x, torch.tensor([3])), zoo.photos(1, 32).form)
        _told(f"ConvNet(64), {name}", sample, zoo.convnet(64, seed=0), short)


def _part(picture: Tensor) -> Tensor:
    """The middle 192x192, by areas of 6x6."""
    top, left = ((side - 192) // 2 for side in picture.shape[-2:])
    square = picture[None, :, top : top + 192, left : left + 192] / 255
    return nn.functional.avg_pool2d(square, 6)


def _told(name: str, sample: Sample, net: nn.Module, attack: Invert) -> None:
    began = time.process_time()
    found = played(Setting(sample, net.eval(), labels=True), attack, 0)
    flat = sample.x.mean((2, 3), keepdim=True).expand_as(sample.x)
    spent, guess = time.process_time() - began, float(psnr(flat, sample.x))
    print(f"{name}: {found.decibels:.1f} dB, {spent:.0f} s; mean colour {guess:.1f}", flush=True)


def _decibels(found: Tensor, truth: Tensor) -> float:
    errors = (found[None] - truth[:, None]).square().flatten(2).mean(-1)
    places = assign(errors)
    return float(psnr(found[places], truth).mean())


if __name__ == "__main__":
    main()
