"""Finishing: L-BFGS brings a smooth network's image near, damped Gauss-Newton makes it exact.

Deep leakage's LeNet (Zhu et al. 2019) with the label known, one photograph crop. The update is in
single precision, so about 120 dB is as exact as it tells.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from seepage import zoo
from seepage.attacks import L2, LBFGS, LM, Invert, Told
from seepage.papers.claims import Claim
from seepage.papers.rounds import Setting, played, strip

NEAR = Invert(
    L2(), (), Told(), optimiser=LBFGS(), schedule="constant", steps=100_000, seconds=20, box=False
)


def reproduce(quick: bool, folder: Path | None) -> Iterator[Claim]:
    """Crop after crop: 16x16 and two of them in the quick form, else 32x32 and five."""
    size, crops, seconds = (16, 2, 1.5) if quick else (32, 5, 12.0)
    near = dataclasses.replace(NEAR, seconds=seconds)
    exact = 0
    for seed in range(crops):
        sample = zoo.photos(1, size, seed=seed)
        net = zoo.lenet(sample.form.classes, (3, size, size), seed=seed)
        setting = Setting(sample, net, labels=True)
        first = played(setting, near, seed)
        last = played(setting, dataclasses.replace(near, finish=LM()), seed)
        exact += last.decibels > 100
        strip(folder, f"crop{seed}", sample.form, [sample.x, first.answer.x, last.answer.x])  # type: ignore[arg-type]
        yield Claim(
            f"crop {seed}: before and after the finisher",
            "not available",
            f"{first.decibels:.1f} dB in {first.seconds:.0f} s, then {last.decibels:.1f} dB in "
            f"{last.seconds:.0f} s of CPU time",
            "measured",
            f"LeNet with sigmoid, {size}x{size}, {last.answer.note}",
        )
    yield Claim(
        "crops over 100 dB",
        "at least 4 of 5 (a goal of ours)",
        f"{exact} of {crops}",
        "confirmed" if exact >= 0.8 * crops else "not confirmed",
        f"{size}x{size}",
    )
