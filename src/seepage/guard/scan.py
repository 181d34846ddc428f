"""Look at a model's weights before training on private data: do any rows sort examples?"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from seepage.checks import positive
from seepage.core import Batch, Model
from seepage.guard.findings import Finding, Report
from seepage.values import value

__all__ = ["Scan", "duplicates", "rank", "reach", "scan"]

_SINGULAR = 1e-5  # of the largest singular value
_SAME = 0.999  # |cosine| of two rows that measure the same thing
_COMPARED = 2048  # rows of a larger matrix are sampled evenly
_SMALL = 4  # matrices of fewer rows or columns say nothing about rank

BLIND = (
    "edges kept in a buffer or carried by a constant feature (reach), or rows disturbed by a few "
    "percent beside random decoys (rank and duplicates)",
    "random trap rows without biases: they look like any initialisation",
    "a layer crafted only after this scan: scan every broadcast, not the first",
    "the limits were set after seeing the attacks that this package has; an adaptive server knows "
    "them too",
)


@value
class Scan:
    """Rank, duplicate rows and reach of every linear, convolutional and attention matrix.

    rank: singular values above 1e-5 of the largest, as a share of the full rank; few bins of one
    measure have rank 1. duplicates: rows with |cosine| >= .999 to another. reach: max |b_i|/|w_i|,
    how far from the origin a row's edge lies for inputs of size about 1; sorting needs far edges.
    """

    rank: float = 0.5
    duplicates: int = 2
    reach: float = 1.5

    def __post_init__(self) -> None:
        for name in ("rank", "duplicates", "reach"):
            positive(f"Scan.{name}", getattr(self, name))

    def __call__(self, model: Model, batch: Batch | None = None) -> Report:
        findings: list[Finding] = []
        figures: dict[str, dict[str, float]] = {}
        for layer, weight, bias in matrices(model):
            full, twins = min(weight.shape), duplicates(weight)
            share, far = rank(weight) / full, reach(weight, bias)
            if not bool(weight.any()):  # a fresh adapter or a zeroed head: nothing to sort by
                continue
            figures[layer] = {"rank": share, "duplicates": len(twins), "reach": far.amax().item()}
            if share < self.rank and full >= _SMALL:
                findings.append(Finding("rank", layer, (), share, self.rank, _RANK))
            if len(twins) >= self.duplicates:
                limit = self.duplicates
                findings.append(Finding("duplicates", layer, twins, len(twins), limit, _DUPLICATES))
            rows = tuple(torch.nonzero(far > self.reach).flatten().tolist())
            if rows:
                farthest = float(far.amax())
                findings.append(Finding("reach", layer, rows, farthest, self.reach, _REACH))
        return Report(tuple(findings), figures, BLIND)


_RANK = "Most of its rows repeat a few directions, as rows that sort examples into bins do."
_DUPLICATES = "These rows measure the same thing and differ by their biases: neighbours are bins."
_REACH = "Biases this far out make rows fire for few examples, or cut a measure into bins."


def scan(model: Model) -> Report:
    """All static checks of a model with their usual limits.

    >>> from seepage import zoo
    >>> scan(zoo.example()[0]).findings
    ()
    """
    return Scan()(model)


def matrices(model: Model) -> Iterator[tuple[str, Tensor, Tensor | None]]:
    """Every layer that weighs its inputs, as (name, (rows, columns) matrix, biases)."""
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.MultiheadAttention)
    for name, module in model.module.named_modules():
        if isinstance(module, kinds):
            prefix = f"{name}." if name else ""
            attention = isinstance(module, nn.MultiheadAttention)
            leaves = ("in_proj_weight", "in_proj_bias") if attention else ("weight", "bias")
            weight = model.state.get(prefix + leaves[0])
            if weight is not None:
                bias = model.state.get(prefix + leaves[1])
                yield prefix + leaves[0], weight.detach().flatten(1), bias


def rank(weight: Tensor) -> int:
    """Singular values above 1e-5 of the largest, from the smaller Gram matrix in float64."""
    tall = weight.shape[0] > weight.shape[1]
    gram = _gram(weight.T if tall else weight)
    values = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt()
    return int((values > _SINGULAR * values.max()).sum())


def duplicates(weight: Tensor) -> tuple[int, ...]:
    """Rows parallel to another row; of more than 2048 rows, an even sample is compared."""
    index = torch.arange(0, len(weight), max(1, -(-len(weight) // _COMPARED)))
    rows = weight[index].double()
    length = rows.norm(dim=1)
    usable = length > 0
    if rows.shape[1] < 2:  # numbers are always parallel
        return ()
    unit = rows / length.clamp_min(1e-300)[:, None]
    cosine = (unit @ unit.T).abs().fill_diagonal_(0) * usable * usable[:, None]
    return tuple(index[(cosine >= _SAME).any(1)].tolist())


def reach(weight: Tensor, bias: Tensor | None) -> Tensor:
    """|b_i| / |w_i| of each row; zero where there is no bias, or no weight to sort by."""
    length = weight.double().norm(dim=1)
    if bias is None:
        return torch.zeros_like(length)
    return torch.where(length > 0, bias.detach().double().abs() / length.clamp_min(1e-300), 0)


def _gram(rows: Tensor) -> Tensor:
    """rows rows^T in float64, in blocks of columns so that wide layers need no second copy."""
    total = torch.zeros(len(rows), len(rows), dtype=torch.float64, device=rows.device)
    for start in range(0, rows.shape[1], 8192):
        part = rows[:, start : start + 8192].double()
        total += part @ part.T
    return total
