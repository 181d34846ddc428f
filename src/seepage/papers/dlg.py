"""Deep Leakage from Gradients: image and label from one gradient of a sigmoid LeNet.

Zhu, Liu and Han 2019, arXiv 1906.08935. The share of searches that end with a mean squared error
below 1e-3 (30 dB), with labels searched too, and with labels read first (iDLG, Zhao et al. 2020,
arXiv 2001.02610).
"""

from collections.abc import Iterator
from pathlib import Path

from seepage import zoo
from seepage.attacks import Invert, dlg, idlg
from seepage.papers.claims import Claim
from seepage.papers.rounds import Outcome, Setting, played, strip


def reproduce(quick: bool, folder: Path | None) -> Iterator[Claim]:
    """Both attacks: 3 crops of 16x16 and 25 steps in the quick form, else 20 of 32x32 and 100."""
    size, seeds, steps = (16, 3, 25) if quick else (32, 20, 100)
    for name, attack in (("DLG", dlg(steps)), ("iDLG", idlg(steps))):
        found = [_one(attack, size, seed, folder, name) for seed in range(seeds)]
        near = sum(outcome.decibels > 30 for outcome in found)
        right = sum(outcome.labels == 1 for outcome in found)
        spent = sum(outcome.seconds for outcome in found)
        yield Claim(
            f"{name}: searches with an error below 1e-3",
            "image and label are found (no share is published)"
            if name == "DLG"
            else "the label is always right",
            f"{near} of {seeds} images, {right} of {seeds} labels, {spent:.0f} s of CPU time",
            "measured" if name == "DLG" else "confirmed" if right == seeds else "not confirmed",
            f"LeNet with sigmoid and U(-.5, .5) weights, photograph crops of {size}x{size}, "
            f"{steps} steps of L-BFGS",
        )


def _one(attack: Invert, size: int, seed: int, folder: Path | None, name: str) -> Outcome:
    sample = zoo.photos(1, size, seed=seed)
    net = zoo.lenet(sample.form.classes, (3, size, size), seed=seed)
    outcome = played(Setting(sample, net), attack, seed)
    strip(folder, f"{name}{seed}", sample.form, [sample.x, outcome.answer.x])  # type: ignore[arg-type]
    return outcome
