"""Gauss-Newton on the whole gradient, with every kink frozen at the slope that was found.

The gradient jumps where a unit changes sign; with the slopes held it is smooth in x, and near the
answer its least-squares fit is the most likely x under Gaussian noise.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from seepage.attacks.rgap.lsmr import Operator, lsmr
from seepage.attacks.rgap.problem import Problem
from seepage.attacks.rgap.recursion import Step
from seepage.chains import Activation, Chain, Layer
from seepage.chains.activations import held


def polished(problem: Problem, x: Tensor, label: int | None, trail: list[Step]) -> Tensor:
    """Three Gauss-Newton steps from x; `trail` has the recursion's steps, first layer first."""
    chain = frozen(problem.chain, trail)
    fit = Fit(problem, label, trail[-1].k, lambda at: (chain, at.view(chain.shape)))
    at = x.reshape(-1)
    for _ in range(3):
        at = at + fit.step(at)
    return at.view(chain.shape)


Unpack = Callable[[Tensor], tuple[Chain, Tensor]]


@dataclass(frozen=True, eq=False)
class Fit:
    """The gradient as a smooth function of a vector, which `unpack` turns into chain and input."""

    problem: Problem
    label: int | None
    k: Tensor
    unpack: Unpack

    def step(self, at: Tensor) -> Tensor:
        """One Gauss-Newton step: argmin |G + G' v - g|."""
        found, operator = self._linearised(at)
        return lsmr(operator, self._wanted() - found, 1e-6, 600).x

    def misfit(self, at: Tensor) -> float:
        """|G - g| / |g|, with the kinks held."""
        with torch.enable_grad():
            found = self._gradient(*self.unpack(at.detach()), graph=False)
        wanted = self._wanted()
        return float((found - wanted).norm() / wanted.norm())

    def _linearised(self, at: Tensor) -> tuple[Tensor, Operator]:
        """The gradient as one vector, and its derivative as two products."""
        with torch.enable_grad():
            leaf = at.detach().requires_grad_()
            gradient = self._gradient(*self.unpack(leaf), graph=True)
            dummy = torch.zeros_like(gradient, requires_grad=True)
            (pulled,) = torch.autograd.grad(gradient, leaf, dummy, create_graph=True)
        return gradient.detach(), Operator(
            lambda v: torch.autograd.grad(pulled, dummy, v, retain_graph=True)[0],
            lambda u: torch.autograd.grad(gradient, leaf, u, retain_graph=True)[0],
        )

    def _gradient(self, chain: Chain, x: Tensor, graph: bool) -> Tensor:
        leaves: list[Tensor] = []
        layers = []
        for layer in chain.layers:
            made = _leaf(layer.weight)
            bias = None if layer.bias is None else _leaf(layer.bias)
            layers.append(dataclasses.replace(layer, weight=made, bias=bias))
            named = zip(_names(layer), (made, bias), strict=False)
            leaves += [p for name, p in named if p is not None and name in self.problem.gradient]
        output = dataclasses.replace(chain, layers=tuple(layers)).forward(x)
        parts = torch.autograd.grad(self._risk(output), leaves, create_graph=graph)
        return torch.cat([part.reshape(-1) for part in parts])

    def _wanted(self) -> Tensor:
        gradient, layers = self.problem.gradient, self.problem.chain.layers
        names = [name for layer in layers for name in _names(layer) if name in gradient]
        return torch.cat([gradient[name].reshape(-1) for name in names])

    def _risk(self, output: Tensor) -> Tensor:
        kind, label = self.problem.loss.kind, self.label
        if kind == "softmax" and label is not None:
            return functional.cross_entropy(output[None], output.new_tensor([label]).long())
        if kind == "logistic" and label is not None:
            return functional.softplus(-label * output).sum()
        return (output * self.k).sum()


def settled(chain: Chain, x: Tensor, trail: list[Step], most: int = 200) -> Tensor:
    """The nearest input whose units have the signs that were found.

    A unit within the noise of its kink may end on the wrong side, where the gradient is another
    one. The least change of x that moves all of them back is far below the error of x.
    """
    held = frozen(chain, trail)
    for _ in range(3):
        with torch.enable_grad():
            at = x.detach().requires_grad_()
            wrong = _wrong(chain, held, at, trail)
            units = list(wrong.unbind())
        if not 0 < len(units) <= most:
            break
        rows = [torch.autograd.grad(z, at, retain_graph=True)[0].reshape(-1) for z in units]
        matrix, aim = torch.stack(rows), wrong.detach()
        # Past the kink by a hair: -z lands on it, and rounding would decide.
        step = torch.linalg.pinv(matrix.cpu()) @ (-aim * (1 + 1e-3)).cpu()[:, None]
        x = x + step[:, 0].to(x).view_as(x)
    return x


def _wrong(chain: Chain, held: Chain, x: Tensor, trail: list[Step]) -> Tensor:
    """z of the units whose sign is not the one found."""
    found = [x.new_zeros(0)]
    x = chain.before.apply(x)
    for layer, steady, step in zip(chain.layers, held.layers, trail, strict=True):
        z = layer.forward(x.reshape(layer.inputs))
        if len(layer.after.steps) == 1 and layer.after.kinked and step.slope is not None:
            found.append(z[(z < 0) != (step.slope < 1)])
        x = steady.after.apply(z)
    return torch.cat(found)


def frozen(chain: Chain, trail: list[Step]) -> Chain:
    """The chain with the slopes that the recursion found, repaired ones included."""
    layers = [
        dataclasses.replace(layer, after=_frozen(layer, here, after))
        for layer, here, after in zip(chain.layers[:-1], trail[:-1], trail[1:], strict=True)
    ]
    return dataclasses.replace(chain, layers=(*layers, chain.layers[-1]))


def _frozen(layer: Layer, here: Step, after: Step) -> Activation:
    steps = layer.after.steps
    if len(steps) == 1 and not layer.after.smooth and here.slope is not None:
        return Activation((held(steps[0], here.slope),))
    return layer.after.frozen(after.x.reshape(layer.outputs))


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().clone().requires_grad_()


def _names(layer: Layer) -> list[str]:
    return [layer.weight_name] + ([] if layer.bias is None else [layer.bias_name])
