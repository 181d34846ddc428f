"""What a defense costs: the accuracy of a model that is really trained under it."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import scipy
import torch

from seepage.checks import at_least, positive
from seepage.core import Batch, Client, Model, stream
from seepage.errors import InvalidInput
from seepage.tree import norm, size, subtract

Rates = tuple[float, ...]

_GRID = (0.1, 0.3, 1.0, 3.0, 10.0)


@dataclass(frozen=True, eq=False)
class Splits:
    """Data to learn from, to choose the rate on, and to judge on; nothing in common."""

    train: Batch
    val: Batch
    test: Batch

    @classmethod
    def of(cls, batch: Batch, shares: tuple[float, float] = (0.6, 0.2), seed: int = 0) -> "Splits":
        """Deal examples at random: a share to train, a share to val, the rest to test."""
        order = torch.randperm(len(batch), generator=stream(seed, "splits"))
        first = round(shares[0] * len(batch))
        second = first + round(shares[1] * len(batch))
        if not 0 < first < second < len(batch):
            raise InvalidInput(f"shares={shares} leave a part of {len(batch)} examples empty.")
        return cls(batch[order[:first]], batch[order[first:second]], batch[order[second:]])


@dataclass(frozen=True)
class Plan:
    """How long, on how much, and how often: rounds, examples in each, seeds of the final runs."""

    rounds: int = 200
    batch: int = 32
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    grid: Rates = _GRID

    def __post_init__(self) -> None:
        at_least("Plan.rounds", self.rounds, 1)
        at_least("Plan.batch", self.batch, 1)
        if len(self.grid) < 2 or not self.seeds:
            raise InvalidInput("Plan: give at least two rates in the grid and at least one seed.")


@dataclass(frozen=True)
class Utility:
    """The accuracy at each seed, the rate that was chosen, and what of it the defense cost.

    `loss` is the mean over seeds of acc_none - acc, paired, with a 95% interval.
    """

    accuracy: tuple[float, ...]
    lr: float
    loss: float = 0.0
    interval: tuple[float, float] = (0.0, 0.0)
    edge: bool = False

    @property
    def mean(self) -> float:
        """The mean accuracy over seeds."""
        return sum(self.accuracy) / len(self.accuracy)


def utility(
    client: Client,
    make: Callable[[int], Model],
    data: Splits,
    plan: Plan | None = None,
    none: Utility | None = None,
) -> Utility:
    """Accuracy under theta <- theta - lr client(fresh batch), the rate tuned for this client.

    `make(seed)` gives the model at its start. The rates tried are those of the grid times a
    natural one, which moves entries by .01 at the start: sign and clipped updates have
    scales of their own. Where the first or the last is best the grid goes on beyond it, four steps
    at most; so it does below the first where all are within ten points, as at chance. Pass the
    undefended run as `none` for the paired loss. `edge` says that the best rate was an end even so,
    and more might be reached.
    """
    plan = plan or Plan()
    natural = _natural(client, make(_TUNING[0]), data.train, plan)
    factor, edge = best_rate(
        lambda factor: _tuned(client, make, data, natural * factor, plan), plan.grid
    )
    lr = natural * factor
    runs = [trained(client, make(s), data, lr, (plan, s))[1] for s in plan.seeds]
    loss, interval = (0.0, (0.0, 0.0)) if none is None else paired(none.accuracy, runs)
    return Utility(tuple(runs), lr, loss, interval, edge)


def best_rate(score: Callable[[float], float], grid: Rates) -> tuple[float, bool]:
    """The rate of the highest score, and whether it is an end of what was tried.

    >>> best_rate(lambda rate: -abs(rate - 8), (1.0, 2.0))
    (8.0, False)
    """
    tried = {rate: score(rate) for rate in sorted(grid)}
    for _ in range(_BEYOND):
        leading, rates = _leading(tried), sorted(tried)
        if leading not in (rates[0], rates[-1]):
            break
        beside = rates[1] if leading == rates[0] else rates[-2]
        beyond = leading * leading / beside
        tried[beyond] = score(beyond)
    best, rates = max(tried, key=lambda rate: tried[rate]), sorted(tried)
    return best, best in (rates[0], rates[-1])


def _leading(tried: Mapping[float, float]) -> float:
    """The best rate; the smallest where all are alike, since none may be small enough to learn."""
    best = max(tried, key=lambda rate: tried[rate])
    return min(tried) if min(tried.values()) > tried[best] - _ALIKE else best


_BEYOND, _ALIKE = 4, 0.1
# No final run's seeds. More than one: a rate that is just stable at one seed may not be at others.
_TUNING = (10_007, 10_009, 10_037)


def _tuned(
    client: Client, make: Callable[[int], Model], data: Splits, lr: float, plan: Plan
) -> float:
    found = [trained(client, make(seed), data, lr, (plan, seed))[0] for seed in _TUNING]
    return sum(found) / len(found)


def trained(
    client: Client, model: Model, data: Splits, lr: float, how: tuple[Plan, int]
) -> tuple[float, float]:
    """Accuracy on val and on test after the rounds; zero where training diverged."""
    plan, seed = how
    positive("lr", lr)
    draws, rng = stream(seed, "utility batches"), stream(seed, "utility client")
    for _ in range(plan.rounds):
        batch = _drawn(data.train, plan.batch, draws)
        update = client(model, batch, rng)
        step = {name: lr * u if name in model.params else u for name, u in update.items()}
        moved = subtract({name: model.state[name] for name in step}, step)
        if not all(bool(t.isfinite().all()) for t in moved.values()):
            return 0.0, 0.0
        model = model.replaced(moved)
    return accuracy(model, data.val), accuracy(model, data.test)


def accuracy(model: Model, batch: Batch) -> float:
    """The share of examples whose class has the largest output."""
    with torch.no_grad():
        output = model.predict(batch.x)
    if output.ndim != 2 or batch.y is None:
        raise InvalidInput("accuracy needs class labels, and an output for each class.")
    named = output[:, : model.form.classes].argmax(1)
    return float((named == batch.y).double().mean())


def paired(none: Sequence[float], some: Sequence[float]) -> tuple[float, tuple[float, float]]:
    """The mean of the differences, and its 95% interval by Student's t.

    >>> loss, (low, high) = paired([0.9, 0.92, 0.91], [0.8, 0.83, 0.82])
    >>> round(loss, 3), round(low, 3), round(high, 3)
    (0.093, 0.079, 0.108)
    """
    if len(none) != len(some):
        raise InvalidInput(f"{len(none)} and {len(some)} runs do not pair: use the same seeds.")
    apart = [one - other for one, other in zip(none, some, strict=True)]
    return sum(apart) / len(apart), interval(apart)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95% interval of the mean by Student's t."""
    count = len(values)
    if count < 2:
        return -math.inf, math.inf
    mean, spread = sum(values) / count, float(torch.tensor(values, dtype=torch.float64).std())
    reach = float(scipy.stats.t.ppf(0.975, count - 1)) * spread / count**0.5
    return mean - reach, mean + reach


def _natural(client: Client, model: Model, train: Batch, plan: Plan) -> float:
    """A rate that moves each entry by about .01 in the first round."""
    batch = _drawn(train, plan.batch, stream(_TUNING[0], "utility batches"))
    update = client(model, batch, stream(_TUNING[0], "utility client"))
    params = {name: u for name, u in update.items() if name in model.params}
    rms = float(norm(params)) / size(params) ** 0.5
    return 0.01 / rms if rms > 0 else 1.0


def _drawn(train: Batch, n: int, rng: torch.Generator) -> Batch:
    return train[torch.randint(len(train), (n,), generator=rng)]
