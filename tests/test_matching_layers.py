"""The layers made for searching, against autograd in double precision."""

import dataclasses
import itertools
from contextlib import AbstractContextManager

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from seepage import zoo
from seepage.attacks import L2, Cosine, Invert, StartFrom, Told
from seepage.attacks.matching import layers, match
from seepage.attacks.matching.attention import Attentive
from seepage.attacks.matching.condensed import Fixed
from seepage.attacks.matching.layers import condensed, searchable
from seepage.attacks.matching.objectives import Objective
from seepage.clients import FedAvg, FedSGD
from seepage.core import Batch, Client, Model, observe, stream
from seepage.forms import Images


@pytest.fixture(autouse=True)
def _small_layers_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "_SMALL", 0)
    monkeypatch.setattr(layers, "_LARGE", 0)
    monkeypatch.setattr(match, "_SMALL", 0)


GEOMETRIES = [
    pytest.param(
        stride, padding, dilation, id=f"stride{stride}-padding{padding}-dilation{dilation}"
    )
    for stride, padding, dilation in itertools.product((1, 2, (2, 1)), (0, 1, (1, 0)), (1, 2))
]


def doubled(model: Model) -> Model:
    cast = lambda t: t.double() if t.is_floating_point() else t  # noqa: E731
    return dataclasses.replace(
        model,
        params={k: cast(v) for k, v in model.params.items()},
        buffers={k: cast(v) for k, v in model.buffers.items()},
    )


def product(model: Model, client: Client, batch: Batch, seed: int) -> Tensor:
    """sum_l <G_l, v_l> differentiated in x, with v drawn by chance."""
    x = batch.x.clone().requires_grad_()
    update = client(model, Batch(x, batch.y), stream(0, "client"))
    rng = stream(seed, "cotangents")
    found = [u for u in update.values() if u.requires_grad]
    drawn = [torch.randn(u.shape, generator=rng, dtype=torch.float64) for u in found]
    (slope,) = torch.autograd.grad(found, x, drawn)
    return slope


def same(module: nn.Module, batch: Batch, form: Images, client: Client) -> float:
    """The relative distance between the searchable layers' slope and autograd's."""
    model = doubled(Model.of(module, nn.functional.cross_entropy, form))
    plain, fast = (product(m, client, batch, 1) for m in (model, searchable(model)))
    return float((plain - fast).norm() / plain.norm())


@pytest.mark.parametrize(("stride", "padding", "dilation"), GEOMETRIES)
def test_convolutions(
    stride: int | tuple[int, int], padding: int | tuple[int, int], dilation: int
) -> None:
    rng = stream(0, "data")
    batch = Batch(torch.rand(2, 4, 9, 8, generator=rng, dtype=torch.float64), torch.tensor([0, 2]))
    for groups, kernel, bias in itertools.product((1, 2, 4), (1, 3), (True, False)):
        torch.manual_seed(groups)
        settings = {"stride": stride, "padding": padding, "dilation": dilation, "bias": bias}
        net = nn.Sequential(
            nn.Conv2d(4, 8, kernel, groups=groups, **settings),
            nn.Tanh(),
            nn.Conv2d(8, 4, 1, groups=groups),
            nn.Flatten(),
            nn.LazyLinear(3),
        )
        net(batch.x.float())
        assert same(net, batch, Images((4, 9, 8), classes=3), FedSGD()) < 1e-13


@pytest.mark.parametrize("kernel", [4, (2, 3)])
def test_convolutions_whose_windows_tile_the_image(kernel: int | tuple[int, int]) -> None:
    """Pixels beyond the last whole window have no influence."""
    batch = Batch(torch.rand(2, 3, 9, 8, generator=stream(0, "x")).double(), torch.tensor([0, 2]))
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, kernel, kernel), nn.Tanh(), nn.Flatten(), nn.LazyLinear(3))
    net(batch.x.float())
    form = Images((3, 9, 8), classes=3)
    model = Model.of(net, functional.cross_entropy, form)
    assert type(searchable(model).module[0]).__name__ == "Patches"  # type: ignore[index]
    for client in (FedSGD(), FedAvg(epochs=2, batch_size=1, lr=0.1)):
        assert same(net, batch, form, client) < 1e-13


