"""How much of a table's row was read back."""

import torch
from torch import Tensor

from seepage.forms import Column, Table
from seepage.metrics.match import check_paired

TOLERANCE = 0.1
"""A number counts as right within this many standard deviations."""


def columns_right(form: Table, x: Tensor, truth: Tensor) -> Tensor:
    """The share of right columns in each row: the same level, or a number within `TOLERANCE`.

    >>> table = Table((Column("age", std=10), Column("smokes", ("no", "yes"))), classes=2)
    >>> columns_right(table, torch.tensor([[0.52, 0.1, 0.7]]), torch.tensor([[0.5, 1.0, 0.0]]))
    tensor([0.5000], dtype=torch.float64)
    """
    check_paired("columns_right", x, truth)
    right = [_right(column, x[:, part], truth[:, part]) for column, part in form.groups()]
    return torch.stack(right, 1).double().mean(1)


def _right(column: Column, x: Tensor, truth: Tensor) -> Tensor:
    if column.levels:
        return x.argmax(1) == truth.argmax(1)
    return (x - truth)[:, 0].abs() <= TOLERANCE * (1 + 1e-6)
