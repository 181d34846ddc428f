"""What is minimised: the misfit of the update that a candidate would give, and its slope."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from seepage import tree
from seepage.attacks.matching.attention import Attentive
from seepage.attacks.matching.generators import Render
from seepage.attacks.matching.layers import condensed, searchable
from seepage.attacks.matching.match import Match
from seepage.attacks.matching.objectives import L2, Cosine
from seepage.attacks.matching.priors import PixelPrior, Term
from seepage.attacks.matching.simulator import Simulator, doubled
from seepage.attacks.units import Units
from seepage.clients import FedSGD
from seepage.core import Batch
from seepage.errors import InvalidInput


@dataclass(frozen=True, eq=False)
class Slope:
    """The misfit alone, all that is minimised, and its derivative in each leaf."""

    misfit: float
    total: float
    leaves: list[Tensor]


@dataclass(frozen=True, eq=False)
class Measure:
    """In double precision: the misfit, ||G - g|| / ||g||, and the cosine of G and g."""

    misfit: float
    residual: float
    cosine: float


@dataclass(frozen=True, eq=False)
class Problem:
    """One candidate batch against one update, in the coordinates `units`.

    The leaves are what is searched: u itself or what `render` makes u of, and last the labels'
    scores where those are searched too (then `y` is None and the target softmax(scores)).
    """

    exact: Simulator
    fast: Simulator
    match: Match
    priors: tuple[PixelPrior, ...]
    terms: tuple[Term, ...]
    units: Units
    y: Tensor | None
    scored: bool = False
    render: Render | None = None
    whole: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None
    """A step that does all at once, where one was compiled."""

    def u(self, leaves: Sequence[Tensor]) -> Tensor:
        """The candidate that the leaves stand for."""
        own = leaves[:-1] if self.scored else leaves
        return own[0] if self.render is None else self.render(own)

    def target(self, leaves: Sequence[Tensor]) -> Tensor | None:
        """The labels, or the probabilities that the searched scores stand for."""
        return leaves[-1].softmax(-1) if self.scored else self.y

    def labels(self, leaves: Sequence[Tensor]) -> Tensor | None:
        """The labels, or the likeliest by the searched scores."""
        return leaves[-1].argmax(-1) if self.scored else self.y

    @property
    def tapped(self) -> list[str]:
        """The layers whose inputs the terms look at."""
        return [name for term in self.terms for name in term.layers]

    def plain(self) -> Simulator:
        """The client on PyTorch's own layers."""
        return self.exact.tapped(self.tapped)

    def slope(self, leaves: Sequence[Tensor]) -> Slope:
        """One exact step: G with its graph, v = dD/dG in closed form, one product of the two."""
        held = [leaf.detach().requires_grad_() for leaf in leaves]
        with torch.enable_grad():
            made, target = self.u(held), self.target(held)
        u = made.detach()
        scores = held[-1:] if self.scored else []
        if self.whole is None:
            found = self._matched(u, target, scores)
        else:
            value, slope = self.whole(self.units.x(u))
            found = Slope(float(value), float(value), [slope])
        pixels = [prior.of_pixels(u) for prior in self.priors]
        total = found.total + sum(float(term) for term, _ in pixels)
        first = found.leaves[0] * self.units.scale
        first = sum((slope for _, slope in pixels), start=first)
        if self.render is None:
            return Slope(found.misfit, total, [first, *found.leaves[1:]])
        own = torch.autograd.grad(made, held[:-1] if self.scored else held, first)
        return Slope(found.misfit, total, [*own, *found.leaves[1:]])

    def _matched(self, u: Tensor, target: Tensor | None, scores: list[Tensor]) -> Slope:
        """The misfit and the terms of activations, with their slopes in x and in the scores."""
        with torch.enable_grad():
            x = self.units.x(u).requires_grad_()  # a leaf: nothing before it is differentiated
            gathered = self.match.gathered(self.fast(x, target))
            scalars = self._scalars(x, target)
        misfit = self.match.compare(gathered, self.fast.short)
        back = [*self.match.chosen(misfit.slopes)]
        back += [torch.full_like(scalar, 1 / misfit.factor) for scalar in scalars]
        slopes = torch.autograd.grad(
            [*self.match.chosen(gathered), *scalars],
            [x, *scores],
            back,
            materialize_grads=True,
        )
        total = misfit.value + sum(float(scalar.detach()) for scalar in scalars)
        return Slope(misfit.value, total, [slope * misfit.factor for slope in slopes])

    def measure(self, leaves: Sequence[Tensor]) -> Measure:
        """How well a candidate explains the update, in double precision."""
        with torch.no_grad():
            x = self.units.x(self.u(leaves).detach()).double()
        observed = tree.mapped(doubled, self.match.observed)
        update = self.exact.doubled()(x, self.labels(leaves))
        given = {name: update[name].detach() for name in observed}
        match = Match.of(self.match.objective, observed)
        misfit = match.compare(match.gathered(given))
        lengths = tree.norm(given), tree.norm(observed)
        residual = tree.norm(tree.subtract(given, observed)) / lengths[1]
        cosine = tree.dot(given, observed) / (lengths[0] * lengths[1]).clamp(min=1e-300)
        return Measure(misfit.value, float(residual), float(cosine))

    def penalty(self, leaves: Sequence[Tensor]) -> float:
        """What the priors of pixels add to the misfit."""
        with torch.no_grad():
            u = self.u(leaves)
            return sum(float(prior.of_pixels(u)[0]) for prior in self.priors)

    def _scalars(self, x: Tensor, y: Tensor | None) -> list[Tensor]:
        parts = [term.value(self.fast.inputs, y) for term in self.terms]
        if self.match.objective.task:
            model, batch = self.fast.model, Batch(x, y)
            parts.append(self.match.objective.task * model.risk(model.params, batch))
        return [part for part in parts if part.requires_grad]


