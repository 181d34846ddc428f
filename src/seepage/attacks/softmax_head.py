"""Logistic regression: the rows of its gradient are known mixtures of the examples."""

from dataclasses import dataclass

import torch
from torch import Tensor

from seepage.tree import Tensors

_STALLED = 0.9
"""A round that leaves more than this share of the residual ends the refinement."""

_ASTRAY = 0.5
"""Candidates that miss this share of rows they should explain are of another batch."""


@dataclass(frozen=True)
class Head:
    """A linear softmax classifier, its gradient, and what is known of the batch."""

    weight: Tensor
    bias: Tensor
    gradient: Tensors
    """Of the weight (classes, entries) and the bias (classes,), as 'weight' and 'bias'."""
    n: int | None
    y: Tensor | None


@dataclass(frozen=True)
class Solution:
    """One candidate for each class seen, in float64, and how well it explains the gradient."""

    x: Tensor
    chances: Tensor
    """p_sc of each candidate, all classes."""
    seen: Tensor
    """Which classes have an example."""
    counts: Tensor
    """How many examples of each class seen the bias gradient says there are."""
    fraction: Tensor
    """How far that is from the whole number it must be."""
    shares: Tensor
    scale: Tensor
    """What the client multiplies a mean gradient by: a learning rate, a clip."""
    mixture: Tensor
    """M of rows = M X."""
    rows: Tensor
    unexplained: Tensor
    """|row - (M X)_c| / |row|."""

    @property
    def y(self) -> Tensor:
        return self.seen.nonzero().flatten()

    @property
    def worst(self) -> float:
        return float(self.unexplained.max())


def solve(head: Head, absent: bool, rounds: int) -> tuple[Solution, list[float]]:
    """Ratios of the rows of the classes seen, then rounds on the exact mixture.

    With p_s the softmax of example s, the row of class c is
        g_c = scale / n (sum_s p_sc x_s - sum_{y_s = c} x_s),
    so that, one example a class, the rows are G = M X with M known but for p: the plain ratio
    takes p_sc = 0, `absent` takes it as the same for all classes, and each round takes p from the
    last candidates and solves for X. What a round leaves of the worst row comes back too.
    """
    seen = classes_seen(head)
    best = _judged(head, seen, _ratios(head, seen, absent))
    history = [best.worst]
    for _ in range(0 if bool(seen.all()) else rounds):
        seen = _recounted(head, best)
        if not torch.equal(seen, best.seen) and not bool(seen.all()):
            best, history = _judged(head, seen, _carried(best, seen)), []
        # The same bits on every run, which torch.linalg.lstsq does not give.
        after = _judged(head, best.seen, torch.linalg.pinv(best.mixture) @ best.rows)
        stalled = bool(history) and not after.worst < _STALLED * best.worst
        if not stalled or after.worst < best.worst:
            best = after
            history.append(best.worst)
        if stalled:
            break
    return best, history


def residual(head: Head, found: Solution) -> Tensor:
    """What each candidate leaves unexplained: the largest of five parts, none using the truth.

    Of its own row; the error of the rows of classes without examples, which were not solved for;
    the part of the row's entries that was erased; how far the number of examples of its class is
    from a whole one; and 1 - 1/k where it is k, as one example is that much short of the row.
    """
    once = found.counts.clamp_min(1)
    repeated = torch.where(found.counts > 0, 1 - 1 / once, 1.0)
    erased = ((found.rows == 0) & (found.rows != 0).any(0)).double().mean(1)
    gap = _gap(head, found)
    parts = torch.stack([found.unexplained, gap, erased, found.fraction, repeated])
    return parts.max(0).values.clamp_max(1.0)


def classes_seen(head: Head) -> Tensor:
    """Which classes have examples: those told, or a negative slope of the bias."""
    bias = head.gradient["bias"].double()
    floor = 1e-6 * bias.abs().max()
    if head.y is None:
        return bias < -floor
    seen = torch.zeros_like(bias, dtype=torch.bool).index_fill(0, head.y.long(), True)
    return seen & (bias.abs() > floor)


def _ratios(head: Head, seen: Tensor, absent: bool) -> Tensor:
    rows, bias = head.gradient["weight"][seen].double(), head.gradient["bias"][seen].double()
    others = (~seen).nonzero().flatten()
    if not absent or len(others) == 0:
        return rows / bias[:, None]
    weight = head.gradient["weight"]
    mean = torch.stack([weight[i].double().sum(0) for i in _blocks(others)]).sum(0) / len(others)
    return (rows - mean) / (bias - head.gradient["bias"][others].double().mean())[:, None]


