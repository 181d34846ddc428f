"""A table of people: numbers and categories, as hospitals and insurers hold them."""

import torch
from torch import Tensor

from seepage.core import Batch
from seepage.forms import Column, Table
from seepage.zoo.bundled import Split, chosen, halves, scikit_learn
from seepage.zoo.samples import Sample

__all__ = ["table"]

_NUMBERS = {
    "age": 0,
    "total cholesterol": 4,
    "low-density lipoproteins": 5,
    "high-density lipoproteins": 6,
    "cholesterol ratio": 7,
    "log triglycerides": 8,
    "blood sugar": 9,
}
# Name, the column it comes from, where a new level begins, and the levels' names.
_CATEGORIES: tuple[tuple[str, int, tuple[float, ...], tuple[str, ...]], ...] = (
    ("sex", 1, (1.5,), ("first", "second")),
    ("body mass", 2, (18.5, 25.0, 30.0), ("under 18.5", "18.5 to 25", "25 to 30", "30 or more")),
    (
        "blood pressure",
        3,
        (85.0, 95.0, 105.0),
        ("under 85", "85 to 95", "95 to 105", "105 or more"),
    ),
)
_FAST = 140.5
"""The median progression over all patients."""


def table(n: int, split: Split = "private", seed: int = 0) -> Sample:
    """Diabetes patients: seven standardised numbers and three categories, as one-hot groups.

    y says whether the disease progressed faster than in the median patient. Mean and standard
    deviation are those of the public half, so that the form tells nothing of the private one. The
    source does not say which sex is which. 221 patients in each split.

    The set that scikit-learn carries. Efron et al. 2004, Annals of Statistics 32.

    >>> batch, form = table(2)
    >>> form.show(batch.x[0])["body mass"]
    '18.5 to 25'
    """
    bunch = scikit_learn().load_diabetes(scaled=False)
    data, target = torch.from_numpy(bunch.data), torch.from_numpy(bunch.target)
    form = _form(data[halves("table", len(data))[1]])
    part = chosen("table", len(data), n, split, seed)
    x = _encoded(data[part], form).float()
    return Sample(Batch(x, (target[part] > _FAST).long()), form)


def _form(public: Tensor) -> Table:
    numbers = [
        Column(
            name, (), round(float(public[:, at].mean()), 4), round(float(public[:, at].std()), 4)
        )
        for name, at in _NUMBERS.items()
    ]
    categories = [Column(name, levels) for name, _, _, levels in _CATEGORIES]
    return Table((*numbers, *categories), classes=2)


def _encoded(data: Tensor, form: Table) -> Tensor:
    numbers = [
        ((data[:, at] - column.mean) / column.std)[:, None]
        for column, at in zip(form.columns, _NUMBERS.values(), strict=False)
    ]
    groups = [
        torch.nn.functional.one_hot(
            torch.bucketize(data[:, at].clone(), data.new_tensor(bounds), right=True), len(levels)
        )
        for _, at, bounds, levels in _CATEGORIES
    ]
    return torch.cat([*numbers, *groups], dim=1)