def matched(problem: Problem, update: tree.Tensors, leaves: Sequence[Tensor]) -> Problem:
    """The problem over those tensors of the update that a candidate has influence on."""
    touched = _influenced(problem, leaves) & update.keys()
    if not touched:
        raise InvalidInput(
            f"the believed client {problem.exact.client!r} gives an update that no candidate can "
            "influence, so there is nothing to match. Pass the client that made it (client=)."
        )
    like = problem.units.center
    observed = {name: g.to(like) for name, g in update.items() if name in touched}
    if not any(bool(g.any()) for g in observed.values()):
        raise InvalidInput(
            "the update is zero everywhere, and every direction matches it. Look at the client: "
            "a defense may have removed it all, or its step was of length zero."
        )
    match = Match.of(problem.match.objective, observed)
    if not any(match.weights):
        raise InvalidInput(f"the weights of {match.objective!r} leave out every tensor.")
    return _quickened(dataclasses.replace(problem, match=match), leaves)


def _influenced(problem: Problem, leaves: Sequence[Tensor]) -> set[str]:
    """The tensors of the update that a candidate has influence on."""
    with torch.enable_grad():
        held = [leaf.detach().requires_grad_() for leaf in leaves]
        given = problem.exact(problem.units.x(problem.u(held)), problem.target(held))
    return {name for name, g in given.items() if g.requires_grad}


def _quickened(problem: Problem, leaves: Sequence[Tensor]) -> Problem:
    """The problem on layers made for searching, where they give the very slope that autograd does.

    A client may do what these layers do not support: they are tried here, once, the fastest first.
    """
    plain = dataclasses.replace(problem, fast=problem.plain())
    wanted = plain.slope(leaves).leaves
    length = torch.stack([slope.norm() for slope in wanted]).norm()
    for simulator in _faster(problem):
        match = dataclasses.replace(problem.match, room={})
        fast = dataclasses.replace(problem, fast=simulator.tapped(problem.tapped), match=match)
        try:
            found = fast.slope(leaves).leaves
        except RuntimeError:  # of torch: a transform that custom functions have no rule for
            continue
        distance = torch.stack([(a - b).norm() for a, b in zip(found, wanted, strict=True)]).norm()
        if bool(distance <= 1e-3 * length):
            attends = getattr(simulator.within, "used", False)
            fewer = fast.fast if attends else dataclasses.replace(fast.fast, within=nullcontext())
            return dataclasses.replace(fast, fast=fewer)
    return plain


def _faster(problem: Problem) -> Iterator[Simulator]:
    exact, alone = problem.exact, problem.match.alone
    short = frozenset(condensed(exact.model, alone))
    objective = problem.match.objective
    if short and isinstance(objective, Cosine | L2) and isinstance(exact.client, FedSGD):
        model = searchable(exact.model, alone)
        yield dataclasses.replace(exact, model=model, within=Attentive(), short=short)
    yield dataclasses.replace(exact, model=searchable(exact.model), within=Attentive())