def randomised(module: nn.Module) -> nn.Module:
    """Statistics and scales as after training, so that no term of theirs is zero."""
    rng = stream(5, "statistics")
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d | nn.LayerNorm):
            statistics = [getattr(layer, n, None) for n in ("running_mean", "running_var")]
            for tensor in (*filter(torch.is_tensor, statistics), layer.weight, layer.bias):
                tensor.data = 0.5 + torch.rand(tensor.shape, generator=rng)
    return module


def test_layer_normalisation_from_any_of_its_gradients() -> None:
    """An objective may leave out weights or biases: then their cotangents are absent."""
    plain = randomised(nn.Sequential(nn.LayerNorm(7))).double()
    form = Images((3, 5, 7), classes=7)
    fast = searchable(Model.of(plain, functional.cross_entropy, form)).module
    rng = stream(0, "normalised")
    x = torch.randn(2, 3, 5, 7, generator=rng, dtype=torch.float64, requires_grad=True)
    for kept in ([0], [1], [2], [0, 2], [0, 1, 2]):
        slopes = []
        for net in (plain, fast):
            leaves = [x, *net.requires_grad_().parameters()]
            found = torch.autograd.grad(net(x).sin().sum(), leaves, create_graph=True)
            chosen = [found[i] for i in kept]
            slopes.append(torch.autograd.grad(chosen, x, [g.detach().cos() for g in chosen])[0])
        assert torch.allclose(slopes[0], slopes[1], rtol=1e-11, atol=1e-12)


CLIENTS = [
    FedSGD(),
    FedSGD("train"),
    FedAvg(epochs=2, batch_size=1, lr=0.1),
    FedAvg(epochs=3, lr=0.1, momentum=0.5),
]
NETWORKS = {
    "lenet": lambda: zoo.lenet(seed=0),
    "convnet": lambda: zoo.convnet(4, seed=0),
    "resnet18": lambda: zoo.resnet18(seed=0),
    "vit": lambda: zoo.vit(width=64, depth=2, seed=0),
}


CASES = [(n, c) for n in NETWORKS for c in CLIENTS if n != "resnet18" or c == FedSGD()]


@pytest.mark.parametrize(("name", "client"), CASES, ids=repr)
def test_whole_networks(name: str, client: Client) -> None:
    batch, form = zoo.photos(2, 32)
    batch = Batch(batch.x.double(), batch.y)
    assert same(randomised(NETWORKS[name]()), batch, form, client) < 1e-12


def test_what_does_not_fit_is_left_alone() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 3, 3, padding="same"),
        nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect"),
        nn.BatchNorm2d(3, affine=False),
        nn.LayerNorm((8, 8)),
        nn.LayerNorm(8, bias=False),
        nn.Conv2d(3, 3, 2, 2, padding=1),
        nn.Conv2d(3, 3, 3),
    )
    form = Images((3, 8, 8), classes=3)
    model = Model.of(nn.Sequential(net, nn.Flatten()), nn.functional.cross_entropy, form)
    kinds = [type(layer).__name__ for layer in searchable(model).module[0]]  # type: ignore[index]
    plain = ["Conv2d", "Conv2d", "BatchNorm2d", "LayerNorm", "LayerNorm"]
    assert kinds == [*plain, "Convolution", "Convolution"]
    assert type(model.module[0][6]) is nn.Conv2d  # type: ignore[index]
    assert list(searchable(model).module.state_dict()) == list(model.module.state_dict())


def test_the_search_shares_the_networks_tensors() -> None:
    """A copy of every weight for each network of layers would be most of a search's memory."""
    form = Images((3, 32, 32), classes=8)
    model = Model.of(zoo.convnet(4, 8, seed=0), functional.cross_entropy, form)
    own = {p.data_ptr() for p in model.module.parameters()}
    assert {p.data_ptr() for p in searchable(model).module.parameters()} == own
    assert {p.data_ptr() for p in model.shell().parameters()} == own


class Across(nn.Module):
    """Words first, channels last."""

    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)


def transformer() -> nn.Module:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(32, 4, 64, 0.0, "gelu", batch_first=True)
    blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    words = nn.Sequential(nn.Conv2d(3, 32, 8, 8), nn.Flatten(2))
    return nn.Sequential(words, Across(), blocks, nn.Flatten(), nn.Linear(512, 8))


CONDENSED = {
    "dense": lambda: zoo.mlp(3072, 128, 64, 8, activation="tanh", seed=0),
    "convnet": lambda: zoo.convnet(4, classes=8, seed=0),
    "vit": lambda: zoo.vit(classes=8, width=64, depth=1, seed=0),
    "transformer": transformer,
}


