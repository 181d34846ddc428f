"""What a defense costs: training on small problems whose answers are known."""

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from seepage import (
    DPSGD,
    Batch,
    Clip,
    FedSGD,
    Images,
    InvalidInput,
    Model,
    Noise,
    Prune,
    Sign,
    stream,
    zoo,
)
from seepage.analysis import utility
from seepage.analysis.utility import Plan, Splits, Utility
from seepage.defenses.precode import precode

PLAN = Plan(rounds=40, batch=16, seeds=(0, 1, 2))


def blobs(n: int = 300) -> Splits:
    """Three classes around three far corners."""
    y = torch.arange(n) % 3
    centers = torch.tensor([[2.0, 0, 0, 0], [0, 2, 0, 0], [0, 0, 2, 0]])
    x = centers[y] + 0.4 * torch.randn((n, 4), generator=stream(0, "blobs"))
    return Splits.of(Batch(x.view(n, 1, 2, 2), y))


def linear(seed: int) -> Model:
    module = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    for parameter in module.parameters():
        parameter.data.copy_(0.1 * torch.randn(parameter.shape, generator=stream(seed, "w")))
    return Model.of(module, functional.cross_entropy, Images((1, 2, 2), 3))


def test_an_easy_task_is_learned_with_the_rate_that_suits_each_client() -> None:
    data = blobs()
    none = utility.utility(FedSGD(), linear, data, PLAN)
    assert none.mean > 0.97
    # The same clients in other units, which one rate for all would ruin.
    tiny = utility.utility(Clip(FedSGD(), 1e-4), linear, data, PLAN, none)
    sign = utility.utility(Sign(FedSGD()), linear, data, PLAN, none)
    assert tiny.lr > 100 * none.lr
    assert abs(tiny.loss) < 0.03
    assert abs(sign.loss) < 0.03


def test_private_noise_costs_accuracy_and_the_interval_shows_it() -> None:
    data = blobs()
    none = utility.utility(FedSGD(), linear, data, PLAN)
    drowned = utility.utility(DPSGD(1.0, 60.0), linear, data, PLAN, none)
    low, high = drowned.interval
    assert low < drowned.loss < high
    assert drowned.loss > 0.1
    assert drowned.loss == pytest.approx(none.mean - drowned.mean)


def test_the_same_seeds_give_the_same_runs() -> None:
    plan = Plan(5, 8, (3, 4), (0.5, 1.0))
    one, two = (utility.utility(Noise(FedSGD(), 0.1), linear, blobs(), plan) for _ in range(2))
    assert one == two


def test_the_batches_are_the_same_for_every_client() -> None:
    seen: dict[str, list[torch.Tensor]] = {"a": [], "b": []}

    def spying(name: str) -> Any:
        def client(model: Model, batch: Batch, rng: torch.Generator) -> Any:
            seen[name].append(batch.x)
            torch.rand((1 if name == "a" else 7,), generator=rng)
            return FedSGD()(model, batch, rng)

        return client

    for name in seen:
        utility.trained(spying(name), linear(0), blobs(), 0.1, (Plan(4, 8), 5))
    assert all(torch.equal(one, two) for one, two in zip(*seen.values(), strict=True))


def test_diverged_training_scores_nothing() -> None:
    assert utility.trained(FedSGD(), linear(0), blobs(), 1e300, (Plan(9, 8), 0)) == (0.0, 0.0)


def test_an_edge_of_the_grid_is_reported() -> None:
    assert utility.best_rate(lambda rate: rate, (1.0, 2.0)) == (32.0, True)
    assert utility.best_rate(lambda rate: -rate, (1.0, 2.0)) == (1 / 16, True)


@pytest.mark.parametrize("grid", [(1e-3, 1e-2, 1e-1), (1e2, 1e3, 1e4)])
def test_a_grid_that_misses_the_best_rate_goes_on_beyond_its_end(grid: tuple[float, ...]) -> None:
    def score(rate: float) -> float:
        return -abs(math.log10(rate) - 0.2)

    assert utility.best_rate(score, grid) == (pytest.approx(1.0), False)


def test_a_grid_that_stays_at_chance_goes_on_towards_smaller_rates() -> None:
    def score(rate: float) -> float:
        chance = {0.3: 0.12, 1.0: 0.16, 3.0: 0.13}.get(rate, 0.12)  # the best is no end of the grid
        return 0.7 if rate < 0.1 else chance

    assert utility.best_rate(score, (0.3, 1.0, 3.0)) == (pytest.approx(0.09), False)


def test_the_divergence_of_a_bottleneck_is_no_class() -> None:
    sample = zoo.digits(40)
    coded = precode(sample.model(zoo.mlp(64, 8, 10, seed=0)), code=4)
    far = coded.replaced({"linear2.encoder.bias": torch.full((8,), 30.0)})
    assert bool((far.predict(sample.x).argmax(1) == 10).all())
    plain = far.predict(sample.x)[:, :10].argmax(1) == sample.y
    assert utility.accuracy(far, sample.batch) == pytest.approx(float(plain.double().mean()))


def test_splits_have_nothing_in_common() -> None:
    batch = Batch(torch.arange(50.0)[:, None], torch.arange(50))
    parts = Splits.of(batch)
    assert [len(part) for part in (parts.train, parts.val, parts.test)] == [30, 10, 10]
    together = torch.cat([parts.train.x, parts.val.x, parts.test.x]).flatten()
    assert torch.equal(together.sort().values, batch.x.flatten())


def test_paired_intervals_need_two_runs() -> None:
    loss, interval = utility.paired([0.9], [0.8])
    assert loss == pytest.approx(0.1)
    assert interval == (-math.inf, math.inf)
    assert Utility((0.5, 1.0), 0.1).mean == 0.75


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Plan(rounds=0), "Plan.rounds=0"),
        (lambda: Plan(grid=(1.0,)), "at least two rates"),
        (lambda: Splits.of(Batch(torch.zeros(2, 1))), "leave a part of 2 examples empty"),
        (lambda: utility.paired([0.1], [0.1, 0.2]), "do not pair"),
        (
            lambda: utility.trained(Prune(FedSGD()), linear(0), blobs(), 0.0, (PLAN, 0)),
            "lr=0.0",
        ),
    ],
)
def test_wrong_arguments_are_named(call: Any, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        call()
