"""Both sides of a verdict: what was found, and what no attacker can exceed."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from seepage.analysis.bounds import Bound, Channel, Gaussian
from seepage.analysis.bounds.channel import noise_of
from seepage.analysis.bounds.cramer_rao import certificate
from seepage.analysis.bounds.rate import any_network, private_records
from seepage.analysis.bounds.robustness import rero
from seepage.core import Client, Model
from seepage.errors import InvalidInput

_LARGEST = 800  # unknowns of a batch up to which a certificate takes seconds, not minutes


@dataclass(frozen=True, eq=False)
class Release:
    """What a client shares and how often: rounds, sampling rate, labels known to the attacker."""

    model: Model
    client: Client
    y: Tensor | None
    n: int
    rounds: int = 1
    rate: float = 1.0


def ceilings(release: Release, public: Tensor, rng: Generator) -> list[Bound]:
    """Every bound that applies to a client, each in its own unit; one of label "none" if none does.

    `public` are examples of the same kind of data, of which the prior is made. DP-SGD: the chance
    of naming one of 100 candidates, and the PSNR of one record. Fixed noise, one round, smooth
    layers and few unknowns: the Cramer-Rao certificate; else the rate bound.
    """
    try:
        std, kind, relative = noise_of(release.client, release.n)
    except InvalidInput:
        return [_no_bound("no noise is added last")]
    prior = Gaussian.fit(public)
    if type(release.client).__name__ == "DPSGD":
        return _private(release, prior)
    if release.rounds > 1 or relative or std <= 0:
        return [_no_bound("several rounds of noise without per-example clipping")]
    here = Channel(release.model, release.client, prior, release.y, release.n)
    if here.proven()[0] == "certified" and here.unknowns <= _LARGEST:
        return [certificate(here, (64, 128), rng).psnr()]
    if here.unknowns <= _LARGEST and kind == "gauss":
        return [any_network(here, 400, 200, rng).psnr()]
    return [_no_bound(f"{here.unknowns} unknowns: use bounds.lanczos or bounds.cheap")]


def _private(release: Release, prior: Gaussian) -> list[Bound]:
    seen: Any = release.client
    named = rero(1 / 100, seen.multiplier, release.rounds, release.rate)
    error = private_records(prior, seen.multiplier, release.rounds, release.rate)
    return [named, error.psnr()]


def _no_bound(why: str) -> Bound:
    return Bound(float("inf"), "", "none", (why,))


def two_sided(found: float, ceiling: Bound, spread: float = 0.0) -> str:
    """Found and ceiling in one sentence; a crossing withdraws the ceiling, since data cannot lie.

    `found` is the strongest attack's, on the ceiling's own scale (for decibels, the PSNR of the
    mean error), `spread` the half width of its interval.

    >>> two_sided(11.0, Bound(11.87, "dB", "certified", ("prior",)))
    'found 11 dB; no attacker can exceed 11.87 dB (certified: prior)'
    >>> two_sided(25.0, Bound(11.87, "dB", "certified", ("prior",)))
    'found 25 dB; ceiling of 11.87 dB withdrawn: prior or noise wrong'
    >>> two_sided(25.0, Bound(0.0, "dB", "none", ("no noise is added last",)))
    'found 25 dB; no ceiling is proven: no noise is added last'
    """
    said = f"found {found:.4g} {ceiling.unit}".rstrip()
    if ceiling.label == "none":
        return f"{said}; no ceiling is proven: {'; '.join(ceiling.assumptions)}"
    top = ceiling.interval[1] if ceiling.interval else ceiling.value
    limit = max(ceiling.value, top)
    if found - spread > limit:
        return (
            f"{said}; ceiling of {ceiling.value:.4g} {ceiling.unit} withdrawn: prior or noise wrong"
        )
    why = "; ".join(ceiling.assumptions)
    return (
        f"{said}; no attacker can exceed {ceiling.value:.4g} {ceiling.unit} "
        f"({ceiling.label}: {why})"
    )


def mean_error_psnr(errors: Tensor, peak: float = 1.0) -> float:
    """The PSNR of the mean of squared errors, which a pixel ceiling bounds.

    >>> round(mean_error_psnr(torch.tensor([0.01, 0.03])), 2)
    16.99
    """
    return float(10 * torch.log10(peak**2 / errors.double().mean()))
