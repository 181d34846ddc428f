"""What of the update is compared, tensor by tensor; small ones side by side in one."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from seepage import tree
from seepage.attacks.matching.objectives import (
    L2,
    Cosine,
    Misfit,
    Objective,
    Sides,
    layer_weights,
    length_of,
)

# Below this a call costs more than its arithmetic, and copying the tensor costs less.
_SMALL = 16384


@dataclass(frozen=True, eq=False)
class Match:
    """The objective, and the observed update in the groups in which it is compared."""

    objective: Objective
    observed: dict[str, Tensor]
    groups: list[list[str]]
    goals: list[Tensor]
    weights: list[float]
    room: dict[int, Tensor]
    length: float

    @classmethod
    def of(cls, objective: Objective, observed: dict[str, Tensor]) -> "Match":
        """With the objective's own weights for these tensors."""
        weights = dict(zip(observed, layer_weights(objective.weights, list(observed)), strict=True))
        # Only sums over entries do not see where one tensor ends and the next begins.
        summed = isinstance(objective, Cosine | L2)
        groups = list(_groups(observed, weights)) if summed else [[name] for name in observed]
        goals = [_gathered(observed, group) for group in groups]
        of_groups = [weights[group[0]] for group in groups]
        return cls(objective, observed, groups, goals, of_groups, {}, length_of(goals, of_groups))

    @property
    def alone(self) -> dict[str, Tensor]:
        """The observed tensors that share their group with no other."""
        return {group[0]: self.observed[group[0]] for group in self.groups if len(group) == 1}

    def gathered(self, update: tree.Tensors) -> list[Tensor]:
        """The compared tensors of an update, group by group, with their graphs."""
        return [_gathered(update, group) for group in self.groups]

    def compare(self, gathered: Sequence[Tensor], short: Collection[str] = ()) -> Misfit:
        """D and dD/dG at a simulated update, where some tensors may be given by three numbers."""
        given = [t.detach() for t in gathered]
        places = {i for i, group in enumerate(self.groups) if group[0] in short}
        return self.objective(
            Sides(given, self.goals, self.weights, self.room, self.length, places)
        )

    def chosen(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Those of the groups' tensors whose weight is not zero."""
        return [t for t, weight in zip(tensors, self.weights, strict=True) if weight]


def _groups(observed: tree.Tensors, weights: dict[str, float]) -> Iterator[list[str]]:
    """The small tensors of each weight together, every other one alone."""
    joined: dict[float, list[str]] = {}
    for name, g in observed.items():
        if g.numel() < _SMALL:
            joined.setdefault(weights[name], []).append(name)
        else:
            yield [name]
    yield from joined.values()


def _gathered(update: tree.Tensors, group: list[str]) -> Tensor:
    if len(group) == 1:
        return update[group[0]]
    return torch.cat([_flat(update[name]) for name in group])


def _flat(t: Tensor) -> Tensor:
    return t if t.ndim == 1 else t.reshape(-1)
