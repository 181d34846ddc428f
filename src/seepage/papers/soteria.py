"""Provable defense against privacy leakage in federated learning from representation perspective.

Sun et al. 2021, arXiv 2012.06043: Soteria prunes what one layer's input tells. Balunović et al.
2022, arXiv 2111.04706, undo it by leaving that layer out. Digits, not the paper's sets.
"""

from collections.abc import Iterator
from pathlib import Path

from seepage.clients import FedSGD
from seepage.defenses import Soteria
from seepage.papers.claims import Claim
from seepage.papers.known_defenses import averaged


def reproduce(quick: bool, folder: Path | None) -> Iterator[Claim]:  # noqa: ARG001
    """The blind attacker, and the one who leaves the layer out."""
    seeds = range(3 if quick else 10)
    plain = averaged(FedSGD(), "blind", seeds)
    for share in (0.5,) if quick else (0.2, 0.5, 0.8):
        client = Soteria(FedSGD(), share=share)
        blind, omitted = (averaged(client, name, seeds) for name in ("blind", "omit"))
        how = f"{len(seeds)} digits, MLP 64-128-64-10 tanh, labels told, 300 steps"
        yield Claim(
            f"share {share}: the blind attacker",
            "the defense stops the attack (Sun et al.)",
            f"{blind:.1f} dB ({plain:.1f} without the defense)",
            "confirmed" if blind < 25 else "not confirmed",
            how,
        )
        yield Claim(
            f"share {share}: the layer left out",
            "the attack is restored (Balunović et al.)",
            f"{omitted:.1f} dB",
            "confirmed" if omitted > plain - 15 else "not confirmed",
            how,
        )
