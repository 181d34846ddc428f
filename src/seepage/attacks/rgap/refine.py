"""Gauss-Newton on the whole gradient, with every kink frozen at the slope that was found.

The gradient jumps where a unit changes sign; with the slopes held it is smooth in x, and near the
answer its least-squares fit is the most likely x under Gaussian noise.
"""

import dataclasses

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
    names = [n for layer in chain.layers for n in _names(layer) if n in problem.gradient]
    g = torch.cat([problem.gradient[name].reshape(-1) for name in names])
    for _ in range(3):
        found, operator = _linearised(problem, chain, x, label, trail[-1].k)
        change = lsmr(operator, g - found, 1e-6, 600).x
        x = x + change.view_as(x)
    return x


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
        step = torch.linalg.lstsq(matrix.cpu(), (-aim * (1 + 1e-3)).cpu()[:, None]).solution
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


def _linearised(
    problem: Problem, chain: Chain, x: Tensor, label: int | None, k: Tensor
) -> tuple[Tensor, Operator]:
    """The gradient at x as one vector, and its derivative in x as two products."""
    with torch.enable_grad():
        at = x.detach().requires_grad_()
        gradient = _gradient(problem, chain, at, label, k)
        dummy = torch.zeros_like(gradient, requires_grad=True)
        (pulled,) = torch.autograd.grad(gradient, at, dummy, create_graph=True)

    def forward(v: Tensor) -> Tensor:
        return torch.autograd.grad(pulled, dummy, v.view_as(x), retain_graph=True)[0]

    def adjoint(u: Tensor) -> Tensor:
        return torch.autograd.grad(gradient, at, u, retain_graph=True)[0].reshape(-1)

    return gradient.detach(), Operator(forward, adjoint)


def _gradient(problem: Problem, chain: Chain, x: Tensor, label: int | None, k: Tensor) -> Tensor:
    leaves: list[Tensor] = []
    layers = []
    for layer in chain.layers:
        made = _leaf(layer.weight)
        bias = None if layer.bias is None else _leaf(layer.bias)
        layers.append(dataclasses.replace(layer, weight=made, bias=bias))
        shared = zip(_names(layer), (made, bias), strict=False)
        leaves += [p for name, p in shared if p is not None and name in problem.gradient]
    output = dataclasses.replace(chain, layers=tuple(layers)).forward(x)
    risk = _risk(problem, output, label, k)
    parts = torch.autograd.grad(risk, leaves, create_graph=True)
    return torch.cat([part.reshape(-1) for part in parts])


def _risk(problem: Problem, output: Tensor, label: int | None, k: Tensor) -> Tensor:
    if problem.loss.kind == "softmax" and label is not None:
        return functional.cross_entropy(output[None], torch.tensor([label], device=output.device))
    if problem.loss.kind == "logistic" and label is not None:
        return functional.softplus(-label * output).sum()
    return (output * k).sum()


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().clone().requires_grad_()


def _names(layer: Layer) -> list[str]:
    return [layer.weight_name] + ([] if layer.bias is None else [layer.bias_name])
