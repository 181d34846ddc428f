"""Gradient matching: steps against autograd, answers against the truth."""

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from seepage import expr
from seepage.attacks import (
    L2,
    LBFGS,
    TAG,
    TV,
    Adam,
    Cosine,
    Counts,
    Features,
    Gray,
    Invert,
    Joint,
    L2Prior,
    Normal,
    Pattern,
    Restarts,
    Small,
    StartFrom,
    Told,
    Uniform,
    inverting_gradients,
)
from seepage.attacks.matching.objectives import Objective, Sides, layer_weights
from seepage.attacks.matching.priors import Prior
from seepage.attacks.matching.problem import Problem
from seepage.clients import FedAvg, FedSGD, Given, Only, SecureSum
from seepage.core import Batch, Client, Model, Observation, Reconstruction, observe, stream
from seepage.defenses import Clip, Noise, Prune
from seepage.errors import Failed, InvalidInput
from seepage.forms import Column, Images, Table, Tokens

IMAGES = Images((3, 8, 8), classes=5)
COLUMNS = Table((Column("age"), Column("city", ("a", "b", "c")), Column("height")), classes=3)


def convolutional(seed: int = 0) -> Model:
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.Tanh(),
        nn.Conv2d(6, 6, 3, stride=2),
        nn.Sigmoid(),
        nn.Flatten(),
        nn.Linear(54, 5),
    )
    return Model.of(net, nn.functional.cross_entropy, IMAGES)


def dense(seed: int = 0, dtype: torch.dtype = torch.float32) -> Model:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 64), nn.Tanh(), nn.Linear(64, 5)).to(dtype)
    return Model.of(net, nn.functional.cross_entropy, IMAGES)


