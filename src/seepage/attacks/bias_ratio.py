"""Division of a first layer's weight gradient by its bias gradient."""

import math
from typing import Any

import torch
from torch import Generator, Tensor

from seepage.attacks import first_layer, layer_rows, softmax_head
from seepage.attacks.first_layer import Layer
from seepage.attacks.layer_rows import ALIKE, Fit, Rows, alone, common, shaped, spread
from seepage.checks import at_least
from seepage.clients import FedAvg
from seepage.core import Client, Observation, Reconstruction
from seepage.tree import Tensors
from seepage.values import value

_ENOUGH = 0.05
"""A candidate that leaves less than this of its part of the update is reported as recovered."""

_MOST = 512
"""The most candidates of a batch: those that most rows agree on, then the strongest rows."""

_LUCK = 1e-3
"""A row alone is certified where chance would certify one in fewer batches than this."""


@value
class BiasRatio:
    """A row of a linear layer's weight gradient over the same row of the bias's: x = gW_i / gb_i.

    For z = W x + b a sample s adds dL/dz_si (x_s, 1) to row i of both gradients, so that a row
    moved by one sample alone gives it back exactly. With n = 1 all rows do. In a network whose
    only layer is a softmax classifier the row of a class is nearly pure where its label is
    unique: `absent` subtracts what the classes that no example has share, and `rounds` solve for
    the rest (0: the published attack). In other batches every row is a candidate, and one that
    several rows agree on is tested by simulating it alone: its slopes must be n times theirs.

    Phong et al. 2018 (n = 1); Fowl et al. 2021, arXiv 2110.13057 (logistic regression). The
    subtraction, the rounds and the certificates are ours.

    >>> from seepage import FedSGD, observe, stream, zoo
    >>> model, batch = zoo.example()
    >>> seen = observe(model, batch, FedSGD(), stream(0, "client"))
    >>> found = BiasRatio()(seen, stream(0, "attack"))
    >>> model.form.show(found.x[0]), found.note
    ({'age': 52.0, 'income': 31000.0, 'smokes': 'yes'}, '1 of 1 examples certified')
    """

    layer: str | None = None
    """The layer's name in the network; None takes the first that reads the example directly."""
    absent: bool = True
    rounds: int = 20

    def __post_init__(self) -> None:
        at_least("BiasRatio.rounds", self.rounds, 0)

    def __call__(self, seen: Observation, rng: Generator) -> Reconstruction:
        layer = first_layer.find(seen.model, self.layer, rng)
        refusal = _refusal(seen, layer)
        if refusal:
            return Reconstruction.nothing(seen, refusal)
        mine = _undecayed(seen, layer)
        entropy = first_layer.is_cross_entropy(seen.model, rng)
        pull = seen.update[layer.bias] - mine[layer.bias]
        rows = Rows(seen, layer, mine[layer.weight], mine[layer.bias], entropy, rng, pull)
        if rows.single:
            return _one(rows)
        if entropy and first_layer.is_whole(seen.model, layer, rng):
            return self._classes(rows)
        return _many(rows)

    def _classes(self, rows: Rows) -> Reconstruction:
        """A softmax classifier on the examples themselves: a candidate for each class seen."""
        params, layer, seen = rows.seen.model.params, rows.layer, rows.seen
        gradient = {"weight": rows.weight, "bias": rows.bias}
        head = softmax_head.Head(params[layer.weight], params[layer.bias], gradient, seen.n, seen.y)
        if not bool(softmax_head.classes_seen(head).any()):
            return Reconstruction.nothing(seen, "no class has a bias gradient of an example")
        found, history = softmax_head.solve(head, self.absent, self.rounds)
        residual = softmax_head.residual(head, found)
        order = residual.argsort(stable=True)
        trace = {
            "layer": layer.name,
            "absent classes": int((~found.seen).sum()),
            "classes": found.y[order].tolist(),
            "counts": found.counts[order].tolist(),
            "residual by round": history,
        }
        note = _certified(int((residual < _ENOUGH).sum()), seen.n) or _unsolved(found, residual)
        if bool(found.seen.all()):
            note += "; no class is absent, so nothing is subtracted or solved for"
        return _answer(rows, found.x[order], found.y[order], residual[order], note, trace)


def _refusal(seen: Observation, layer: Layer) -> str:
    """Why this update holds no ratios, if so."""
    missing = [name for name in (layer.weight, layer.bias) if name not in seen.update]
    if missing:
        return f"the update does not share {' and '.join(missing)}"
    local = _local(seen.client)
    if local is not None and local.optimizer == "adam":
        return "Adam divides every entry by its own size, so that ratios hold no data"
    if not bool(seen.update[layer.bias].any()):
        return (
            f"the bias gradient of {layer.title} is zero: the loss is saturated or the layer dead"
        )
    return ""


def _local(client: Client | None) -> FedAvg | None:
    """The local training among the wrapped clients."""
    while client is not None and not isinstance(client, FedAvg):
        client = getattr(client, "inner", None)
    return client


