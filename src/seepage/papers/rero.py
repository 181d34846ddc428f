"""Bounding training data reconstruction in DP-SGD: reconstruction robustness, and who reaches it.

Hayes, Mahloujifar and Balle 2023, arXiv 2302.07225; Balle, Cherubin and Hayes 2022, arXiv
2201.04845; Kaissis et al. 2023, arXiv 2307.03928. Their figures are read off plots, so what is
checked here is what they prove: no attacker exceeds the bound, and the best comes near.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from seepage import zoo
from seepage.analysis import bounds
from seepage.core import Batch, Model, stream
from seepage.defenses import DPSGD
from seepage.papers.claims import Claim
from seepage.tree import flat


def reproduce(quick: bool, folder: Path | None) -> Iterator[Claim]:  # noqa: ARG001
    """The ceiling against the best attacker on made-up and real gradients, and sampled rounds."""
    yield _orthogonal(100_000 if quick else 2_000_000)
    yield from _digits(400 if quick else 20_000)
    yield from _sampled(20_000 if quick else 200_000)


def _orthogonal(draws: int) -> Claim:
    """M = 100 orthogonal candidates of length C, z = 1: name the one in the release."""
    bound, best = bounds.rero(1 / 100, 1.0).value, bounds.optimal_naming(100, 1.0)
    random, right = np.random.default_rng(7), 0
    for _ in range(draws // 20_000):
        seen = random.standard_normal((20_000, 100), dtype=np.float32)
        seen[:, 0] += 1
        right += int((seen.argmax(1) == 0).sum())
    return Claim(
        "100 orthogonal candidates, z=1: success of the best attacker",
        f"at most {bound:.5f}",
        f"{right / draws:.4f} by {draws} draws, {best:.5f} exactly",
        "confirmed" if best <= bound else "not confirmed",
    )


def _digits(draws: int) -> Iterator[Claim]:
    """DP-SGD on one of 32 digits: the likeliest candidate, through the real client."""
    sample = zoo.digits(32, seed=3)
    model = sample.model(zoo.mlp(64, 32, 10, activation="tanh", seed=3))
    for z in (0.2, 0.5, 1.0):
        found = _named(model, sample.batch, z, draws)
        bound = bounds.rero(1 / 32, z).value
        yield Claim(
            f"one of 32 digits under DPSGD(norm=1, z={z}): named",
            f"at most {bound:.3f}",
            f"{found:.3f}",
            "confirmed" if found <= bound + 3 * (bound / draws) ** 0.5 else "not confirmed",
            f"{draws} releases; clipped gradients of digits are alike, so less is reached",
        )


def _named(model: Model, batch: Batch, z: float, draws: int) -> float:
    clean, noisy = DPSGD(1.0, 0.0), DPSGD(1.0, z)
    rows = torch.stack(
        [flat(clean(model, batch[i : i + 1], stream(0, "none"))) for i in range(len(batch))]
    )
    rng, right = stream(1, "releases"), 0
    truth = torch.randint(len(batch), (draws,), generator=stream(2, "truth"))
    for i in truth.tolist():
        seen = flat(noisy(model, batch[i : i + 1], rng))
        right += int((rows - seen).square().sum(1).argmin()) == i
    return right / draws


def _sampled(draws: int) -> Iterator[Claim]:
    """Poisson-sampled rounds: the minimum over epsilon against Monte Carlo."""
    for rate, rounds, kappas in ((0.01, 100, (0.1, 0.01)), (0.05, 200, (0.1, 0.01))):
        for kappa in kappas:
            exact = bounds.rero(kappa, 1.0, rounds, rate).value
            drawn = bounds.drawn(kappa, 1.0, rounds, rate, draws, seed=4)
            plain = drawn.interval[0] if drawn.interval else float("nan")
            # The frequency above the threshold errs, and so does the threshold itself.
            noise = ((exact + exact**2 / kappa) / draws) ** 0.5
            yield Claim(
                f"q={rate}, z=1, T={rounds}, prior chance {kappa}",
                f"{plain:.4f} by Monte Carlo",
                f"{exact:.4f}",
                "confirmed" if abs(exact - plain) < 4 * noise + 0.002 else "not confirmed",
                f"{draws} draws; certified by them: {drawn.value:.4f}",
            )
