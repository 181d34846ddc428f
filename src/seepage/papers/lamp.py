"""LAMP: Extracting Text from Gradients with Language Model Priors.

Balunovic et al. 2022, arXiv 2202.08827. The search on short sentences of three styles, beside the
attacks that compute the sentences. The published figures are for BERT on the sets themselves.
"""

from collections.abc import Iterator
from pathlib import Path

from seepage.papers.claims import Claim
from seepage.papers.text_quality import (
    FULL,
    QUICK,
    STYLE_NAMES,
    Setting,
    rows,
    searches,
    spans,
)

_CLAIMED = {"cola": "R-1 89.6 (BERT-base, B = 1; quoted by others)"}


def reproduce(
    quick: bool,
    folder: Path | None = None,  # noqa: ARG001 - there are no pictures of text
) -> Iterator[Claim]:
    """LAMP, TokenSpan and EmbeddingRows, and two guesses, at B = 1."""
    setting, effort = Setting.bundled(), QUICK if quick else FULL
    methods = {"LAMP": searches(setting, effort)["LAMP"]} | spans()
    for row in rows(setting, effort, methods):
        yield Claim(
            f"{row.method}, {STYLE_NAMES[row.style]}",
            _CLAIMED.get(row.style, "not available") if row.method == "LAMP" else "not available",
            str(row),
            "measured",
            f"MiniLM, B = 1; {row.source}" + (f"; {effort}" if row.method == "LAMP" else ""),
        )
