"""Flower's local differential privacy."""

import math

from seepage.checks import positive
from seepage.core import Client
from seepage.defenses.clip import Clip
from seepage.defenses.noise import Noise
from seepage.errors import InvalidInput


def local_dp(inner: Client, clip: float, sensitivity: float, epsilon: float, delta: float) -> Noise:
    """Noise(Clip(inner, C), sensitivity sqrt(2 ln(1.25 / delta)) / epsilon), as Flower's mod does.

    The formula proves the declared epsilon only below one (Dwork and Roth 2014, theorem 3.22);
    `guard.dp` tells what holds above.

    >>> from seepage.clients import FedSGD
    >>> made = local_dp(FedSGD(), clip=1.0, sensitivity=1.0, epsilon=20.0, delta=1e-5)
    >>> made.inner, round(made.std, 4)
    (Clip(inner=FedSGD(), norm=1.0), 0.2422)
    """
    for name, given in (("sensitivity", sensitivity), ("epsilon", epsilon)):
        positive(f"local_dp.{name}", given)
    if not 0 < delta < 1:
        raise InvalidInput(f"local_dp.delta={delta} is no probability: use 0 < delta < 1.")
    return Noise(Clip(inner, clip), sensitivity * math.sqrt(2 * math.log(1.25 / delta)) / epsilon)
