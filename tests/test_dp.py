"""Privacy accounting against closed forms, direct integration, and Opacus where it is there."""

import math

import numpy as np
import pytest
from scipy import integrate, stats

from seepage import DPSGD, SVT, Clip, FedSGD, InvalidInput, Noise, Percentile, accounting
from seepage.guard import dp


def direct_delta(epsilon: float, mu: float) -> float:
    """The hockey-stick divergence of N(mu, 1) from N(0, 1), by quadrature."""
    p, q = stats.norm(mu, 1).pdf, stats.norm(0, 1).pdf
    value, _ = integrate.quad(
        lambda x: max(p(x) - math.exp(epsilon) * q(x), 0),
        epsilon / mu + mu / 2,
        mu + 40,
        limit=200,
        epsabs=1e-14,
    )
    return float(value)


@pytest.mark.parametrize(("epsilon", "mu"), [(0.5, 0.3), (3.0, 1.7), (20.0, 4.128)])
def test_delta_is_the_hockey_stick_divergence(epsilon: float, mu: float) -> None:
    assert accounting.gauss_delta(epsilon, mu) == pytest.approx(
        direct_delta(epsilon, mu), rel=1e-6, abs=1e-12
    )


@pytest.mark.parametrize("mu", [0.05, 0.7, 5.0, 40.0])
@pytest.mark.parametrize("delta", [1e-2, 1e-5, 1e-9])
def test_epsilon_undoes_delta(mu: float, delta: float) -> None:
    epsilon = accounting.gauss_epsilon(delta, mu)
    if epsilon == 0:
        assert accounting.gauss_delta(0, mu) <= delta
    else:
        assert accounting.gauss_delta(epsilon, mu) == pytest.approx(delta, rel=1e-6)


def test_no_noise_and_no_signal() -> None:
    assert accounting.gauss_delta(5.0, math.inf) == 1
    assert accounting.gauss_delta(0.0, 0.0) == 0


def test_sampling_everything_is_the_closed_form() -> None:
    for side in accounting.losses(1 - 1e-12, 2.0, 10):
        exact = accounting.gauss_epsilon(1e-5, math.sqrt(10) / 2)
        assert exact <= side.epsilon(1e-5) <= exact + 1e-4


def test_one_sampled_round_is_exact_up_to_the_grid() -> None:
    q, z = 0.2, 1.0
    p = lambda x: (1 - q) * stats.norm(0, z).pdf(x) + q * stats.norm(1, z).pdf(x)  # noqa: E731
    forward, backward = accounting.losses(q, z, 1)
    for epsilon in (-0.1, 0.0, 0.5, 1.5):
        gap = lambda x, e=epsilon: max(p(x) - math.exp(e) * stats.norm(0, z).pdf(x), 0)  # noqa: E731
        wanted, _ = integrate.quad(gap, -12, 14, limit=400, points=[0, 1, 2, 3])
        assert wanted - 1e-9 <= forward.delta(epsilon) <= wanted + 1e-5
        other = lambda x, e=epsilon: max(stats.norm(0, z).pdf(x) - math.exp(e) * p(x), 0)  # noqa: E731
        wanted, _ = integrate.quad(other, -12, 14, limit=400, points=[0, 1, 2, 3])
        assert wanted - 1e-9 <= backward.delta(epsilon) <= wanted + 1e-5


def test_many_rounds_drift_no_further_than_few() -> None:
    """A thousand rounds on full batches have a closed form, at any noise."""
    for z in (1.0, 20.0, 200.0):
        exact = accounting.gauss_epsilon(1e-5, math.sqrt(1000) / z)
        for side in accounting.losses(1 - 1e-12, z, 1000):
            assert exact - 1e-9 <= side.epsilon(1e-5) <= exact + 1e-4


@pytest.mark.parametrize(("rate", "multiplier", "rounds"), [(0.3, 0.2, 5), (0.01, 0.3, 50)])
def test_a_bounded_loss_stays_near_its_bound(rate: float, multiplier: float, rounds: int) -> None:
    """An example less moves a round's loss by at most -log(1 - q), whatever the noise."""
    _, backward = accounting.losses(rate, multiplier, rounds)
    most = -rounds * math.log1p(-rate)
    assert 0.98 * most < backward.epsilon(1e-9) <= most + 0.001


