"""What the papers on two-layer networks share: their synthetic batches, and errors of answers."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Generator, Tensor, nn
from torch.nn.functional import normalize

from seepage import tree, zoo
from seepage.core import Attack, Batch, Client, Model, Reconstruction, observe, stream
from seepage.forms import Images
from seepage.tree import Tensors
from seepage.values import value

_EXACT = "donot_use_mm_for_euclid_dist"


@value
class Jitter:
    """u + s std(u) xi, tensor by tensor: the noise in which the papers state their laws."""

    inner: Client
    share: float

    def __call__(self, model: Model, batch: Batch, rng: Generator) -> Tensors:
        update = self.inner(model, batch, rng)
        return tree.mapped(lambda u: u + self.share * u.std() * _normal(u.shape, rng), update)

    def noiseless(self) -> Client:
        return self.inner


@dataclass(frozen=True)
class Scene:
    """A wide network with Gaussian weights and head 1/m, and the batch of its only client."""

    model: Model
    batch: Batch

    @property
    def x(self) -> Tensor:
        return self.batch.x.flatten(1)


def wide(
    activation: str | Callable[[], nn.Module],
    shape: tuple[int, int, int],
    seed: int,
    dropout: float = 0.0,
) -> Scene:
    """Unit inputs (n, d), standard-normal rows (m), and loss slopes l of either sign in [.5, 1.5].

    `shape` is (n, d, m). The loss is sum_i l_i o_i, so that the slopes are exactly these.
    """
    (n, d, m), draw = shape, stream(seed, "wide")
    x = normalize(_normal((n, d), draw))
    slopes = (0.5 + torch.rand(n, generator=draw, dtype=torch.float64)) * _normal((n,), draw).sign()
    net = zoo.mlp(d, m, 1, activation=activation, bias=False, seed=seed).double()
    if dropout:
        net = nn.Sequential(net[:3], nn.Dropout(dropout), net[3:])
    hidden, head = [part for part in net.modules() if isinstance(part, nn.Linear)]
    with torch.no_grad():
        hidden.weight.copy_(_normal((m, d), draw))
        head.weight.fill_(1 / m)
    form = Images((1, 1, d), classes=1, low=-1, high=1)
    return Scene(Model.of(net, weighted_output, form), Batch(x.view(n, 1, 1, d), slopes))


def weighted_output(output: Tensor, y: Tensor) -> Tensor:
    """sum_i y_i o_i: its slope at output i is y_i."""
    return (output.reshape(-1) * y).sum()


def answered(
    scene: Scene, attack: Attack, client: Client, seed: int, believed: Client | None = None
) -> Reconstruction:
    """One round of this client, and what the attack makes of it."""
    drawn = stream(seed, "client")
    seen = observe(scene.model, scene.batch, client, drawn, believed=believed)
    return attack(seen, stream(seed, "attack"))


def direction_error(answer: Reconstruction, truth: Tensor) -> float:
    """The mean of sqrt(2 - 2 |cos|) after assignment: 0 for the right lines, at most 1.41."""
    if len(answer.x) == 0:
        return math.sqrt(2)
    found, wanted = normalize(answer.x.double().flatten(1)), normalize(truth.double())
    # |u - v| of unit vectors, not sqrt(2 - 2 cos), which rounding stops at 1e-8.
    sides = [torch.cdist(wanted, side * found, compute_mode=_EXACT) for side in (1, -1)]
    distance = torch.minimum(*sides).clamp_min(1e-16)
    rows, columns = linear_sum_assignment(distance.log().numpy())
    missing = (len(truth) - len(rows)) * math.sqrt(2)
    return (float(distance[rows, columns].sum()) + missing) / len(truth)


def span_error(answer: Reconstruction, truth: Tensor) -> float:
    """The mean relative distance of the truths to the span of the answers."""
    basis = torch.linalg.qr(answer.x.double().flatten(1).T).Q
    outside = truth.double() - truth.double() @ basis @ basis.T
    return float((outside.norm(dim=1) / truth.double().norm(dim=1)).mean())


@dataclass(frozen=True)
class Line:
    """A line through logarithms: its exponents, and the share of the spread that it explains."""

    exponents: tuple[float, ...]
    explained: float


def power_law(error: Sequence[float], *factors: Sequence[float]) -> Line:
    """The exponents with which an error grows in each factor, by least squares on logarithms.

    >>> power_law([1.0, 2.0, 4.0], [1.0, 4.0, 16.0])
    Line(exponents=(0.5,), explained=1.0)
    """
    target = np.log(np.asarray(error, dtype=float))
    columns = [np.log(np.asarray(f, dtype=float)) for f in factors] + [np.ones(len(target))]
    matrix = np.stack(columns, 1)
    solution, *_ = np.linalg.lstsq(matrix, target, rcond=None)
    left, spread = target - matrix @ solution, target - target.mean()
    explained = 1 - float(left @ left) / max(float(spread @ spread), 1e-20)
    return Line(tuple(round(float(e), 3) for e in solution[:-1]), round(explained, 3))


def _normal(shape: Sequence[int], draw: Generator) -> Tensor:
    return torch.randn(tuple(shape), generator=draw, dtype=torch.float64)
