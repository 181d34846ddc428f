"""An Opacus training step as it stands: its noise, clipping, batch and epsilon are read.

setting = read(engine, optimizer, loader)
seepage.audit(unwrapped(network), batch, clients=[FedSGD(), setting.client])
"""

import copy
import math
from dataclasses import dataclass
from typing import Any

from torch import nn

from seepage.core import Client
from seepage.defenses import DPSGD
from seepage.errors import InvalidInput
from seepage.guard import dp

__all__ = ["Setting", "read", "unwrapped"]


@dataclass(frozen=True)
class Setting:
    """What a PrivacyEngine was told, and what it has spent."""

    norm: float
    multiplier: float
    batch: int
    rate: float | None
    steps: int
    epsilon: float | None
    delta: float

    @property
    def client(self) -> Client:
        """The client that shares one such step: (sum of clipped gradients + noise) / batch."""
        return DPSGD(self.norm, self.multiplier, float(self.batch))

    def findings(self) -> list[dp.Flaw]:
        """What the privacy linter says of it."""
        std = self.multiplier * self.norm
        rounds, rate = max(self.steps, 1), self.rate or 1.0
        # Accountants differ in the last digits; what they agree on is no finding.
        epsilon = None if self.epsilon is None else self.epsilon * 1.01
        made = dp.Mechanism(self.norm, std, epsilon, self.delta, rounds=rounds, rate=rate)
        return dp.judged(made)


def read(engine: Any, optimizer: Any, loader: Any = None, delta: float = 1e-5) -> Setting:
    """The setting of what `engine.make_private` returned.

    The epsilon is the engine's own accountant's, after the steps taken so far (None before one).
    """
    norm = getattr(optimizer, "max_grad_norm", None)
    multiplier = getattr(optimizer, "noise_multiplier", None)
    if norm is None or multiplier is None:
        raise InvalidInput(
            f"{type(optimizer).__name__} is no optimizer of Opacus. Pass the one that "
            "PrivacyEngine.make_private returned."
        )
    if not isinstance(norm, int | float):
        raise InvalidInput(
            f"max_grad_norm={norm!r} clips layer by layer, which is not audited yet. Use one norm."
        )
    size = getattr(optimizer, "expected_batch_size", None)
    if not size:
        raise InvalidInput("the optimizer has no expected_batch_size. Use make_private to set it.")
    if getattr(optimizer, "loss_reduction", "mean") != "mean":
        raise InvalidInput("loss_reduction='sum' is not audited. Use 'mean', and a mean loss.")
    history = list(getattr(engine.accountant, "history", []))
    steps = sum(int(entry[2]) for entry in history)
    rate = getattr(loader, "sample_rate", None) or (history[-1][1] if history else None)
    epsilon = float(engine.get_epsilon(delta)) if steps and multiplier > 0 else None
    if epsilon is not None and not math.isfinite(epsilon):
        epsilon = None
    return Setting(float(norm), float(multiplier), int(size), rate, steps, epsilon, delta)


def unwrapped(module: nn.Module) -> nn.Module:
    """A copy of the network inside Opacus's GradSampleModule, without what Opacus hung on it."""
    inner = getattr(module, "_module", module)
    if not isinstance(inner, nn.Module):
        raise InvalidInput(f"{type(module).__name__} wraps no network. Pass a torch module.")
    free = copy.deepcopy(inner)
    for part in free.modules():
        for hooks in (part._forward_hooks, part._forward_pre_hooks, part._backward_hooks):
            for key in [key for key, hook in hooks.items() if _is_opacus(hook)]:
                del hooks[key]
    return free


def _is_opacus(hook: Any) -> bool:
    function = getattr(hook, "func", hook)
    return str(getattr(function, "__module__", "")).startswith("opacus")
