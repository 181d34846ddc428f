"""The whole step as one function of tensors, so that `torch.compile` can fuse it.

A compiled network has no second derivative; a compiled step needs none, as it is written with
`torch.func` from the candidate to the slope. It pays after thousands of steps: compiling takes
seconds to minutes.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from seepage import tree
from seepage.attacks.matching.objectives import L2, Cosine
from seepage.attacks.matching.problem import Problem
from seepage.clients import FedSGD
from seepage.core import Batch
from seepage.errors import InvalidInput

Whole = Callable[[Tensor], tuple[Tensor, Tensor]]


def whole_step(problem: Problem) -> Whole:
    """D and dD/dx at an input x, with the exact step's equations and no number read on the way."""
    _check(problem)
    model, match, y = problem.exact.model, problem.match, problem.y
    distance = _cosine if isinstance(match.objective, Cosine) else _square
    scale = getattr(match.objective, "scale", 1.0)
    params = dict(model.params)

    def update(x: Tensor) -> list[Tensor]:
        found: tree.Tensors = torch.func.grad(model.risk)(params, Batch(x, y))
        return match.gathered(found)

    def step(x: Tensor) -> tuple[Tensor, Tensor]:
        with sdpa_kernel(SDPBackend.MATH):
            linear = torch.func.vjp(update, x)
            given, pull = linear[0], linear[1]
            value, slopes = distance(given, match.goals, match.weights)
            return scale * value, scale * pull(slopes)[0]

    return step


def _cosine(
    given: Sequence[Tensor], observed: Sequence[Tensor], weights: Sequence[float]
) -> tuple[Tensor, list[Tensor]]:
    """D = ||g - ratio G||^2 / ||g||^2 / (1 + cos) with ratio = cos ||g|| / ||G||."""
    triples = list(zip(weights, given, observed, strict=True))
    goal = torch.stack([w * (g * g).sum() for w, _, g in triples]).sum().sqrt()
    own = torch.stack([w * (G * G).sum() for w, G, _ in triples]).sum()
    cross = torch.stack([w * (G * g).sum() for w, G, g in triples]).sum()
    length = own.sqrt().clamp(min=1e-20)
    cosine = cross / (length * goal)
    lines = [g - (cosine * goal / length) * G for _, G, g in triples]
    slopes = [line * (-w / (length * goal)) for (w, _, _), line in zip(triples, lines, strict=True)]
    square = torch.stack([w * (r * r).sum() for w, r in zip(weights, lines, strict=True)]).sum()
    return square / goal**2 / (1 + cosine), slopes


def _square(
    given: Sequence[Tensor], observed: Sequence[Tensor], weights: Sequence[float]
) -> tuple[Tensor, list[Tensor]]:
    rests = [G - g for G, g in zip(given, observed, strict=True)]
    parts = [w * (r * r).sum() for w, r in zip(weights, rests, strict=True)]
    return torch.stack(parts).sum(), [2 * w * r for w, r in zip(weights, rests, strict=True)]


def _check(problem: Problem) -> None:
    objective = problem.match.objective
    reasons = [
        (problem.exact.client != FedSGD(), f"the believed client is {problem.exact.client!r}"),
        (not isinstance(objective, Cosine | L2), f"the objective is {type(objective).__name__}"),
        (bool(problem.terms) or bool(objective.task), "a prior needs the network's activations"),
        (problem.scored, "the labels are searched too"),
    ]
    for refused, why in reasons:
        if refused:
            raise InvalidInput(
                f"Invert(compile=True) takes one plain gradient and Cosine or L2, and {why}. "
                "Use compile=False."
            )
