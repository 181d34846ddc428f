"""Priors of activations, generators, groups, the finisher, presets, labels counted again."""

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from seepage import expr, tree, zoo
from seepage.attacks import (
    L2,
    LBFGS,
    LM,
    TV,
    Adam,
    BatchStats,
    ClassMean,
    Cosine,
    Counts,
    DeepImage,
    EitherMode,
    Features,
    Group,
    Invert,
    Joint,
    Learned,
    Normal,
    SameClass,
    StartFrom,
    Told,
    dlg,
    idlg,
    inverting_gradients,
    labels,
    modern,
    see_through,
    tag,
)
from seepage.attacks.matching.group import agreed
from seepage.attacks.matching.priors import Prior
from seepage.attacks.units import units_of
from seepage.clients import FedSGD, Only
from seepage.core import Batch, Client, Mode, Model, Observation, observe, stream
from seepage.errors import Failed, InvalidInput
from seepage.forms import Images
from seepage.values import value

FORM = Images((3, 8, 8), classes=5)


def network(seed: int = 0, act: type[nn.Module] = nn.Sigmoid) -> Model:
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        act(),
        nn.Conv2d(8, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8),
        act(),
        nn.Flatten(),
        nn.Linear(128, 5),
    )
    return Model.of(net, nn.functional.cross_entropy, FORM)


def doubled(model: Model) -> Model:
    cast = lambda t: t.double() if t.is_floating_point() else t  # noqa: E731
    return dataclasses.replace(
        model,
        params={k: cast(v) for k, v in model.params.items()},
        buffers={k: cast(v) for k, v in model.buffers.items()},
    )


def secret(n: int, seed: int = 0) -> Batch:
    x = torch.rand(n, 3, 8, 8, generator=stream(seed, "data"))
    return Batch(x, torch.arange(n) % 5)


def watched(model: Model, batch: Batch, client: Client | None = None) -> Observation:
    client = client or FedSGD()
    return observe(model, batch, client, stream(0, "client"), tell=("n", "y"))


def psnr(x: Tensor, truth: Tensor) -> float:
    return float(-10 * torch.log10((x - truth).double().square().mean() + 1e-40))


@pytest.mark.parametrize(
    ("prior", "client"),
    [
        (BatchStats(0.3), FedSGD()),
        (BatchStats(0.3, first=2), FedSGD("train")),
        (BatchStats(0.3, source="inferred"), FedSGD("train")),
        (Features(0.2), FedSGD()),
    ],
    ids=repr,
)
def test_activation_priors_against_differences(prior: Prior, client: Client) -> None:
    model, batch = doubled(network()), secret(2)
    seen = watched(model, Batch(batch.x.double(), batch.y), client)
    start = StartFrom(secret(2, 7).x.double())
    searches = [
        Invert(Cosine(), priors, Told(), start).begin(seen, stream(0, "attack"))
        for priors in ((prior,), ())
    ]
    (problem, bare), u = [s.problem for s in searches], searches[0].leaves[0]
    assert problem.slope([u]).total > bare.slope([u]).total
    direction = torch.randn(u.shape, generator=stream(3, "direction"), dtype=torch.float64)
    ends = [problem.slope([u + sign * 1e-6 * direction]).total for sign in (1, -1)]
    found = float((problem.slope([u]).leaves[0] * direction).sum())
    assert found == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-4)


def test_shared_statistics_tell_the_batch_exactly() -> None:
    model, batch = doubled(network()), secret(4)
    batch = Batch(batch.x.double(), batch.y)
    seen = watched(model, batch, FedSGD("train"))
    start, tiny = StartFrom(batch.x), 1e-4  # the root's floor is 1e-6 for each of four lengths
    for source, near in (("inferred", True), ("running", False)):
        attack = Invert(Cosine(), (BatchStats(1.0, first=1, source=source),), Told(), start)
        total = attack.begin(seen, stream(0, "a"))
        assert (total.problem.slope(total.leaves).total < tiny) == near


def test_the_true_feature_has_no_feature_misfit() -> None:
    model, batch = network(), secret(1)
    attack = Invert(Cosine(), (Features(1.0),), Told(), StartFrom(batch.x), box=False)
    search = attack.begin(watched(model, batch), stream(0, "a"))
    assert search.problem.slope(search.leaves).total < 1e-9


def test_what_priors_need_is_asked_for() -> None:
    bare = Model.of(
        nn.Sequential(nn.Flatten(), nn.Linear(192, 5, bias=False)),
        nn.functional.cross_entropy,
        FORM,
    )
    run = lambda prior, model: Invert(priors=(prior,), steps=1)(  # noqa: E731
        watched(model, secret(1)), stream(0, "a")
    )
    with pytest.raises(InvalidInput, match="needs BatchNorm layers"):
        run(BatchStats(), bare)
    with pytest.raises(InvalidInput, match="Features divides"):
        run(Features(), bare)
    with pytest.raises(InvalidInput, match="source='running'"):
        run(BatchStats(source="inferred"), network())
    with pytest.raises(InvalidInput, match="three channels"):
        TV(colour=True).of_pixels(torch.zeros(1, 1, 4, 4))


