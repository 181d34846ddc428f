"""Several tries of one attack, and the attacker's own measure picks among them."""

import torch
from torch import Generator

from seepage.checks import at_least
from seepage.core import Attack, Observation, Reconstruction
from seepage.errors import Failed, InvalidInput
from seepage.values import value


@value
class Restarts:
    """The inner attack n times from starts of its own; the one that believes in its answer most.

    The belief of `Invert` is the misfit in double precision, so the best explanation wins.
    """

    inner: Attack
    n: int = 4

    def __post_init__(self) -> None:
        at_least("Restarts.n", self.n, 1)
        if hasattr(self.inner, "craft"):
            raise InvalidInput(
                f"Restarts tries a search again, and {type(self.inner).__name__} crafts the model "
                "and reads the answer off. Use it without Restarts."
            )

    def __call__(self, seen: Observation, rng: Generator) -> Reconstruction:
        seeds = torch.randint(2**62, (self.n,), generator=rng).tolist()
        answers: list[Reconstruction] = []
        failure: Failed | None = None
        for seed in seeds:
            try:
                answers.append(self.inner(seen, Generator().manual_seed(seed)))
            except Failed as error:
                failure = error
        if not answers:
            raise Failed(f"none of {self.n} starts came to an end: {failure}")
        beliefs = [_belief(answer) for answer in answers]
        best = answers[max(range(len(answers)), key=beliefs.__getitem__)]
        note = f"{best.note}; best of {len(answers)} starts by its own measure"
        trace = {**best.trace, "beliefs": [b for b in beliefs if b > -torch.inf]}
        return Reconstruction(best.x, best.y, best.belief, best.residual, note, trace)


def _belief(answer: Reconstruction) -> float:
    known = answer.belief[answer.belief.isfinite()]
    return float(known.double().mean()) if len(known) else -torch.inf
