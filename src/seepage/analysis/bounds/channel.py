"""A noisy client as a measurement of a batch: u = G(x) + noise, and its derivative."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn

from seepage import tree
from seepage.analysis.bounds.bound import Label
from seepage.analysis.bounds.prior import Gaussian
from seepage.core import Batch, Client, Model, noiseless
from seepage.errors import InvalidInput

_SMOOTH = (nn.Tanh, nn.Sigmoid, nn.GELU, nn.SiLU, nn.Softplus, nn.Identity)
_ROUGH = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.SELU, nn.CELU, nn.Hardswish),
    *(nn.Hardtanh, nn.Hardsigmoid, nn.Hardshrink, nn.Softshrink, nn.Threshold),
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d),
)
ONCE = "one round, labels may be known"
_JUMPING = ("Prune", "Sign", "Quantize", "Percentile", "SVT", "Soteria", "Dropout")


@dataclass(frozen=True, eq=False)
class Channel:
    """The update of a client whose last act is noise, on a batch drawn from a prior.

    The labels are known. All is computed in double precision.
    """

    model: Model
    client: Client
    prior: Gaussian
    y: Tensor | None
    n: int = 1

    def __post_init__(self) -> None:
        noise_of(self.client, self.n)
        if tuple(self.prior.mean.shape) != tuple(self.model.form.shape):
            raise InvalidInput(
                f"the prior has examples of shape {tuple(self.prior.mean.shape)}, and the model "
                f"takes {tuple(self.model.form.shape)}. Fit it to inputs as the model takes them."
            )

    @property
    def unknowns(self) -> int:
        """N: the numbers in the batch."""
        return self.n * self.prior.mean.numel()

    def sample(self, rng: Generator) -> Tensor:
        """A batch from the prior."""
        return self.prior.sample(self.n, rng)

    def gradient(self, x: Tensor) -> Tensor:
        """G(x), all tensors in one vector."""
        order = Generator().manual_seed(0)
        return tree.flat(noiseless(self.client)(self._doubled(), Batch(x, self.y), order))

    def linearised(self, x: Tensor) -> "Linearised":
        """The derivative of G at a batch."""
        leaf = x.detach().double().requires_grad_()
        with torch.enable_grad():
            update = self.gradient(leaf)
        return linearised(leaf, update, noise_of(self.client, self.n))

    def proven(self) -> tuple[Label, tuple[str, ...]]:
        """Whether the conditions of the Cramer-Rao bound hold, and what was found otherwise."""
        wrong = [*_rough_layers(self.model.module), *_rough_clients(self.client)]
        if wrong:
            return "indicative", tuple(wrong)
        return "certified", (
            self.prior.about,
            ONCE,
            "all modules smooth",  # functions called in forward are not seen
        )

    def _doubled(self) -> Model:
        if next(iter(self.model.params.values())).dtype == torch.float64:
            return self.model
        state = {k: v.double() for k, v in self.model.state.items() if v.is_floating_point()}
        return self.model.replaced(state)


@dataclass(frozen=True, eq=False)
class Linearised:
    """G(x) with its graph, and how its noise spreads: J v, J^T u, and what the update knows of x.

    The Fisher information is w J^T J, with w = 1/s^2 for Gaussian and 2/s^2 for Laplace noise of
    standard deviation s. For noise of s times the update's root mean square it is
    J^T J p/(s |g|)^2 + 2p (J^T g)(J^T g)^T / |g|^4, since the spread too tells of x.
    """

    x: Tensor
    update: Tensor
    noise: tuple[float, str, bool]
    dummy: Tensor
    pulled: Tensor

    def push(self, v: Tensor) -> Tensor:
        """J v; rows of a matrix at once."""
        shaped = v.view(*v.shape[:-1], *self.x.shape)
        (pushed,) = torch.autograd.grad(
            self.pulled,
            self.dummy,
            shaped,
            retain_graph=True,
            is_grads_batched=v.ndim == 2,
            materialize_grads=True,
        )
        return pushed

    def pull(self, u: Tensor) -> Tensor:
        """J^T u, flattened."""
        (pulled,) = torch.autograd.grad(
            self.update, self.x, u, retain_graph=True, materialize_grads=True
        )
        return pulled.flatten()

    def informed(self, v: Tensor) -> Tensor:
        """The Fisher information times v."""
        pushed = self.push(v)
        found = self.weight() * self.pull(pushed)
        if self.noise[2]:
            tilt = self.pull(self.update.detach())
            found = found + self._spread() * tilt * (tilt @ v)
        return found

    def energy(self, v: Tensor) -> Tensor:
        """v^T I v, for each row of v."""
        pushed = self.push(v)
        found = self.weight() * pushed.square().sum(-1)
        if self.noise[2]:
            found = found + self._spread() * (pushed @ self.update.detach()).square()
        return found

    def information(self) -> Tensor:
        """The whole matrix I, N x N."""
        unknowns = self.x.numel()
        pushed = self.push(torch.eye(unknowns, dtype=self.update.dtype))
        found = self.weight() * pushed @ pushed.T
        if self.noise[2]:
            tilt = pushed @ self.update.detach()
            found = found + self._spread() * torch.outer(tilt, tilt)
        return found

    def weight(self) -> float:
        """w: what one unit of squared change of the update tells."""
        std, kind, relative = self.noise
        square = float(self.update.detach().square().mean()) if relative else 1.0
        return (2 if kind == "laplace" else 1) / (std**2 * square)

    def _spread(self) -> float:
        square = float(self.update.detach().square().sum())
        return 2 * self.update.numel() / square**2


def linearised(x: Tensor, update: Tensor, noise: tuple[float, str, bool]) -> Linearised:
    """The derivative of an update that was computed from x with its graph."""
    # The derivative of J^T w in a dummy w is J: one graph, then one product for each J v.
    with torch.enable_grad():
        dummy = torch.zeros_like(update).requires_grad_()
        (pulled,) = torch.autograd.grad(update, x, dummy, create_graph=True, materialize_grads=True)
    return Linearised(x, update, noise, dummy, pulled)


def noise_of(client: Client, n: int) -> tuple[float, str, bool]:
    """The noise that a client adds last: its standard deviation, its kind, whether relative."""
    seen: Any = client
    if type(client).__name__ == "DPSGD":
        spread = seen.norm * seen.multiplier / (seen.expected or n)
        found = float(spread), "gauss", False
    elif type(client).__name__ == "Noise":
        if seen.kind == "optimal":
            raise InvalidInput(
                "noise of kind 'optimal' spreads by the data, so there is no such bound. Use gauss."
            )
        found = float(seen.std), str(seen.kind), bool(seen.relative)
    else:
        found = 0.0, "gauss", False
    if found[0] == 0:
        raise InvalidInput(
            f"{client!r} adds no noise last, so there is no such bound. "
            "Use Noise(..., std) or DPSGD(norm, multiplier) outermost, or bounds.collide."
        )
    return found


def chain(client: Client) -> Iterator[Client]:
    """A client, its inner client, and so on."""
    inner: Any = client
    while inner is not None:
        yield inner
        inner = getattr(inner, "inner", None)


def _rough_layers(module: nn.Module) -> Iterator[str]:
    for name, layer in module.named_modules():
        elu = isinstance(layer, nn.ELU) and layer.alpha != 1
        if isinstance(layer, _ROUGH) or elu:
            yield f"layer '{name}' ({type(layer).__name__}) has a slope that jumps"


def _rough_clients(client: Client) -> Iterator[str]:
    first, *rest = chain(client)
    if getattr(first, "relative", False):
        yield "the noise grows with the update"
    for inner in rest:
        if type(inner).__name__ in _JUMPING:
            yield f"{type(inner).__name__} before the noise jumps"
        elif type(inner).__name__ in ("Noise", "DPSGD"):
            yield f"{type(inner).__name__} before the last noise is not counted"
