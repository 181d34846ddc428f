"""Beyond Gradient and Priors in Privacy Attacks: Leveraging Pooler Layer Inputs of Language Models.

Li et al. 2024, arXiv 2312.05720. What the pooler gives away of each sentence's state, with the
widened pooler of the paper and, which the paper does not claim, without touching the model; and
what these states are worth to LAMP's search.
"""

from collections.abc import Iterator
from pathlib import Path

from seepage.attacks import Lamp, Pooler
from seepage.attacks.text.anatomy import Network
from seepage.attacks.text.pooler_states import pooled_states
from seepage.clients import FedSGD
from seepage.core import observe, stream
from seepage.integrations.minilm import sentences
from seepage.metrics.text import cosine
from seepage.papers.claims import Claim
from seepage.papers.text_quality import (
    FULL,
    QUICK,
    STYLE_NAMES,
    Effort,
    Setting,
    rows,
    searches,
    spans,
    states,
)

_TABLE = {
    "cola": ("R-1/R-2/R-L/CosS 15.5/2.6/14.4/.36", "17.4/3.8/15.9/.41"),
    "sst2": ("R-1/R-2/R-L/CosS 20.1/2.2/15.9/.56", "19.7/2.1/16.8/.59"),
    "rotten_tomatoes": ("R-1/R-2/R-L/CosS 19.9/1.6/15.1/.48", "21.5/1.8/16.0/.51"),
}
"""A talk's table, its batch size unstated: LAMP, and LAMP with the widened pooler."""


def reproduce(
    quick: bool,
    folder: Path | None = None,  # noqa: ARG001 - there are no pictures of text
) -> Iterator[Claim]:
    """The states of an unmodified and of a widened pooler, then the table."""
    setting = Setting.bundled()
    yield from _states(setting, quick)
    yield from _quality(setting, QUICK if quick else FULL)


def _states(setting: Setting, quick: bool) -> Iterator[Claim]:
    model, tokenizer = setting.model, setting.tokenizer
    for size in (1, 2, 4) if quick else (1, 2, 4, 8):
        batch = sentences(model, tokenizer, size, 0)
        seen = observe(model, batch, FedSGD(), stream(0, "client"))
        found = pooled_states(seen, Network.of(model), stream(0, "attack"), starts=20)
        score = cosine(found.states, states(model, batch.x)).min()
        yield Claim(
            f"states from the unmodified pooler, B = {size}",
            "not available",
            f"least |cos| {score:.6f}, residual {found.residual:.1e}, {found.starts} starts",
            "measured",
            "MiniLM, float32, 2 classes",
        )
    attack = Pooler(width=3000 if quick else 30_000, lamp=Lamp(starts=1, steps=1))
    crafted = attack.craft(model, stream(0, "craft"))
    batch = sentences(model, tokenizer, 2, 0)
    seen = observe(crafted, batch, FedSGD(), stream(0, "client"))
    ours = attack(seen, stream(0, "attack")).trace["states"]
    yield Claim(
        "states from the widened pooler, B = 2",
        "not available",
        f"least |cos| {cosine(ours, states(crafted, batch.x)).min():.6f}",
        "measured",
        f"tanh, width {attack.width}",
    )


def _quality(setting: Setting, effort: Effort) -> Iterator[Claim]:
    """At B = 1 there is one state, so that the order which the original was told is no secret."""
    searched = searches(setting, effort)
    claimed = dict(zip(searched, (0, 1), strict=False))
    for row in rows(setting, effort, searched | spans()):
        at, how = claimed.get(row.method), f"MiniLM, B = 1; {row.source}"
        yield Claim(
            f"{row.method}, {STYLE_NAMES[row.style]}",
            "not available" if at is None else f"{_TABLE[row.style][at]} (a talk, B unstated)",
            str(row),
            "measured",
            f"{how}; {effort}" if row.method in searched else how,
        )
