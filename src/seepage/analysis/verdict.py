"""Both sides of a verdict: what was found, and what no attacker can exceed."""

import math
from collections.abc import Sequence
from typing import Any

import scipy

from seepage.analysis.ceilings import Ceiling


def beside(
    ceilings: Sequence[Ceiling], recovered: Sequence[bool], psnr: Sequence[float]
) -> list[dict[str, Any]]:
    """Each ceiling with what was found, as a row holds it: on one scale, None where not tried.

    >>> from seepage.analysis.bounds import Bound
    >>> one = Ceiling("records", Bound(0.3, "of 2", "certified"))
    >>> [(row["of"], row["found"], row["limit"]) for row in beside([one], [True, False], [])]
    [('records', 1, 0.3)]
    """
    found = {"records": sum(recovered), "pixels": mean_error_psnr(psnr) if psnr else None}
    return [
        {
            "of": one.of,
            "found": found.get(one.of),
            "limit": one.bound.value,
            "unit": one.bound.unit,
            "label": one.bound.label,
            "assumptions": list(one.bound.assumptions),
            "interval": one.bound.interval,
        }
        for one in ceilings
    ]


def mean_error_psnr(psnr: Sequence[float]) -> float:
    """The PSNR of the mean of the squared errors, which a pixel ceiling bounds.

    >>> round(mean_error_psnr([20.0, 15.2288]), 2)
    16.99
    """
    return _decibel([10 ** (-one / 10) for one in psnr])


def lowest(psnr: Sequence[float]) -> float:
    """What the PSNR of the mean error is at least, with 99 % confidence (Student's t).

    >>> lowest([20.0]), round(lowest([20.0, 20.0, 20.0]), 2)
    (-inf, 20.0)
    """
    errors, count = [10 ** (-one / 10) for one in psnr], len(psnr)
    if count < 2:
        return -math.inf
    mean = sum(errors) / count
    spread = math.sqrt(sum((e - mean) ** 2 for e in errors) / (count - 1))
    reach = float(scipy.stats.t.ppf(0.99, count - 1)) * spread / math.sqrt(count)
    return _decibel([mean + reach])


def least(hits: int, count: int) -> float:
    """The share that so many hits of so many speak for at least, with 99 % confidence.

    >>> least(0, 4), round(least(4, 4), 3)
    (0.0, 0.316)
    """
    return float(scipy.stats.beta.ppf(0.01, hits, count - hits + 1)) if hits else 0.0


def _decibel(errors: Sequence[float]) -> float:
    return -10 * math.log10(max(sum(errors) / len(errors), 1e-300))
