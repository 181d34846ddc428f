"""Attackers who know the defense: their misfits against autograd, and what they are worth."""

import dataclasses
from typing import Any

import pytest
import torch
from torch.nn import functional

from seepage import (
    SVT,
    Adaptive,
    Batch,
    Box,
    Client,
    Clip,
    Coded,
    Dropout,
    FedAvg,
    FedSGD,
    Images,
    InstaHide,
    InvalidInput,
    Invert,
    Likelihood,
    MixUp,
    Model,
    Noise,
    NormalPrior,
    Observation,
    Percentile,
    Prune,
    Quantize,
    Sign,
    Signs,
    Soteria,
    Support,
    Unmix,
    observe,
    stream,
    zoo,
)
from seepage.attacks.adaptive.attack import protocol, residual, ways
from seepage.attacks.adaptive.realised import read_masks
from seepage.attacks.coded import Read
from seepage.attacks.matching.objectives import Sides
from seepage.defenses.precode import precode


def pair(seed: int = 0) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    drawn = stream(seed, "pair")
    shapes = [(4, 3), (5,)]
    return tuple(  # type: ignore[return-value]
        [torch.randn(shape, generator=drawn, dtype=torch.float64) for shape in shapes]
        for _ in range(2)
    )


def kept(g: list[torch.Tensor]) -> list[torch.Tensor]:
    return g


def signs(g: list[torch.Tensor]) -> list[torch.Tensor]:
    return [t.sign() for t in g]


