"""What is minimised: the misfit of the update that a candidate would give, and its slope."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from seepage import tree
from seepage.attacks.matching.layers import searchable
from seepage.attacks.matching.objectives import Objective, Sides, layer_weights
from seepage.attacks.matching.priors import Prior
from seepage.attacks.units import Units
from seepage.core import Batch, Client, Model, Observation, noiseless
from seepage.errors import InvalidInput


@dataclass(frozen=True, eq=False)
class Slope:
    """The misfit alone, all that is minimised, and its derivative in each leaf."""

    misfit: Tensor
    total: Tensor
    leaves: list[Tensor]


@dataclass(frozen=True, eq=False)
class Problem:
    """One candidate batch against one update, in the coordinates `units`.

    The leaves are what is searched: u, and the labels' scores where those are searched too (then
    `y` is None and the target softmax(scores)). `order` seeds what the client draws by chance,
    such as the order of its minibatches: one guess for the whole search.
    """

    model: Model
    fast: Model
    client: Client
    observed: dict[str, Tensor]
    weights: dict[str, float]
    objective: Objective
    priors: tuple[Prior, ...]
    units: Units
    y: Tensor | None
    order: int
    room: list[Tensor]

    def simulate(self, x: Tensor, y: Tensor | None, model: Model | None = None) -> tree.Tensors:
        """The update that the believed client would share for a candidate."""
        order = Generator().manual_seed(self.order)
        return self.client(model or self.model, Batch(x, y), order)

    def target(self, scores: Sequence[Tensor]) -> Tensor | None:
        """The labels, or the probabilities that the searched scores stand for."""
        return scores[0].softmax(-1) if scores else self.y

    def slope(self, leaves: Sequence[Tensor]) -> Slope:
        """One exact step: G with its graph, v = dD/dG in closed form, one product of the two."""
        with torch.enable_grad():
            u, *scores = held = [leaf.detach().requires_grad_() for leaf in leaves]
            x, y = self.units.x(u), self.target(scores)
            update = self.simulate(x, y, self.fast)
            given = [update[name] for name in self.observed]
            task = [self._task(x, y)] if self.objective.task else []
        misfit, back = self.compare([G.detach() for G in given])
        wanted = [i for i, w in enumerate(self.weights.values()) if w]
        slopes = torch.autograd.grad(
            [*(given[i] for i in wanted), *task],
            held,
            [*(back[i] for i in wanted), *map(torch.ones_like, task)],
            materialize_grads=True,
        )
        terms = [prior.of_pixels(u.detach()) for prior in self.priors]
        total = misfit + sum(term for term, _ in terms) + sum(t.detach() for t in task)
        first = slopes[0]
        for _, slope in terms:
            first = first + slope
        return Slope(misfit, total, [first, *slopes[1:]])

    def compare(self, given: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The objective between a simulated update and the observed one."""
        observed, weights = list(self.observed.values()), list(self.weights.values())
        return self.objective(Sides(given, observed, weights, self.room))

    def measure(self, u: Tensor, y: Tensor | None) -> tuple[float, float, float]:
        """In double precision: the misfit, ||G - g|| / ||g||, and the cosine of G and g."""
        exact = self.doubled()
        update = tree.mapped(torch.detach, exact.simulate(exact.units.x(u.double()), y))
        given = {name: update[name] for name in exact.observed}
        misfit, _ = exact.compare(list(given.values()))
        lengths = tree.norm(given), tree.norm(exact.observed)
        distance = tree.norm(tree.subtract(given, exact.observed)) / lengths[1]
        cosine = tree.dot(given, exact.observed) / (lengths[0] * lengths[1]).clamp(min=1e-300)
        return float(misfit), float(distance), float(cosine)

    def doubled(self) -> "Problem":
        """The same problem in double precision."""
        model = dataclasses.replace(
            self.model,
            params=tree.mapped(_double, self.model.params),
            buffers=tree.mapped(_double, self.model.buffers),
        )
        names = [field.name for field in dataclasses.fields(Units)]
        units = Units(*(getattr(self.units, name).double() for name in names))
        observed = tree.mapped(_double, self.observed)
        return dataclasses.replace(
            self, model=model, units=units, observed=observed, room=_room(observed)
        )

    def _task(self, x: Tensor, y: Tensor | None) -> Tensor:
        return self.objective.task * self.fast.risk(self.fast.params, Batch(x, y))


def problem_of(seen: Observation, shell: Problem, leaves: Sequence[Tensor]) -> Problem:
    """The problem over the tensors of the update that a candidate has influence on."""
    update = tree.mapped(lambda t: t, seen.update)
    with torch.enable_grad():
        u, *scores = [leaf.detach().requires_grad_() for leaf in leaves]
        given = shell.simulate(shell.units.x(u), shell.target(scores))
    like = next(iter(seen.model.params.values()))
    observed = {
        name: g.to(like)
        for name, g in update.items()
        if name in given and given[name].requires_grad
    }
    if not observed:
        raise InvalidInput(
            f"the believed client {shell.client!r} gives an update that no candidate can "
            "influence, so there is nothing to match. Pass the client that made it (client=)."
        )
    if not any(bool(g.any()) for g in observed.values()):
        raise InvalidInput(
            "the update is zero everywhere, and every direction matches it. Look at the client: "
            "a defense may have removed it all, or its step was of length zero."
        )
    weights = dict(
        zip(observed, layer_weights(shell.objective.weights, list(observed)), strict=True)
    )
    if not any(weights.values()):
        raise InvalidInput(f"the weights of {shell.objective!r} leave out every tensor.")
    return _quickened(
        dataclasses.replace(shell, observed=observed, weights=weights, room=_room(observed)),
        leaves,
    )


def _quickened(problem: Problem, leaves: Sequence[Tensor]) -> Problem:
    """The problem on layers made for searching, where they give the very slope that autograd does.

    A client may do what these layers do not support: it is tried here, once.
    """
    fast = dataclasses.replace(problem, fast=searchable(problem.model))
    wanted = problem.slope(leaves).leaves
    try:
        found = fast.slope(leaves).leaves
    except RuntimeError:  # of torch: a transform that custom functions have no rule for
        return problem
    distance = torch.stack([(a - b).norm() for a, b in zip(found, wanted, strict=True)]).norm()
    length = torch.stack([slope.norm() for slope in wanted]).norm()
    return fast if bool(distance <= 1e-3 * length) else problem


def shell_of(
    seen: Observation,
    objective: Objective,
    priors: tuple[Prior, ...],
    units: Units,
    rng: Generator,
) -> Problem:
    """A problem that does not know its labels and tensors yet."""
    order = int(torch.randint(2**62, (), generator=rng))
    client = noiseless(seen.client)
    return Problem(
        seen.model, seen.model, client, {}, {}, objective, priors, units, seen.y, order, []
    )


def _room(observed: tree.Tensors) -> list[Tensor]:
    return [torch.empty_like(g) for g in observed.values()]


def _double(t: Tensor) -> Tensor:
    return t.double() if t.is_floating_point() else t
