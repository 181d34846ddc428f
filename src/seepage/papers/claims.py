"""One published result beside what was measured here."""

from typing import Literal

from seepage.values import value

Verdict = Literal["confirmed", "not confirmed", "measured", "not run"]


@value
class Claim:
    """What a paper (or a talk) claims, what came out here, and whether that confirms it.

    `claimed` is "not available" where no published figure is known, and the verdict is then
    "measured". `how` says what differs from the paper: data, size, seeds.
    """

    what: str
    claimed: str
    got: str
    verdict: Verdict
    how: str = ""