def zeroed(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    return [t * (t.abs() > 0.5) for t in tensors]


@pytest.mark.parametrize(
    ("objective", "change"),
    [
        (Box(Prune(FedSGD(), 0.5)), zeroed),
        (Box(Quantize(FedSGD(), 3)), kept),
        (Box(Sign(FedSGD())), signs),
        (Support(), zeroed),
        (Likelihood(0.3), kept),
        (Likelihood(0.3, "laplace"), kept),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
@pytest.mark.parametrize("weights", [[1.0, 1.0], [0.5, 2.0]])
def test_the_slope_is_the_derivative(objective: Any, change: Any, weights: list[float]) -> None:
    given, observed = pair()
    observed = change(observed)

    def misfit(*moved: torch.Tensor) -> float:
        value: float = objective(Sides.of(moved, observed, weights)).value
        return value

    found = objective(Sides.of(given, observed, weights))
    slopes = [slope * found.factor for slope in found.slopes]
    for place, tensor in enumerate(given):
        for entry in range(tensor.numel()):
            step = torch.zeros_like(tensor)
            step.view(-1)[entry] = 1e-6
            ends = [[*given[:place], tensor + side * step, *given[place + 1 :]] for side in (1, -1)]
            up, down = (misfit(*end) for end in ends)
            assert (up - down) / 2e-6 == pytest.approx(
                float(slopes[place].view(-1)[entry]), abs=1e-6
            )


@pytest.mark.parametrize("kind", ["tanh", "soft"])
def test_the_slope_of_signs_is_the_derivative_at_a_fixed_median(kind: Any) -> None:
    given, observed = pair()
    observed = [g.sign() * (g > -1) for g in observed]
    held = [g.clone().requires_grad_() for g in given]
    middle = torch.cat([g.reshape(-1) for g in given]).abs().median()
    entries, signs = (torch.cat([t.reshape(-1) for t in ts]) for ts in (held, observed))
    if kind == "tanh":
        wanted = 1 - torch.cosine_similarity((entries / middle).tanh(), signs, dim=0)
    else:
        soft = torch.nn.functional.softplus(-2 * signs * entries / middle)
        wanted = soft[signs != 0].sum() / len(signs)
    found = Signs(kind)(Sides.of(given, observed, [1.0, 1.0]))
    assert found.value == pytest.approx(float(wanted.detach()))
    for slope, exact in zip(found.slopes, torch.autograd.grad(wanted, held), strict=True):
        torch.testing.assert_close(slope * found.factor, exact)


def test_nothing_is_held_against_what_lies_in_the_cell() -> None:
    _, inner = pair()
    defense = Prune(FedSGD(), 0.6)
    pruned = [
        t * (t.abs() > t.abs().flatten().kthvalue(int(0.6 * t.numel())).values) for t in inner
    ]
    found = Box(defense)(Sides.of(inner, pruned, [1.0, 1.0]))
    assert found.value == 0
    assert not any(bool(slope.any()) for slope in found.slopes)
    with pytest.raises(InvalidInput, match="has no cell"):
        Box(FedSGD())


def test_a_normal_prior_is_minus_the_log_density() -> None:
    spread = torch.tensor([[2.0, 0.3], [0.3, 1.0]], dtype=torch.float64)
    belief = torch.distributions.MultivariateNormal(torch.ones(2).double(), spread)
    u = torch.tensor([[0.5, -1.0], [2.0, 0.0]], dtype=torch.float64, requires_grad=True)
    (wanted,) = torch.autograd.grad(-belief.log_prob(u).sum(), u)
    value, slope = NormalPrior(torch.ones(2), torch.linalg.inv(spread)).of_pixels(u.detach())
    torch.testing.assert_close(slope, wanted)
    constant = -belief.log_prob(torch.ones(2).double())
    assert float(value) == pytest.approx(float((-belief.log_prob(u).sum() - 2 * constant).detach()))


def watched(client: Client, seed: int, *sizes: int) -> tuple[Observation, Batch]:
    sizes = sizes or (64, 128, 10)
    sample = zoo.digits(1, seed=seed)
    model = sample.model(zoo.mlp(*sizes, activation="tanh", seed=seed))
    tell = ("n", "y")
    return observe(model, sample.batch, client, stream(seed, "client"), tell=tell), sample.batch


def decibels(client: Client, way: str, seed: int, *sizes: int) -> float:
    seen, batch = watched(client, seed, *sizes)
    answer = Adaptive(only=(way,))(seen, stream(seed, "attack"))
    return float(-10 * (answer.x - batch.x).square().mean().log10())


def test_pruning_hides_from_the_blind_only() -> None:
    blind, box = (decibels(Prune(FedSGD()), way, 4) for way in ("blind", "box"))
    assert blind < 30
    assert box > 100


def test_a_layer_left_out_and_a_mask_read_off_recover_everything() -> None:
    deep = (64, 128, 64, 10)
    assert decibels(Soteria(FedSGD(), share=0.5), "blind", 3, *deep) < 30
    assert decibels(Soteria(FedSGD(), share=0.5), "omit", 3, *deep) > 100
    assert decibels(Dropout(FedSGD(), 0.5), "blind", 3, *deep) < 30
    assert decibels(Dropout(FedSGD(), 0.5), "realised", 3, *deep) > 100


def test_the_box_reads_coarse_updates_better_than_the_blind() -> None:
    assert decibels(Quantize(FedSGD(), 2), "box", 5) > decibels(Quantize(FedSGD(), 2), "blind", 5)


def test_the_attacker_keeps_the_way_of_the_lowest_residual() -> None:
    seen, _ = watched(Prune(FedSGD()), 6)
    quick = dataclasses.replace(Adaptive().inner, steps=30)
    answer = Adaptive(quick)(seen, stream(0, "attack"))
    tried = answer.trace["ways"]
    assert set(tried) == {"blind", "simulate", "box", "support"}
    assert answer.trace["way"] == min(tried, key=tried.get)
    assert float(answer.residual[0]) == pytest.approx(min(tried.values()))
    assert answer.note.endswith(f"4 ways: {answer.trace['way']}")


@pytest.mark.parametrize(
    ("client", "names"),
    [
        (FedSGD(), "blind"),
        (FedAvg(epochs=2), "blind"),
        (Clip(FedSGD(), 1.0), "blind simulate"),
        (Noise(Clip(FedSGD(), 1.0), 0.1), "blind simulate likelihood"),
        (Noise(FedSGD(), 0.1), "blind likelihood"),
        (Noise(FedSGD(), 0.1, relative=True), "blind"),
        (Sign(FedSGD()), "blind simulate box signs"),
        (Dropout(FedSGD(), 0.5), "blind realised"),
        (Dropout(FedSGD(), 0.5, "entries"), "blind box support"),
        (Percentile(FedSGD()), "blind simulate box support"),
        (SVT(FedSGD()), "blind simulate support"),
        (Soteria(FedSGD()), "blind simulate omit"),
    ],
    ids=str,
)
def test_which_ways_apply(client: Client, names: str) -> None:
    seen, _ = watched(client, 0)
    assert [way.name for way in ways(seen)] == names.split()


def test_the_truth_has_no_residual() -> None:
    for client in (
        Prune(FedSGD()),
        Quantize(FedSGD(), 3),
        Dropout(FedSGD(), 0.5),
        Clip(FedSGD(), 0.1),
    ):
        seen, batch = watched(client, 1)
        answer = Adaptive(dataclasses.replace(Adaptive().inner, steps=1))(seen, stream(0, "a"))
        truth = dataclasses.replace(answer, x=batch.x, y=batch.y)
        assert residual(seen, truth) < 1e-5


def test_local_steps_are_kept_where_defenses_are_ignored() -> None:
    local = FedAvg(FedSGD(), epochs=2)
    assert protocol(Noise(Clip(Prune(local), 1.0), 0.1)) == local


def test_a_mask_is_read_from_the_columns_of_zeros() -> None:
    seen, _ = watched(Dropout(FedSGD(), 0.5), 2)
    masks = read_masks(seen.model, seen.update, 0.5)
    assert list(masks) == ["linear2.weight"]
    share = float(masks["linear2.weight"][0].ne(0).double().mean())
    assert 0.3 < share < 0.7
    assert set(masks["linear2.weight"].unique().tolist()) == {0.0, 2.0}


def distinct(n: int, seed: int) -> Batch:
    """Digits of different classes."""
    batch = zoo.digits(60, seed=seed).batch
    y = [int(label) for label in batch.target]
    return batch[torch.tensor([y.index(label) for label in list(dict.fromkeys(y))[:n]])]


@pytest.mark.parametrize("defense", [MixUp, InstaHide])
def test_mixtures_are_taken_apart_where_labels_differ(defense: Any) -> None:
    batch, form = distinct(2, 1), zoo.digits(1).form
    module = zoo.mlp(64, 48, 10, activation="tanh", seed=1)
    model, client = Model.of(module, functional.cross_entropy, form), defense(FedSGD(), k=2)
    seen = observe(model, batch, client, stream(1, "client"), tell=("n", "y"))
    found = Adaptive(Invert(steps=20))(seen, stream(1, "attack"))
    assert found.trace["way"] == "unmix"
    assert float((found.x - batch.x).square().mean()) < 1e-8
    # The mixtures alone are far from the examples.
    mixed = found.trace["mixtures"].abs()
    assert float((mixed - batch.x).square().mean()) > 1e-2


def test_what_one_round_of_mixtures_does_not_tell_is_said() -> None:
    batch, form = distinct(2, 0), zoo.digits(1).form
    same = Batch(batch.x, torch.tensor([3, 3]))
    model = Model.of(zoo.mlp(64, 8, 10, activation="tanh"), functional.cross_entropy, form)
    seen = observe(model, same, MixUp(FedSGD()), stream(0, "client"), tell=("n", "y"))
    assert "labels repeat" in Unmix()(seen, stream(0, "attack")).note
    centred = Images((1, 8, 8), 10, mean=(0.5,), std=(0.5,))
    model = Model.of(zoo.mlp(64, 8, 10, activation="tanh"), functional.cross_entropy, centred)
    client = InstaHide(FedSGD(), k=2)
    seen = observe(model, batch, client, stream(0, "client"), tell=("n", "y"))
    assert "hides their signs" in Unmix()(seen, stream(0, "attack")).note
    untold = dataclasses.replace(seen, y=None)
    assert "no labels are told" in Unmix()(untold, stream(0, "attack")).note


def test_a_bottleneck_is_read_before_its_noise() -> None:
    sample = zoo.digits(1, seed=2)
    module = zoo.mlp(64, 128, 64, 10, activation="tanh", bias=False, seed=2)
    model = precode(sample.model(module), code=16)
    seen = observe(model, sample.batch, FedSGD("train"), stream(2, "client"), tell=("n", "y"))
    h = Read("linear3.encoder")(model, sample.batch, stream(0, "unused"))["h"]
    encoder = "linear3.encoder"
    told = seen.update[f"{encoder}.bias"] @ seen.update[f"{encoder}.weight"]
    told = told / seen.update[f"{encoder}.bias"].square().sum()
    torch.testing.assert_close(told, h, rtol=1e-4, atol=1e-5)
    found = Adaptive()(seen, stream(2, "attack"))
    assert found.trace["way"] == "encoder"
    blind = Adaptive(only=("blind",))(seen, stream(2, "attack"))
    error, other = ((a.x - sample.x).square().mean() for a in (found, blind))
    assert float(error) < 1e-4 < float(other) / 10
    assert Coded()(dataclasses.replace(seen, n=2), stream(0, "a")).note.startswith("not recovered")
    with pytest.raises(InvalidInput, match="has none"):
        Coded()(dataclasses.replace(seen, model=sample.model(module)), stream(0, "a"))
