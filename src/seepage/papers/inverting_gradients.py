"""Inverting Gradients: cosine, signed Adam and total variation against a BatchNorm ConvNet.

Geiping et al. 2020, arXiv 2003.14053, on networks of random weights and of weights trained on
public digits. The paper's single images of CIFAR-10 reach a mean of 18 to 20 dB on such networks
after 24,000 iterations; budgets here are much smaller and said beside each figure.
"""

from collections.abc import Iterator
from pathlib import Path

from torch import nn

from seepage import zoo
from seepage.attacks import inverting_gradients
from seepage.papers.claims import Claim
from seepage.papers.rounds import Setting, played, strip, trained
from seepage.zoo import Sample


def reproduce(quick: bool, folder: Path | None) -> Iterator[Claim]:
    """One image and four, untrained and trained; the quick form takes a narrow network."""
    width, crops, steps = (4, 1, 150) if quick else (8, 3, 400)
    attack = inverting_gradients(tv=1e-3, steps=steps)
    for state in ("untrained", "trained"):
        for n in (1, 4):
            found = []
            for seed in range(crops):
                sample = zoo.photos(n, 32, seed=seed)
                net = _network(width, state, sample, seed)
                found.append(played(Setting(sample, net, labels=True), attack, seed))
                rows = [sample.x, found[-1].answer.x]
                strip(folder, f"{state}{n}-{seed}", sample.form, rows)  # type: ignore[arg-type]
            mean = sum(outcome.decibels for outcome in found) / crops
            spent = sum(outcome.seconds for outcome in found)
            yield Claim(
                f"mean PSNR, {n} of 32x32, {state} ConvNet({width})",
                "not available at this size",
                f"{mean:.1f} dB, {spent:.0f} s of CPU time",
                "measured",
                f"{crops} draws, {steps} steps, labels told",
            )


def _network(width: int, state: str, sample: Sample, seed: int) -> nn.Module:
    net = zoo.convnet(width, sample.form.classes, seed=seed)
    if state == "untrained":
        return net.eval()
    return trained(net, zoo.photos(16, 32, split="public", seed=seed), 0.9, seed)
