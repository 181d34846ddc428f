"""H-GAP: R-GAP with a refinement, under noise. Zhu & Blaschko 2021, arXiv 2010.07733.

The hybrid is theirs; its settings are not at hand. Here: repair of lost signs, Gauss-Newton with
frozen kinks, and slopes in doubt freed, against the Cramer-Rao bound of an unbiased attacker.
"""

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from seepage import tree, zoo
from seepage.analysis import rank
from seepage.attacks import RGap
from seepage.clients import FedSGD
from seepage.core import Batch, Model, observe, stream
from seepage.defenses import Noise
from seepage.papers.claims import Claim
from seepage.papers.rgap import Pair, pair, ran, save

LEVELS = (1e-4, 1e-3, 3e-3, 1e-2)
STAGES = {
    "plain": RGap(repair=False, refine="none"),
    "match": RGap(repair=False, refine="match"),
    "repair": RGap(refine="none"),
    "all": RGap(),
}


def reproduce(quick: bool, folder: Path | None) -> Iterator[Claim]:
    """S(12, 20), ten classes, one draw of noise for each pair, noise relative to |g|."""
    count, levels = (1, (1e-4,)) if quick else (6, LEVELS)
    pairs = [pair(lambda: zoo.three_conv(12, 20), i, 16, 0) for i in range(count)]
    spectra = [_spectrum(given) for given in pairs]
    for noise in levels:
        noisy = [noised(given, noise, i) for i, given in enumerate(pairs)]
        bounds = [-20 * math.log10(found.error(noise)) for found in spectra]
        got = {name: [ran(attack, given) for given in noisy] for name, attack in STAGES.items()}
        near = sum(r.psnr >= b - 3 for r, b in zip(got["all"], bounds, strict=True))
        texts = [f"{name} {_span([r.psnr for r in runs])}" for name, runs in got.items()]
        texts += [f"bound {_span(bounds)} dB", f"{near} of {count} within 3 dB of it"]
        most = max(run.seconds for run in got["all"])
        yield Claim(
            f"S(12, 20) under noise of {noise:g} |g|",
            "not available",
            "; ".join(texts),
            "measured",
            f"{count} pairs of 16x16, at most {most:.0f} CPU s",
        )
        if folder is not None:
            save(got["all"][0].answer.x[0], folder / f"noise_{noise:g}.png")


def noised(given: Pair, noise: float, i: int) -> Pair:
    """The same pair behind a client that adds noise to its update."""
    batch, client = Batch(given.x, given.y), Noise(FedSGD(), std=noise, relative=True)
    seen = observe(given.seen.model, batch, client, stream(i, "noise"))
    return dataclasses.replace(given, seen=seen)


def _spectrum(given: Pair) -> rank.Spectrum:
    model = given.seen.model
    double: Model = dataclasses.replace(model, params=tree.mapped(Tensor.double, model.params))
    return rank.jacobian(double, Batch(given.x.double(), given.y), sketch=None)


def _span(values: list[float]) -> str:
    return f"{min(values):.0f}" if len(values) == 1 else f"{min(values):.0f}-{max(values):.0f}"
