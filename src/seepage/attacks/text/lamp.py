"""Gradient matching on embeddings, with reordering moves and a language model."""

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from torch import Generator, Tensor

from seepage.attacks.text import embedding_rows
from seepage.attacks.text.anatomy import Network, refuse_dropout
from seepage.attacks.text.bigram import Bigram
from seepage.attacks.text.embedded import Distance, Frame, Misfit, nearest, relative, told_labels
from seepage.attacks.text.moves import permuted, proposals
from seepage.checks import at_least, one_of, positive
from seepage.core import Observation, Reconstruction
from seepage.errors import InvalidInput
from seepage.values import value


@value
class Descent:
    """Adam or AdamW: the rate falls by `decay` every 50 steps, or in a line to zero."""

    lr: float = 0.01
    decay: float | None = 0.89
    weight_decay: float = 0.0
    clip: float | None = None
    warm: int = 0
    until: int | None = None
    """Where the line reaches zero; None is the last step."""

    def __post_init__(self) -> None:
        positive("Descent.lr", self.lr)
        at_least("Descent.weight_decay", self.weight_decay, 0)

    def rate(self, step: int, steps: int) -> float:
        """The rate of one step."""
        if self.decay is not None:
            return self.lr * self.decay ** (step // 50)
        warmed = min(1.0, (step + 1) / self.warm) if self.warm else 1.0
        return self.lr * warmed * max(0.0, 1 - step / (self.until or steps))


@value
class Lamp:
    """Find embeddings whose gradient matches, and move words about: D + c (mean|x| - E)^2.

    D is the distance of the simulated to the observed update, E the mean length of a word's
    embedding. From a tenth of the steps on, every so often `proposals` reorderings of each
    sentence are tried, and the one with the lowest D + `fluency` * NLL(nearest words) is kept.
    The server knows the labels, and the lengths unless the position rows tell them.

    Balunovic et al. 2022, arXiv 2202.08827 (LAMP); Deng et al. 2021, arXiv 2103.06819 (TAG: its
    distance, and no moves).
    """

    distance: Distance = "cos"
    alpha: float = 0.01
    starts: int = 500
    rescale: bool = True
    start: Literal["normal", "truncated"] = "normal"
    descent: Descent = Descent()
    steps: int = 2000
    regularity: float = 1.0
    fluency: float = 0.2
    every: int = 75
    proposals: int = 200
    language: Bigram | None = None
    lengths: tuple[int, ...] = ()
    """Tokens of each sentence, specials counted; () reads them from the position rows."""

    def __post_init__(self) -> None:
        one_of("Lamp.distance", self.distance, ("cos", "l2", "tag", "tag_scaled"))
        one_of("Lamp.start", self.start, ("normal", "truncated"))
        for name in ("starts", "steps"):
            at_least(f"Lamp.{name}", getattr(self, name), 1)
        for name in ("alpha", "regularity", "fluency", "every", "proposals"):
            at_least(f"Lamp.{name}", getattr(self, name), 0)

    def __call__(self, seen: Observation, rng: Generator) -> Reconstruction:
        refuse_dropout(seen)
        network, y = Network.of(seen.model), told_labels(seen)
        if self.language is not None:
            self.language.check(network.form.vocab)
        frame = Frame.of(network, lengths_of(seen, network, self.lengths, len(y)))
        misfit = Misfit.of(seen, y, self.distance, self.alpha)
        search = Search(self, network, frame, misfit, rng)
        x, curve = search.run(search.begin())
        ids = nearest(network, x, frame)
        error = relative(seen, ids, y, rng)
        residual = network.word.new_full((len(y),), error)
        note = "" if self.language is not None or not self.every else "no language model"
        trace = {"objective": curve, "evaluations": search.evaluations, "gradient error": error}
        return Reconstruction(ids, y, -residual, residual, note, trace)


class Search:
    """One run of the attack."""

    def __init__(
        self, settings: Lamp, network: Network, frame: Frame, misfit: Misfit, rng: Generator
    ) -> None:
        self.settings, self.network, self.frame = settings, network, frame
        self.misfit, self.rng, self.evaluations = misfit, rng, 0
        self.guide: Callable[[Tensor], Tensor] | None = None
        self.length = float(network.word.norm(dim=1).mean())
        seed = int(torch.randint(2**62, (), generator=rng))
        self.draws = np.random.default_rng(seed)

    def begin(self) -> Tensor:
        """The best of the random starts, and of as many reorderings of it."""
        best = min((self._drawn() for _ in range(self.settings.starts)), key=self._rough)
        again = [best] + [self._shuffled(best) for _ in range(self.settings.starts - 1)]
        return min(again, key=self._rough) if len(again) > 1 else best

    def run(self, x: Tensor) -> tuple[Tensor, list[float]]:
        """The iterate with the lowest objective, and how that fell."""
        settings, curve = self.settings, list[float]()
        x = x.clone().requires_grad_()
        rule = settings.descent
        optimiser = torch.optim.AdamW([x], lr=rule.lr, weight_decay=rule.weight_decay)
        best, lowest = x.detach().clone(), float("inf")
        for step in range(settings.steps):
            for group in optimiser.param_groups:
                group["lr"] = rule.rate(step, settings.steps)
            objective = self._objective(x)
            # Stored before the step: the iterate that has this objective, not the next one.
            if float(objective.detach()) < lowest:
                best, lowest = x.detach().clone(), float(objective.detach())
            curve.append(lowest)
            (x.grad,) = torch.autograd.grad(objective, x)
            if rule.clip is not None:
                torch.nn.utils.clip_grad_norm_([x], rule.clip)
            optimiser.step()
            with torch.no_grad():
                x.copy_(self.frame.fixed(x))
                if self._is_moving(step):
                    x.copy_(self._moved(x))
        return best, curve[:: max(1, settings.steps // 100)]

    def _is_moving(self, step: int) -> bool:
        every, steps = self.settings.every, self.settings.steps
        return every > 0 and step >= 0.1 * steps and step % every == (1 if every > 1 else 0)

    def _objective(self, x: Tensor) -> Tensor:
        self.evaluations += 1
        free = x[self.frame.free].norm(dim=1).mean()
        irregular: Tensor = self.settings.regularity * (free - self.length).square()
        more = self.guide(x) if self.guide is not None else 0.0
        return self.misfit(x, self.rng) + irregular + more

    def _moved(self, x: Tensor) -> Tensor:
        """Each sentence in turn in the order that fits best and reads best."""
        x = x.detach().clone()
        for row in range(len(x)):
            places = self.frame.free[row].nonzero().flatten()
            ranking = []
            for order in proposals(len(places), self.settings.proposals, self.draws):
                trial = x.clone()
                trial[row, places] = x[row, places[order]]
                ranking.append((self._ranked(trial), trial))
            x = min(ranking, key=lambda pair: pair[0])[1] if ranking else x
        return x

    def _ranked(self, x: Tensor) -> float:
        fit, language = self._rough(x), self.settings.language
        if language is None:
            return fit
        ids = nearest(self.network, x, self.frame)
        return fit + self.settings.fluency * float(language(ids).mean())

    def _rough(self, x: Tensor) -> float:
        self.evaluations += 1
        return self.misfit.value(x, self.rng)

    def _drawn(self) -> Tensor:
        like = self.frame.pinned
        noise = torch.randn(like.shape, generator=self.rng).to(like)
        noise = noise.fmod(2) if self.settings.start == "truncated" else noise
        if self.settings.rescale:
            noise = noise * self.length / noise.norm(dim=-1, keepdim=True)
        return self.frame.fixed(noise)

    def _shuffled(self, x: Tensor) -> Tensor:
        x = x.clone()
        for row in range(len(x)):
            places = self.frame.free[row].nonzero().flatten()
            x[row, places] = x[row, places[permuted(len(places), self.draws)]]
        return x


def lengths_of(
    seen: Observation, network: Network, given: tuple[int, ...], n: int
) -> tuple[int, ...]:
    """The lengths told, or that of a single sentence by its position rows, or all at their end."""
    if given and len(given) != n:
        raise InvalidInput(f"Lamp.lengths has {len(given)} lengths for {n} labels.")
    if given:
        return given
    if network.anatomy.position in seen.update:
        return (int(embedding_rows.moved_places(seen).max()) + 1,) * n
    return (network.form.length,) * n
