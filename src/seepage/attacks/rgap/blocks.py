"""Residual blocks: a few Gauss-Newton steps where a layer takes one linear solve.

A block y = f(s), s = x + B(x), has as many equations B(x) + x = s as unknowns, and the gradients of
the last layer of each branch are continuous in x as well: K(k) a(x) = g, with k = dL/ds known and a
the input of that layer. So its input follows from its output, as a layer's does. Where the block
halves the image these are too few for x, yet they fix a(x), and with it the signs inside the
branch; then the gradients of its other layers say the rest.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from seepage.attacks.rgap.candidates import readings
from seepage.attacks.rgap.certificate import clamped, verdict
from seepage.attacks.rgap.lsmr import Operator, lsmr
from seepage.attacks.rgap.problem import Problem
from seepage.attacks.rgap.recursion import Step, System
from seepage.chains import Activation, Block, Layer, Linked, layer_rank
from seepage.core import Observation, Reconstruction
from seepage.tree import Tensors

_STEPS, _HALVINGS = 20, 10


def recovered(problem: Problem, found: Linked, seen: Observation, tol: float) -> Reconstruction:
    """The example, from the last layer to the first; `problem` has the last layer as its chain."""
    answers = [_followed(problem, found, head.x, head.k, tol) for head in readings(problem)]
    labels = [head.label for head in readings(problem)]
    scored = [
        problem.residual(x, label, trail[-1].k)
        for (x, trail), label in zip(answers, labels, strict=True)
    ]
    at = min(range(len(scored)), key=scored.__getitem__)
    (x, trail), label, residual = answers[at], labels[at], scored[at]
    belief = verdict(residual, problem.relative)
    note = f"not recovered (residual {residual:.1e})" if belief == "failed" else ""
    like = next(iter(seen.model.params.values()))
    certificate = like.new_tensor([residual])
    rows = [_row(step, link) for step, link in zip(trail, found.links, strict=True)]
    shown = clamped(x, seen.model.form).to(like)[None]
    trace = {"layers": rows, "belief": belief}
    return Reconstruction(shown, problem.answer(label), -certificate, certificate, note, trace)


def _row(step: Step, link: Layer | Block) -> dict[str, object]:
    if isinstance(link, Layer):
        return step.row(link, layer_rank(link) - link.unknowns)
    return step.row(next(iter(link.layers)), 0) | {"name": link.name, "kind": "Block"}


def _followed(
    problem: Problem, found: Linked, x: Tensor, k: Tensor, tol: float
) -> tuple[Tensor, list[Step]]:
    trail = [Step(x, k)]
    back = problem.chain.layers[-1].adjoint(k)
    for link in reversed(found.links[:-1]):
        if isinstance(link, Block):
            step, back = _through(link, x, back, problem.gradient)
        else:
            step, back = _layer(link, x, back, problem.gradient, tol)
        x = step.x
        trail.insert(0, step)
    return found.before.turned(x).z.reshape(found.shape), trail


def _layer(
    layer: Layer, y: Tensor, back: Tensor, gradient: Tensors, tol: float
) -> tuple[Step, Tensor]:
    start = time.process_time()
    turned = layer.after.turned(y.reshape(layer.outputs))
    k = back.reshape(layer.outputs) * turned.derivative
    system = System(layer, k, turned.known)
    solved = lsmr(system.operator(), system.right(turned.z, gradient[layer.weight_name]), tol)
    spent = time.process_time() - start
    x = solved.x.view(layer.inputs)
    step = Step(x, k, turned.derivative, solved.residual, solved.iterations, spent)
    return step, layer.adjoint(k)


Misfit = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class _Equations:
    """What is known of a block's input x: the sum S(x) = s, and K(k) a(x) = g of its layers."""

    block: Block
    s: Tensor
    k: Tensor
    known: Tensor | None
    gradient: Tensors

    def smooth(self, x: Tensor) -> Tensor:
        """S(x) - s, and the last layer of each branch: k is known there, and nothing jumps."""
        states = zip(self.block.branches, self.block.states(x), strict=True)
        # Behind an activation with a kink the branch's own signal would jump.
        ends = [(b[-1:], at) for b, at in states if b and not b[-1].after.steps]
        return torch.cat([self._gap(x), *(row for end in ends for row in self._rows(*end))])

    def whole(self, x: Tensor) -> Tensor:
        """S(x) - s, and all layers: within a branch k jumps with the signs of x."""
        rows = [row for branch in self.block.branches for row in self._rows(branch, x)]
        return torch.cat([self._gap(x), *rows])

    def _gap(self, x: Tensor) -> Tensor:
        gap = self.block.forward(x).reshape(self.s.shape) - self.s
        return (gap if self.known is None else gap * self.known).flatten()

    def _rows(self, layers: tuple[Layer, ...], x: Tensor) -> Iterator[Tensor]:
        """(K(k) a - g) |W| / |k| of layers in a row, from the last back."""
        states = []
        for layer in layers:
            at = x.reshape(layer.inputs)
            x = layer.after.apply(layer.forward(at))
            states.append((layer, at, x))
        back = self.k
        for layer, at, y in reversed(states):
            k = back.reshape(layer.outputs) * layer.after.turned(y).derivative
            own = layer.gathered(at, k) - self.gradient[layer.weight_name]
            yield (layer.weight.norm() / k.detach().norm() * own).flatten()
            back = layer.adjoint(k)


