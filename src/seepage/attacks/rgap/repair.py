"""Signs lost to noise: a kinked unit near zero whose slope the noisy recursion cannot tell.

The error signal k of such a unit is wrong by the ratio of the slopes. So its slope becomes an
unknown of its own, solved for together with the layer's input and then rounded.
"""

import dataclasses
import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from seepage.attacks.rgap.lsmr import Operator, lsmr
from seepage.attacks.rgap.recursion import Step, System, error_signal
from seepage.chains import Chain
from seepage.tree import Tensors

_MOST = 200
_TOL = 1e-7


@dataclass(frozen=True, eq=False)
class _Doubt:
    """The units of one layer in doubt, and the system that their slopes enter."""

    system: System
    z: Tensor
    g: Tensor
    signal: Tensor
    units: Tensor
    low: Tensor
    slopes: Tensor

    def with_slopes(self, values: Tensor) -> "_Doubt":
        slopes = self.slopes.flatten().index_copy(0, self.units, values).view_as(self.slopes)
        system = dataclasses.replace(self.system, k=self.signal * slopes)
        return dataclasses.replace(self, slopes=slopes, system=system)

    def masked(self) -> System:
        known = torch.ones_like(self.z).flatten().index_fill(0, self.units, 0)
        return dataclasses.replace(self.system, known=known.view_as(self.z))


def repaired(
    chain: Chain, i: int, gradient: Tensors, after: Step, plain: Step, noise: "Noise"
) -> Step:
    """The layer's input with the slopes in doubt solved for, where that explains it better.

    In doubt are the units within 4 errors of the kink, and, while the fit stays worse than the
    noise explains, within 8 and 16.
    """
    best = plain
    for width in (4, 8, 16):
        doubt = _doubt(chain, i, gradient, after, width * noise.before)
        if doubt is not None:
            tried = _solved(doubt, after, plain)
            best = min((best, tried), key=lambda step: step.residual)
        if best.residual <= 1.5 * noise.floor:
            break
    return best


def _solved(doubt: "_Doubt", after: Step, plain: Step) -> Step:
    found = _relaxed(doubt)
    nearest = torch.where(found > (1 + doubt.low) / 2, 1.0, doubt.low)
    rounded = doubt.with_slopes(nearest)
    # A unit whose sign changed has z = x / slope by its new slope.
    x = after.x.flatten()[doubt.units]
    z = doubt.z.flatten().index_copy(0, doubt.units, x / nearest).view_as(doubt.z)
    solved = lsmr(rounded.system.operator(), rounded.system.right(z, doubt.g), _TOL)
    return dataclasses.replace(
        plain,
        x=solved.x.view_as(plain.x),
        k=rounded.system.k,
        slope=rounded.slopes,
        residual=solved.residual,
        iterations=plain.iterations + solved.iterations,
        ambiguous=len(doubt.units),
    )


@dataclass(frozen=True)
class Noise:
    """The error of a layer's output and input, and the misfit that the noise alone makes."""

    before: float
    after: float
    floor: float


def propagated(
    system: System, right: float, before: float, slope: Tensor, problem: tuple[float, Generator]
) -> Noise:
    """Two draws of the noise on z and g, solved as the layer is: its error and its misfit."""
    (sigma, rng), total, misfit = problem, 0.0, 0.0
    for _ in range(2):
        z = _normal(slope.shape, rng, slope) * before / slope.clamp(min=1e-6)
        g = _normal(system.layer.weight.shape, rng, slope) * sigma * system.balance
        noise = torch.cat([z.reshape(-1), g.reshape(-1)])
        found = lsmr(system.operator(), noise, 1e-4)
        total += float(found.x.square().mean()) / 2
        misfit += found.residual * float(noise.norm()) / right / 2
    return Noise(before, max(before, math.sqrt(total)), misfit)


def _normal(shape: torch.Size, rng: Generator, like: Tensor) -> Tensor:
    return torch.randn(shape, generator=rng, dtype=torch.float64).to(like.device)


def _doubt(chain: Chain, i: int, gradient: Tensors, after: Step, within: float) -> _Doubt | None:
    layer = chain.layers[i]
    steps = layer.after.steps
    if layer.window is None or len(steps) != 1 or steps[0].kind != "kinked":
        return None
    signal = error_signal(chain, i, after)
    x = after.x.flatten().abs()
    units = x.argsort()[: min(_MOST, int((x < within).sum()))]
    if not len(units):
        return None
    low = (torch.ones_like(signal.slope) * steps[0].slope).flatten()[units]
    before = chain.layers[i + 1].adjoint(after.k).reshape(layer.outputs)
    g = gradient[layer.weight_name]
    return _Doubt(System(layer, signal.k), signal.z, g, before, units, low, signal.slope)


def _relaxed(doubt: _Doubt) -> Tensor:
    """The slopes as real numbers, by four linearisations around the input and the slopes."""
    system = doubt.masked()
    x = lsmr(system.operator(), system.right(doubt.z, doubt.g), _TOL).x
    values = (1 + doubt.low) / 2
    for _ in range(4):
        current = doubt.with_slopes(values)
        system = current.masked()
        shape = system.layer.inputs
        operator = _extended(current, system, x.view(shape))
        solved = lsmr(operator, system.right(doubt.z, doubt.g), _TOL, 2000).x
        x, change = solved[: x.numel()], solved[x.numel() :]
        values = torch.maximum((values + change).clamp(max=1), doubt.low)
    return values


def _extended(doubt: _Doubt, system: System, x: Tensor) -> Operator:
    """[W; s K(k)] with a column s K(e_j signal_j) x for the slope of every unit j in doubt."""
    plain, layer, s = system.operator(), system.layer, system.balance
    n, split = x.numel(), system.layer.weight.numel()
    signal = doubt.signal.flatten()[doubt.units]

    def forward(v: Tensor) -> Tensor:
        rows = plain.forward(v[:n])
        k = torch.zeros_like(doubt.signal).flatten()
        k[doubt.units] = v[n:] * signal
        rows[-split:] += s * layer.gathered(x, k.view_as(doubt.signal)).reshape(-1)
        return rows

    def adjoint(u: Tensor) -> Tensor:
        g = u[-split:].view(layer.weight.shape)
        slopes = s * layer.convolved(x, g).flatten()[doubt.units] * signal
        return torch.cat([plain.adjoint(u), slopes])

    return Operator(forward, adjoint)