def _undecayed(seen: Observation, layer: Layer) -> Tensors:
    """The layer's update without the pull of weight decay, exact for one local step."""
    local = _local(seen.client)
    mine = {name: seen.update[name] for name in (layer.weight, layer.bias)}
    if local is None or local.weight_decay == 0:
        return mine
    each = math.ceil((seen.n or 1) / (local.batch_size or seen.n or 1))
    pull = local.lr * local.weight_decay * local.epochs * each
    return {name: update - pull * seen.model.params[name] for name, update in mine.items()}


def _one(rows: Rows) -> Reconstruction:
    """One example: all rows give it, and the rank-one certificate says whether they agree.

    The example is simulated too, as an update of signs is of rank one and holds no example.
    """
    x = common(rows, rows.live)
    rank = spread(rows, rows.live, x) if len(rows.bias) > 1 else math.nan
    apart, y = _explained(rows, x)
    known = [part for part in (rank, apart) if not math.isnan(part)]
    residual = max(known, default=math.nan)
    if not known:
        note = "the only row gives the example, and nothing certifies it"
    elif residual < _ENOUGH:
        note = _certified(1, rows.seen.n)
    else:
        note = f"not recovered: one example leaves {residual:.1%} of the layer's update unexplained"
    trace = {"layer": rows.layer.name, "live rows": len(rows.live)}
    trace |= {"rank one": None if math.isnan(rank) else rank}
    labels = None if y is None else torch.tensor([y], device=x.device)
    return _answer(rows, x[None], labels, x.new_tensor([residual]), note, trace)


def _explained(rows: Rows, x: Tensor) -> tuple[float, int | None]:
    """How far the update is from one of this example alone, with its best label."""
    if rows.seen.n is None:
        fit = alone(rows, rows.live, x, rows.factor if rows.entropy else None)
        return fit.gap, fit.label
    label = alone(rows, rows.live, x, None).label
    return (math.nan if label is None else layer_rows.simulated(rows, x, label)), label


def _many(rows: Rows) -> Reconstruction:
    """Every live row is a candidate; rows that agree are one, and can be tested."""
    groups = layer_rows.groups(rows)[:_MOST]
    x = torch.stack([common(rows, group) for group in groups])
    tested = _tested(rows, groups, x)
    residual = x.new_tensor([fit.gap for fit in tested])
    size = torch.tensor([len(group) for group in groups], device=x.device)
    # One row is one number, which one of many rows fits with one of many labels by luck, and
    # with one of many n too where that was not told.
    tries = len(groups) * max(2, rows.seen.model.form.classes)
    lucky = 0.0 if rows.seen.n is None else _LUCK / tries
    certified = residual < torch.where(size > 1, ALIKE, min(lucky, ALIKE))
    residual = torch.where((size > 1) | certified, residual, torch.nan)
    order = residual.nan_to_num(torch.inf).argsort(stable=True)
    labels = torch.tensor(
        [-1 if fit.label is None else fit.label for fit in tested], device=x.device
    )[order]
    residual = residual[order]
    note = _certified(int(certified.sum()), rows.seen.n) or (
        f"not recovered: no row of {rows.layer.title} is shown to hold one example alone"
    )
    trace = {"layer": rows.layer.name, "live rows": len(rows.live), "rows": size[order].tolist()}
    y = labels if bool((labels >= 0).all()) else None
    return _answer(rows, x[order], y, residual, note, trace)


def _tested(rows: Rows, groups: list[Tensor], x: Tensor) -> list[Fit]:
    """Each candidate simulated alone; where the believed client's factor explains none, with the
    factor on which several agree."""
    pairs = list(zip(groups, x, strict=True))
    factor = rows.factor if rows.entropy else None
    fits = [alone(rows, *pair, factor) for pair in pairs]
    proof = [fit.gap < ALIKE and len(group) > 1 for fit, group in zip(fits, groups, strict=True)]
    if rows.seen.n is None or any(proof):
        return fits
    # Two rows have one direction, which some label may fit by luck; three have two.
    several = sum(len(group) > 2 for group in groups)
    directions = [alone(rows, *pair, None) for pair in pairs[:several]]
    agreed = layer_rows.shared_scale(directions, x[:several])
    return fits if agreed is None else [alone(rows, *pair, agreed) for pair in pairs]


def _certified(number: int, n: int | None) -> str:
    if number == 0:
        return ""
    if n is None:
        return f"{number} certified, for the fewest examples that explain the update: n not told"
    return f"{number} of {n} examples certified"


def _unsolved(found: softmax_head.Solution, residual: Tensor) -> str:
    """Why no candidate of a softmax classifier counts."""
    if bool((found.counts > 1).all()):
        most = int(found.counts.argmax())
        return (
            "not recovered: every class seen has several examples (class "
            f"{int(found.y[most])}: {int(found.counts[most])}), and its row holds their mean"
        )
    return f"not recovered: candidates leave {float(residual.min()):.1%} or more unexplained"


def _answer(
    rows: Rows, x: Tensor, y: Tensor | None, residual: Tensor, note: str, trace: dict[str, Any]
) -> Reconstruction:
    """The candidates, best first."""
    belief = -residual.nan_to_num(1.0)
    like = rows.bias
    return Reconstruction(shaped(rows, x), y, belief.to(like), residual.to(like), note, trace)
