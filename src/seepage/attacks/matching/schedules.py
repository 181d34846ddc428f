"""How the step length falls as the search goes on."""

import math
from typing import Literal

Schedule = Literal["drops", "cosine", "linear", "constant"]
SCHEDULES: tuple[Schedule, ...] = ("drops", "cosine", "linear", "constant")


def rate(schedule: Schedule, done: float) -> float:
    """The factor on the rate when a share of the budget is done.

    `drops` divides by ten at 3/8, 5/8 and 7/8; `cosine` and `linear` fall to zero.

    >>> [round(rate("drops", share), 3) for share in (0.1, 0.5, 0.7, 0.9)]
    [1.0, 0.1, 0.01, 0.001]
    """
    if schedule == "drops":
        return 0.1 ** sum(done > part for part in (3 / 8, 5 / 8, 7 / 8))
    if schedule == "cosine":
        return (1 + math.cos(math.pi * min(done, 1))) / 2
    return max(1 - done, 0) if schedule == "linear" else 1.0
