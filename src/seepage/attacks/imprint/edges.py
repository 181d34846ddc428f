"""Where to cut a measure so that every bin is equally likely, by public data."""

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from seepage.errors import InvalidInput

__all__ = ["Cut", "cut", "measures", "quantiles"]

_SAMPLES_PER_BIN = 40  # with fewer public samples a fitted normal law places edges better
_LEAST_SAMPLES = 1 / 8  # of a public sample per bin: below, not even the scale is known


@dataclass(frozen=True)
class Cut:
    """Edges of one measure: the first lies below everything, the others at equal shares."""

    edges: Tensor
    spread: float
    merged: int


def measures(kind: str | Tensor, directions: int, shape: tuple[int, ...], rng: Generator) -> Tensor:
    """(P, N) float64: the linear functions h(x) = w.x by which examples are told apart.

    "avg" is the mean of all entries, "randn" random directions, "dct:m" a cosine of m half waves.
    "fine" is "randn" less its own local mean over 3x3 pixels (of an image; of other data "randn"):
    how bright, how coloured, how smooth an image is differs between collections of photographs,
    the fine detail along a random direction hardly does, so edges from other photographs fit.

    >>> measures("avg", 1, (4,), Generator())
    tensor([[0.2500, 0.2500, 0.2500, 0.2500]], dtype=torch.float64)
    """
    size = math.prod(shape)
    if isinstance(kind, Tensor):
        return _given(kind, directions, size)
    if kind in ("fine", "randn"):
        w = torch.randn(directions, size, generator=rng, dtype=torch.float64)
        w = _detail(w, shape) if kind == "fine" and len(shape) == 3 else w
        w = w - w.mean(1, keepdim=True)
        return w.div(w.norm(dim=1, keepdim=True))
    if directions > 1:
        raise InvalidInput(
            f"measure={kind!r} is one direction, and directions={directions} were asked for. "
            "Use measure='fine', or a tensor with one row for each direction."
        )
    if kind == "avg":
        return torch.full((1, size), 1 / size, dtype=torch.float64)
    waves = _waves(kind)
    place = torch.arange(size, dtype=torch.float64) + 0.5
    cosine: Tensor = torch.cos(torch.pi * waves * place / size)[None] / size
    return cosine


def cut(h: Tensor | tuple[float, float], bins: int) -> Cut:
    """Edges e_q = F^-1(q/k), q = 1..k-1, below them min h - 3 std h: k bins of equal mass.

    F is the empirical law of h where there are 40 public samples a bin, else the fitted normal
    law, whose scale always comes from the data: a fixed N(0, 1) puts all edges in the wrong place.

    >>> cut((0.0, 1.0), 4).edges
    tensor([-8.0000, -0.6745,  0.0000,  0.6745], dtype=torch.float64)
    """
    inner = quantiles(h, torch.arange(1, bins, dtype=torch.float64) / bins, bins)
    mean, spread = moments(h)
    lowest = float(h.min()) - 3 * spread if isinstance(h, Tensor) else mean - 8 * spread
    edges = torch.cat([torch.tensor([lowest], dtype=torch.float64), inner])
    kept = torch.unique(edges)
    return Cut(kept, spread, len(edges) - len(kept))


def quantiles(h: Tensor | tuple[float, float], shares: Tensor, bins: int) -> Tensor:
    """F^-1 at each share, by the law that the amount of public data allows."""
    mean, spread = moments(h)
    if isinstance(h, Tensor) and len(h) < max(2, _LEAST_SAMPLES * bins):
        raise InvalidInput(
            f"public has {len(h)} samples for {bins} bins: too few to place the edges. "
            f"Pass at least {max(2, int(_LEAST_SAMPLES * bins))} (40 a bin are best), "
            "or a pair (mean, std) of the measure."
        )
    if isinstance(h, Tensor) and len(h) >= _SAMPLES_PER_BIN * bins:
        return torch.quantile(h.double(), shares)
    normal: Tensor = torch.special.ndtri(shares)
    return normal * spread + mean


def moments(h: Tensor | tuple[float, float]) -> tuple[float, float]:
    """Mean and standard deviation, refused where the measure does not vary."""
    if isinstance(h, Tensor):
        mean, spread = float(h.double().mean()), float(h.double().std()) if len(h) > 1 else 0.0
    else:
        mean, spread = map(float, h)
    if not 1e-9 * abs(mean) < spread < float("inf"):
        raise InvalidInput(
            f"the measure has mean {mean:.3g} and standard deviation {spread:.3g} over the public "
            "data: a constant tells no examples apart. Pass varied public samples, another "
            "measure ('fine', 'avg', 'dct:32'), or (mean, std) with std > 0."
        )
    return mean, spread


def _detail(w: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Random weights of an image less their mean over each pixel's neighbourhood."""
    images = w.reshape(-1, *shape)
    near = torch.nn.functional.avg_pool2d(images, 3, 1, 1, count_include_pad=False)
    return (images - near).flatten(1)


def _given(kind: Tensor, directions: int, size: int) -> Tensor:
    w = kind.detach().to("cpu", torch.float64)
    w = w[None] if w.ndim == 1 else w
    if w.shape != (directions, size) or not bool(w.isfinite().all()):
        raise InvalidInput(
            f"measure has shape {tuple(kind.shape)}: expected {directions} finite direction(s) of "
            f"{size} entries, one for each input of the layer."
        )
    return w


def _waves(kind: str) -> int:
    name, _, number = kind.partition(":")
    if name == "dct" and number.isdigit():
        return int(number)
    raise InvalidInput(
        f"measure={kind!r} is not known: use 'fine', 'randn', 'avg', 'dct:32', or a tensor of "
        "weights."
    )