def test_generators() -> None:
    torch.manual_seed(0)
    basis = nn.Sequential(nn.Linear(6, 192), nn.Sigmoid(), nn.Unflatten(1, (3, 8, 8)))
    with torch.no_grad():
        batch = Batch(basis(2 * torch.randn(1, 6, generator=stream(0, "z"))), torch.tensor([2]))
    seen = watched(network(), batch)
    smooth = Adam(0.05)
    learned = Invert(priors=(), generator=Learned(basis, (6,)), optimiser=smooth, steps=300)
    assert psnr(learned(seen, stream(1, "a")).x, batch.x) > 40
    deep = Invert(priors=(), generator=DeepImage(8, 2), optimiser=Adam(1e-2), steps=60)
    answer = deep(seen, stream(1, "a"))
    assert answer.x.shape == batch.x.shape
    assert answer.trace["objective"][-1] < 0.5 * answer.trace["objective"][0]
    other = nn.Linear(5, 3)
    with pytest.raises(InvalidInput, match=r"turns \(1, 5\)"):
        Invert(generator=Learned(other, (5,)), steps=1)(seen, stream(1, "a"))


def test_starts_from_public_examples_of_the_label() -> None:
    public = secret(10, 3)
    like = torch.zeros(())
    units, shape = units_of(FORM, like), (2, 3, 8, 8)
    wanted = torch.tensor([3, 1])
    mean = ClassMean(public.x, public.y)(shape, units, wanted, stream(0, "start"))
    torch.testing.assert_close(units.x(mean)[0], public.x[[3, 8]].mean(0))
    drawn = units.x(SameClass(public.x, public.y)(shape, units, wanted, stream(0, "start")))
    near = [int((public.x - one).flatten(1).norm(dim=1).argmin()) for one in drawn]
    assert [n % 5 for n in near] == [3, 1]
    unknown = ClassMean(public.x, public.y)(shape, units, None, stream(0, "start"))
    torch.testing.assert_close(units.x(unknown)[1], public.x.mean(0))
    attack = Invert(start=ClassMean(public.x, public.y), steps=2)
    answer = attack(observe(network(), secret(2), FedSGD(), stream(0, "c")), stream(0, "a"))
    assert answer.x.shape == shape
    with pytest.raises(InvalidInput, match="SameClass"):
        SameClass(torch.zeros(1, 2), public.y)(shape, units, wanted, stream(0, "start"))


def test_members_are_registered_to_the_first() -> None:
    base = torch.rand(3, 3, 16, 16, generator=stream(0, "base"))
    order, shifts = torch.tensor([2, 0, 1]), [(1, -2), (0, 2), (-2, 1)]
    member = torch.stack([base[i].roll(s, (-2, -1)) for i, s in zip(order, shifts, strict=True)])
    # Shifts this small keep the images nearer to themselves than to the others.
    member = 0.5 * member + 0.5 * base[order]
    means, mean = agreed([base, base[order]])
    torch.testing.assert_close(mean, base)
    torch.testing.assert_close(means[1], base[order])
    rolled = base.roll((1, -2), (-2, -1))
    means, mean = agreed([base[:1], rolled[:1]])
    torch.testing.assert_close(mean, base[:1])
    torch.testing.assert_close(means[1], rolled[:1])
    assert agreed([torch.zeros(2, 5), torch.ones(2, 5)])[1].unique().tolist() == [0.5]


def test_a_group_recovers_and_answers_with_its_best() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 64), nn.Tanh(), nn.Linear(64, 5))
    model, batch = Model.of(net, nn.functional.cross_entropy, FORM), secret(1)
    attack = Group(Invert(priors=(), steps=150, schedule="cosine"), weight=1e-4, members=2)
    answer = attack(watched(model, batch), stream(0, "a"))
    assert psnr(answer.x, batch.x) > 30
    assert expr.read(repr(attack)) == attack


@pytest.mark.parametrize(("dtype", "floor"), [(torch.float32, 100), (torch.float64, 200)])
def test_the_finisher_solves_to_the_precision_of_the_update(
    dtype: torch.dtype, floor: float
) -> None:
    model, batch = network(1), secret(1)
    model = doubled(model) if dtype == torch.float64 else model
    batch = Batch(batch.x.to(dtype), batch.y)
    seen = watched(model, batch)
    near = StartFrom(
        batch.x + 0.01 * torch.randn(batch.x.shape, generator=stream(0, "n")).to(dtype)
    )
    search = Invert(
        L2(), (), start=near, optimiser=LBFGS(), schedule="constant", steps=3, box=False
    )
    answer = dataclasses.replace(search, finish=LM())(seen, stream(0, "a"))
    assert psnr(answer.x, batch.x) > floor
    assert float(answer.residual[0]) < 1e-6


