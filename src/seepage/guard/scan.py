"""Look at a model's weights before training on private data: do any rows sort examples?"""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from seepage.checks import positive
from seepage.core import Batch, Model
from seepage.guard.findings import Finding, Report
from seepage.values import value

__all__ = ["Scan", "Screened", "copies", "duplicates", "independent", "rank", "reach", "scan"]

_SINGULAR = 1e-5  # of the largest singular value
_SAME = 0.999  # |cosine| of two rows that measure the same thing
_COMPARED = 2048  # rows of a larger matrix are sampled evenly
_SMALL = 4  # matrices of fewer rows or columns say nothing about rank
_FEW = 16  # columns, below which a row may weigh one of them by chance, as small kernels do
_ROUNDED = 1e-4  # more than a product of unit rows in float32 is ever wrong by

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
    """Rank, duplicate rows, reach and copies of every linear, convolutional, attention matrix.

    rank: singular values above 1e-5 of the largest, as a share of the full rank; few bins of one
    measure have rank 1. duplicates: rows with |cosine| >= .999 to another. reach: max |b_i|/|w_i|,
    how far from the origin a row's edge lies for inputs of size about 1; sorting needs far edges.
    copies: the share of rows that weigh a single input, which pass the data on to crafted layers.
    """

    rank: float = 0.5
    duplicates: int = 2
    reach: float = 1.5
    copies: float = 0.25

    def __post_init__(self) -> None:
        for name in ("rank", "duplicates", "reach", "copies"):
            positive(f"Scan.{name}", getattr(self, name))

    def __call__(self, model: Model, batch: Batch | None = None) -> Report:
        return _judged(self, model, lambda weight: rank(weight) / min(weight.shape))


@value
class Screened:
    """The findings of a scan, at a fifth of its cost where a proof clears most layers.

    k rows R on some columns S of a matrix W are independent beyond doubt where W_RS W_RS^T - t I
    has a Cholesky factor, t = (1e-5 |W|_F)^2: by interlacing, W then has k singular values above
    1e-5 of its largest. Only where that fails for the k that the limit asks is the rank measured,
    and only there does the report have it as a figure.

    >>> from seepage import zoo
    >>> model, _ = zoo.example()
    >>> Screened()(model).findings == Scan()(model).findings
    True
    """

    inner: Scan = Scan()

    def __call__(self, model: Model, batch: Batch | None = None) -> Report:
        def share(weight: Tensor) -> float | None:
            full = min(weight.shape)
            cleared = full >= _SMALL and independent(weight, math.ceil(self.inner.rank * full))
            return None if cleared else rank(weight) / full

        return _judged(self.inner, model, share)


def _judged(limits: Scan, model: Model, share_of: Callable[[Tensor], float | None]) -> Report:
    """Every layer's figures against the limits; no share of the rank where it is high enough."""
    findings: list[Finding] = []
    figures: dict[str, dict[str, float]] = {}
    for layer, weight, bias in matrices(model):
        if not bool(weight[0].any() or weight.any()):
            continue  # a fresh adapter or a zeroed head: nothing to sort by
        share, twins, far = share_of(weight), duplicates(weight), reach(weight, bias)
        known = {} if share is None else {"rank": share}
        figures[layer] = {**known, "duplicates": len(twins), "reach": far.amax().item()}
        if share is not None and share < limits.rank and min(weight.shape) >= _SMALL:
            findings.append(Finding("rank", layer, (), share, limits.rank, _RANK))
        if len(twins) >= limits.duplicates:
            limit = limits.duplicates
            findings.append(Finding("duplicates", layer, twins, len(twins), limit, _DUPLICATES))
        rows = tuple(torch.nonzero(far > limits.reach).flatten().tolist())
        if rows:
            farthest = float(far.amax())
            findings.append(Finding("reach", layer, rows, farthest, limits.reach, _REACH))
        passed = copies(weight)
        figures[layer]["copies"] = len(passed) / len(weight)
        if len(passed) > limits.copies * len(weight):
            share = len(passed) / len(weight)
            findings.append(Finding("copies", layer, passed, share, limits.copies, _COPIES))
    return Report(tuple(findings), figures, BLIND)


