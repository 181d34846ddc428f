"""What an update says about two fully connected layers: its equations, and its noise."""

import dataclasses
import math
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from seepage.attacks.span.equations import Equations
from seepage.attacks.span.layers import Layer, Stack
from seepage.attacks.span.subspace import Subspace, row_space
from seepage.clients import Given
from seepage.core import Batch, Client, Observation, noiseless
from seepage.errors import InvalidInput, SeepageError


@dataclass(frozen=True)
class Measured:
    """The equations in the coordinates of the row space, in float64 on the CPU."""

    equations: Equations
    space: Subspace
    noise: float
    """The relative residual that the believed client's noise alone would leave."""
    reached: Tensor
    """Which hidden units take part."""


def measured(seen: Observation, stack: Stack, rank: int | None, rng: Generator) -> Measured:
    """Project the gradient of the hidden layer on its own row space."""
    hidden, head = stack.hidden, stack.head
    gradient = required(seen, hidden.weight)
    if not bool(gradient.any()):
        raise InvalidInput(
            f"the update of '{hidden.weight}' is all zero, so it holds nothing to recover. "
            "Check that the layer is trained and that the batch does not saturate it."
        )
    noises = noise_of(seen, rng)
    if any(noises.get(name, 0) > 0 for name in (hidden.weight, head.weight)):
        rank = rank or seen.n
    space = row_space(gradient, floor_of(seen), rank)
    equations = Equations(
        weight=weight_of(seen, hidden) @ space.basis,
        bias=bias_of(seen, hidden),
        head=weight_of(seen, head),
        weight_gradient=gradient @ space.basis,
        bias_gradient=_given(seen, hidden.bias),
        head_gradient=_given(seen, head.weight),
        head_bias_gradient=_given(seen, head.bias),
    )
    # A unit that no gradient reaches was dropped, or is dead: it tells nothing.
    reached = gradient.any(1)
    equations = equations.rows(reached.nonzero()[:, 0])
    if not bool(reached.all()) and not _in_step(equations):
        # Dropout rescales what it keeps, and the head's bias does not feel that.
        equations = replace(equations, head_bias_gradient=None)
    return Measured(equations, space, _expected(equations, stack, noises), reached)


def _in_step(equations: Equations) -> bool:
    """Whether units with every example above a kink of slope 1 say so: G_b,j = A_j.G_c."""
    bias, total = equations.bias_gradient, equations.head_bias_gradient
    if bias is None or total is None:
        return False
    gap = (bias - equations.head.T @ total).abs()
    return int((gap < 1e-5 * bias.abs().max()).sum()) >= len(total)


def required(seen: Observation, name: str) -> Tensor:
    """A tensor of the update that the attack cannot do without."""
    found = _given(seen, name)
    if found is None:
        raise InvalidInput(
            f"the update lacks '{name}', which the attack reads; it holds "
            f"{', '.join(list(seen.update)[:6])}. Share that tensor, or use Invert."
        )
    return found


def weight_of(seen: Observation, layer: Layer) -> Tensor:
    """A layer's weights as the server broadcast them."""
    return seen.model.state[layer.weight].detach().to("cpu", torch.float64)


def bias_of(seen: Observation, layer: Layer) -> Tensor:
    """A layer's biases, zero where it has none."""
    if layer.bias is None:
        return torch.zeros(len(seen.model.state[layer.weight]), dtype=torch.float64)
    return seen.model.state[layer.bias].detach().to("cpu", torch.float64)


def floor_of(seen: Observation) -> float:
    """How far below the largest singular value rounding begins."""
    return 1e-10 if _double(seen) else 1e-6


def exact(seen: Observation) -> float:
    """The relative residual that rounding may leave in a right answer."""
    return 1e-8 if _double(seen) else 2e-6


def noise_of(seen: Observation, rng: Generator) -> dict[str, float]:
    """The standard deviation of the noise that the believed client adds to each tensor.

    The attacker knows the client: it passes the update through the client once with and once
    without its random part, and looks at the difference.
    """
    if noiseless(seen.client) == seen.client:
        return {}
    batch = Batch(torch.zeros(1))
    try:
        noisy = _grounded(seen.client, seen)(seen.model, batch, rng)
        plain = _grounded(noiseless(seen.client), seen)(seen.model, batch, rng)
    except SeepageError:
        return {}
    return {name: _added(noisy[name], plain[name]) for name in noisy if name in plain}


def _added(noisy: Tensor, plain: Tensor) -> float:
    """The root mean square of what was added, where an entry was neither dropped nor rescaled."""
    noisy, plain = noisy.detach().double(), plain.detach().double()
    kept = noisy != 0
    factor = (noisy * plain)[kept].sum() / plain[kept].square().sum().clamp_min(1e-300)
    rest = (noisy - factor * plain)[kept]
    std = float(rest.square().mean().sqrt()) if len(rest) else 0.0
    return std if std > 1e-6 * float(plain.abs().max()) else 0.0


def _grounded(client: Client, seen: Observation) -> Client:
    inner = getattr(client, "inner", None)
    if inner is None or not dataclasses.is_dataclass(client) or isinstance(client, type):
        return Given(seen.update)
    return dataclasses.replace(client, inner=_grounded(inner, seen))


def _expected(equations: Equations, stack: Stack, noises: dict[str, float]) -> float:
    names = [stack.hidden.weight, stack.hidden.bias, stack.head.weight, stack.head.bias]
    parts = [
        (noises.get(name or "", 0.0) * scale) ** 2 * block.numel()
        for name, scale, block in zip(names, equations.scales, equations.blocks, strict=True)
        if block is not None
    ]
    return math.sqrt(sum(parts))


def _given(seen: Observation, name: str | None) -> Tensor | None:
    if name is None or name not in seen.update:
        return None
    return seen.update[name].detach().to("cpu", torch.float64)


def _double(seen: Observation) -> bool:
    return all(tensor.dtype == torch.float64 for tensor in seen.update.values())
