"""One attacker who knows the defense, and tries every way around it that is known."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from seepage import tree
from seepage.attacks.adaptive.objectives import Box, Likelihood, Signs, Support
from seepage.attacks.adaptive.realised import Thinned, read_masks
from seepage.attacks.coded import Coded, bottleneck
from seepage.attacks.matching.invert import Invert
from seepage.attacks.matching.objectives import Cosine, Objective
from seepage.attacks.matching.optimisers import Adam
from seepage.attacks.matching.simulator import Simulator
from seepage.attacks.matching.starts import Gray
from seepage.attacks.mixtures import Unmix
from seepage.clients import FedSGD
from seepage.core import Attack, Client, Observation, Reconstruction, noiseless
from seepage.errors import Failed
from seepage.values import value

# A quarter of the range is one unit, so this moves a pixel by .1 of its range at first.
_SEARCH = Invert(priors=(), start=Gray(), optimiser=Adam(lr=0.4), schedule="cosine", steps=300)


@dataclass(frozen=True)
class Way:
    """A mechanism: the client to simulate and the misfit to lower, or an attack of its own."""

    name: str
    client: Client
    objective: Objective = Cosine()  # noqa: RUF009 (a frozen value)
    attack: Attack | None = None


@value
class Adaptive:
    """`inner` once for each way around the believed defense; the answer of the lowest residual.

    Ways: "blind" (the defense ignored), "simulate" (its deterministic part), "box" (its cell),
    "support" (cosine where the update is not zero), "signs", "realised" (a dropout mask read off
    the update), "omit" (a layer left out), "likelihood" (noise, with the priors of `inner`),
    "unmix" (`Unmix`, where labels are told), "encoder" (`Coded`). No way wins everywhere. The
    residual is the distance of the candidate's inner update from the cell of what was seen, over
    its length: all ways are judged alike, but for attacks of their own, which bring theirs.

    >>> from seepage import zoo
    >>> from seepage.clients import FedSGD
    >>> from seepage.core import observe, stream
    >>> model, batch = zoo.example()
    >>> seen = observe(model, batch, FedSGD(), stream(0, "client"))
    >>> sorted(Adaptive(Invert(steps=20))(seen, stream(0, "attack")).trace["ways"])
    ['blind']
    """

    inner: Invert = _SEARCH
    only: tuple[str, ...] = ()

    def __call__(self, seen: Observation, rng: Generator) -> Reconstruction:
        found: list[tuple[float, Way, Reconstruction]] = []
        failure: Failed | None = None
        for way in self._ways(seen):
            drawn = Generator().manual_seed(int(torch.randint(2**62, (), generator=rng)))
            try:
                answer = self._tried(way, seen, drawn)
            except Failed as error:
                failure = error
                continue
            if len(answer):
                own = way.attack is not None
                level = float(answer.residual.max()) if own else residual(seen, answer)
                found.append((level, way, answer))
        if not found:
            raise failure or Failed(f"none of the ways {self.only} applies to {seen.client!r}.")
        return _best(found)

    def _tried(self, way: Way, seen: Observation, rng: Generator) -> Reconstruction:
        if way.attack is not None:
            return way.attack(seen, rng)
        attack = dataclasses.replace(self.inner, objective=way.objective)
        return attack(dataclasses.replace(seen, client=way.client), rng)

    def _ways(self, seen: Observation) -> list[Way]:
        return [way for way in ways(seen) if not self.only or way.name in self.only]


def ways(seen: Observation) -> Iterator[Way]:
    """The mechanisms that apply to a believed client."""
    outer: Any = seen.client
    inner: Client = noiseless(getattr(outer, "inner", outer))
    kind = type(outer).__name__
    yield Way("blind", protocol(outer))
    yield from _coded(seen)
    if inner is outer:
        return
    units = kind == "Dropout" and outer.at == "units"
    if noiseless(outer) != protocol(outer):
        yield Way("simulate", noiseless(outer), Cosine())
    if kind == "Soteria":
        gone = [n for n, u in seen.update.items() if u.ndim == 2 and bool((u == 0).all(0).any())]
        yield Way("omit", inner, Cosine(weights=dict.fromkeys(gone, 0.0)))
    elif hasattr(outer, "cell") and not units:
        yield Way("box", inner, Box(outer))
    if units:
        masks = read_masks(seen.model, seen.update, outer.keep)
        yield Way("realised", Thinned(inner, masks), Cosine())
    if kind in ("Prune", "Dropout", "Percentile", "SVT") and not units:
        yield Way("support", inner, Support())
    if kind == "Sign":
        yield Way("signs", inner, Signs())
    if kind in ("MixUp", "InstaHide") and seen.y is not None and seen.n != 1:
        yield Way("unmix", outer, attack=Unmix())
    if kind == "Noise" and not outer.relative and outer.kind != "optimal":
        yield Way("likelihood", inner, Likelihood(outer.std, outer.kind))


def _coded(seen: Observation) -> Iterator[Way]:
    """Around a bottleneck in the model: its layers left out, and what it encodes read."""
    encoder = bottleneck(seen.model)
    if encoder is None:
        return
    plain, stem = protocol(seen.client), encoder.removesuffix("encoder")
    mean = FedSGD() if isinstance(plain, FedSGD) else plain
    yield Way("omit", mean, Cosine(weights={f"{stem}*": 0.0}))
    if seen.n == 1 and all(f"{encoder}.{part}" in seen.update for part in ("weight", "bias")):
        yield Way("encoder", plain, attack=Coded())


def protocol(client: Any) -> Client:
    """What is left of a client when its defenses are ignored: local steps and sums."""
    inner = getattr(client, "inner", None)
    if inner is None or type(client).__name__ in ("FedAvg", "SecureSum", "Only"):
        plain: Client = client
        return plain
    return protocol(inner)


def residual(seen: Observation, answer: Reconstruction) -> float:
    """How far outside the cell of the update a candidate's inner update lies, over its length."""
    outer: Any = seen.client
    inner: Client = noiseless(getattr(outer, "inner", outer))
    low = high = seen.update
    if type(outer).__name__ == "Dropout" and outer.at == "units":
        inner = Thinned(inner, read_masks(seen.model, seen.update, outer.keep))
    elif hasattr(outer, "cell"):
        low, high = outer.cell(seen.update)
    elif type(outer).__name__ in ("Clip", "DPSGD"):
        inner = noiseless(outer)
    update = Simulator(seen.model, inner, 0)(answer.x, answer.y)
    return float(_outside(update, low, high) / tree.norm(seen.update).clamp(min=1e-30))


def _outside(update: tree.Tensors, low: tree.Tensors, high: tree.Tensors) -> Tensor:
    over = {n: (u.detach() - high[n].to(u)).relu() for n, u in update.items() if n in high}
    under = {n: (low[n].to(u) - u.detach()).relu() for n, u in update.items() if n in low}
    return tree.norm(tree.total([over, under]))


def _best(found: list[tuple[float, Way, Reconstruction]]) -> Reconstruction:
    lowest, way, answer = min(found, key=lambda tried: tried[0])
    values = {tried.name: far for far, tried, _ in found}
    level = answer.x.new_full((len(answer.x),), lowest)
    note = f"{answer.note}; lowest residual of {len(found)} ways: {way.name}"
    trace = {**answer.trace, "way": way.name, "ways": values}
    return Reconstruction(answer.x, answer.y, -level, level, note, trace)
