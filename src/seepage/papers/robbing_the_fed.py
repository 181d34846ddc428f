"""Robbing the Fed: Directly Obtaining Private Data in Federated Learning with Modified Models.

Fowl, Geiping, Czaja, Goldblum, Goldstein 2021, arXiv 2110.13057. The images here are random crops
of eight photographs, not ImageNet, so decibels are not the paper's; counts of exact images and
the laws that predict them do carry over. The quick form uses 32x32 images and smaller networks.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from seepage import zoo
from seepage.analysis import expected
from seepage.attacks import BiasRatio, Imprint, OneShot, SparseImprint
from seepage.clients import FedAvg, FedSGD, SecureSum
from seepage.core import Observation, observe, stream
from seepage.forms import Images
from seepage.papers.claims import Claim
from seepage.papers.imprint_noise import noise
from seepage.papers.imprint_plots import bars, curves, laws
from seepage.papers.imprint_rounds import Round, crops, nearest, panel, played, scored

_PHOTOS = "random crops of 8 photographs instead of ImageNet"


def reproduce(quick: bool, folder: Path | None) -> Iterator[Claim]:
    """Every headline of the paper, then what this package adds to it."""
    yield from _logistic_regression(folder)
    yield from _expected_counts()
    if folder is not None:
        laws(folder / "figure2.png")
    yield from _batch_of_64(quick, folder)
    yield from _bins_and_classes(quick, folder)
    yield from _positions(quick, folder)
    yield from _one_of_thousands(quick, folder)
    net = _tiny(100) if quick else zoo.resnet18("cifar", 100, seed=0)
    yield from noise(net, folder)
    yield from _federated_averaging(quick, folder)
    yield from _directions(quick, folder)


def _logistic_regression(folder: Path | None) -> Iterator[Claim]:
    """Figure 1: a linear softmax model on 64 images, labels all different or all the same."""
    size, classes = 32, 1000
    for same, claimed in ((False, "36.45 dB"), (True, "13.84 dB")):
        sample = zoo.photos(64, size, split="both", seed=21).normalised().distinct(classes)
        batch = sample[0]
        if same:
            batch = type(batch)(batch.x, torch.zeros(64, dtype=torch.long))
        torch.manual_seed(0)
        model = sample.model(nn.Sequential(nn.Flatten(), nn.Linear(3 * size**2, classes)))
        seen = SecureSum(FedSGD(), 4)(model, batch, stream(0, "client"))
        for absent, ours in ((False, ""), (True, ", less the absent classes' rows (ours)")):
            attack = BiasRatio(absent=absent, rounds=0)
            found = attack(Observation(model, FedSGD(), seen, 64), stream(0, "attack"))
            one = scored(found, model.form, batch.x)  # type: ignore[arg-type]
            got = f"mean {one.decibels.mean():.1f} dB, median {one.decibels.median():.1f} dB"
            label = f"figure 1, {'one class' if same else 'unique labels'}"
            if folder is not None and not absent:
                panel(one, folder / f"figure1_{'one_class' if same else 'unique'}.png", label)
            yield Claim(label + ours, claimed, got, "measured", f"{size}x{size}, {_PHOTOS}")


def _expected_counts() -> Iterator[Claim]:
    """Figures 2a and 2b: how many images the bins isolate."""
    k = 156
    drawn = expected.simulated(64, k, 20_000, stream(0, "occupancy")).double()
    got = f"{expected.singletons(64, k):.2f} expected, {drawn.mean():.2f} in 20000 draws"
    yield Claim(
        "figure 2: images isolated of 64 by 156 bins",
        f"{expected.published(64, k):.1f} (above 50 %)",
        got,
        "not confirmed",
        f"the published law takes occupancy patterns for equally likely; 50 % needs only "
        f"{expected.bins(64, 0.5)} bins",
    )
    mass = expected.one_shot_mass(16384)
    yield Claim(
        "one-shot: chance of exactly one of 16384 images",
        "0.25",
        f"{expected.one_shot(16384, mass):.3f} at mass 1/n",
        "not confirmed",
        "the best single bin reaches 1/e",
    )


def _batch_of_64(quick: bool, folder: Path | None) -> Iterator[Claim]:
    """Figure 3: 64 images, 128 bins, in front of a ResNet-18."""
    size, seeds = (32, (31,)) if quick else (224, (31, 32, 33))
    public = zoo.photos(600, size, split="both", seed=901).normalised()
    for seed in seeds:
        sample = crops(64, size, seed, 1000)
        stem: Any = "cifar" if size == 32 else "imagenet"
        net = zoo.convnet(16, 1000, seed=seed) if quick else zoo.resnet18(stem, 1000, seed=seed)
        attack = Imprint(bins=128, measure="avg", connection="linear", public=public.x)
        one = played(attack, sample.model(net), sample.batch, SecureSum(FedSGD(), 16), seed)
        yield Claim(
            f"figure 3: 64 images, 128 bins, seed {seed}",
            "70.94 dB mean PSNR",
            f"{_summary(one)}, theory {expected.singletons(64, 128):.1f}",
            "confirmed" if one.decibels.mean() > 70.94 else "measured",
            f"{size}x{size}, {_PHOTOS}; an image that does not come back counts too",
        )
        if folder is not None:
            panel(one, folder / f"figure3_seed{seed}.png", "64 images, 128 bins: the first 16")


def _bins_and_classes(quick: bool, folder: Path | None) -> Iterator[Claim]:
    """Figures 5, 9 and 10: more bins, and 300 bins at 32x32."""
    public = zoo.photos(600, 32, split="both", seed=902).normalised()
    sample = crops(64, 32, 41, 100)
    net = zoo.convnet(8, 100, seed=0)
    counts = (32, 128, 300) if quick else (16, 32, 64, 128, 256, 300, 512)
    exact: list[float] = []
    for k in counts:
        attack = Imprint(bins=k, measure="fine", public=public.x)
        one = played(attack, sample.model(net), sample.batch, FedSGD())
        exact.append(one.above(60))
        if folder is not None and k == 300:
            panel(one, folder / "figure9.png", "32x32, 300 bins: the first 16")
        yield Claim(
            f"figures 5, 9, 10: {k} bins, 32x32",
            f"{expected.published(64, k):.1f} images by the published law",
            f"{_summary(one)}, theory {expected.singletons(64, k):.1f}",
            "measured",
            "before a ConvNet; figures 9 and 10 of the paper are the 300 bins",
        )
    if folder is not None:
        theory = [expected.singletons(64, k) for k in counts]
        published = [expected.published(64, k) for k in counts]
        lines = {"recovered exactly": exact, "our law": theory, "published law": published}
        curves(folder / "figure5.png", counts, lines, ("bins", "images, of 64"))


def _positions(quick: bool, folder: Path | None) -> Iterator[Claim]:
    """Figures 5 and 11: the rows deeper inside a ResNet-18, carried there by parameters alone."""
    n, bins = (16, 32) if quick else (64, 128)
    sample = crops(n, 32, 51, 100)
    public = zoo.photos(64 if quick else 600, 32, split="both", seed=903).normalised()
    net = zoo.resnet18("cifar", 100, seed=0)
    exact: dict[str, float] = {}
    for at in ("", "layer4") if quick else ("", "layer1", "layer2", "layer3", "layer4", "avgpool"):
        attack = Imprint(bins=bins, at=at, measure="fine", public=public.x)
        one = played(attack, sample.model(net), sample.batch, SecureSum(FedSGD(), n // 4))
        exact[at or "input"] = one.above(60)
        yield Claim(
            f"figures 5, 11: rows before {at or 'the whole network'}",
            "recovery drops with depth",
            f"{_summary(one)}, theory {expected.singletons(n, bins):.1f}",
            "not confirmed" if at else "measured",
            f"{n} images of 32x32; 2x2 squares of pixels packed into channels where a block "
            "halves the resolution, so nothing is lost (ours)",
        )
    if folder is not None:
        bars(folder / "figure11.png", exact, f"images recovered exactly, of {n}")


def _one_of_thousands(quick: bool, folder: Path | None) -> Iterator[Claim]:
    """Figure 4: one image out of a sum over 16384, in repeated rounds until the bin holds one."""
    n, chunk, rounds = (512, 128, 6) if quick else (16384, 256, 8)
    public = zoo.photos(1000, 32, split="both", seed=904).normalised()
    sample = crops(n, 32, 61, 100)
    for rows in ("clamp", "pair"):
        attack = OneShot(n=n, rows=rows, measure="randn", public=public.x)
        tries, best = _until_one(attack, sample, SecureSum(FedSGD(), n // chunk), rounds)
        got = "no round isolated an image" if best is None else f"{best.decibels.max():.1f} dB"
        yield Claim(
            f"figure 4: one image of {n}, {'one clamped row' if rows == 'clamp' else 'two rows'}",
            "161.36 dB at n = 16384",
            f"{got} in round {tries} (certified, so the server knows)",
            "measured",
            "32x32; the certificate snaps to 8 bit, to the bits that the client held",
        )
        if folder is not None and best is not None:
            panel(best, folder / f"figure4_{rows}.png", f"one image of {n}")


def _until_one(
    attack: OneShot, sample: zoo.Sample, client: Any, rounds: int
) -> tuple[int, Round | None]:
    """Rounds with fresh directions until the attack certifies its answer."""
    assert isinstance(sample.form, Images)
    model = sample.model(_tiny(100))
    for tries in range(1, rounds + 1):
        crafted = attack.craft(model, stream(tries, "craft"))
        seen = observe(crafted, sample.batch, client, stream(tries, "client"))
        found = attack(seen, stream(tries, "attack"))
        if any(found.trace.get("certified", ())):
            return tries, nearest(found, sample.form, sample.x)[1]
    return rounds, None


def _federated_averaging(quick: bool, folder: Path | None) -> Iterator[Claim]:
    """Figure 16: eight local steps on eight images each."""
    size = 32 if quick else 64
    public = zoo.photos(600, size, split="both", seed=906).normalised()
    sample = crops(64, size, 81, 100 if quick else 1000)
    net = _tiny(100) if quick else zoo.resnet18("cifar", 1000, seed=0)
    client = FedAvg(batch_size=8, lr=1e-4)
    pool = (zoo.photos(300, size, split="both", seed=907)).x
    published = SparseImprint(
        measure="avg", offset="bias", scale="bias", gain=1.0, out=128, public=public.x
    )
    kinds = {
        "as published": published,
        "offsets in a buffer": replace(published, offset="buffer"),
        "no bias read": replace(published, scale="bin"),
        "buffer and rescaled rows": SparseImprint(measure="avg", offset="buffer", public=public.x),
        "frozen rows": SparseImprint(public=public.x),
        "frozen rows, three directions": SparseImprint(directions=3, public=public.x),
    }
    for kind, attack in kinds.items():
        one = played(attack, sample.model(net), sample.batch, client)
        ours = "" if kind == "as published" else " (ours)"
        yield Claim(
            f"figure 16: FedAvg, 8 steps of 8, {kind}{ours}",
            "32.65 dB, identification .703",
            f"{_summary(one)}, identification {one.identified(pool):.2f}",
            "confirmed" if one.decibels.mean() > 32.65 else "not confirmed",
            f"{size}x{size}, pool of {len(pool)}, {_PHOTOS}",
        )
    if folder is not None:
        panel(one, folder / "figure16.png", "federated averaging, 8 steps of 8: the first 16")


def _directions(quick: bool, folder: Path | None) -> Iterator[Claim]:
    """Beyond the paper: the same 128 rows dealt among three directions, public data elsewhere."""
    public = zoo.photos(600, 32, split="public", seed=908).normalised()
    for seed in (91,) if quick else range(91, 97):
        sample = crops(64, 32, seed, 100, "private")
        attack = Imprint(bins=128, directions=3, public=public.x)
        one = played(
            attack, sample.model(zoo.convnet(8, 100, seed=0)), sample.batch, FedSGD(), seed
        )
        yield Claim(
            f"128 rows in three directions, peeled, seed {seed}",
            "39.05 with one direction (theory)",
            _summary(one),
            "measured",
            "ours; public and private crops come from different photographs",
        )
        if folder is not None and seed == 91:
            panel(one, folder / "directions.png", "128 rows, three directions: the first 16")


def _summary(one: Round) -> str:
    n = len(one.truth)
    return (
        f"{one.above(60)}/{n} exact, {one.certified} certified ({one.false} falsely), "
        f"mean {one.decibels.mean():.1f} dB, median {one.decibels.median():.1f} dB"
    )


def _tiny(classes: int) -> nn.Sequential:
    """Two convolutions and a linear layer: the rows in front do not care what stands behind."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, 2, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(8),
        nn.Flatten(),
        nn.Linear(1024, classes),
    )
