"""Metrics against brute force, closed forms and Monte Carlo."""

import itertools
import json
import math
from collections.abc import Callable, Iterable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor

from seepage.core import Batch, stream
from seepage.errors import InvalidInput
from seepage.forms import Column, Form, Images, Table, Tokens
from seepage.metrics import baselines, identify, image, labels, match, tabular, text
from seepage.metrics.score import Context, Scores, score

IMAGES = Images((3, 8, 8), classes=10, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.25))
TABLE = Table((Column("age", std=10), Column("smokes", ("no", "yes", "?")), Column("bmi")), 2)
TOKENS = Tokens(length=6, vocab=12, pad=0, forbidden=(0, 1))


def rng(seed: int = 0) -> Generator:
    return stream(seed, "test")


def pictures(n: int, seed: int = 0, shape: tuple[int, ...] = (3, 8, 8)) -> Tensor:
    return torch.rand(n, *shape, generator=rng(seed))


def rows(n: int, seed: int = 0) -> Tensor:
    drawn = torch.randint(3, (n,), generator=rng(seed + 1))
    numbers = torch.randn(n, 2, generator=rng(seed))
    return torch.cat([numbers[:, :1], torch.eye(3)[drawn], numbers[:, 1:]], 1)


def blind(public: Tensor | None = None) -> Context:
    return Context(public, rng(9))


# --- one pair at a time ---


def test_psnr_is_capped_clamped_and_per_picture() -> None:
    truth = torch.full((3, 1, 2, 2), 0.5)
    x = torch.stack([truth[0], truth[1] + 0.1, truth[2] + 7])
    found = image.psnr(x, truth)
    assert found[0] == image.CAP == 200
    assert found[1] == pytest.approx(20, abs=1e-5)
    assert found[2] == pytest.approx(-10 * math.log10(0.25))


def test_psnr_resolves_errors_that_single_precision_cannot_square_and_sum() -> None:
    truth = pictures(1, shape=(3, 32, 32)).double() * 0.5
    assert image.psnr(truth + 1e-8, truth).item() == pytest.approx(160, abs=0.01)


@pytest.mark.parametrize("size", [(8, 8), (11, 11), (16, 9), (28, 28), (2, 5), (1, 1)])
def test_ssim_of_any_size_against_windows_written_out(size: tuple[int, int]) -> None:
    x, truth = pictures(2, 1, (2, *size)), pictures(2, 2, (2, *size))
    for mixed in (x, 0.8 * truth + 0.2 * x):
        expected = [brute_ssim(a, b) for a, b in zip(mixed.double(), truth.double(), strict=True)]
        torch.testing.assert_close(
            image.ssim(mixed, truth), torch.tensor(expected, dtype=torch.float64)
        )


def brute_ssim(a: Tensor, b: Tensor) -> float:
    side = min(a.shape[-2:])
    window = min(11, side if side % 2 else side - 1)
    radius, sigma = window // 2, 1.5 * window / 11
    line = torch.exp(-(torch.arange(-radius, radius + 1).double() ** 2) / (2 * sigma**2))
    weight = torch.outer(line, line) / line.sum() ** 2
    values = []
    for channel, i, j in itertools.product(
        range(a.shape[0]), range(a.shape[1] - 2 * radius), range(a.shape[2] - 2 * radius)
    ):
        p = a[channel, i : i + window, j : j + window]
        q = b[channel, i : i + window, j : j + window]
        mp, mq = (weight * p).sum(), (weight * q).sum()
        vp, vq = (weight * p * p).sum() - mp**2, (weight * q * q).sum() - mq**2
        cov = (weight * p * q).sum() - mp * mq
        c1, c2 = 0.01**2, 0.03**2
        top, bottom = (2 * mp * mq + c1) * (2 * cov + c2), (mp**2 + mq**2 + c1) * (vp + vq + c2)
        values.append(float(top / bottom))
    return float(np.mean(values))


def test_columns_right_counts_levels_and_numbers_within_a_tenth() -> None:
    truth = torch.tensor([[1.0, 0, 1, 0, 2.0]]).expand(4, -1)
    x = truth.clone()
    x[1, 0] += 0.1  # at the edge: right
    x[2, 0] += 0.11
    x[3, 1:4] = torch.tensor([0.6, 0.5, 0.1])
    x[3, 4] = -2
    found = tabular.columns_right(TABLE, x, truth)
    torch.testing.assert_close(found, torch.tensor([1, 1, 2 / 3, 1 / 3], dtype=torch.float64))


