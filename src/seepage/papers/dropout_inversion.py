"""Dropout is NOT all you need to prevent gradient leakage: the mask is read off, or searched.

Scheliga, Mäder and Seeland 2022, arXiv 2208.06163. They search the masks with the images; here the
mask is shared by the batch and shows itself as zeros, so it is read. Digits, not the paper's sets.
"""

from collections.abc import Iterator
from pathlib import Path

from seepage.clients import FedSGD
from seepage.core import Client
from seepage.defenses import Dropout
from seepage.papers.claims import Claim
from seepage.papers.known_defenses import averaged


def reproduce(quick: bool, folder: Path | None) -> Iterator[Claim]:  # noqa: ARG001
    """Dropout of units and of entries, against who ignores it and who knows it."""
    seeds = range(3 if quick else 10)
    for keep in (0.5,) if quick else (0.9, 0.5, 0.3):
        yield _compared(Dropout(FedSGD(), keep), "realised", seeds)
    yield _compared(Dropout(FedSGD(), 0.1, "entries"), "support", seeds)


def _compared(client: Client, way: str, seeds: range) -> Claim:
    blind, known = (averaged(client, name, seeds) for name in ("blind", way))
    return Claim(
        f"{client!r}: mask {way} against ignored",
        "known masks restore the attack",
        f"{known:.1f} dB against {blind:.1f} dB",
        "confirmed" if known > blind + 20 else "not confirmed",
        f"{len(seeds)} digits, MLP 64-128-64-10 tanh, labels told, 300 steps",
    )
