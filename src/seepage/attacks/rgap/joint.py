"""Two layers at once, where one alone has fewer equations than unknowns.

Layer b is deficient: [W; s K(k)]_b x_b = [z; s g]_b leaves directions free. But
x_b = f(W_a x + b_a) is made of fewer or better known numbers x, and the gradient of layer a speaks
of them as well. Stage 1 solves for x through layer b's equations, which are continuous in x.
Stage 2 adds the gradient of layer a, K(k_a(x)) x = g_a, where k_a jumps with the sign of z_a: the
jump is softened to a sigmoid of growing steepness.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from seepage.attacks.rgap.lsmr import Operator, lsmr
from seepage.attacks.rgap.recursion import Step, System, back, error_signal
from seepage.chains import Chain, Layer
from seepage.tree import Tensors

_HARD = 1e5
_EXACT = 1e-5
# Iterations of an inner solve: half of the unknowns. Where it stops earlier, signs settle wrong.
_SOLVE = 1500


@dataclass(frozen=True, eq=False)
class Pair:
    """Layers a and b = a + 1, what is known of them, and the blocks of residuals in x = x_a."""

    first: Layer
    system: System
    right: Tensor
    g: Tensor
    signal: Tensor
    slope: Tensor | float

    @property
    def weight(self) -> float:
        """t: rows of the first layer's gradient as long as rows of its weights."""
        middle = self.signal.norm() * float((1 + torch.as_tensor(self.slope).mean()) / 2)
        return float(self.first.weight.norm() / middle)

    def states(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """z_a, and the slopes of f there."""
        z = self.first.forward(x)
        return z, torch.where(z < 0, self.slope * torch.ones_like(z), 1.0)

    def deep(self, x: Tensor) -> Tensor:
        """[W; s K]_b f(W_a x + b_a) - [z; s g]_b."""
        z, slopes = self.states(x)
        inner = (z * slopes).reshape(-1)
        return self.system.operator().forward(inner) - self.right

    def gate(self, z: Tensor, beta: float, spread: float) -> tuple[Tensor, Tensor]:
        """The softened slope times the error signal, and its derivative in z."""
        soft = torch.sigmoid(beta / spread * z)
        rise = (1 - self.slope) * (beta / spread) * soft * (1 - soft)
        return self.signal * (self.slope + (1 - self.slope) * soft), rise * self.signal

    def shallow(self, x: Tensor, k: Tensor) -> Tensor:
        """t (K(k_a) x - g_a)."""
        return (self.first.gathered(x, k) - self.g).reshape(-1) * self.weight


Residual = Callable[[Tensor], Tensor]
Tangent = Callable[[Tensor], Operator]


def together(chain: Chain, i: int, gradient: Tensors, after: Step, tol: float) -> list[Step]:
    """The inputs of layers i and i - 1, in that order."""
    start = time.process_time()
    pair, last = _pair(chain, i, gradient, after)
    first = back(chain, i, gradient, after, tol)
    x = back(chain, i - 1, gradient, first, tol).x
    x = _stage_one(pair, x)
    if _misfit(pair, x) > _EXACT:
        x = min((x, _stage_two(pair, x)), key=lambda found: _misfit(pair, found))
    z, slopes = pair.states(x)
    inner = (z * slopes).reshape(chain.layers[i].inputs)
    fit = float(pair.deep(x).norm() / pair.right.norm())
    seconds = time.process_time() - start
    deep = Step(inner, pair.system.k, last, fit, first.iterations, seconds)
    k = pair.signal * slopes
    return [deep, Step(x, k, slopes, _misfit(pair, x), 0, 0.0)]


def possible(chain: Chain, i: int) -> bool:
    """Whether layers i and i - 1 are two convolutions with one kinked activation between."""
    if i < 1:
        return False
    first, second = chain.layers[i - 1], chain.layers[i]
    kinked = len(first.after.steps) == 1 and first.after.kinked
    return kinked and first.window is not None and second.window is not None


def _pair(chain: Chain, i: int, gradient: Tensors, after: Step) -> tuple[Pair, Tensor]:
    layer, first = chain.layers[i], chain.layers[i - 1]
    signal = error_signal(chain, i, after)
    system = System(layer, signal.k, signal.known)
    right = system.right(signal.z, gradient[layer.weight_name])
    before = layer.adjoint(signal.k).reshape(first.outputs)
    slope = first.after.steps[0].slope
    g = gradient[first.weight_name]
    return Pair(first, system, right, g, before, slope), signal.slope


def _misfit(pair: Pair, x: Tensor) -> float:
    """Both blocks with the true signs, each relative to its right-hand side."""
    _, slopes = pair.states(x)
    deep = pair.deep(x).norm() / pair.right.norm()
    shallow = pair.shallow(x, pair.signal * slopes).norm() / (pair.weight * pair.g.norm())
    return math.hypot(float(deep), float(shallow))


def _stage_one(pair: Pair, x: Tensor) -> Tensor:
    damping = 1e-3
    for _ in range(12):
        x, damping, moved = _damped(pair.deep, lambda at: _deep_tangent(pair, at), x, damping)
        if not moved:
            break
    return x


def _stage_two(pair: Pair, x: Tensor) -> Tensor:
    damping = 1e-3
    for beta in [4 * 1.5**j for j in range(22)] + [_HARD, _HARD]:
        spread = float(pair.states(x)[0].std())
        damping = min(damping, 1e-4)

        def residual(at: Tensor, beta: float = beta, spread: float = spread) -> Tensor:
            k, _ = pair.gate(pair.states(at)[0], beta, spread)
            return torch.cat([pair.deep(at), pair.shallow(at, k)])

        def tangent(at: Tensor, beta: float = beta, spread: float = spread) -> Operator:
            return _full_tangent(pair, at, beta, spread)

        for _ in range(3):
            x, damping, moved = _damped(residual, tangent, x, damping)
            if not moved:
                break
    return x


def _damped(
    residual: Residual, tangent: Tangent, x: Tensor, damping: float
) -> tuple[Tensor, float, bool]:
    """One Levenberg-Marquardt step, [F'; sqrt(lambda)] v = [-F; 0]; lambda grows until it helps."""
    f = residual(x)
    size, operator, n = float(f.norm()), tangent(x), x.numel()
    right, most = torch.cat([-f, f.new_zeros(n)]), max(_SOLVE, n // 2)
    for _ in range(8):
        v = lsmr(_ridged(operator, math.sqrt(damping), n), right, 1e-8, most).x
        trial = x + v.view_as(x)
        if float(residual(trial).norm()) < size:
            return trial, damping / 5, True
        damping *= 10
    return x, damping, False


def _ridged(operator: Operator, root: float, n: int) -> Operator:
    """[A; root I]."""
    return Operator(
        lambda v: torch.cat([operator.forward(v), root * v]),
        lambda u: operator.adjoint(u[:-n]) + root * u[-n:],
    )


def _deep_tangent(pair: Pair, x: Tensor) -> Operator:
    """A_b f'(z_a) W_a."""
    _, slopes = pair.states(x)
    outer, first = pair.system.operator(), pair.first

    def forward(v: Tensor) -> Tensor:
        return outer.forward((slopes * first.linear(v.view_as(x))).reshape(-1))

    def adjoint(u: Tensor) -> Tensor:
        return first.adjoint(slopes * outer.adjoint(u).view_as(slopes)).reshape(-1)

    return Operator(forward, adjoint)


def _full_tangent(pair: Pair, x: Tensor, beta: float, spread: float) -> Operator:
    """Both blocks: the second is t (K(k) v + K(omega W v) x)."""
    deep, first, t = _deep_tangent(pair, x), pair.first, pair.weight
    k, omega = pair.gate(pair.states(x)[0], beta, spread)
    split = first.weight.numel()

    def forward(v: Tensor) -> Tensor:
        step = v.view_as(x)
        change = first.gathered(step, k) + first.gathered(x, omega * first.linear(step))
        return torch.cat([deep.forward(v), t * change.reshape(-1)])

    def adjoint(u: Tensor) -> Tensor:
        e = t * u[-split:].view(first.weight.shape)
        back_k = first.adjoint(omega * first.convolved(x, e))
        return deep.adjoint(u[:-split]) + (first.scattered(e, k) + back_k).reshape(-1)

    return Operator(forward, adjoint)
