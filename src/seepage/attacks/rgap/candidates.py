"""Every reading of the last layer followed down the chain, and which of them can be told apart."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from seepage.attacks.rgap import heads
from seepage.attacks.rgap.certificate import plausible
from seepage.attacks.rgap.heads import Head
from seepage.attacks.rgap.problem import Problem
from seepage.attacks.rgap.recursion import Step
from seepage.forms import Form

Solver = Callable[[Problem, int, Step], list[Step]]


@dataclass(frozen=True, eq=False)
class Candidate:
    """One answer: its input, label and certificate, and the steps behind it, first layer first."""

    head: Head
    problem: Problem
    trail: list[Step]
    x: Tensor
    residual: float = 1.0
    note: str = ""

    @property
    def worst(self) -> float:
        return max((step.residual for step in self.trail), default=0.0)


def readings(problem: Problem) -> list[Head]:
    """Every head that the last layer's gradient allows, twins left out."""
    layer, weight, bias = problem.chain.layers[-1], problem.weight(-1), problem.bias(-1)
    told, kind = problem.label, problem.loss.kind
    if bias is not None:
        return [_with_factor(problem, heads.biased(weight, bias, _label(bias, kind, told)))]
    if kind == "logistic":
        return _without_twins(problem, heads.logistic(layer, weight, told))
    if layer.outputs == (2,):
        return _without_twins(problem, heads.two_classes(layer, weight, told))
    return heads.softmax(layer, weight, told, problem.clipped)


def followed(problem: Problem, readings: list[Head], solve: Solver) -> list[Candidate]:
    """All readings one layer after another; those that a layer refutes go no further."""
    going = [
        Candidate(head, problem.scaled(head.factor), [Step(head.x, head.k)], head.x)
        for head in readings
    ]
    dropped: list[Candidate] = []
    i = len(problem.chain.layers) - 2
    while i >= 0:
        steps = [solve(candidate.problem, i, candidate.trail[0]) for candidate in going]
        going = [
            dataclasses.replace(c, trail=[*reversed(found), *c.trail])
            for c, found in zip(going, steps, strict=True)
        ]
        best = min(candidate.worst for candidate in going)
        limit = max(1e-2, 10 * best)
        dropped += [_refuted(c, problem, i) for c in going if c.worst > limit]
        going = [c for c in going if c.worst <= limit]
        i -= len(steps[0])
    return [_finished(candidate) for candidate in going] + dropped


def twins(candidate: Candidate) -> list[Candidate]:
    """Inputs that give the very same gradient, whatever the attack.

    Without biases and with positively homogeneous activations, (m'/m) x has the gradient of x,
    where m and m' are the two margins; with odd activations, (-x, -y) has it too.
    """
    problem, head = candidate.problem, candidate.head
    made = [candidate]
    if head.margin == head.margin and problem.chain.homogeneous:
        made += [_scaled(candidate, root) for root in _other_roots(problem, head)]
    if head.margin == head.margin and problem.chain.odd and problem.label is None:
        made += [_mirrored(c) for c in made]
    return made


def chosen(candidates: list[Candidate], form: Form) -> tuple[list[Candidate], str]:
    """The candidates that nothing known rules out, the best first, and what was seen on the way.

    Residuals never settle twins: only the range of real inputs does.
    """
    finished = [c for c in candidates if not c.note] or candidates
    ranked = sorted(finished, key=lambda candidate: candidate.residual)
    inside = [c for c in ranked if plausible(c.x, form)]
    note = "" if inside else "no candidate lies in the range of the form"
    kept = inside or ranked
    close = [c for c in kept if c.residual <= 10 * kept[0].residual]
    return close, note


def _label(bias: Tensor, kind: str, told: int | None) -> int | None:
    if told is not None or kind == "other":
        return told
    return int(bias.argmin()) if kind == "softmax" else (1 if float(bias[0]) < 0 else -1)


def _with_factor(problem: Problem, head: Head) -> Head:
    """The clipping factor |k| / |p - e_y|: x needs none, and p follows from x."""
    if not problem.clipped or head.label is None:
        return head
    layer = problem.chain.layers[-1]
    output = layer.after.apply(layer.forward(head.x))
    if problem.loss.kind == "softmax":
        error = torch.softmax(output, 0)
        error[head.label] -= 1
    else:
        slope = layer.after.turned(output).derivative
        error = torch.sigmoid(-head.label * output) * slope
    factor = float(head.k.norm() / error.norm())
    return dataclasses.replace(head, k=head.k / factor, factor=factor)


def _without_twins(problem: Problem, found: list[Head]) -> list[Head]:
    if problem.chain.homogeneous:
        found = list({head.label: head for head in reversed(found)}.values())[::-1]
    return found[:1] if problem.chain.odd and problem.label is None else found


def _refuted(candidate: Candidate, problem: Problem, i: int) -> Candidate:
    name = problem.chain.layers[i].name
    x = torch.zeros(problem.chain.shape).to(candidate.head.x)
    note = f"refuted at layer '{name}'"
    return dataclasses.replace(candidate, x=x, residual=candidate.worst, note=note)


def _finished(candidate: Candidate) -> Candidate:
    chain = candidate.problem.chain
    x = chain.before.turned(candidate.trail[0].x).z.reshape(chain.shape)
    return measured(dataclasses.replace(candidate, x=x))


def measured(candidate: Candidate) -> Candidate:
    """The candidate with its certificate."""
    head = candidate.head
    residual = candidate.problem.residual(candidate.x, head.label, head.k)
    return dataclasses.replace(candidate, residual=residual)


def _other_roots(problem: Problem, head: Head) -> list[float]:
    layer, weight = problem.chain.layers[-1], problem.weight(-1)
    c = float((weight * layer.weight).sum())
    roots, _ = heads.margins(c)
    return [root for root in roots if abs(root - head.margin) > 1e-12 * abs(head.margin)]


def _scaled(candidate: Candidate, root: float) -> Candidate:
    head, ratio = candidate.head, root / candidate.head.margin
    twin = dataclasses.replace(head, x=head.x * ratio, k=head.k / ratio, margin=root)
    trail = [dataclasses.replace(s, x=s.x * ratio, k=s.k / ratio) for s in candidate.trail]
    return measured(dataclasses.replace(candidate, head=twin, trail=trail, x=candidate.x * ratio))


def _mirrored(candidate: Candidate) -> Candidate:
    head = candidate.head
    assert head.label is not None
    other = 1 - head.label if candidate.problem.loss.kind == "softmax" else -head.label
    twin = dataclasses.replace(head, x=-head.x, k=-head.k, label=other)
    trail = [dataclasses.replace(s, x=-s.x, k=-s.k) for s in candidate.trail]
    return measured(dataclasses.replace(candidate, head=twin, trail=trail, x=-candidate.x))
