"""PRECODE: a generic model extension to prevent deep gradient leakage.

Scheliga, Mäder and Seeland 2022, arXiv 2108.04725; and their own "Combining Variational Modeling
with Partial Gradient Perturbation to Prevent Deep Gradient Leakage", arXiv 2208.04767, where the
bottleneck's layers are left out of the match. Digits, not the papers' sets.
"""

from collections.abc import Iterator
from pathlib import Path

from seepage import zoo
from seepage.attacks import Adaptive
from seepage.clients import FedSGD
from seepage.core import Model, observe, stream
from seepage.defenses.precode import precode
from seepage.papers.claims import Claim

_HOW = "{} digits, MLP 64-128-64-10 tanh without biases, code of 32, labels told, 300 steps"


def reproduce(quick: bool, folder: Path | None) -> Iterator[Claim]:  # noqa: ARG001
    """Ignored, left out, and read at the encoder."""
    seeds = range(100, 102 if quick else 106)
    plain, blind, omitted, read = (
        _averaged(way, coded, seeds)
        for way, coded in (("blind", False), ("blind", True), ("omit", True), ("encoder", True))
    )
    how = _HOW.format(len(seeds))
    yield Claim(
        "the attacker who ignores the bottleneck",
        "prevents gradient inversion (2108.04725)",
        f"{blind:.1f} dB ({plain:.1f} without the defense)",
        "confirmed" if blind < 20 else "not confirmed",
        how,
    )
    yield Claim(
        "the bottleneck and what follows left out",
        "the defense is defeated (2208.04767)",
        f"{omitted:.1f} dB",
        "measured",  # the claim has no figure that this could be held against
        how,
    )
    yield Claim(
        "what is encoded read off the encoder's gradient",
        "not available",
        f"{read:.1f} dB",
        "measured",
        how,
    )


def _averaged(way: str, coded: bool, seeds: range) -> float:
    found = []
    for seed in seeds:
        sample = zoo.digits(1, seed=seed)
        net = zoo.mlp(64, 128, 64, 10, activation="tanh", bias=False, seed=seed)
        model: Model = sample.model(net)
        model = precode(model, code=32) if coded else model
        rng = stream(seed, "client")
        seen = observe(model, sample.batch, FedSGD("train"), rng, tell=("n", "y"))
        answer = Adaptive(only=(way,))(seen, stream(seed, "attack"))
        found.append(float(-10 * (answer.x - sample.x).square().mean().log10()))
    return sum(found) / len(found)