@pytest.mark.parametrize("objective", [Cosine(), Cosine({"*weight": 0.3}), L2(2.0)], ids=repr)
@pytest.mark.parametrize("name", CONDENSED)
@pytest.mark.parametrize("distance", [1.0, 1e-5], ids=["far", "near"])
def test_a_step_that_keeps_no_gradient(name: str, objective: Objective, distance: float) -> None:
    """Three numbers of each layer's gradient give the misfit and the slope of the whole gradient.

    Far from the answer they come from products of few rows, near it from the gradient itself.
    """
    batch, form = zoo.photos(1 if name == "dense" else 2, 32)
    batch = Batch(batch.x.double(), batch.y)
    model = doubled(Model.of(randomised(CONDENSED[name]()), nn.functional.cross_entropy, form))
    seen = observe(model, batch, FedSGD(), stream(0, "client"), tell=("n", "y"))
    noise = torch.randn(batch.x.shape, generator=stream(1, "noise"), dtype=torch.float64)
    start = StartFrom((batch.x + distance * noise).clamp(0, 1))
    search = Invert(objective, (), Told(), start).begin(seen, stream(0, "attack"))
    plain = dataclasses.replace(search.problem, fast=search.problem.exact)
    found, wanted = (problem.slope(search.leaves) for problem in (search.problem, plain))
    assert search.problem.fast.short
    gap = (found.leaves[0] - wanted.leaves[0]).norm()
    assert float(gap) < 1e-12 * max(float(wanted.leaves[0].norm()), 1e-2)
    assert found.misfit == pytest.approx(wanted.misfit, rel=1e-6, abs=1e-14)


@pytest.mark.parametrize("objective", [Cosine(), Cosine({"*weight": 0.3}), L2(2.0)], ids=repr)
def test_small_tensors_side_by_side(objective: Objective, monkeypatch: pytest.MonkeyPatch) -> None:
    """Joined in one tensor for each weight, they give the misfit and the slope that they give."""
    batch, form = zoo.photos(2, 16)
    batch = Batch(batch.x.double(), batch.y)
    net = zoo.convnet(4, 8, (3, 16, 16), seed=0)
    model = doubled(Model.of(randomised(net), functional.cross_entropy, form))
    seen = observe(model, batch, FedSGD(), stream(0, "client"), tell=("n", "y"))
    found = []
    for small in (0, 2**20):
        monkeypatch.setattr(match, "_SMALL", small)
        search = Invert(objective, (), Told()).begin(seen, stream(0, "attack"))
        problem = dataclasses.replace(search.problem, fast=search.problem.exact)
        found.append((len(problem.match.groups), problem.slope(search.leaves)))
    (apart, wanted), (joined, slope) = found
    assert apart == len(seen.update)
    assert joined == (2 if objective == Cosine({"*weight": 0.3}) else 1)
    assert slope.misfit == pytest.approx(wanted.misfit, rel=1e-12)
    assert torch.allclose(slope.leaves[0], wanted.leaves[0], rtol=1e-10, atol=1e-14)


def test_single_precision_keeps_the_digits_of_a_small_misfit() -> None:
    """Near the answer 1 - cos in single precision is noise, and the three numbers are not."""
    batch, form = zoo.photos(1, 32)
    model = Model.of(
        zoo.mlp(3072, 64, 8, activation="tanh", seed=0), functional.cross_entropy, form
    )
    seen = observe(model, batch, FedSGD(), stream(0, "client"), tell=("n", "y"))
    noise = torch.randn(batch.x.shape, generator=stream(1, "noise"))
    for objective in (Cosine(), L2()):
        start = StartFrom((batch.x + 3e-5 * noise).clamp(0, 1))
        search = Invert(objective, (), Told(), start).begin(seen, stream(0, "attack"))
        exact = search.problem.measure(search.leaves).misfit
        assert exact < 1e-5
        assert search.problem.slope(search.leaves).misfit == pytest.approx(exact, rel=1e-2)


def test_transposes_are_those_of_the_layer() -> None:
    """Whether they were laid out anew, as for few rows in single precision, or not."""
    weight, observed = torch.randn(2, 6, 4, generator=stream(0, "weights"))
    for kind, rows, anew in ((torch.float32, 1, False), (torch.float32, 5, True),
                             (torch.float32, 500, False), (torch.float64, 5, False)):  # fmt: skip
        fixed = Fixed.of(weight.to(kind), observed.to(kind))
        for found, plain in zip(
            fixed.turned(rows), (fixed.weight, fixed.goal.observed), strict=True
        ):
            assert torch.equal(found, plain.T)
            assert found.is_contiguous() == anew


