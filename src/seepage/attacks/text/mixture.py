"""Sentences as weights: block 0 of an encoder where every candidate stands for some share."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from seepage.attacks.text.anatomy import Network
from seepage.attacks.text.spans import Span
from seepage.errors import InvalidInput

_ROUNDS = 20
_SOLVED = 1e-5
_ABSENT = 1e-12
_SHORTEST = 1e-2
"""A step is halved until it helps, and given up below this share of it."""


class _Given(nn.Module):
    """Stands where attention stood, and returns what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.mixed: Tensor | None = None

    def forward(self, *_: Any, **__: Any) -> tuple[Tensor | None, None]:
        return self.mixed, None


@dataclass(frozen=True, eq=False)
class Mixture:
    """Candidates (a token at a place) that share one attention, each with a weight w_j >= 0.

    With weights, a head's output for candidate i is o_i = sum_j w_j e_ij v_j / sum_j w_j e_ij,
    e_ij = exp(q_i . k_j / sqrt(d)): ones at the tokens of a sentence and zeros elsewhere make it
    that of the sentence. z1_i is a function of o_i, and in block 1's span for the true weights.
    """

    span: Span
    state: Tensor
    """What block 0 is given for each candidate (n, width)."""
    query: Tensor
    key: Tensor
    value: Tensor
    """Of every candidate and head (n, heads, width / heads)."""
    after: Callable[[Tensor, Tensor], Tensor]
    """z1 from one state and its mixture."""

    @classmethod
    def of(cls, network: Network, span: Span, tokens: Tensor, places: Tensor) -> "Mixture":
        """The candidates of this network, its block 0 copied."""
        anatomy = network.anatomy
        if not anatomy.attention or len(anatomy.projections) != 3 or not anatomy.heads:
            raise InvalidInput(
                "the search for an encoder's sentences calls block 0's attention part by part, and "
                "its anatomy does not name them. Set Anatomy.attention, projections and heads."
            )
        read = network.first(tokens, places)
        parts = [network.part(name)(read) for name in anatomy.projections]
        query, key, value = (part.unflatten(-1, (anatomy.heads, -1)) for part in parts)
        state = network.entering(tokens, places)
        return cls(span, state, query, key, value, _after(network))

    @property
    def width(self) -> int:
        """How many derivatives one expansion takes."""
        return len(self.span.complement)

    def misfit(self, at: int, weights: Tensor) -> Tensor:
        """N z1 / |z1| of candidate `at`: zero where the weights are a sentence that holds it."""
        return self._outside(at, self._mixed(at, weights)[0].flatten())

    def expanded(self, at: int, weights: Tensor) -> tuple[Tensor, Tensor]:
        """The misfit and its slope by each weight (directions, n).

        do/dw_j = e_ij (v_j - o) / sum_j w_j e_ij, so that only d z1/d o is differentiated.
        """
        mixed, share = self._mixed(at, weights)
        outside: Any = torch.func.vjp(lambda given: self._outside(at, given), mixed.flatten())
        rows: Any = torch.func.vmap(outside[1])
        steep = rows(torch.eye(self.width, dtype=torch.float64, device=mixed.device))[0]
        pulls = share[:, :, None] * (self.value.transpose(0, 1) - mixed[:, None])
        return outside[0], (steep @ pulls.transpose(0, 1).flatten(1).T).double()

    def _mixed(self, at: int, weights: Tensor) -> tuple[Tensor, Tensor]:
        """o (heads, width / heads), and e_j / sum_j w_j e_j (heads, n)."""
        scores = torch.einsum("hd,jhd->hj", self.query[at], self.key) / self.key.shape[-1] ** 0.5
        likely = (scores - scores.amax(1, keepdim=True)).exp()
        share = likely / (likely @ weights)[:, None]
        return torch.einsum("hj,jhd->hd", share * weights, self.value), share

    def _outside(self, at: int, mixed: Tensor) -> Tensor:
        return self.span.outside(self.after(self.state[at], mixed))


def _after(network: Network) -> Callable[[Tensor, Tensor], Tensor]:
    """Block 0 behind its attention, as a function of what attention gives."""
    anatomy, given = network.anatomy, _Given()
    first = anatomy.blocks[0]
    block = copy.deepcopy(network.part(first))
    block.set_submodule(anatomy.attention.removeprefix(f"{first}."), given)
    inside = network.part(anatomy.mixed) if anatomy.mixed else nn.Identity()

    def after(state: Tensor, mixed: Tensor) -> Tensor:
        given.mixed = inside(mixed)[None, None]
        found = block(state[None, None])
        out: Tensor = found[0] if isinstance(found, tuple) else found
        return network.normed(out.reshape(1, 1, -1), 1)[0, 0]

    return after


def solved(
    mixture: Mixture, rules: Tensor, asked: Sequence[int], start: Tensor
) -> tuple[Tensor, int]:
    """Weights under which the candidates asked are in the span and `rules` @ w = 1; the expansions.

    Gauss-Newton, each step the nonnegative least squares of the expansion (Lawson and Hanson 1974),
    halved until the error falls. Nonnegative solutions are sparse, which tells hundreds of
    candidates apart by fewer directions. Candidates that start at zero stay there.
    """
    free, weights = start > 0, start.clamp_min(_ABSENT)
    free[list(asked)] = False

    def error(w: Tensor) -> Tensor:
        return torch.cat([*(mixture.misfit(at, w) for at in asked), rules @ w.double() - 1])

    rest, rounds = error(weights), 0
    while rounds < _ROUNDS and float(rest.norm()) > _SOLVED:
        rounds += 1
        steep = [mixture.expanded(at, weights)[1] for at in asked]
        slope = torch.cat([*steep, rules])[:, free]
        goal = _nonnegative(slope, slope @ weights[free].double() - rest)
        step = torch.zeros_like(weights)
        if goal is not None:
            step[free] = goal.to(weights) - weights[free]
        length, trial = 1.0, rest
        while length > _SHORTEST:
            trial = error((weights + length * step).clamp_min(_ABSENT))
            if float(trial.norm()) < (1 - length / 10) * float(rest.norm()):
                break
            length /= 2
        else:
            break
        weights, rest = (weights + length * step).clamp_min(_ABSENT), trial
    return weights, rounds


def _nonnegative(left: Tensor, right: Tensor) -> Tensor | None:
    """The least squares solution without negative entries, if it is found."""
    from scipy.optimize import nnls

    try:
        found, _ = nnls(left.cpu().numpy(), right.cpu().numpy(), maxiter=10 * left.shape[1])
    except RuntimeError:  # SciPy's way to say that maxiter was reached.
        return None
    solution: Tensor = torch.from_numpy(np.asarray(found)).to(left.device)
    return solution
