"""Is Private Learning Possible with Instance Encoding?

Carlini et al. 2021, arXiv 2011.05315, break InstaHide (Huang et al. 2020, arXiv 2010.02772) from
many encodings of each example: absolute values undo the flips, similar encodings are grouped, and
the examples solved for. Here from one update of one batch: the mixed labels give the shares.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from seepage import zoo
from seepage.attacks import Adaptive
from seepage.clients import FedSGD
from seepage.core import Batch, Client, Observation, observe, stream
from seepage.defenses import InstaHide, MixUp
from seepage.papers.claims import Claim


def reproduce(quick: bool, folder: Path | None) -> Iterator[Claim]:  # noqa: ARG001
    """InstaHide and MixUp, ignored and taken apart."""
    seeds = range(300, 301 if quick else 303)
    for n in (3,) if quick else (2, 3, 4):
        for make in (InstaHide, MixUp):
            yield _claim(make, n, seeds)


def _claim(make: Any, n: int, seeds: range) -> Claim:
    client: Client = make(FedSGD(), k=2)
    blind, apart = (_errors(client, n, way, seeds) for way in ("blind", "unmix"))
    return Claim(
        f"{client!r}, {n} digits of different classes",
        "encodings can be undone",
        f"{apart:.1f} dB against {blind:.1f} dB by who ignores them",
        "confirmed" if apart > 60 else "not confirmed",
        f"{len(seeds)} batches, MLP 64-48-10 tanh, labels told; one round, pixels in [0, 1]",
    )


def _errors(client: Client, n: int, way: str, seeds: range) -> float:
    found: list[float] = []
    for seed in seeds:
        seen, truth = _seen(client, n, seed)
        answer = Adaptive(only=(way,))(seen, stream(seed, "attack"))
        error = (answer.x - truth).square().flatten(1).mean(1)
        found += (-10 * error.log10()).tolist()
    return sum(found) / len(found)


def _seen(client: Client, n: int, seed: int) -> tuple[Observation, torch.Tensor]:
    sample = zoo.digits(200, seed=seed)
    y = [int(label) for label in sample.y]
    places = torch.tensor([y.index(label) for label in list(dict.fromkeys(y))[:n]])
    batch: Batch = sample.batch[places]
    model = sample.model(zoo.mlp(64, 48, 10, activation="tanh", seed=seed))
    return observe(model, batch, client, stream(seed, "client"), tell=("n", "y")), batch.x