def test_padding_earns_nothing_and_surplus_words_cost() -> None:
    truth = torch.tensor([[5, 6, 0, 0]] * 4 + [[0, 0, 0, 0]])
    x = torch.tensor([[5, 6, 0, 0], [5, 7, 0, 0], [5, 6, 7, 8], [0, 0, 0, 0], [0, 0, 0, 0]])
    found = text.tokens_right(x, truth, pad=0)
    assert found.tolist() == [1, 0.5, 0.5, 0, 1]
    assert text.tokens_right(x, truth).tolist() == [1, 0.75, 0.5, 0.5, 1]
    assert text.exact(x, truth).tolist() == [True, False, False, False, True]


@pytest.mark.parametrize("measure", [image.psnr, image.ssim, text.exact, text.tokens_right])
def test_pairs_of_unequal_number_are_refused(measure: Callable[..., Tensor]) -> None:
    with pytest.raises(InvalidInput, match=r"match\.assign"):
        measure(torch.zeros(2, 1, 4, 4), torch.zeros(3, 1, 4, 4))


# --- matching ---


def log_cost(cost: Tensor, order: Iterable[tuple[int, int]]) -> float:
    return sum(math.log10(max(cost[i, j], 1e-12)) for i, j in order)


def best_by_hand(cost: Tensor) -> float:
    n, m = cost.shape
    if n <= m:
        orders = (list(enumerate(p)) for p in itertools.permutations(range(m), n))
    else:
        orders = ([(i, j) for j, i in enumerate(p)] for p in itertools.permutations(range(n), m))
    return min(log_cost(cost, order) for order in orders)


@settings(deadline=None, max_examples=60)
@given(n=st.integers(1, 5), m=st.integers(0, 6), seed=st.integers(0, 10**6))
def test_assignment_is_the_best_of_all_permutations_on_log_error(n: int, m: int, seed: int) -> None:
    cost = 10 ** (-16 * torch.rand(n, m, generator=rng(seed), dtype=torch.float64))
    matched = match.assign(cost)
    pairs = [(i, j) for i, j in enumerate(matched.tolist()) if j >= 0]
    assert len(pairs) == min(n, m) == len({j for _, j in pairs})
    if m:
        assert log_cost(cost, pairs) == pytest.approx(best_by_hand(cost), abs=1e-9)


def test_an_exact_hit_is_never_traded_for_milder_misses() -> None:
    # Candidate 0 is truth 0 exactly, but giving it to truth 1 would save more plain error.
    cost = torch.tensor([[1e-14, 0.30], [0.20, 0.60]], dtype=torch.float64)
    from scipy.optimize import linear_sum_assignment

    assert linear_sum_assignment(cost.numpy())[1].tolist() == [1, 0]
    assert match.assign(cost).tolist() == [0, 1]


def test_the_same_trade_on_pictures_keeps_the_recovered_one() -> None:
    truth = torch.stack([torch.full((1, 4, 4), 0.2), torch.full((1, 4, 4), 0.6)])
    offered = torch.stack([torch.full((1, 4, 4), 0.2), torch.full((1, 4, 4), -0.4)])
    found = score(Images((1, 4, 4), 2, low=-1), Batch(truth), offered, None, blind())
    assert found.matched == [0, 1]
    assert found.recovered == [True, False]