_RANK = "Most of its rows repeat a few directions, as rows that sort examples into bins do."
_DUPLICATES = "These rows measure the same thing and differ by their biases: neighbours are bins."
_COPIES = "These rows pass single inputs on unchanged, so that a later layer can read the data."
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


def independent(weight: Tensor, k: int) -> bool:
    """Whether k singular values are above 1e-5 of the largest, for certain; False proves nothing.

    >>> independent(torch.eye(8), 8), independent(torch.ones(8, 8), 2)
    (True, False)
    """
    wide = weight if weight.shape[0] <= weight.shape[1] else weight.T
    if k > len(wide):
        return False
    part = wide[:, : 3 * k // 2 + 1].double()
    part = part[part.norm(dim=1).topk(k).indices]
    gram = part @ part.T
    # A tenth more than the square needs leaves room for every rounding on the way.
    gram.diagonal().sub_(1.1 * _SINGULAR**2 * float(lengths(weight).square().sum()))
    return int(torch.linalg.cholesky_ex(gram).info) == 0


def duplicates(weight: Tensor) -> tuple[int, ...]:
    """Rows parallel to another row; of more than 2048 rows, an even sample is compared."""
    step = max(1, -(-len(weight) // _COMPARED))
    if weight.shape[1] < 2:  # numbers are always parallel
        return ()
    near = _near(weight[::step])
    rows = weight[::step][near].double()
    unit = rows / rows.norm(dim=1).clamp_min(1e-300)[:, None]
    cosine = (unit @ unit.T).abs().fill_diagonal_(0)
    return tuple((step * near[(cosine >= _SAME).any(1)]).tolist())


def _near(rows: Tensor) -> Tensor:
    """The rows that could be parallel to another, by some columns and by what the rest can add.

    Of unit rows (a, b): |cos_ij| <= |a_i a_j| + |b_i| |b_j|.
    """
    length = lengths(rows)
    step = max(1, min(32, rows.shape[1] // 64))
    part = (rows[:, ::step].double() / length.clamp_min(1e-300)[:, None]).float()
    rest = (1 - part.square().sum(1)).clamp_min(0).sqrt() * (length > 0)
    most = (part @ part.T).abs_().addr_(rest, rest).fill_diagonal_(0)
    return torch.nonzero(most.amax(1) >= _SAME - _ROUNDED).flatten()


def copies(weight: Tensor) -> tuple[int, ...]:
    """Rows with .999 of their length in one entry; of few columns any row can be so.

    >>> copies(torch.eye(16)[:2]), copies(torch.ones(2, 16))
    ((0, 1), ())
    """
    if weight.shape[1] < _FEW:
        return ()
    largest = torch.linalg.vector_norm(weight, ord=torch.inf, dim=1).double()
    return tuple(torch.nonzero(largest > _SAME * lengths(weight)).flatten().tolist())


def reach(weight: Tensor, bias: Tensor | None) -> Tensor:
    """|b_i| / |w_i| of each row; zero where there is no bias, or no weight to sort by."""
    if bias is None:
        return torch.zeros(len(weight), dtype=torch.float64, device=weight.device)
    length: Tensor = torch.linalg.vector_norm(weight, dim=1, dtype=torch.float64)
    return torch.where(length > 0, bias.detach().double().abs() / length.clamp_min(1e-300), 0)


def lengths(rows: Tensor) -> Tensor:
    """|w_i| of each row to the accuracy of float32, at any scale."""
    kind = torch.promote_types(rows.dtype, torch.float32)
    length: Tensor = torch.linalg.vector_norm(rows, dim=1, dtype=kind).double()
    odd = ~((length > 1e-15) & (length < 1e15))  # squares that may have left float32's range
    if bool(odd.any()):
        length[odd] = torch.linalg.vector_norm(rows[odd], dim=1, dtype=torch.float64)
    return length


def _gram(rows: Tensor) -> Tensor:
    """rows rows^T in float64, in blocks of columns so that wide layers need no second copy."""
    total = torch.zeros(len(rows), len(rows), dtype=torch.float64, device=rows.device)
    for start in range(0, rows.shape[1], 8192):
        part = rows[:, start : start + 8192].double()
        total += part @ part.T
    return total