def test_the_finisher_refuses_what_it_cannot_finish() -> None:
    seen = watched(network(act=nn.ReLU), secret(1))
    with pytest.raises(InvalidInput, match="ReLU, which has kinks"):
        Invert(steps=1, finish=LM())(seen, stream(0, "a"))
    with pytest.raises(InvalidInput, match="GB"):
        Invert(steps=1, finish=LM(gigabytes=1e-9))(watched(network(), secret(1)), stream(0, "a"))


PRESETS = [
    dlg(2),
    idlg(2),
    inverting_gradients(steps=4),
    inverting_gradients(0.1, starts=2, steps=4),
    see_through(steps=4, members=2),
    tag(4),
    modern(4),
]


@pytest.mark.parametrize("preset", PRESETS, ids=lambda p: type(p).__name__)
def test_presets_run_and_read_back(preset: Invert) -> None:
    model, batch = network(), secret(1)
    seen = observe(model, batch, FedSGD(), stream(0, "client"))
    answer = preset(seen, stream(0, "attack"))
    assert answer.x.shape == batch.x.shape
    assert bool(answer.x.isfinite().all())
    assert expr.read(repr(preset)) == preset


def test_presets_are_written_as_functions_too() -> None:
    assert expr.read("dlg(steps=3)") == dlg(3)
    assert expr.read("inverting_gradients(tv=0.1, starts=2)") == inverting_gradients(0.1, 2)


def test_dlg_recovers_image_and_label() -> None:
    batch, form = zoo.photos(1, 16, seed=1)
    model = Model.of(zoo.lenet(8, (3, 16, 16), seed=1), nn.functional.cross_entropy, form)
    seen = observe(model, batch, FedSGD(), stream(1, "client"))
    answer = dlg(25)(seen, stream(1, "attack"))
    assert psnr(answer.x, batch.x) > 30
    assert torch.equal(answer.y, batch.y)


def test_a_search_that_is_thrown_far_begins_again() -> None:
    seen = watched(network(), secret(1))
    wild = Invert(L2(), (), Told(), Normal(), LBFGS(lr=50.0), "constant", steps=8, box=False)
    answer = wild(seen, stream(0, "attack"))
    assert "began again" in answer.note
    assert bool(answer.x.isfinite().all())


def test_labels_are_counted_again_with_the_candidates_predictions() -> None:
    """A network that predicts one class for all misleads the uniform guess, and not its own."""
    model = network(2)
    bias = model.params["7.bias"] + torch.tensor([3.0, 0.0, 0.0, 3.0, 0.0])
    model = model.replaced({"7.bias": bias})
    batch = Batch(secret(8).x, torch.tensor([1, 1, 1, 2, 2, 3, 4, 4]))
    seen = observe(model, batch, FedSGD(), stream(0, "client"))
    first = Counts()(seen, 8, stream(0, "attack"))
    assert labels.overlap(first, batch.y) < 1
    again = labels.recounted(seen, batch.x, first)
    assert labels.overlap(again, batch.y) == 1
    kept = first == again
    assert int(kept.sum()) == 8 * labels.overlap(first, again)
    answer = Invert(steps=8)(seen, stream(0, "attack"))
    assert labels.overlap(answer.y, batch.y) == 1


def test_the_finisher_wants_labels_that_stand() -> None:
    seen = observe(network(), secret(1), FedSGD(), stream(0, "client"))
    with pytest.raises(InvalidInput, match="labels are searched too"):
        Invert(labels=Joint(), steps=1, finish=LM())(seen, stream(0, "attack"))


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_the_mode_of_batchnorm_is_found_out(mode: Mode) -> None:
    model, batch = network(3), secret(4)
    client = Only(FedSGD(mode), "!*.running_*")
    seen = observe(model, batch, client, stream(0, "c"), believed=FedSGD(), tell=("n", "y"))
    attack = EitherMode(Invert(priors=(), steps=300, schedule="cosine"))
    answer = attack(seen, stream(0, "a"))
    assert f"in {mode} mode" in answer.note
    assert expr.read(repr(attack)) == attack


def test_out_of_memory_names_the_batch() -> None:
    @value
    class Greedy:
        def __call__(self, model: Model, batch: Batch, rng: torch.Generator) -> tree.Tensors:
            raise torch.OutOfMemoryError("tried to allocate 3 TiB")

    seen = observe(network(), secret(2), FedSGD(), stream(0, "c"), believed=Greedy())
    with pytest.raises(Failed, match=r"2 examples.*Lower n.*3 TiB"):
        Invert(steps=1)(seen, stream(0, "a"))