def _linearised(misfit: Misfit, x: Tensor) -> tuple[Tensor, Operator]:
    """The misfit, and its derivative as two products."""
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        found = misfit(leaf)
        dummy = torch.zeros_like(found, requires_grad=True)
        (pulled,) = torch.autograd.grad(found, leaf, dummy, create_graph=True)
    return found.detach(), Operator(
        lambda v: torch.autograd.grad(pulled, dummy, v.view_as(leaf), retain_graph=True)[0],
        lambda u: torch.autograd.grad(found, leaf, u, retain_graph=True)[0].flatten(),
    )


def _stepped(misfit: Misfit, x: Tensor) -> tuple[Tensor, int]:
    """A Gauss-Newton step, shortened until the misfit is least; how many inner ones it took."""
    found, operator = _linearised(misfit, x)
    step = lsmr(operator, -found, 1e-10, 800)
    moved = [x + 0.5**i * step.x.view_as(x) for i in range(_HALVINGS)]
    return min(moved, key=lambda one: float(misfit(one).norm())), step.iterations


def _descended(misfit: Misfit, x: Tensor) -> tuple[Tensor, int]:
    """Gauss-Newton steps while they take off a tenth of the misfit."""
    total, size = 0, float(misfit(x).norm())
    for _ in range(_STEPS):
        moved, iterations = _stepped(misfit, x)
        least, total = float(misfit(moved).norm()), total + iterations
        if least >= 0.9 * size:
            break
        x, size = moved, least
    return x, total


def _straight(block: Block) -> Block:
    """The block without the kinks inside: at x = 0 a ReLU passes nothing, and no step begins."""
    branches = tuple(
        tuple(dataclasses.replace(layer, after=Activation()) for layer in branch)
        for branch in block.branches
    )
    return dataclasses.replace(block, branches=branches)


def _held(block: Block, x: Tensor, error: float) -> Block:
    """The block with every kink inside held at its slope at x.

    What a ReLU puts out is zero up to the error of the fit: such a unit is off, on whichever side.
    """
    branches = []
    for branch in block.branches:
        at, layers = x, []
        for layer in branch:
            z = layer.forward(at.reshape(layer.inputs))
            layers.append(dataclasses.replace(layer, after=layer.after.frozen_at(z, error)))
            at = layer.after.apply(z)
        branches.append(tuple(layers))
    return dataclasses.replace(block, branches=tuple(branches))


def _through(block: Block, y: Tensor, back: Tensor, gradient: Tensors) -> tuple[Step, Tensor]:
    """The input of a block, and the error signal at it."""
    start = time.process_time()
    turned = block.after.turned(y.reshape(block.outputs))
    k = back.reshape(block.outputs) * turned.derivative
    equations = _Equations(block, turned.z, k, turned.known, gradient)
    straight = dataclasses.replace(equations, block=_straight(block))
    x, zeroth = _stepped(straight.smooth, torch.zeros(block.inputs).to(y))
    x, first = _descended(equations.smooth, x)
    error = 10 * float(equations.smooth(x).norm() / turned.z.norm())
    held = dataclasses.replace(equations, block=_held(block, x, error))
    x, second = _descended(held.whole, x)
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        (signal,) = torch.autograd.grad((block.forward(leaf) * k).sum(), leaf)
    fit = float(equations.whole(x).norm() / turned.z.norm())
    spent = time.process_time() - start
    return Step(x, k, turned.derivative, fit, zeroth + first + second, spent), signal