def test_candidates_that_are_not_numbers_match_nothing() -> None:
    truth = pictures(3)
    offered = torch.stack([truth[2], truth[0] * math.nan, truth[1], truth[0] - math.nan])
    found = score(Images((3, 8, 8), 2), Batch(truth), offered, None, blind())
    assert found.matched == [-1, 2, 0]
    assert found.recovered == [False, True, True]
    assert all(math.isfinite(v) for v in found.scores["psnr"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_distances_against_broadcasting_and_exact_at_an_exact_hit(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(match, "_BLOCK", 100)  # several blocks
    a, b = pictures(4, 1).to(dtype), pictures(6, 2).to(dtype)
    b[3] = a[1]
    b[4] = a[2] + 1e-5
    found = match.distances(a, b)
    wanted = (a.double()[:, None] - b.double()[None]).square().mean((2, 3, 4))
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-15)
    assert found[1, 3] < match.FLOOR / 1000


def test_distances_keep_their_digits_far_from_zero() -> None:
    a = 1000 + pictures(3, 1).double()
    found = match.distances(a, a + 1e-5)
    torch.testing.assert_close(
        found.diagonal(), torch.full((3,), 1e-10).double(), rtol=1e-3, atol=0
    )


def test_distances_of_tokens_are_shares_of_places() -> None:
    found = match.distances(
        torch.tensor([[1, 2, 3, 4]]), torch.tensor([[1, 2, 9, 9], [1, 2, 3, 4]])
    )
    assert found.tolist() == [[0.5, 0.0]]


# --- identification and labels ---


def test_identified_is_the_nearest_neighbour_by_hand() -> None:
    truth, pool = pictures(5, 1), pictures(40, 2)
    x = 0.35 * truth + 0.65 * pool[:5]
    expected = []
    for i in range(5):
        others = torch.cat([truth[i : i + 1], pool])
        expected.append((others - x[i]).flatten(1).norm(dim=1).argmin().item() == 0)
    assert identify.identified(x, truth, pool).tolist() == expected
    assert identify.identified(truth, truth, torch.cat([pool, truth])).all()
    assert not identify.identified(pool[:5], truth, pool).any()


@pytest.mark.parametrize(
    ("given_labels", "classes", "guesses"),
    [
        ([0, 1, 2, 3], 4, None),
        ([5, 5, 5, 1, 1, 7], 10, None),
        ([0] * 8, 2, None),
        ([1, 2, 2], 5, 2),
    ],
)
def test_chance_of_labels_against_monte_carlo(
    given_labels: list[int], classes: int, guesses: int | None
) -> None:
    truth, draws = torch.tensor(given_labels), 20_000
    m = guesses or len(truth)
    drawn = torch.randint(classes, (draws, m), generator=rng(3))
    overlap = sum(
        torch.minimum((drawn == c).sum(1), (truth == c).sum()).double() for c in range(classes)
    )
    shares = overlap / len(truth)
    error = float(shares.std()) / math.sqrt(draws)
    assert labels.chance(truth, classes, guesses) == pytest.approx(
        float(shares.mean()), abs=4 * error + 1e-9
    )
    by_counter = [labels.right(row, truth) for row in drawn[:50]]
    assert by_counter == pytest.approx(shares[:50].tolist())


def test_no_more_labels_are_counted_than_there_are_truths() -> None:
    batch = Batch(pictures(2), torch.tensor([3, 4]))
    found = score(IMAGES, batch, pictures(10), torch.arange(10), blind())
    assert found.labels == {"right": 0.0, "chance": labels.chance(batch.y, 10)}
    soft = torch.eye(10)[[4, 3]]
    assert score(IMAGES, batch, pictures(2), soft, blind()).labels["right"] == 1


@pytest.mark.parametrize(
    ("guess", "truth"),
    [
        (None, torch.tensor([1, 2])),
        (torch.tensor([1, 2]), None),
        (torch.tensor([0.3, 0.4]), torch.tensor([0.3, 0.4])),
        (torch.zeros(2, 8, 8), torch.zeros(2, 8, 8)),
    ],
)
def test_labels_that_cannot_be_guessed_have_no_score(
    guess: Tensor | None, truth: Tensor | None
) -> None:
    assert score(IMAGES, Batch(pictures(2), truth), pictures(2), guess, blind()).labels is None


# --- whole trials ---


def test_unmatched_truths_are_failures_with_the_score_of_the_mean_of_public() -> None:
    truth, public = IMAGES.normalised(pictures(4)), IMAGES.normalised(pictures(20, 5))
    found = score(IMAGES, Batch(truth), truth[[2, 1]], None, blind(public))
    assert found.matched == [-1, 1, 0, -1]
    assert found.recovered == [False, True, True, False]
    assert found.identified == [False, True, True, False]
    mean = found.baselines["mean of public"]["psnr"]
    assert found.scores["psnr"][0] == pytest.approx(mean[0])
    assert found.scores["psnr"][1] > 100
    assert len(found.scores["ssim"]) == 4


def test_an_attack_without_candidates_scores_as_mid_grey() -> None:
    truth = IMAGES.normalised(pictures(3))
    found = score(IMAGES, Batch(truth), torch.empty(0, 3, 8, 8), None, blind())
    assert found.matched == [-1] * 3
    assert found.recovered == [False] * 3
    assert found.identified is None
    assert found.scores["psnr"] == pytest.approx(found.baselines["mid-grey"]["psnr"])
    grey = -10 * (IMAGES.show(truth) - 0.5).square().flatten(1).mean(1).log10()
    assert found.scores["psnr"] == pytest.approx(grey.tolist(), abs=1e-4)


def test_public_examples_equal_to_the_truth_show_in_the_oracle_baseline() -> None:
    truth = IMAGES.normalised(pictures(3))
    found = score(IMAGES, Batch(truth), truth * 0, None, blind(truth.flip(0)))
    assert found.baselines["nearest public"]["recovered"] == [True] * 3
    assert found.baselines["random"]["recovered"] == [False] * 3


def test_score_is_the_same_in_any_order_of_the_candidates() -> None:
    truth = IMAGES.normalised(pictures(6))
    noisy = truth + 0.05 * torch.randn(truth.shape, generator=rng(4))
    order = torch.randperm(6, generator=rng(5))
    straight, mixed = (score(IMAGES, Batch(truth), c, None, blind()) for c in (noisy, noisy[order]))
    assert mixed.scores["psnr"] == pytest.approx(straight.scores["psnr"])
    assert [order[j] for j in mixed.matched] == list(range(6))


@pytest.mark.parametrize(
    ("form", "truth", "first"),
    [
        (IMAGES, IMAGES.normalised(pictures(4)), "psnr"),
        (TABLE, rows(4), "columns_right"),
        (TOKENS, torch.randint(2, 12, (4, 6), generator=rng()), "tokens_right"),
    ],
)
def test_every_form_has_scores_baselines_and_plain_numbers(
    form: Form, truth: Tensor, first: str
) -> None:
    public = {"psnr": IMAGES.normalised(pictures(9, 3)), "columns_right": rows(9, 7)}.get(
        first, torch.randint(2, 12, (9, 6), generator=rng(8))
    )
    for context, blank in ((blind(public), "mean of public"), (blind(), None)):
        found = score(form, Batch(truth), truth[[1, 0, 3, 2]], None, context)
        assert found.matched == [1, 0, 3, 2]
        assert found.recovered == [True] * 4
        assert next(iter(found.scores)) == first
        assert all(set(b) == {first, "recovered"} for b in found.baselines.values())
        assert next(iter(found.baselines)) in (blank, "mid-grey", "zero row", "padding")
        json.dumps(vars(found), allow_nan=False)
    assert list(Scores.__dataclass_fields__) == [
        "scores",
        "recovered",
        "identified",
        "matched",
        "labels",
        "baselines",
    ]


def test_one_wrong_column_or_word_is_not_recovered() -> None:
    truth = rows(2)
    x = truth.clone()
    x[0, 0] += 0.5
    assert score(TABLE, Batch(truth), x, None, blind()).recovered == [False, True]
    words = torch.tensor([[2, 3, 4, 5, 0, 0], [6, 7, 8, 9, 0, 0]])
    typed = words.clone().float()
    typed[1, 3] = 2
    found = score(TOKENS, Batch(words), typed, None, blind())
    assert found.recovered == [True, False]
    assert found.scores == {"tokens_right": [1, 0.75], "exact": [1, 0]}


def test_random_guesses_keep_to_the_form_and_to_the_stream() -> None:
    for form, truth in ((IMAGES, pictures(50)), (TABLE, rows(50)), (TOKENS, torch.ones(50, 6))):
        one, two = (baselines.candidates(form, truth, None, rng(1))["random"] for _ in range(2))
        assert torch.equal(one, two)
        assert one.shape == (50, *form.shape)
    words = baselines.candidates(TOKENS, torch.ones(50, 6), None, rng(1))["random"]
    assert set(words.unique().tolist()) == set(range(2, 12))
    levels = baselines.candidates(TABLE, rows(50), None, rng(1))["random"][:, 1:4]
    assert (levels.sum(1) == 1).all()
    low, high = IMAGES.box(truth.float())
    random = baselines.candidates(IMAGES, pictures(50), None, rng(1))["random"]
    assert ((random >= low - 1e-6) & (random <= high + 1e-6)).all()


def test_the_mean_of_public_sentences_is_the_commonest_word_at_each_place() -> None:
    public = torch.tensor([[2, 3, 4, 5, 6, 7], [2, 9, 4, 5, 6, 7], [8, 9, 4, 2, 6, 0]])
    guess = baselines.candidates(TOKENS, public[:1], public, rng())["mean of public"]
    assert guess.tolist() == [[2, 9, 4, 5, 6, 7]]


def test_wrong_shapes_and_empty_public_data_are_named() -> None:
    with pytest.raises(InvalidInput, match=r"candidates have shape \(2, 192\)"):
        score(IMAGES, Batch(pictures(2)), torch.zeros(2, 192), None, blind())
    with pytest.raises(InvalidInput, match=r"Context\.public is empty"):
        blind(torch.empty(0, 3, 8, 8))
    with pytest.raises(InvalidInput, match=r"public data have shape \(3, 3, 9, 9\)"):
        score(IMAGES, Batch(pictures(2)), pictures(2), None, blind(pictures(3, shape=(3, 9, 9))))
    with pytest.raises(InvalidInput, match="classes=0"):
        labels.chance(torch.tensor([1]), classes=0)
    with pytest.raises(InvalidInput, match="cannot be compared"):
        match.distances(torch.zeros(2, 3), torch.zeros(2, 4))


def test_half_precision_and_double_candidates_are_scored() -> None:
    truth = IMAGES.normalised(pictures(2))
    for dtype in (torch.half, torch.bfloat16, torch.double):
        found = score(IMAGES, Batch(truth), truth.to(dtype), None, blind())
        assert found.recovered == [True, True]
