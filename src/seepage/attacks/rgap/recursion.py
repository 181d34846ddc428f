"""From the input of one layer to the input of the layer before, in float64.

Let z = W x + b be a layer and k = dL/dz. Its gradient is g = K(k) x, linear in x. So once the
output and the error signal are known, W x = z - b and K(k) x = g are one linear system for x.
Zhu & Blaschko 2021, arXiv 2010.07733.
"""

import dataclasses
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from seepage.attacks.rgap.lsmr import Operator, lsmr
from seepage.chains import Chain, Layer
from seepage.tree import Tensors


@dataclass(frozen=True, eq=False)
class Step:
    """What was found of one layer: its input x, k = dL/dz, f'(z), and how well they fit."""

    x: Tensor
    k: Tensor
    slope: Tensor | None = None
    residual: float = 0.0
    iterations: int = 0
    seconds: float = 0.0
    saturated: int = 0
    unknown: int = 0
    ambiguous: int = 0
    error: float = 0.0

    def of(self, b: int) -> "Step":
        """What was found of one example of several."""
        slope = None if self.slope is None else self.slope[b]
        return dataclasses.replace(self, x=self.x[b], k=self.k[b], slope=slope)

    def row(self, layer: Layer, deficit: int) -> dict[str, Any]:
        """What the trace says of the layer; `deficit` is what its equations are short of."""
        return {
            "name": layer.name,
            "kind": layer.kind,
            "unknowns": self.x.numel(),
            "deficit": deficit,
            "residual": self.residual,
            "iterations": self.iterations,
            "ambiguous": self.ambiguous,
            "saturated": self.saturated,
            "unknown": self.unknown,
            "seconds": self.seconds,
        }


@dataclass(frozen=True, eq=False)
class System:
    """[W; s K(k)] x = [z - b; s g], s = |W|/|k|, with only the known rows of W.

    Of several examples every one has its own rows W x_b = z_b, and all share sum_b K(k_b) x_b = g.
    """

    layer: Layer
    k: Tensor
    known: Tensor | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """That of x: of one example, or of as many as k has."""
        return (*self.k.shape[: self.k.ndim - len(self.layer.outputs)], *self.layer.inputs)

    @property
    def balance(self) -> float:
        """Rows of K as long as rows of W: without it the system is far worse conditioned."""
        return float(self.layer.weight.norm() / self.k.norm())

    def operator(self) -> Operator:
        layer, k, s, known = self.layer, self.k, self.balance, self.known
        split, shape = layer.weight.numel(), self.shape

        def forward(v: Tensor) -> Tensor:
            x = v.view(shape)
            z = layer.linear(x)
            z = z if known is None else z * known
            return torch.cat([z.reshape(-1), layer.gathered(x, k).reshape(-1).mul_(s)])

        def adjoint(u: Tensor) -> Tensor:
            z, g = u[:-split].view(k.shape), u[-split:].view(layer.weight.shape)
            z = z if known is None else z * known
            return layer.adjoint(z).add_(layer.scattered(g, k), alpha=s).reshape(-1)

        return Operator(forward, adjoint)

    def right(self, z: Tensor, g: Tensor) -> Tensor:
        z = self.layer.without_bias(z)
        z = z if self.known is None else z * self.known
        return torch.cat([z.reshape(-1), g.reshape(-1) * self.balance])


@dataclass(frozen=True, eq=False)
class Signal:
    """What the layer after says of a layer: z, f'(z), k, and which units are known at all."""

    z: Tensor
    slope: Tensor
    k: Tensor
    known: Tensor | None
    saturated: int

    @property
    def unknown(self) -> int:
        return 0 if self.known is None else int((~self.known).sum())


def error_signal(chain: Chain, i: int, after: Step) -> Signal:
    """z_i = f^-1(x_{i+1}) and k_i = (W^T k)_{i+1} f'(z_i)."""
    layer, following = chain.layers[i], chain.layers[i + 1]
    shape = (*after.x.shape[: after.x.ndim - len(following.inputs)], *layer.outputs)
    turned = layer.after.turned(after.x.reshape(shape))
    k = following.adjoint(after.k).reshape(shape) * turned.derivative
    known, seen = turned.known, following.seen()
    if seen is not None:
        # Nothing tells the entries between the windows of the layer after.
        known = seen.expand(shape) if known is None else known & seen
    return Signal(turned.z, turned.derivative, k, known, turned.saturated)


def back(chain: Chain, i: int, gradient: Tensors, after: Step, tol: float) -> Step:
    """The input of layer i from the input and the error signal of layer i + 1."""
    start = time.process_time()
    layer, signal = chain.layers[i], error_signal(chain, i, after)
    k, g = signal.k, gradient[layer.weight_name]
    system = System(layer, k, signal.known)
    if float(k.norm()) == 0 or not bool(torch.isfinite(k).all() & torch.isfinite(signal.z).all()):
        return Step(torch.zeros(system.shape).to(k), torch.zeros_like(k), signal.slope, 1.0)
    if layer.window is None and k.ndim == 1:
        x, fit, iterations = _outer(g, k)
    else:
        found = lsmr(system.operator(), system.right(signal.z, g), tol)
        x, fit, iterations = found.x.view(system.shape), found.residual, found.iterations
    spent = time.process_time() - start
    return Step(x, k, signal.slope, fit, iterations, spent, signal.saturated, signal.unknown)


def _outer(g: Tensor, k: Tensor) -> tuple[Tensor, float, int]:
    """g = k x^T: never the mean of g_j / k_j, which amplifies noise."""
    x, size = g.T @ k / (k @ k), float(g.norm())
    return x, float((torch.outer(k, x) - g).norm()) / size if size else 1.0, 0
