"""Which loss a model has, found by asking it for gradients: cross-entropy, logistic, or another."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from seepage.core import Loss

Kind = Literal["softmax", "logistic", "other"]


@dataclass(frozen=True)
class LossForm:
    """The kind of a loss, and how it writes the label of one example.

    A softmax label is the class, a logistic one -1 or +1.
    """

    kind: Kind
    encode: Callable[[int], Tensor]
    note: str = ""


def recognised(loss: Loss, outputs: int, like: Tensor) -> LossForm:
    """Compare the loss's gradient with softmax - e_y, or with -y/(1 + e^(y f)).

    >>> loss = torch.nn.functional.cross_entropy
    >>> recognised(loss, 3, torch.zeros(1)).kind
    'softmax'
    """
    if outputs == 1:
        return _logistic(loss, like)
    z = _spread(outputs, like)
    wanted = torch.softmax(z, 1)
    for label in range(min(outputs, 3)):
        y = torch.tensor([label], device=like.device)
        error = wanted - torch.nn.functional.one_hot(y, outputs)
        if not _matches(_gradient(loss, z, y), error):
            return LossForm("other", _unknown, _why(loss))
    return LossForm("softmax", lambda label: torch.tensor([label], device=like.device))


def _logistic(loss: Loss, like: Tensor) -> LossForm:
    for shape in ((1,), (1, 1)):
        for dtype in (torch.int64, like.dtype):
            for low in (0, -1):

                def encode(sign: int, shape: tuple[int, ...] = shape, low: int = low) -> Tensor:
                    value = 1 if sign > 0 else low
                    return torch.full(shape, value, dtype=dtype, device=like.device)  # noqa: B023

                if all(_is_logistic(loss, sign, encode(sign), like) for sign in (-1, 1)):
                    return LossForm("logistic", _bound(encode, dtype))
    return LossForm("other", _unknown, _why(loss))


def _bound(encode: Callable[[int], Tensor], dtype: torch.dtype) -> Callable[[int], Tensor]:
    return lambda sign: encode(sign).to(dtype)


def _is_logistic(loss: Loss, sign: int, y: Tensor, like: Tensor) -> bool:
    probes = [torch.tensor([[f]], dtype=torch.float64, device=like.device) for f in (0.7, -1.3)]
    return all(_matches(_gradient(loss, z, y), -sign * torch.sigmoid(-sign * z)) for z in probes)


def _gradient(loss: Loss, z: Tensor, y: Tensor) -> Tensor | None:
    leaf = z.clone().requires_grad_()
    y = y.to(z.dtype) if y.is_floating_point() else y
    with warnings.catch_warnings(), torch.enable_grad():
        # A loss of another shape of label may warn or raise: it is then not of this form.
        warnings.simplefilter("ignore")
        try:
            return torch.autograd.grad(loss(leaf, y), leaf)[0]
        except (RuntimeError, ValueError, IndexError, TypeError, AssertionError):
            return None


def _matches(got: Tensor | None, wanted: Tensor) -> bool:
    return got is not None and bool(torch.allclose(got, wanted, rtol=1e-5, atol=1e-7))


def _spread(outputs: int, like: Tensor) -> Tensor:
    return torch.linspace(-1, 1.5, outputs, dtype=torch.float64, device=like.device).cos()[None]


def _unknown(_label: int) -> Tensor:
    raise AssertionError("a loss that is not recognised has no labels")


def _why(loss: Loss) -> str:
    smoothing = getattr(loss, "label_smoothing", 0)
    if smoothing:
        return f"it smooths labels by {smoothing}"
    if getattr(loss, "weight", None) is not None:
        return "it weights classes"
    return "its gradient is neither softmax - e_y nor that of the logistic loss"
