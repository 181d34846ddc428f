"""How far to rescale rows so that float32 weights record a local step, and bins stay in place."""

import math

import torch
from torch import Generator, Tensor

from seepage.attacks.imprint.block import block_of
from seepage.core import Batch, Model
from seepage.forms import Tokens

__all__ = ["dry_run"]

_WANTED_SHIFT = 0.05  # of a bin, by one local step
_DRY_RUNS, _LOCAL_BATCH = 16, 8


def dry_run(trial: Model, public: Tensor | tuple[float, float], lr: float, rng: Generator) -> float:
    """The gain at which a local step moves its own bin by a twentieth of its width.

    A step of size u = lr g x on a row shifts z by u.x = lr g |x|^2 bin widths, gain^2 times that
    after rescaling. Smaller steps drown in float32's rounding, larger ones move the bin away.
    """
    if not isinstance(public, Tensor) or isinstance(trial.form, Tokens):
        return 1.0
    name, _, _ = block_of(trial.module)
    prefix = f"{name}.linear." if name else "linear."
    leaves = prefix + "weight", prefix + "bias"
    pick = torch.randint(len(public), (_DRY_RUNS,), generator=rng)
    labels = torch.randint(trial.form.classes, (_DRY_RUNS,), generator=rng)
    shifts = []
    for i, y in zip(pick.tolist(), labels.to(trial.device), strict=True):
        inner = {leaf: trial.params[leaf].clone().requires_grad_() for leaf in leaves}
        risk = trial.risk({**trial.params, **inner}, Batch(public[i : i + 1], y[None]))
        by_weight, by_bias = torch.autograd.grad(risk, list(inner.values()))
        row = by_bias.abs().argmax()
        if by_bias[row] != 0:
            shifts.append(float(by_weight[row].square().sum() / by_bias[row].abs()))
    if not shifts:
        return 1.0
    typical = lr / _LOCAL_BATCH * sorted(shifts)[len(shifts) // 2]
    return max(1.0, math.sqrt(_WANTED_SHIFT / typical))
