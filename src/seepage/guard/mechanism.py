"""Clipped Gaussian noise: what it declares, what holds, and the noise that would be enough.

One release has two readings: sensitivity C (one record added to or removed from a clipped sum), and
2C (one clipped update replaced by another, which is what local privacy means).
"""

import importlib.util
import math
from collections.abc import Callable

from seepage import accounting
from seepage.checks import at_least, positive
from seepage.errors import InvalidInput
from seepage.values import value


@value
class Mechanism:
    """Clipping to C, then Gaussian noise of deviation `std`, released T times; what it declares.

    >>> Mechanism(clip=1.0, std=0.2422403, epsilon=20.0).tight()
    25.44
    """

    clip: float | None
    std: float
    epsilon: float | None = None
    delta: float = 1e-5
    sensitivity: float | None = None
    rounds: int = 1
    rate: float = 1.0

    def __post_init__(self) -> None:
        at_least("Mechanism.std", self.std, 0)
        accounting.check_delta(self.delta)
        for name in ("clip", "sensitivity", "epsilon"):
            if getattr(self, name) is not None:
                positive(f"Mechanism.{name}", getattr(self, name))
        accounting.check_mechanism(self.rate, 1.0, self.rounds)

    def tight(self, factor: float = 1.0) -> float:
        """The epsilon of all rounds at sensitivity factor x C, to two digits; infinite if none."""
        if self.clip is None or self.std == 0:
            return math.inf
        z = self.std / (factor * self.clip)
        return round(accounting.epsilon(self.delta, z, self.rounds, self.rate), 2)

    def true_delta(self, factor: float = 1.0) -> float:
        """The delta that holds at the declared epsilon, in one round on a full batch."""
        if self.clip is None or self.std == 0 or self.epsilon is None:
            return 1.0
        return accounting.gauss_delta(self.epsilon, factor * self.clip / self.std)

    def repaired(self, factor: float = 1.0) -> float:
        """The least std that keeps the declared epsilon over all rounds."""
        if self.clip is None or self.epsilon is None:
            raise InvalidInput("there is no std to compute: give a clip and a declared epsilon.")
        z = accounting.multiplier_for(self.epsilon, self.delta, self.rounds, self.rate)
        return z * factor * self.clip


def classical(sensitivity: float, epsilon: float, delta: float) -> float:
    """sigma = S sqrt(2 ln(1.25/delta)) / epsilon, which proves epsilon only below one.

    Dwork and Roth 2014, theorem A.1. Flower's LocalDpMod and many others use it for any epsilon.

    >>> round(classical(1.0, 20.0, 1e-5), 3)
    0.242
    """
    return sensitivity * math.sqrt(2 * math.log(1.25 / delta)) / epsilon


def flower_table(delta: float = 1e-5) -> list[dict[str, float]]:
    """What Flower's formula declares beside what holds, for sensitivity = clip.

    >>> flower_table()[3]["tight"], flower_table()[3]["tight_replace"]
    (25.44, 68.49)
    """
    return [_row(epsilon, delta) for epsilon in (1.0, 5.0, 10.0, 20.0, 50.0)]


def _row(epsilon: float, delta: float) -> dict[str, float]:
    made = Mechanism(1.0, classical(1.0, epsilon, delta), epsilon, delta)
    return {
        "declared": epsilon,
        "std": round(made.std, 3),
        "tight": made.tight(),
        "tight_replace": made.tight(2),
        "std_needed": round(made.repaired(), 3),
        "true_delta": made.true_delta(),
    }


def false_above(delta: float = 1e-5, factor: float = 1.0) -> float:
    """The declared epsilon above which the classical formula is false.

    >>> round(false_above(), 2)
    8.42
    """
    low, high = 1e-6, 1e3

    def holds(epsilon: float) -> bool:
        mu = factor / classical(1.0, epsilon, delta)
        return accounting.gauss_delta(epsilon, mu) <= delta

    while high / low > 1 + 1e-7:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def std_for_psnr(least_error: Callable[[float], float], decibels: float) -> float:
    """The std at which the mean error of any attacker is that of a wanted PSNR ceiling.

    `least_error` maps a std to the bound's least mean squared error, for values in [0, 1]:
    `analysis.bounds.private_records` or `certificate`.
    """
    wanted = 10 ** (-decibels / 10)
    if least_error(1e9) < wanted:
        raise InvalidInput(
            f"a ceiling of {decibels} dB is out of reach: the prior alone does better, whatever "
            "the noise. Use a higher ceiling."
        )
    return accounting.bisected(lambda std: wanted - least_error(std), 1e-2)


def opacus_check(mechanism: Mechanism) -> dict[str, float] | None:
    """Epsilon by Opacus's accountants, where it is installed: "prv", and "rdp", which is looser.

    Its "gdp" is left out: for sampled batches it may underestimate.
    """
    if importlib.util.find_spec("opacus") is None or mechanism.clip is None:
        return None
    from opacus import accountants

    z = mechanism.std / mechanism.clip
    prv, rdp = accountants.PRVAccountant(), accountants.RDPAccountant()
    prv.history = rdp.history = [(z, mechanism.rate, mechanism.rounds)]
    return {
        "prv": float(prv.get_epsilon(mechanism.delta)),
        "rdp": float(rdp.get_epsilon(mechanism.delta)),
    }


def svt_budget(parameters: int, fraction: float, epsilon: float, noise_var: float) -> float:
    """epsilon + c noise_var with c = ceil(fraction p): what one round of NVFlare's SVT spends.

    >>> round(svt_budget(7_030_000, 0.1, 0.1, 0.1))
    70300
    """
    return epsilon + math.ceil(fraction * parameters) * noise_var
