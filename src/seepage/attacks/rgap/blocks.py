"""Residual blocks: a few Gauss-Newton steps where a layer takes one linear solve.

A block y = f(s), s = x + B(x), has as many equations B(x) + x = s as unknowns, and the gradients of
the last layer of each branch are continuous in x as well: K(k) a(x) = g, with k = dL/ds known and a
the input of that layer. So its input follows from its output, as a layer's does.
"""

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from seepage.attacks.rgap.candidates import readings
from seepage.attacks.rgap.certificate import clamped, verdict
from seepage.attacks.rgap.lsmr import Operator, lsmr
from seepage.attacks.rgap.problem import Problem
from seepage.attacks.rgap.recursion import Step, System
from seepage.chains import Block, Layer, Linked, layer_rank
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


@dataclass(frozen=True, eq=False)
class _Equations:
    """[S(x) - s; w (K(k) a(x) - g)] for the block's sum S and the last layer of each branch."""

    block: Block
    s: Tensor
    k: Tensor
    known: Tensor | None
    gradient: Tensors

    def misfit(self, x: Tensor) -> Tensor:
        gap = self.block.forward(x).reshape(self.s.shape) - self.s
        rows = [(gap if self.known is None else gap * self.known).flatten()]
        for branch, at in zip(self.block.branches, self.block.states(x), strict=True):
            # Behind an activation with a kink the branch's own signal would jump.
            if branch and not branch[-1].after.steps:
                last = branch[-1]
                k = self.k.reshape(last.outputs)
                weight = last.weight.norm() / k.norm()
                own = last.gathered(at.reshape(last.inputs), k) - self.gradient[last.weight_name]
                rows.append(weight * own.flatten())
        return torch.cat(rows)

    def linearised(self, x: Tensor) -> tuple[Tensor, Operator]:
        """The misfit, and its derivative as two products."""
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            misfit = self.misfit(leaf)
            dummy = torch.zeros_like(misfit, requires_grad=True)
            (pulled,) = torch.autograd.grad(misfit, leaf, dummy, create_graph=True)
        return misfit.detach(), Operator(
            lambda v: torch.autograd.grad(pulled, dummy, v.view_as(leaf), retain_graph=True)[0],
            lambda u: torch.autograd.grad(misfit, leaf, u, retain_graph=True)[0].flatten(),
        )


def _through(block: Block, y: Tensor, back: Tensor, gradient: Tensors) -> tuple[Step, Tensor]:
    """The input of a block, and the error signal at it."""
    start = time.process_time()
    turned = block.after.turned(y.reshape(block.outputs))
    k = back.reshape(block.outputs) * turned.derivative
    equations = _Equations(block, turned.z, k, turned.known, gradient)
    same = block.inputs == block.outputs
    x = turned.z.clone() if same else torch.zeros(block.inputs).to(y)
    size, iterations = math.inf, 0
    for _ in range(_STEPS):
        misfit, operator = equations.linearised(x)
        size = float(misfit.norm())
        step = lsmr(operator, -misfit, 1e-10, 800)
        iterations += step.iterations
        moved = [x + 0.5**i * step.x.view_as(x) for i in range(_HALVINGS)]
        least, at = min((float(equations.misfit(one).norm()), i) for i, one in enumerate(moved))
        if least >= 0.9 * size:
            break
        x, size = moved[at], least
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        (signal,) = torch.autograd.grad((block.forward(leaf) * k).sum(), leaf)
    fit = size / float(turned.z.norm())
    spent = time.process_time() - start
    return Step(x, k, turned.derivative, fit, iterations, spent), signal
