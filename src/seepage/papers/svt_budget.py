"""Privacy-preserving federated brain tumour segmentation: the budget of a sparse vector release.

Li et al. 2019, arXiv 1910.00962, release a share of the entries of an update by the sparse vector
technique; NVFlare's SVTPrivacy is that. The declared epsilon pays for choosing the entries; each
released one costs noise_var more.
"""

from collections.abc import Iterator
from pathlib import Path

import torch

from seepage.clients import Given
from seepage.core import stream
from seepage.defenses import SVT
from seepage.guard import dp
from seepage.papers.claims import Claim
from seepage.zoo import example


def reproduce(quick: bool, folder: Path | None) -> Iterator[Claim]:  # noqa: ARG001
    """The budget of one round, and what is left of the signal."""
    spent = dp.svt_budget(7_030_000, 0.1, 0.1, 0.1)
    yield Claim(
        "epsilon of one round, 7.03 million parameters, NVFlare's defaults",
        "70,333 (published)",
        f"{spent:,.0f}",
        "confirmed" if abs(spent / 70_333 - 1) < 0.001 else "not confirmed",
        "7.03 million is rounded; epsilon=.1 is declared",
    )
    yield _drowned(20_000 if quick else 2_000_000)


def _drowned(entries: int) -> Claim:
    """How much of a released entry is the client's: correlation with the clamped update."""
    update = torch.randn(entries, generator=stream(0, "update")) * 1e-5
    model, batch = example()
    released = SVT(Given({"w": update}))(model, batch, stream(1, "client"))["w"]
    chosen = released != 0
    pair = torch.stack([update[chosen].clamp(-1e-5, 1e-5), released[chosen]])
    return Claim(
        "correlation of released entries with the update",
        "not available",
        f"{float(torch.corrcoef(pair)[0, 1]):.3f} ({int(chosen.sum())} of {entries} released)",
        "measured",
        "noise of scale 2e-4 on signals of at most 1e-5",
    )