def _judged(head: Head, seen: Tensor, x: Tensor) -> Solution:
    rows = head.gradient["weight"][seen].double()
    chances = (x.to(head.weight.dtype) @ head.weight.T + head.bias).double().softmax(1)
    shares, scale = _shares(chances[:, seen], head.gradient["bias"][seen].double())
    n = _number(head, shares)
    counts = (n * shares).round()
    fraction = (n * shares - counts).abs()
    if counts.sum() == n:
        shares = counts / n
    known = chances[:, seen] - torch.eye(len(x), dtype=x.dtype, device=x.device)
    mixture = scale * (shares[:, None] * known).T
    left = (rows - mixture @ x).norm(dim=1) / rows.norm(dim=1)
    unexplained = left.nan_to_num(1.0, 1.0)
    return Solution(x, chances, seen, counts, fraction, shares, scale, mixture, rows, unexplained)


def _number(head: Head, shares: Tensor) -> int:
    """n, or where it was not told the fewest examples that explain the shares."""
    return head.n or max(1, round(float(1 / shares.clamp_min(1e-3).min())))


def _shares(chances: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Each class's share of the batch, and the client's scale.

    bias_c = scale (mean_s p_sc - share_c) for the classes seen, whose shares sum to one.
    """
    shares = torch.full_like(bias, 1 / len(bias))
    scale = torch.ones_like(bias[0])
    for _ in range(5):
        mean = shares @ chances
        scale = (-bias.sum() / (1 - mean.sum()).clamp_min(1e-12)).clamp_min(1e-30)
        shares = (mean - bias / scale).clamp_min(0)
        shares = shares / shares.sum().clamp_min(1e-30)
    return shares, scale


def _recounted(head: Head, found: Solution) -> Tensor:
    """Which classes have examples, now that the mean of p is known: a class whose own example is
    one of few can have a positive slope."""
    if head.y is not None:
        return found.seen
    mean = found.shares @ found.chances
    shares = mean - head.gradient["bias"].double() / found.scale
    seen = (_number(head, found.shares) * shares).round() >= 1
    return seen if bool(seen.any()) else found.seen


def _carried(found: Solution, seen: Tensor) -> Tensor:
    """The candidates of these classes: new ones begin at the mean of the others."""
    every = found.x.mean(0).expand(len(seen), -1).clone()
    every[found.seen] = found.x
    return every[seen]


def _gap(head: Head, found: Solution) -> Tensor:
    """What the candidates leave of the rows of the classes without examples, sum_s p_sc x_s.

    Nothing was solved for to fit these. Their error in a row, over the length of each row of a
    class seen, is the error to expect of its candidate: from noise, from means taken for single
    examples. Where most of what the candidates' span holds is missed the model is another, and
    where n is not known the mean of several examples shows here alone: then all are as wrong as
    these rows are.
    """
    span = torch.linalg.qr(found.x.T).Q
    weights = (found.scale * found.shares[:, None] * found.chances).T
    sums = torch.zeros(4, dtype=torch.float64, device=span.device)
    others = (~found.seen).nonzero().flatten()
    for part in _blocks(others):
        rows = head.gradient["weight"][part].double()
        gap = (rows - weights[part] @ found.x) * (rows != 0)
        sums += torch.stack([t.square().sum() for t in (gap, rows, gap @ span, rows @ span)])
    if sums[1] == 0:  # no class is absent, or all of their rows were erased
        return torch.full_like(found.counts, float(len(others) > 0))
    if len(others) == 1:  # all rows sum to zero, so that it fits always: only the counts check
        return torch.full_like(found.counts, float(found.counts.sum() != head.n))
    whole, inner = (sums[0] / sums[1]).sqrt(), (sums[2] / sums[3].clamp_min(1e-300)).sqrt()
    if head.n is None or inner > _ASTRAY:
        return torch.maximum(whole if head.n is None else inner, inner).expand(len(found.x))
    return torch.div((sums[0] / len(others)).sqrt(), found.rows.norm(dim=1))


def _blocks(index: Tensor) -> list[Tensor]:
    """A few rows at a time, as all of them in float64 would not fit."""
    return [index[i : i + 64] for i in range(0, len(index), 64)]