def test_channels_last_give_the_same_slope() -> None:
    """Single precision, where weights are laid out so, against autograd in double precision."""
    batch, form = zoo.photos(2, 32)
    net = zoo.convnet(8, classes=8, seed=0)
    slopes = []
    for cast in (lambda model: model, doubled):
        model = cast(Model.of(net, functional.cross_entropy, form))
        like = next(iter(model.params.values()))
        seen = observe(
            model, Batch(batch.x.to(like), batch.y), FedSGD(), stream(0, "client"), tell=("n", "y")
        )
        start = StartFrom(0.5 * (batch.x.flip(0) + batch.x).to(like))
        search = Invert(priors=(), labels=Told(), start=start).begin(seen, stream(0, "attack"))
        slopes.append(search.problem.slope(search.leaves).leaves[0].double())
        laid = search.problem.fast.model.module.conv2.fixed.weight
        assert laid.is_contiguous() == (like.dtype == torch.float64)
    assert float((slopes[0] - slopes[1]).norm() / slopes[1].norm()) < 1e-4


class Twice(nn.Module):
    """One layer, two uses."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(12, 12)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.layer(x.flatten(1)).tanh())


def test_layers_used_twice_keep_their_gradients() -> None:
    """A tied weight is known by its names; a second use is found by trying."""
    torch.manual_seed(0)
    tied = nn.Sequential(nn.Flatten(), nn.Linear(12, 12), nn.Tanh(), nn.Linear(12, 12))
    tied[3].weight = tied[1].weight
    batch = Batch(torch.rand(2, 3, 2, 2, generator=stream(0, "x")), torch.tensor([1, 7]))
    for net, known in ((tied, []), (Twice(), ["layer.weight"])):
        model = Model.of(net, functional.cross_entropy, Images((3, 2, 2), classes=12))
        assert condensed(model, model.params) == known
        seen = observe(model, batch, FedSGD(), stream(0, "client"), tell=("n", "y"))
        search = Invert(priors=(), labels=Told()).begin(seen, stream(0, "attack"))
        assert not search.problem.fast.short


ATTENTIONS = [
    {},
    {"is_causal": True},
    {"scale": 0.3},
    {"attn_mask": torch.randn(5, 5, generator=stream(0, "mask")).double()},
    {"attn_mask": torch.rand(2, 1, 5, 5, generator=stream(4, "mask")) > 0.2},
]


@pytest.mark.parametrize("settings", ATTENTIONS, ids=lambda s: "-".join(s) or "plain")
def test_attention(settings: dict[str, object]) -> None:
    rng = stream(0, "attention")
    weight = torch.randn(24, 8, generator=rng, dtype=torch.float64)
    x = torch.randn(2, 5, 8, generator=rng, dtype=torch.float64)
    cotangent = torch.randn(24, 8, generator=rng, dtype=torch.float64)

    def slope(within: AbstractContextManager[object]) -> Tensor:
        inner, leaf = x.clone().requires_grad_(), weight.clone().requires_grad_()
        with within:
            q, k, v = (inner @ leaf.T).view(2, 5, 3, 2, 4).permute(2, 0, 3, 1, 4)
            risk = functional.scaled_dot_product_attention(q, k, v, **settings).tanh().sum()
        (gradient,) = torch.autograd.grad(risk, leaf, create_graph=True)
        return torch.autograd.grad(gradient, inner, cotangent)[0]

    mode = Attentive()
    found, wanted = slope(mode), slope(sdpa_kernel(SDPBackend.MATH))
    assert mode.used
    assert float((found - wanted).norm() / wanted.norm()) < 1e-13


def test_small_layers_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    form = Images((3, 32, 32), classes=8)
    model = Model.of(zoo.convnet(32, 8, seed=0), functional.cross_entropy, form)
    kinds = [type(getattr(searchable(model).module, f"conv{i}")).__name__ for i in (1, 2)]
    assert kinds == ["Conv2d", "Convolution"]
    large = {f"conv{i}.weight" for i in range(3, 9)}
    assert set(condensed(model, model.params)) == large
