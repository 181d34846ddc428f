"""The algorithmic foundations of differential privacy: the classical noise formula in Flower.

Dwork and Roth 2014, theorem A.1: sigma = S sqrt(2 ln(1.25/delta))/epsilon proves (epsilon, delta)
for epsilon below one. Flower's LocalDpMod takes the formula for every epsilon; Balle and Wang 2018,
arXiv 1805.06530, give the epsilon that holds.
"""

import math
from collections.abc import Iterator
from pathlib import Path

import torch

from seepage import accounting, tree
from seepage.clients import FedSGD, Given
from seepage.core import stream
from seepage.defenses.local_dp import local_dp
from seepage.guard import dp
from seepage.papers.claims import Claim
from seepage.zoo import example

_DELTA = 1e-5


def reproduce(quick: bool, folder: Path | None) -> Iterator[Claim]:  # noqa: ARG001
    """The declared epsilon beside the tight one, the repair, and the delta by counting draws."""
    for row in dp.flower_table(_DELTA):
        declared, tight, replaced = row["declared"], row["tight"], row["tight_replace"]
        yield Claim(
            f"epsilon declared as {declared:g}, sensitivity = clip",
            f"{declared:g}",
            f"{tight:g} (records added), {replaced:g} (replaced); std {row['std']:g}, "
            f"needed {row['std_needed']:g}",
            "confirmed" if tight <= declared else "not confirmed",
            f"delta={_DELTA:g}, one release",
        )
    yield Claim(
        "epsilon above which the formula's claim is false",
        "holds below 1 (theorem A.1)",
        f"{dp.false_above(_DELTA):.2f} (added), {dp.false_above(_DELTA, 2):.4f} (replaced)",
        "measured",
    )
    yield _counted(20_000 if quick else 2_000_000)


def _counted(draws: int) -> Claim:
    """The noise itself, asked how often an event is likelier than e^epsilon allows."""
    declared, model, batch = 20.0, *example()
    update = {"bias": torch.zeros(draws), "weight": torch.zeros(1)}
    client = local_dp(Given(update), 1.0, 1.0, declared, _DELTA)
    noise = tree.flat(client(model, batch, stream(0, "client")))[:draws].double()
    std = local_dp(FedSGD(), 1.0, 1.0, declared, _DELTA).std
    # With the record the release is centred on 1: its loss is that of one unit of sensitivity.
    loss = (2 * (1 + noise) - 1) / (2 * std**2)
    found = float((1 - (declared - loss).exp()).clamp(min=0).mean())
    exact = accounting.gauss_delta(declared, 1 / std)
    near = abs(found - exact) < 5 * math.sqrt(exact / draws)
    return Claim(
        f"delta at declared epsilon {declared:g}",
        f"{_DELTA:g}",
        f"{found:.2g} by {draws} draws, {exact:.3g} exactly",
        "not confirmed" if near and exact > _DELTA else "measured",
        "the formula's delta is too small by two orders of magnitude",
    )
