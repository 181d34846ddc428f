"""What the attack itself says of an answer: exact, approximate, ambiguous or failed."""

import torch
from torch import Tensor

from seepage.forms import Form, Images


def verdict(residual: float, relative: float) -> str:
    """ "exact" up to max(1e-5, 3 sigma), "approximate" up to max(1e-3, 10 sigma), else "failed".

    >>> verdict(2e-7, 0), verdict(2e-7, 1e-4), verdict(0.5, 0)
    ('exact', 'exact', 'failed')
    """
    if residual <= max(1e-5, 3 * relative):
        return "exact"
    return "approximate" if residual <= max(1e-3, 10 * relative) else "failed"


def plausible(x: Tensor, form: Form) -> bool:
    """Whether 99 % of the values are such as the Form allows, with a margin of 5 %."""
    if not isinstance(form, Images):
        return True
    low, high = form.box(x)
    margin = 0.05 * (high - low)
    inside = (x >= low - margin) & (x <= high + margin)
    return float(inside.double().mean()) >= 0.99


def clamped(x: Tensor, form: Form) -> Tensor:
    """The nearest input that the Form allows."""
    if not isinstance(form, Images):
        return x
    low, high = form.box(x)
    return torch.clamp(x, low, high)
