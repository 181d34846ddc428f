"""One round of a malicious server: craft, observe, attack, score, and show what came back."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seepage import zoo
from seepage.core import Batch, Client, Model, Reconstruction, observe, stream
from seepage.forms import Images
from seepage.metrics.identify import identified
from seepage.metrics.image import psnr
from seepage.metrics.match import assign, distances

_AT_ONCE = 1024
_WRONG = 1e-6  # mean squared error: half a level of 8 bit is 4e-6


@dataclass(frozen=True)
class Round:
    """What came back in one round, matched with the truth (by this scorer, not by the attack)."""

    found: Reconstruction
    truth: Tensor
    """(n, C, H, W) in [0, 1]."""
    shown: Tensor
    """(n, C, H, W) of each truth's own candidate, mid-grey where it has none."""
    decibels: Tensor
    bins: tuple[int, ...]
    """The bin that each truth's candidate came from, -1 where it has none."""
    false: int = 0
    """Certified candidates that are no private image: there should never be one."""

    def above(self, decibels: float) -> int:
        """How many images came back better than this."""
        return int((self.decibels > decibels).sum())

    @property
    def certified(self) -> int:
        """How many candidates the attack itself calls real."""
        return sum(self.found.trace.get("certified", ()))

    def identified(self, pool: Tensor) -> float:
        """Share of truths whose candidate is nearer to them than to any image of the pool."""
        near = identified(self.shown, self.truth, pool)
        there = torch.tensor([b >= 0 for b in self.bins])
        return float((near & there).double().mean())


def played(attack: Any, model: Model, batch: Batch, client: Client, seed: int = 0) -> Round:
    """Craft the model, let the client answer, attack the answer, match candidates with truths."""
    crafted = attack.craft(model, stream(seed, "craft"))
    return answered(attack, crafted, batch, client, seed)


def answered(attack: Any, crafted: Model, batch: Batch, client: Client, seed: int = 0) -> Round:
    """The same for a model that is crafted already."""
    seen = observe(crafted, batch, client, stream(seed, "client"))
    found = attack(seen, stream(seed, "attack"))
    assert isinstance(crafted.form, Images)
    return scored(found, crafted.form, batch.x)


def scored(found: Reconstruction, form: Images, x: Tensor) -> Round:
    """Candidates matched with the truth."""
    truth = form.show(x)
    if not len(found):
        none = torch.full_like(truth, 0.5)
        return Round(found, truth, none, psnr(none, truth), (-1,) * len(truth))
    offered = form.show(found.x)
    errors = distances(truth, offered)
    matched = assign(errors)
    shown = torch.where((matched >= 0).view(-1, 1, 1, 1), offered[matched], 0.5)
    sure = torch.tensor(found.trace.get("certified", [False] * len(found)))
    rows = [*found.trace.get("bins", range(len(found))), -1]
    bins = tuple(rows[place] for place in matched.tolist())
    false = int((errors.amin(0)[sure] > _WRONG).sum())
    return Round(found, truth, shown, psnr(shown, truth), bins, false)


def nearest(found: Reconstruction, form: Images, x: Tensor) -> tuple[int, Round]:
    """The private image that the first candidate comes nearest to, looking at few at a time."""
    offered = form.show(found.x[:1])
    parts = (x[start : start + _AT_ONCE] for start in range(0, len(x), _AT_ONCE))
    errors = torch.cat([distances(form.show(part), offered)[:, 0] for part in parts])
    best = int(errors.argmin())
    truth = form.show(x[best : best + 1])
    wrong = int(float(errors[best]) > _WRONG and found.trace["certified"][0])
    bins = tuple(found.trace["bins"][:1])
    return best, Round(found, truth, offered, psnr(offered, truth), bins, wrong)


def crops(n: int, size: int, seed: int, classes: int, split: Any = "both") -> zoo.Sample:
    """Private crops with labels drawn from this many classes, normalised as networks take them."""
    return zoo.photos(n, size, split=split, seed=seed).relabelled(classes, seed=seed).normalised()


def panel(played: Round, path: Path, title: str, most: int = 16) -> None:
    """Original above recovered, with the bin and the decibels: for a person to look at."""
    from matplotlib.figure import Figure

    count = min(most, len(played.truth))
    figure = Figure(figsize=(1.1 * count, 3.0))
    axes = figure.subplots(2, count, squeeze=False)
    for i in range(count):
        for row, images in enumerate((played.truth, played.shown)):
            axes[row][i].imshow(images[i].permute(1, 2, 0).numpy())
            axes[row][i].set_axis_off()
        where = f"bin {played.bins[i]}\n" if played.bins[i] >= 0 else "none\n"
        where = where if "bins" in played.found.trace else ""
        axes[1][i].set_title(f"{where}{played.decibels[i]:.0f} dB", fontsize=6)
    figure.suptitle(title, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