def test_all_deltas_at_once_are_the_single_ones() -> None:
    forward, _ = accounting.losses(0.3, 1.0, 3)
    at_once = forward.deltas()
    for place in range(0, len(at_once), len(at_once) // 7):
        assert at_once[place] == pytest.approx(forward.delta(forward.values[place]), abs=1e-12)


@pytest.mark.parametrize(("rate", "rounds", "opacus"), [(0.01, 100, 0.71913), (0.05, 200, 4.76724)])
def test_sampled_epsilon_is_that_of_opacus(rate: float, rounds: int, opacus: float) -> None:
    # Opacus 1.6.0, PRVAccountant(eps_error=.001), z = 1, delta = 1e-5.
    assert accounting.epsilon(1e-5, 1.0, rounds, rate) == pytest.approx(opacus, abs=0.003)


def test_sampled_epsilon_against_the_installed_opacus() -> None:
    accountants = pytest.importorskip("opacus.accountants")
    accountant = accountants.PRVAccountant()
    accountant.history = [(0.8, 0.02, 50)]
    expected = accountant.get_epsilon(1e-5, eps_error=0.01)
    assert accounting.epsilon(1e-5, 0.8, 50, 0.02) == pytest.approx(expected, abs=0.015)


def test_losses_add_up_as_random_draws_do() -> None:
    q, z, rounds = 0.1, 1.0, 5
    drawn = np.random.default_rng(3)
    hit = drawn.random((200_000, rounds)) < q
    x = z * drawn.standard_normal((200_000, rounds)) + hit
    total = np.log1p(q * np.expm1((2 * x - 1) / (2 * z**2))).sum(1)
    forward, _ = accounting.losses(q, z, rounds)
    spread = forward.values
    for point in (-0.2, 0.0, 0.4, 1.0):
        share = float(forward.mass[spread > point].sum())
        assert share == pytest.approx(float((total > point).mean()), abs=0.005)


@pytest.mark.parametrize(("rounds", "rate"), [(1, 1.0), (30, 1.0), (20, 0.05)])
def test_the_multiplier_for_a_wanted_epsilon_reaches_it(rounds: int, rate: float) -> None:
    z = accounting.multiplier_for(2.0, 1e-5, rounds, rate)
    assert accounting.epsilon(1e-5, z, rounds, rate) == pytest.approx(2.0, rel=1e-3)


def test_divergence_falls_with_sampling() -> None:
    got = accounting.divergence(0.3, 0.7)
    p = lambda x: 0.7 * stats.norm(0, 0.7).pdf(x) + 0.3 * stats.norm(1, 0.7).pdf(x)  # noqa: E731
    wanted, _ = integrate.quad(
        lambda x: p(x) * math.log(p(x) / stats.norm(0, 0.7).pdf(x)), -8, 9, limit=200
    )
    assert got == pytest.approx(wanted, rel=1e-5)
    assert accounting.divergence(1.0, 0.7) == pytest.approx(1 / (2 * 0.49))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: accounting.epsilon(0.0, 1.0), "delta=0.0 is no probability"),
        (lambda: accounting.epsilon(1e-5, 0.0), "multiplier=0.0"),
        (lambda: accounting.epsilon(1e-5, 1.0, 0), "rounds=0"),
        (lambda: accounting.epsilon(1e-5, 1.0, 1, 1.5), "rate=1.5 is no sampling rate"),
        (lambda: accounting.multiplier_for(0.0, 1e-5), "wanted=0.0"),
        (lambda: accounting.losses(0.1, 1.0, 2)[0].epsilon(1e-13), "use a larger"),
    ],
)
def test_wrong_arguments_are_named(call: object, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        call()  # type: ignore[operator]


# The linter


def said(thing: object, **declared: float) -> list[tuple[str, str]]:
    return [(f.severity, f.field) for f in dp.lint(thing, **declared)]


def test_the_table_of_flowers_formula() -> None:
    rows = dp.flower_table()
    assert [row["std"] for row in rows] == [4.845, 0.969, 0.484, 0.242, 0.097]
    assert [row["tight"] for row in rows] == pytest.approx(
        [0.75, 4.54, 10.39, 25.44, 96.4], abs=0.05
    )
    replaced = [1.61, 10.39, 25.44, 68.49, 300.1]
    assert [row["tight_replace"] for row in rows] == pytest.approx(replaced, abs=0.05)
    assert [row["std_needed"] for row in rows] == [3.731, 0.892, 0.5, 0.29, 0.15]
    assert rows[3]["true_delta"] == pytest.approx(1.5e-3, rel=0.03)
    assert dp.false_above() == pytest.approx(8.42, abs=0.005)
    assert dp.false_above(factor=2) == pytest.approx(0.0095, abs=5e-5)


def test_a_large_declared_epsilon_is_false_and_the_repair_holds() -> None:
    setting = {"clip": 2.0, "sensitivity": 2.0, "epsilon": 20.0, "delta": 1e-5}
    first, second = dp.lint(setting)
    assert (first.severity, second.severity) == ("error", "warning")
    assert "25.44" in first.remedy
    assert "68.49" in second.remedy
    repaired = {**setting, "std": 2 * 2 * 0.2901}
    assert said(repaired) == []


def test_a_small_declared_epsilon_holds_for_added_records_only() -> None:
    assert said({"clip": 1.0, "epsilon": 1.0}) == [("warning", "epsilon")]


def test_rounds_are_composed() -> None:
    once = {"clip": 1.0, "epsilon": 1.0, "std": 8.0}
    assert said(once) == []
    assert said(once, rounds=100) == [("error", "rounds"), ("warning", "rounds")]


def test_a_sensitivity_below_the_norm_is_wrong() -> None:
    setting = {"clip": 10.0, "sensitivity": 1.0, "epsilon": 5.0, "delta": 1e-5}
    found = dp.lint(setting)
    assert (found[0].severity, found[0].field) == ("error", "sensitivity")
    assert "10 times too small" in found[0].remedy


@pytest.mark.parametrize(
    ("client", "wanted"),
    [
        (Noise(Clip(FedSGD(), 1.0), 4.9), [("note", "epsilon")]),
        (Noise(FedSGD(), 1.0), [("error", "clip")]),
        (Clip(Noise(FedSGD(), 1.0), 1.0), [("warning", "Clip"), ("error", "clip")]),
        (Noise(Clip(FedSGD(), 1.0), 1.0, relative=True), [("error", "Noise.relative")]),
        (Noise(Clip(FedSGD(), 1.0), 1.0, "laplace"), [("error", "Noise.kind")]),
        (Noise(Clip(FedSGD(), 1.0), 1.0, "optimal"), [("error", "Noise.kind")]),
        (DPSGD(1.0, 1.0), [("note", "epsilon")]),
        (DPSGD(1.0, 0.0), [("error", "std")]),
        (FedSGD(), [("error", "noise")]),
        (Percentile(FedSGD()), [("error", "percentile"), ("warning", "scalars")]),
        (SVT(FedSGD()), [("error", "epsilon"), ("warning", "noise_var")]),
    ],
    ids=str,
)
def test_what_is_said_of_a_client(client: object, wanted: list[tuple[str, str]]) -> None:
    assert said(client) == wanted


def test_a_clients_epsilon_counts_rounds_and_sampling() -> None:
    note, sampled = dp.lint(DPSGD(2.0, 1.0), rounds=100, rate=0.01)
    assert "it is 0.72 at" in note.remedy
    assert "Poisson" in sampled.remedy
    assert said(DPSGD(2.0, 1.0), epsilon=1.0, rounds=100) == [
        ("error", "rounds"),
        ("warning", "rounds"),
    ]


class Optimizer:
    """Looks like Opacus's."""

    noise_multiplier, max_grad_norm, expected_batch_size = 1.0, 3.0, 64


class LocalDpMod:
    """Looks like Flower's."""

    clipping_norm, sensitivity, epsilon, delta = 1.0, 1.0, 20.0, 1e-5

    def __call__(self, msg: object, context: object, call_next: object) -> object:
        return msg


class SVTPrivacy:
    """Looks like NVFlare's."""

    frac, eps_1, eps_3, gamma, tau = 0.1, 0.1, 0.1, 1e-5, 1e-6


def test_other_libraries_settings_are_read() -> None:
    (note,) = dp.lint(Optimizer())
    assert "it is 4.38" in note.remedy
    assert said(LocalDpMod()) == [("error", "epsilon"), ("warning", "epsilon")]
    assert said(SVTPrivacy()) == said(SVT(FedSGD()))


@pytest.mark.parametrize(
    ("thing", "words"),
    [
        ({"clipp": 1.0}, "'clipp'.* is not known here"),
        ({"clip": 1.0}, "no noise is given"),
        ({"clip": 1.0, "std": -1.0}, "Mechanism.std=-1.0"),
        ({"clip": 1.0, "std": 1.0, "delta": 2.0}, "delta=2.0"),
        (7, "no dict, client, Opacus optimizer"),
    ],
)
def test_what_cannot_be_read_is_named(thing: object, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        dp.lint(thing)


def test_noise_for_a_wanted_ceiling_in_decibels() -> None:
    std = dp.std_for_psnr(lambda s: 0.1 * s**2 / (1 + s**2), 20.0)
    assert 0.1 * std**2 / (1 + std**2) == pytest.approx(0.01, rel=1e-3)
    with pytest.raises(InvalidInput, match="out of reach"):
        dp.std_for_psnr(lambda s: 0.1 * s**2 / (1 + s**2), 5.0)


def test_an_accountant_that_underestimates_is_refused() -> None:
    setting = {"clip": 1.0, "multiplier": 1.0, "rate": 0.01, "rounds": 100, "accountant": "gdp"}
    assert said(setting)[0] == ("error", "accountant")
    assert said({**setting, "accountant": "prv"})[0] == ("note", "epsilon")


def test_opacus_agrees_where_it_is_installed() -> None:
    pytest.importorskip("opacus")
    made = dp.Mechanism(1.0, 1.0, rounds=100, rate=0.01)
    found = dp.opacus_check(made)
    assert found is not None
    assert found["prv"] == pytest.approx(made.tight(), abs=0.02)
    assert found["rdp"] > made.tight()


def test_a_mechanism_without_what_it_needs_has_no_epsilon() -> None:
    assert dp.Mechanism(None, 1.0).tight() == math.inf
    assert dp.Mechanism(1.0, 0.0).tight() == math.inf
    assert dp.Mechanism(1.0, 1.0).true_delta() == 1
    with pytest.raises(InvalidInput, match="give a clip and a declared epsilon"):
        dp.Mechanism(1.0, 1.0).repaired()
