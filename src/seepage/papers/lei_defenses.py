"""Data Reconstruction Attacks and Defenses: how each defense scales the moments' error.

Lei's talk on Wang, Lee and Lei 2023, arXiv 2212.03714: error rates under noise, secure sums and
pruning. They bound the error of one estimator from above, so they are guaranteed leaks; for the
attacks that they do not describe see `wang2023`.
"""

from collections.abc import Iterator
from pathlib import Path
from statistics import mean

from seepage.attacks import Moments
from seepage.clients import FedSGD, SecureSum
from seepage.core import Client
from seepage.defenses import Prune
from seepage.papers.claims import Claim
from seepage.papers.two_layer import Jitter, answered, direction_error, wide

_LARGE, _SMALL = 32_000, 4_000


def reproduce(quick: bool, folder: Path | None) -> Iterator[Claim]:  # noqa: ARG001
    """Noise against sqrt(1 + 1.5 s^2), then secure sums and pruning as factors."""
    width, seeds = (_SMALL, range(2)) if quick else (_LARGE, range(8))
    how = f"relu, d=64, B=2, m={width}, {len(seeds)} seeds; moments without polish"
    plain = _error(FedSGD(), 2, width, seeds)
    spreads = (1.0, 2.0) if quick else (0.5, 1.0, 2.0, 4.0)
    ratios = [_error(Jitter(FedSGD(), s), 2, width, seeds) / plain for s in spreads]
    off = [r / (1 + 1.5 * s * s) ** 0.5 - 1 for r, s in zip(ratios, spreads, strict=True)]
    told = ", ".join(f"s={s:g}: {r:.2f}" for s, r in zip(spreads, ratios, strict=True))
    yield Claim(
        "noise of s times the standard deviation",
        "error grows as sqrt(1 + 1.5 s^2), within 11 %",
        f"{told} times {plain:.4f}; furthest off {max(map(abs, off)):.0%}",
        "confirmed" if max(map(abs, off)) <= 0.11 else "not confirmed",
        how,
    )
    users = 4
    summed = _error(SecureSum(FedSGD(), users), 2 * users, width, seeds) / plain
    yield _factor(f"a secure sum over {users} users", 3.4, summed, how)
    for ratio, wanted in ((0.5, 1.04), (0.9, 11.0)):
        pruned = _error(Prune(FedSGD(), ratio), 2, width, seeds) / plain
        yield _factor(f"pruning {ratio:.0%}", wanted, pruned, how)


def _factor(what: str, wanted: float, got: float, how: str) -> Claim:
    near = 0.6 < got / wanted < 1.6
    verdict = "confirmed" if near else "not confirmed"
    how = f"{how}; confirmed within a factor of 1.6"
    return Claim(what, f"{wanted:g} times the error", f"{got:.2f} times", verdict, how)  # type: ignore[arg-type]


def _error(client: Client, n: int, width: int, seeds: range) -> float:
    found = []
    for seed in seeds:
        scene = wide("relu", (n, 64, width), seed)
        believed = client if isinstance(client, Jitter) else FedSGD()
        answer = answered(scene, Moments(polish=False), client, seed, believed)
        found.append(direction_error(answer, scene.x))
    return mean(found)