def secret(n: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Batch:
    rng = stream(seed, "data")
    x = torch.rand(n, 3, 8, 8, generator=rng, dtype=torch.float64).to(dtype)
    return Batch(x, torch.randint(5, (n,), generator=rng))


def psnr(x: Tensor, truth: Tensor) -> float:
    return float(-10 * torch.log10((x - truth).double().square().mean() + 1e-30))


def posed(
    seen: Observation, objective: Objective, priors: tuple[Prior, ...]
) -> tuple[Problem, Tensor]:
    start = StartFrom(secret(2, seed=9, dtype=torch.float64).x)
    search = Invert(objective, priors, Told(), start).begin(seen, stream(0, "attack"))
    return search.problem, search.leaves[0]


CLIENTS = [
    FedSGD(),
    FedSGD("train"),
    FedAvg(epochs=2, batch_size=1, lr=0.1),
    FedAvg(epochs=2, lr=0.1, momentum=0.9, weight_decay=0.1),
    Prune(FedSGD(), ratio=0.5),
    Clip(FedSGD(), norm=0.1),
    Noise(FedSGD(), std=0.01),
    SecureSum(FedSGD(), users=2),
    Only(FedSGD(), "*.weight"),
]


@pytest.mark.parametrize("client", CLIENTS, ids=repr)
def test_a_step_is_the_derivative_of_the_misfit(client: Client) -> None:
    """Against a difference quotient of the simulated client, in double precision."""
    model = convolutional()
    model = dataclasses.replace(
        model,
        params={k: v.double() for k, v in model.params.items()},
        buffers={k: v.double() if v.is_floating_point() else v for k, v in model.buffers.items()},
    )
    batch = secret(2, dtype=torch.float64)
    seen = observe(model, batch, client, stream(0, "client"), tell=("n", "y"))
    problem, u = posed(seen, Cosine(task=0.1), (TV(0.1), L2Prior(0.2)))
    slope = problem.slope([u])
    direction = torch.randn(u.shape, generator=stream(3, "direction"), dtype=torch.float64)
    step = 1e-6
    ends = [problem.slope([u + sign * step * direction]).total for sign in (1, -1)]
    measured = (ends[0] - ends[1]) / (2 * step)
    assert float((slope.leaves[0] * direction).sum()) == pytest.approx(float(measured), rel=1e-5)


OBJECTIVES = [
    L2(),
    L2(scale=5e-5, weights="linear"),
    Cosine(),
    Cosine(weights={"0.*": 0.25, "3.bias": 0.0}),
    TAG(),
    TAG(alpha=0.3, weights="equal"),
]


@pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
def test_objectives_against_autograd(objective: Objective) -> None:
    rng = stream(0, "objective")
    names = ["0.weight", "0.bias", "3.weight", "3.bias"]
    shapes = [(6, 3, 3, 3), (6,), (5, 54), (5,)]
    make = lambda: [torch.randn(s, generator=rng, dtype=torch.float64) for s in shapes]  # noqa: E731
    given, observed = [t.requires_grad_() for t in make()], make()
    weights = layer_weights(objective.weights, names)
    kind = type(objective).__name__
    pairs = list(zip(given, observed, weights, strict=True))
    if kind == "L2":
        wanted = objective.scale * sum(w * (a - b).square().sum() for a, b, w in pairs)
    elif kind == "Cosine":
        left = torch.cat([w**0.5 * a.flatten() for a, _, w in pairs])
        right = torch.cat([w**0.5 * b.flatten() for _, b, w in pairs])
        wanted = 1 - torch.nn.functional.cosine_similarity(left, right, dim=0)
    else:
        wanted = sum(
            (a - b).square().sum() + objective.alpha * w * (a - b).abs().sum() for a, b, w in pairs
        )
    slopes = torch.autograd.grad(wanted, given)
    misfit = objective(Sides.of([t.detach() for t in given], observed, weights))
    assert misfit.value == pytest.approx(float(wanted.detach()), rel=1e-10, abs=1e-10)
    for one, other in zip(misfit.slopes, slopes, strict=True):
        torch.testing.assert_close(misfit.factor * one, other, rtol=1e-10, atol=1e-10)


def test_cosine_keeps_its_digits_where_the_plain_form_is_noise() -> None:
    rng = stream(0, "digits")
    g = torch.randn(10000, generator=rng)
    near = g + 1e-4 * torch.randn(10000, generator=rng)
    exact = 1 - torch.nn.functional.cosine_similarity(g.double(), near.double(), dim=0)
    misfit = Cosine()(Sides.of([near], [g], [1.0])).value
    assert misfit == pytest.approx(float(exact), rel=0.05)


@pytest.mark.parametrize(
    "prior",
    [
        TV(1.0),
        TV(0.3, p=2, q=0.5),
        TV(2.0, colour=True),
        TV(1, p=2, q=0.5, colour=True),
        L2Prior(3),
    ],
    ids=repr,
)
def test_priors_against_differences(prior: Prior) -> None:
    rng = stream(0, "prior")
    u = torch.randn(2, 3, 6, 5, generator=rng, dtype=torch.float64)
    direction = torch.randn(u.shape, generator=rng, dtype=torch.float64)
    value, slope = prior.of_pixels(u)
    step = 1e-7
    ends = [prior.of_pixels(u + sign * step * direction)[0] for sign in (1, -1)]
    assert float(value) > 0
    assert float((slope * direction).sum()) == pytest.approx(
        float((ends[0] - ends[1]) / (2 * step)), rel=1e-4
    )


def test_tv_by_hand() -> None:
    u = torch.tensor([[[[0.0, 1.0], [3.0, 3.0]]]])
    assert float(TV(1.0).of_pixels(u)[0]) == pytest.approx((1 + 3 + 2) / 4, abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_a_dense_network_gives_its_image_back(seed: int) -> None:
    model, batch = dense(seed), secret(1, seed)
    seen = observe(model, batch, FedSGD(), stream(seed, "client"))
    attack = Invert(L2(), priors=(), optimiser=LBFGS(), schedule="constant", steps=15)
    answer = attack(seen, stream(seed, "attack"))
    assert psnr(answer.x, batch.x) > 60
    assert torch.equal(answer.y, batch.y)
    assert float(answer.residual[0]) < 1e-3


def usual(model: Model, seen: Observation, y: Tensor, u: Tensor, steps: int) -> Tensor:
    """The published loop, written with PyTorch's parts: signs, Adam, three drops, the box."""
    u = u.clone().requires_grad_()
    solver = torch.optim.Adam([u], 0.1)
    # PyTorch counts the steps taken before, and drops apply after 3/8, 5/8 and 7/8 of all.
    drops = [steps * part // 8 for part in (3, 5, 7)]
    fall = torch.optim.lr_scheduler.MultiStepLR(solver, drops, 0.1)
    for _ in range(steps):
        leaves = {name: p.clone().requires_grad_() for name, p in model.params.items()}
        risk = model.risk(leaves, Batch(0.5 + u / 4, y))
        given = torch.autograd.grad(risk, list(leaves.values()), create_graph=True)
        left, right = (torch.cat([t.flatten() for t in ts]) for ts in (given, seen.update.values()))
        right_up, right_left = (torch.diff(u, dim=d).abs().sum() / u.numel() for d in (2, 3))
        misfit = 1 - left @ right / left.norm() / right.norm() + 1e-3 * (right_up + right_left)
        (slope,) = torch.autograd.grad(misfit, u)
        u.grad = slope.sign()
        solver.step()
        fall.step()
        u.data.clamp_(-2, 2)
    return 0.5 + u.detach() / 4


def test_inverting_gradients_walks_the_published_loops_way() -> None:
    model = convolutional()
    model = dataclasses.replace(
        model,
        params={k: v.double() for k, v in model.params.items()},
        buffers={k: v.double() if v.is_floating_point() else v for k, v in model.buffers.items()},
    )
    batch = secret(2, dtype=torch.float64)
    seen = observe(model, batch, FedSGD(), stream(0, "client"), tell=("n", "y"))
    begin = secret(2, seed=4, dtype=torch.float64).x
    attack = inverting_gradients(1e-3, steps=40)
    attack = dataclasses.replace(attack, start=StartFrom(begin))
    answer = attack(seen, stream(0, "attack"))
    wanted = usual(model, seen, batch.target, 4 * (begin - 0.5), 40)
    torch.testing.assert_close(answer.x, wanted, rtol=0, atol=1e-9)


def test_every_start_and_adam_recover() -> None:
    model, batch = dense(), secret(1)
    seen = observe(model, batch, FedSGD(), stream(0, "client"), tell=("n", "y"))
    starts = [Normal(), Uniform(), Gray(), Small(), Pattern(4), StartFrom(torch.rand(1, 3, 8, 8))]
    for start in starts:
        attack = Invert(start=start, labels=Told(), priors=(), steps=250, schedule="cosine")
        assert psnr(attack(seen, stream(0, "attack")).x, batch.x) > 30


def test_labels_searched_with_the_data() -> None:
    model, batch = dense(3), secret(1, 5)
    seen = observe(model, batch, FedSGD(), stream(0, "client"))
    attack = Invert(L2(), (), Joint(), optimiser=LBFGS(), schedule="constant", steps=30, box=False)
    answer = Restarts(attack, 2)(seen, stream(0, "attack"))
    assert torch.equal(answer.y, batch.y)
    assert psnr(answer.x, batch.x) > 40


def test_a_table_is_recovered_with_its_categories() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 32), nn.Tanh(), nn.Linear(32, 3))
    model = Model.of(net, nn.functional.cross_entropy, COLUMNS)
    batch = Batch(torch.tensor([[1.5, 0.0, 1.0, 0.0, -2.5]]), torch.tensor([2]))
    seen = observe(model, batch, FedSGD(), stream(0, "client"))
    answer = Invert(steps=600, schedule="cosine")(seen, stream(0, "attack"))
    assert psnr(answer.x, batch.x) > 40
    assert COLUMNS.show(answer.x[0])["city"] == "b"


def test_a_simulated_fedavg_beats_a_naive_gradient() -> None:
    model, batch = dense(1), secret(1, 2)
    client = FedAvg(epochs=4, lr=0.5)
    attack = Invert(priors=(), steps=200, schedule="cosine")
    scores = [
        psnr(
            attack(observe(model, batch, client, stream(0, "c"), believed), stream(0, "a")).x,
            batch.x,
        )
        for believed in (client, FedSGD())
    ]
    assert scores[0] > 30
    assert scores[0] > scores[1] + 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_type_shape_box_and_trace(dtype: torch.dtype) -> None:
    model, batch = dense(dtype=dtype), secret(3, dtype=dtype)
    seen = observe(model, batch, FedSGD(), stream(0, "client"))
    answer = Invert(steps=40)(seen, stream(0, "attack"))
    assert answer.x.dtype == answer.belief.dtype == answer.residual.dtype == dtype
    assert answer.x.shape == batch.x.shape
    assert float(answer.x.min()) >= 0
    assert float(answer.x.max()) <= 1
    assert answer.trace["frames"].shape == (8, 3, 3, 8, 8)
    assert answer.trace["objective"][-1] < answer.trace["objective"][0]
    assert answer.trace["done"][-1] == 1


def test_blind_to_the_secret_and_the_same_for_the_same_seed() -> None:
    model, batch = convolutional(), secret(2)
    seen = observe(model, batch, FedSGD(), stream(0, "client"), tell=("n", "y"))
    first = Restarts(Invert(steps=6), 2)(seen, stream(1, "attack"))
    batch.x.fill_(torch.nan)
    batch.y.fill_(-100)
    torch.manual_seed(99)
    again = Restarts(Invert(steps=6), 2)(seen, stream(1, "attack"))
    assert torch.equal(first.x, again.x)
    other = Invert(steps=6)(seen, stream(2, "attack"))
    assert not torch.equal(first.x, other.x)


def test_restarts_pick_by_the_attackers_own_measure() -> None:
    def tried(seen: Observation, rng: torch.Generator) -> Reconstruction:
        score = torch.rand(1, generator=rng)
        return Reconstruction(score[:, None], None, score, score)

    seen = observe(dense(), secret(1), FedSGD(), stream(0, "client"))
    answer = Restarts(tried, 5)(seen, stream(0, "attack"))
    assert float(answer.belief) == pytest.approx(max(answer.trace["beliefs"]))
    assert len(answer.trace["beliefs"]) == 5


def test_a_reversed_update_is_pointed_out() -> None:
    model, batch = dense(), secret(1)
    seen = observe(model, batch, FedSGD(), stream(0, "client"), tell=("n", "y"))
    seen = dataclasses.replace(seen, update={k: -u for k, u in seen.update.items()})
    answer = Invert(steps=1, priors=(), start=Gray())(seen, stream(0, "attack"))
    assert "sign looks reversed" in answer.note


def test_written_and_read_back() -> None:
    attacks = [
        Invert(),
        Invert(TAG(0.2), (TV(0.1, p=2), L2Prior(1e-6)), Joint(), Pattern(4), LBFGS(), box=False),
        Restarts(Invert(Cosine(weights={"a*": 0.0}), labels=Counts("noise"), units="raw"), 3),
        Invert(optimiser=Adam(0.05, sign="soft", clip=1.0), schedule="cosine", seconds=2.5),
    ]
    for attack in attacks:
        assert expr.read(repr(attack)) == attack


def test_refusals_name_the_remedy() -> None:
    model, batch = dense(), secret(1)
    seen = observe(model, batch, FedSGD(), stream(0, "client"))
    run = lambda attack, what=seen: attack(what, stream(0, "attack"))  # noqa: E731
    with pytest.raises(InvalidInput, match=r"pass Invert\(n="):
        run(Invert(steps=1), observe(model, batch, FedSGD(), stream(0, "c"), tell=()))
    with pytest.raises(InvalidInput, match="nothing to match"):
        run(
            Invert(steps=1, labels=Told()),
            observe(
                model, batch, FedSGD(), stream(0, "c"), Given(dict(seen.update)), tell=("n", "y")
            ),
        )
    zero = dataclasses.replace(seen, update={k: 0 * u for k, u in seen.update.items()})
    with pytest.raises(InvalidInput, match="zero everywhere"):
        run(Invert(steps=1), zero)
    tokens = dataclasses.replace(model, form=Tokens(3, 10, pad=0))
    with pytest.raises(InvalidInput, match="attack on text"):
        run(Invert(steps=1), dataclasses.replace(seen, model=tokens))
    with pytest.raises(InvalidInput, match="StartFrom"):
        run(Invert(steps=1, start=StartFrom(torch.zeros(1, 3, 4, 4))))
    with pytest.raises(InvalidInput, match="steps"):
        Invert(steps=0)
    with pytest.raises(InvalidInput, match="schedule"):
        Invert(schedule="sometimes")
    with pytest.raises(InvalidInput, match="sign"):
        Adam(sign="maybe")


def test_a_search_without_a_finite_misfit_fails_with_a_remedy() -> None:
    torch.manual_seed(0)

    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(192, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x.flatten(1)) / 0

    fine = dense()
    seen = observe(fine, secret(1), FedSGD(), stream(0, "client"), tell=("n", "y"))
    broken = Model.of(Broken(), nn.functional.cross_entropy, IMAGES)
    update = {"linear.weight": torch.ones(5, 192)}
    seen = dataclasses.replace(seen, model=broken, update=update)
    with pytest.raises(Failed, match="lower lr"):
        Restarts(Invert(steps=3), 2)(seen, stream(0, "attack"))


@pytest.mark.parametrize("objective", [Cosine(), Cosine({"3*": 0.5}), L2(3.0)], ids=repr)
def test_the_step_that_is_compiled_is_the_exact_step(
    objective: Objective, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The function handed to the compiler against the step; compiling itself takes minutes."""
    handed = []
    monkeypatch.setattr(torch, "compile", lambda step: handed.append(step) or step)
    seen = observe(convolutional(), secret(2), FedSGD(), stream(0, "client"), tell=("n", "y"))
    search = Invert(objective, (TV(0.1),), compile=True).begin(seen, stream(0, "attack"))
    plain = dataclasses.replace(search.problem, whole=None)
    found, wanted = (problem.slope(search.leaves) for problem in (search.problem, plain))
    assert len(handed) == 1
    torch.testing.assert_close(found.leaves[0], wanted.leaves[0], rtol=1e-4, atol=1e-6)
    assert found.total == pytest.approx(wanted.total, rel=1e-4)
    for attack in (
        Invert(TAG(), compile=True),
        Invert(priors=(Features(),), compile=True),
        Invert(labels=Joint(), compile=True),
    ):
        with pytest.raises(InvalidInput, match="compile=False"):
            attack.begin(
                dataclasses.replace(seen, y=None) if attack.labels == Joint() else seen,
                stream(0, "attack"),
            )


def test_half_precision_ends_in_single_precision() -> None:
    model, batch = dense(), secret(1)
    seen = observe(model, batch, FedSGD(), stream(0, "client"), tell=("n", "y"))
    attack = Invert(priors=(), steps=400, schedule="cosine", precision="bf16")
    search = attack.begin(seen, stream(0, "attack"))
    sharp = dataclasses.replace(search.problem, fast=search.sharp)
    rough, exact = (p.slope(search.leaves).leaves[0] for p in (search.problem, sharp))
    assert 1e-4 < float((rough - exact).norm() / exact.norm()) < 0.2
    answer = attack(seen, stream(0, "attack"))
    assert psnr(answer.x, batch.x) > 30
    with pytest.raises(InvalidInput, match="compile"):
        Invert(precision="bf16", compile=True)


def test_the_end_stands_where_misfit_and_priors_together_are_lower() -> None:
    """A rougher moment on the way may explain the update better than the smooth end."""
    model, batch = dense(), secret(1)
    flat = Batch(0.5 + 0.02 * (batch.x - 0.5), batch.y)
    seen = observe(model, flat, FedSGD(), stream(0, "client"), tell=("n", "y"))
    search = Invert(priors=(TV(1.0),), steps=1).begin(seen, stream(0, "attack"))
    rough, smooth = (search.problem.units.u(x) for x in (flat.x, 0 * flat.x + flat.x.mean()))
    search.record.saw(0.0, [rough])
    search.leaves, search.record.last = [smooth], 1.0
    misfits = [search.problem.measure([u]).misfit for u in (rough, smooth)]
    assert misfits[1] > 1.5 * misfits[0]
    assert torch.equal(search.best()[0][0], smooth)
    bare = dataclasses.replace(search.problem, priors=())
    search.problem = bare
    assert torch.equal(search.best()[0][0], rough)
