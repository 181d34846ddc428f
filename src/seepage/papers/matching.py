"""Every preset of gradient matching on the same inputs: decibels, labels and CPU time.

No paper compares them so: the claims say what was measured at equal networks and crops, each with
the budget that its own paper gives relative to the others (steps are scaled down together).
"""

from collections.abc import Callable, Iterator
from pathlib import Path

from torch import nn

from seepage import zoo
from seepage.attacks import dlg, idlg, inverting_gradients, modern, see_through, tag
from seepage.core import Attack
from seepage.papers.claims import Claim
from seepage.papers.rounds import Outcome, Setting, played, strip


def reproduce(quick: bool, folder: Path | None) -> Iterator[Claim]:
    """Each preset on a sigmoid LeNet and on a BatchNorm ConvNet, one crop or three."""
    size, crops, share = (16, 1, 0.005) if quick else (32, 3, 0.0125)
    networks: dict[str, Callable[[int], nn.Module]] = {
        "LeNet": lambda seed: zoo.lenet(8, (3, size, size), seed=seed),
        "ConvNet": lambda seed: zoo.convnet(4 if quick else 8, 8, (3, size, size), seed=seed),
    }
    for where, make in networks.items():
        for name, attack in presets(share, where).items():
            found = [_one(attack, make(seed), size, seed) for seed in range(crops)]
            rows = [zoo.photos(1, size, seed=0).x, found[0].answer.x]
            strip(folder, f"{where}-{name}", zoo.photos(1, size).form, rows)  # type: ignore[arg-type]
            yield _claim(f"{name} on {where}", found, size)


def presets(share: float, where: str) -> dict[str, Attack]:
    """The papers' attacks with a share of their steps; BatchNorm's statistics where it has any."""
    statistics = 0.1 if where == "ConvNet" else 0.0
    return {
        "dlg": dlg(max(2, round(300 * share * 4))),
        "idlg": idlg(max(2, round(300 * share * 4))),
        "inverting_gradients": inverting_gradients(steps=round(24000 * share)),
        "see_through": see_through(round(20000 * share), 2, statistics),
        "tag": tag(round(24000 * share)),
        "modern": modern(round(24000 * share)),
    }


def _one(attack: Attack, net: nn.Module, size: int, seed: int) -> Outcome:
    return played(Setting(zoo.photos(1, size, seed=seed), net), attack, seed)


def _claim(what: str, found: list[Outcome], size: int) -> Claim:
    mean = sum(outcome.decibels for outcome in found) / len(found)
    exact = sum(outcome.recovered[0] for outcome in found)
    right = sum(outcome.labels or 0 for outcome in found) / len(found)
    spent = sum(outcome.seconds for outcome in found)
    return Claim(
        what,
        "not available",
        f"{mean:.1f} dB, {exact} of {len(found)} over 30 dB, labels {right:.2f}, {spent:.0f} s",
        "measured",
        f"crops of {size}x{size}, n=1, {found[0].answer.note}",
    )
