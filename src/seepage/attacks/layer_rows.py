"""The gradient of one linear layer, row by row: which rows hold one example, and which."""

import functools
import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from seepage.attacks import first_layer
from seepage.attacks.first_layer import Layer
from seepage.clients import FedSGD
from seepage.core import Batch, Observation, noiseless

ALIKE = 1e-3
"""Rows whose ratios differ by less, relative to their length, hold the same example."""

_UNKNOWN = 64
"""The examples that a client is simulated with where their number was not told."""


@dataclass(frozen=True)
class Rows:
    """The observed gradient of a layer, and what is needed to judge candidates."""

    seen: Observation
    layer: Layer
    weight: Tensor
    bias: Tensor
    entropy: bool
    """Whether the loss is the cross-entropy of the network's output."""
    rng: Generator
    pull: Tensor
    """What weight decay adds to the bias's update: it was subtracted from `bias`."""

    @functools.cached_property
    def live(self) -> Tensor:
        """The rows that the batch moved, strongest first."""
        size = self.bias.double().abs()
        order = size.argsort(descending=True, stable=True)
        return order[size[order] > 1e-6 * size.max()]

    @property
    def single(self) -> bool:
        """Whether one example was told of, or explains all rows when no number was."""
        if self.seen.n is not None:
            return self.seen.n == 1
        return len(self.live) > 1 and spread(self, self.live, common(self, self.live)) < ALIKE

    @functools.cached_property
    def factor(self) -> float:
        """What the believed client makes of a plain gradient of n equal examples: its scale."""
        model, n = self.seen.model, self.seen.n or _UNKNOWN
        x = shaped(self, common(self, self.live[:1])[None])
        batch = Batch(x.expand(n, *x.shape[1:]), torch.zeros(n, dtype=torch.long, device=x.device))
        clients = (FedSGD(), noiseless(self.seen.client))
        plain, shared = (client(model, batch, self.rng)[self.layer.bias] for client in clients)
        shared = shared - self.pull
        return float((plain @ shared) / plain.square().sum().clamp_min(1e-30))


def shaped(rows: Rows, x: Tensor) -> Tensor:
    """Candidates in the form's shape, as the network takes them."""
    like = rows.seen.model.params[rows.layer.weight]
    return x.reshape(-1, *rows.seen.model.form.shape).to(like)


def common(rows: Rows, index: Tensor) -> Tensor:
    """The example that these rows share: least squares of gW = gb x^T, erased entries left out."""
    bias, weight = rows.bias[index].double(), rows.weight[index].double()
    power = bias.square() @ (weight != 0).double()
    return (bias @ weight) / torch.where(power > 0, power, 1.0)


def spread(rows: Rows, index: Tensor, x: Tensor) -> float:
    """|gW - gb x^T| / |gW| over these rows: zero where one example moved them all."""
    weight = rows.weight[index].double()
    left = (weight - rows.bias[index].double()[:, None] * x) * (weight != 0)
    return float(left.norm() / weight.norm().clamp_min(1e-300))


def groups(rows: Rows) -> list[Tensor]:
    """The live rows by example: those whose ratios are the same, the largest group first."""
    index = rows.live
    ratio = rows.weight[index].double() / rows.bias[index].double()[:, None]
    size = ratio.square().sum(1)
    alike = size[:, None] + size - 2 * ratio @ ratio.T <= ALIKE**2 * size[:, None]
    free, found = torch.ones(len(index), dtype=torch.bool, device=index.device), []
    for i in range(len(index)):
        if free[i]:
            members = alike[i] & free
            members[i] = True
            free &= ~members
            found.append(index[members])
    return sorted(found, key=len, reverse=True)


@dataclass(frozen=True)
class Fit:
    """How well one example alone explains some rows."""

    gap: float = math.nan
    """|gb - its slopes| / |gb| over the rows; NaN where labels cannot be enumerated."""
    label: int | None = None
    scale: float = math.nan
    """What its slopes were multiplied by, times n: what the client makes of a gradient."""


def alone(rows: Rows, index: Tensor, x: Tensor, factor: float | None) -> Fit:
    """How far the example's own slopes are from these rows' bias gradients, for its best label.

    Alone in a row it moves the bias by an n-th of its slope times the client's factor; without
    a factor only the direction counts.
    """
    if not rows.entropy:
        return Fit()
    observed = rows.bias[index].double()
    logits, jacobian = first_layer.slopes(rows.seen.model, rows.layer, shaped(rows, x[None])[0])
    jacobian = jacobian[:, index].double()
    slope = logits.double().softmax(0) @ jacobian - jacobian
    if factor is None:
        fits = (slope @ observed) / slope.square().sum(1).clamp_min(1e-300)
    else:
        fits = factor / _count(rows, slope, observed, factor)
    gap = (observed - fits.clamp_min(0)[:, None] * slope).norm(dim=1) / observed.norm()
    if rows.seen.y is not None:
        told = torch.zeros_like(gap, dtype=torch.bool).index_fill(0, rows.seen.y.long(), True)
        gap = gap.where(told, torch.inf)
    label = int(gap.argmin())
    return Fit(float(gap[label]), label, float(fits[label]) * (rows.seen.n or 1))


def shared_scale(fits: list[Fit], x: Tensor) -> float | None:
    """The client's factor on which two different examples agree, or more.

    An attacker who does not know of a clip finds it so. Two mixtures may agree when they are
    nearly the same one, so that the examples must differ by a tenth of their length.
    """
    good = [i for i, fit in enumerate(fits) if fit.gap < ALIKE and fit.scale > 0]
    apart = torch.cdist(x, x) > 0.1 * x.norm(dim=1)
    votes = {
        i: sum(bool(apart[i, j]) and abs(fits[j].scale / fits[i].scale - 1) < ALIKE for j in good)
        for i in good
    }
    best = max(votes, key=votes.__getitem__, default=None)
    return fits[best].scale if best is not None and votes[best] > 0 else None


def simulated(rows: Rows, x: Tensor, label: int) -> float:
    """How far what the believed client would share of this one example is from these rows.

    Up to a factor, and where the update has entries: a clip or erased entries do not matter.
    """
    batch = Batch(shaped(rows, x[None]), torch.tensor([label], device=rows.bias.device))
    shared = noiseless(rows.seen.client)(rows.seen.model, batch, rows.rng)
    names = (rows.layer.weight, rows.layer.bias)
    real, mine = (
        torch.cat([update[name].flatten() for name in names]).double()
        for update in (rows.seen.update, shared)
    )
    mine = mine * (real != 0)
    factor = (real @ mine) / (mine @ mine).clamp_min(1e-300)
    return float((real - factor.clamp_min(0) * mine).norm() / real.norm())


def _count(rows: Rows, slope: Tensor, observed: Tensor, factor: float) -> Tensor:
    """n where it was told, or for each label the whole number that fits best."""
    if rows.seen.n is not None:
        return torch.full_like(slope[:, 0], rows.seen.n)
    fitting = factor * slope.square().sum(1) / (slope @ observed).clamp_min(1e-300)
    return fitting.round().clamp(1, 1e6)
