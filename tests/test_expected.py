"""The occupancy laws against brute force and Monte Carlo."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch

from seepage.analysis import expected
from seepage.core import stream
from seepage.errors import InvalidInput

TABLE = [
    (64, 128, 28.17, 39.05),
    (64, 156, 32.004, 42.680),
    (64, 300, 43.47, 51.86),
    (4096, 1024, 159.8, 74.95),
    (4096, 8192, 1820, 2484.6),
]


@pytest.mark.parametrize(("n", "k", "published", "singletons"), TABLE)
def test_both_laws_give_the_known_figures(
    n: int, k: int, published: float, singletons: float
) -> None:
    assert expected.published(n, k) == pytest.approx(published, rel=1e-3)
    assert expected.singletons(n, k) == pytest.approx(singletons, rel=1e-3)


@pytest.mark.parametrize(("n", "k"), [(1, 3), (2, 2), (3, 4), (4, 3), (5, 2)])
def test_mean_and_variance_equal_the_average_over_all_placements(n: int, k: int) -> None:
    counts = [
        sum(placed.count(bin_) == 1 for bin_ in range(k))
        for placed in itertools.product(range(k), repeat=n)
    ]
    mean = sum(counts) / len(counts)
    assert expected.singletons(n, k) == pytest.approx(mean)
    spread = sum((c - mean) ** 2 for c in counts) / len(counts)
    assert expected.variance(n, k) == pytest.approx(spread, abs=1e-9)


@pytest.mark.parametrize(("n", "k"), [(2, 2), (3, 4), (5, 3)])
def test_the_published_law_takes_occupancy_patterns_as_equally_likely(n: int, k: int) -> None:
    patterns = [p for p in itertools.product(range(n + 1), repeat=k) if sum(p) == n]
    mean = sum(p.count(1) for p in patterns) / len(patterns)
    closed = n * k * (k - 1) / ((n + k - 1) * (n + k - 2))
    assert mean == pytest.approx(closed)
    assert expected.published(n, k) == pytest.approx(closed - n / k)


def test_monte_carlo_confirms_the_multinomial_law_and_not_the_published_one() -> None:
    drawn = expected.simulated(64, 128, 4000, stream(0, "occupancy")).double()
    error = 4 * float(drawn.std()) / len(drawn) ** 0.5
    assert abs(float(drawn.mean()) - expected.singletons(64, 128)) < error
    assert abs(float(drawn.mean()) - expected.published(64, 128)) > 10 * error
    assert float(drawn.var()) == pytest.approx(expected.variance(64, 128), rel=0.12)


@pytest.mark.parametrize(("n", "share"), [(64, 0.5), (64, 0.9), (2, 0.3), (1000, 0.5)])
def test_bins_is_the_smallest_number_that_reaches_the_share(n: int, share: float) -> None:
    k = expected.bins(n, share)
    assert expected.singletons(n, k) >= share * n * (1 - 1e-9)
    assert k == 1 or expected.singletons(n, k - 1) < share * n


def test_half_of_sixty_four_needs_92_bins_not_156() -> None:
    assert expected.bins(64, 0.5) == 92


@pytest.mark.parametrize("n", [2, 10, 16384])
def test_one_example_is_isolated_best_with_a_bin_of_mass_one_over_n(n: int) -> None:
    best = expected.one_shot_mass(n)
    assert expected.one_shot(n, best) > expected.one_shot(n, best * 1.1)
    assert expected.one_shot(n, best) > expected.one_shot(n, best * 0.9)
    assert expected.one_shot(n, best) > 1 / math.e


def test_independent_traps_isolate_as_often_as_the_law_says() -> None:
    n, rows, draws = 16, 24, 4000
    fires = torch.rand(draws, rows, n, generator=stream(0, "traps")) < 1 / n
    alone = (fires & (fires.sum(2, keepdim=True) == 1)).any(1).sum(1).double()
    error = 4 * float(alone.std()) / draws**0.5
    assert abs(float(alone.mean()) - expected.isolated(n, rows)) < error


def test_peeling_finds_what_any_order_of_removal_finds() -> None:
    cells = torch.randint(12, (3, 20), generator=stream(1, "cells"))
    left = set(range(20))
    while True:
        free = [
            t
            for t in left
            if any(sum(int(row[s]) == int(row[t]) for s in left) == 1 for row in cells)
        ]
        if not free:
            break
        left.remove(free[0])
    assert expected.peeled(cells) == 20 - len(left)


def test_peeling_one_direction_finds_the_singletons() -> None:
    cells = torch.randint(40, (1, 30), generator=stream(2, "cells"))
    alone = int((torch.bincount(cells[0]) == 1).sum())
    assert expected.peeled(cells) == alone


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: expected.singletons(0, 4),
        lambda: expected.published(4, 0),
        lambda: expected.bins(64, 1.0),
        lambda: expected.one_shot(64, 2.0),
    ],
)
def test_impossible_numbers_are_refused(wrong: Callable[[], object]) -> None:
    with pytest.raises(InvalidInput):
        wrong()
