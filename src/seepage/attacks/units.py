"""The coordinates that attacks search in: data of every scale look alike there."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor

from seepage.errors import InvalidInput
from seepage.forms import Form, Images, Table

Kind = Literal["auto", "raw"]


@dataclass(frozen=True, eq=False)
class Units:
    """u = (x - center) / scale, and the box of u that real data lie in (infinite where none).

    Learning rates, priors and noise act on u, so they mean the same for pixels in [0, 255] and
    in [0, 1].

    >>> units = units_of(Images((1, 2, 2), classes=2), torch.zeros(()))
    >>> units.x(torch.tensor([[[[-2.0, 2.0], [0.0, 1.0]]]])).flatten()
    tensor([0.0000, 1.0000, 0.5000, 0.7500])
    """

    center: Tensor
    scale: Tensor
    low: Tensor
    high: Tensor

    def x(self, u: Tensor) -> Tensor:
        """The network's input."""
        return self.center + self.scale * u

    def u(self, x: Tensor) -> Tensor:
        """The coordinates of an input."""
        return (x - self.center) / self.scale

    def clamped(self, u: Tensor) -> Tensor:
        """The nearest point of the box."""
        return u.clamp(self.low, self.high)


def units_of(form: Form, like: Tensor, kind: Kind = "auto") -> Units:
    """The coordinates for a form, in the type and on the device of a tensor."""
    if isinstance(form, Images):
        low, high = form.box(like)
        plain = kind == "raw" or form.mean is not None
        ones = torch.ones_like(low)
        center = 0 * ones if plain else (low + high) / 2
        scale = ones if plain else (high - low) / 4
        return Units(center, scale, (low - center) / scale, (high - center) / scale)
    if isinstance(form, Table):
        return _table(form, like)
    raise InvalidInput(
        "gradient matching searches continuous data, and tokens are whole numbers. "
        "Use an attack on text (seepage list), or give the model embeddings as a Table."
    )


def noise(form: Form, n: int, like: Tensor, rng: Generator) -> Tensor:
    """n random inputs inside the box: standard normal in the coordinates of the form."""
    units = units_of(form, like)
    drawn = torch.randn((n, *form.shape), generator=rng, dtype=torch.float64)
    return units.x(units.clamped(drawn.to(like)))


def _table(form: Table, like: Tensor) -> Units:
    # Numbers are standardised already and have no bounds; the entries of a category are 0 or 1.
    shape = {"dtype": like.dtype, "device": like.device}
    level = torch.tensor([bool(c.levels) for c in form.columns for _ in range(c.width)])
    level = level.to(like.device)
    half = torch.full(form.shape, 0.5, **shape)  # type: ignore[call-overload]
    far = torch.full(form.shape, float("inf"), **shape)  # type: ignore[call-overload]
    center, scale = torch.where(level, half, 0.0), torch.where(level, half, 1.0)
    one = torch.ones_like(center)
    return Units(center, scale, torch.where(level, -one, -far), torch.where(level, one, far))
