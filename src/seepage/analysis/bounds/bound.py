"""A number that holds under named assumptions."""

import math
from typing import Literal

from seepage.values import value

Label = Literal["certified", "estimated", "indicative", "none"]


@value
class Bound:
    """What no attacker can exceed (or fall below), how far that is proven, and under what.

    `certified`: proven under the assumptions; `estimated`: proven but for quantities estimated
    from samples; `indicative`: a condition of the proof does not hold or was not checked; `none`.

    >>> print(Bound(0.09236, "probability", "certified", ("informed attacker",)))
    0.09236 probability (certified: informed attacker)
    """

    value: float
    unit: str
    label: Label
    assumptions: tuple[str, ...] = ()
    interval: tuple[float, float] | None = None

    def __str__(self) -> str:
        spread = f" [{self.interval[0]:.4g}, {self.interval[1]:.4g}]" if self.interval else ""
        why = f": {'; '.join(self.assumptions)}" if self.assumptions else ""
        return f"{self.value:.4g}{spread} {self.unit} ({self.label}{why})"

    def psnr(self, peak: float = 1.0) -> "Bound":
        """A least mean squared error as the greatest PSNR of the mean error, 10 log10(peak^2/e).

        The mean of PSNRs may lawfully exceed it.
        """
        reach = None
        if self.interval:
            reach = _decibel(self.interval[1], peak), _decibel(self.interval[0], peak)
        return Bound(_decibel(self.value, peak), "dB", self.label, self.assumptions, reach)


def _decibel(error: float, peak: float) -> float:
    return 10 * math.log10(peak**2 / error) if error > 0 else math.inf
