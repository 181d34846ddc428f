"""Rows that fire for few examples each are read one by one, without differences."""

import torch
from torch import Tensor

from seepage.attacks.imprint.block import Notes
from seepage.attacks.imprint.invert import Found, empty

__all__ = ["read_rows"]

_SAME = 0.995  # centred correlation above which two candidates are one example
_SLACK = 1e-4


def read_rows(
    weight: Tensor,
    count: Tensor,
    notes: Notes,
    keep: int | None,
    floor: float,
    dtype: torch.dtype | None = None,
) -> Found:
    """x_i = gW_i / gb_i where row i fired for one example only; longest first, each once.

    `count` is what each row is divided by; rows shorter than `floor` of the longest are noise.
    `dtype` is the client's own precision, where the rows are given in another.
    """
    size, count = weight.double().norm(dim=1), count.double()
    live = (size > floor * size.max()) & (count.abs() > 0) & count.isfinite()
    index = torch.nonzero(live).flatten()
    index = index[size[index].argsort(descending=True, stable=True)]
    if not len(index):
        return empty(weight)
    features = (weight[index] / count[index, None]).to(dtype or weight.dtype)
    x = notes.reader.examples(features)
    off, snapped = notes.reader.judge(x)
    sure = (off <= 1) & _inside(features, index, notes)
    x = torch.where(sure[:, None], snapped, x)
    residual = (weight[index] / count[index, None] - features).norm(dim=1)
    residual = residual + (notes.reader.examples(features) - snapped).norm(dim=1) / x.norm(dim=1)
    order = _distinct(x, torch.argsort(~sure, stable=True), keep)
    return Found(
        x[order],
        sure[order].cpu(),
        size[index][order].cpu(),
        residual[order].double().cpu(),
        index[order].cpu(),
        len(index),
    )


def _inside(features: Tensor, index: Tensor, notes: Notes) -> Tensor:
    """Does each candidate fall into its row's own bin (rows without one always hold)?"""
    rows = index.cpu()
    own = notes.direction[rows]
    h = (features.double().cpu() * notes.measures[own]).sum(1)
    slack = _SLACK * notes.spread[own]
    inside = (h >= notes.lower[rows] - slack) & (h < notes.upper[rows] + slack)
    return inside.to(features.device)


def _distinct(x: Tensor, order: Tensor, keep: int | None) -> Tensor:
    """In this order, the candidates that do not repeat an earlier one."""
    centred = x - x.mean(1, keepdim=True)
    unit = centred / centred.norm(dim=1, keepdim=True).clamp_min(1e-30)
    kept: list[int] = []
    for i in order.tolist():
        if not kept or float((unit[kept] @ unit[i]).max()) <= _SAME:
            kept.append(i)
        if keep is not None and len(kept) == keep:
            break
    return torch.tensor(kept, device=x.device)
