"""What the span attack says: sentences with their certificates, or why there are none."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Generator

from seepage.attacks.text.anatomy import Network
from seepage.attacks.text.certificate import explained, labels_of, padded
from seepage.attacks.text.spans import Span
from seepage.attacks.text.token_lists import Lists
from seepage.core import Observation, Reconstruction

Sentence = tuple[int, ...]

_WRONG = 0.05
"""A whole batch that leaves more of the update than this has wrong labels or belief."""


def answered(
    seen: Observation,
    network: Network,
    sentences: Mapping[Sentence, float],
    said: tuple[str, bool],
    trace: dict[str, Any],
    rng: Generator,
) -> Reconstruction:
    """The sentences with their labels; the residual is the relative gradient error of them all.

    Where the batch is not complete no client can be simulated: the residual of a sentence is then
    its distance to block 1's span.
    """
    note, whole = said
    if not sentences:
        return nothing(seen, note.removeprefix("not recovered: "), trace)
    form, like = network.form, next(iter(seen.model.params.values()))
    x = padded(network, list(sentences))
    y = labels_of(seen, network, list(sentences)) if network.anatomy.classifier else None
    distances = like.new_tensor(list(sentences.values()))
    residual, simulable = distances, whole and (y is not None or form.classes == 0)
    if simulable:
        error = explained(seen, x, y, rng)
        residual = torch.full_like(distances, error)
        trace = trace | {"gradient error": error}
        if error > _WRONG:
            note += "; labels or multiplicities do not explain the whole update"
    return Reconstruction(x, y, -distances, residual, note, trace)


def nothing(seen: Observation, note: str, trace: dict[str, Any]) -> Reconstruction:
    """No sentence, with all that was found on the way."""
    empty = Reconstruction.nothing(seen, note)
    return Reconstruction(empty.x, None, empty.belief, empty.residual, empty.note, trace)


def told(found: int, n: int | None, whole: bool, why: str, noisy: bool = False) -> str:
    """The note: how many sentences, whether they are all, and whether that is proven."""
    if not found:
        return f"not recovered: {why}"
    if not whole:
        return f"{found} of {n if n is not None else '?'} sentences; {why}"
    if n is not None and found < n:
        return f"all {found} distinct sentences; duplicates show once"
    if noisy:
        return f"all {found} sentences, likely: spans with noise prove nothing, the residual does"
    return f"all {found} sentences, exact by their certificates"


def measured(span: Span, lists: Lists) -> dict[str, Any]:
    """The numbers of the token stage."""
    return {
        "rank of block 0": span.rank,
        "spare directions": len(span.complement),
        "list sizes": lists.sizes,
        "ends": lists.ends,
        "largest accepted token": lists.accepted,
        "smallest rejected token": lists.rejected,
    }
