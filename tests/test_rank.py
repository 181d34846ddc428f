"""The counts against the rank by numbers, the tiers, and the spectrum against dense algebra."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from seepage import Batch, Images, InvalidInput, Model, stream, zoo
from seepage.analysis import rank
from seepage.analysis.advice import narrowed, widest_open
from seepage.analysis.confirm import gram_rank, layer_rank_found
from seepage.chains import Layer, Window, layer_rank, network_ranks, walk
from seepage.chains.activations import Activation


def seeded(i: int, network: nn.Module) -> nn.Module:
    drawn = stream(i, "weights")
    with torch.no_grad():
        for p in network.parameters():
            bound = 1 / math.sqrt(max(1, p[0].numel()))
            p.copy_((torch.rand(p.shape, generator=drawn) * 2 - 1) * bound)
    return network


def model_of(network: nn.Module, size: int = 16, channels: int = 3) -> Model:
    with torch.no_grad():
        classes = network.eval()(torch.zeros(1, channels, size, size)).shape[1]
    loss = zoo.logistic_loss if classes == 1 else functional.cross_entropy
    return Model.of(network, loss, Images((channels, size, size), max(classes, 2)))


def random_layer(i: int) -> Layer:
    """A small convolution of any kind: kernels 1-5, strides 1-3, padding, dilation, groups."""
    rng = stream(i, "layer")

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=rng))

    groups = draw(1, 2) if draw(0, 3) == 0 else 1
    channels, outputs = groups * draw(1, 3), groups * draw(1, 6)
    kernel, stride = (draw(1, 4), draw(1, 4)), (draw(1, 3), draw(1, 3))
    dilation = (draw(1, 2), draw(1, 2)) if draw(0, 3) == 0 else (1, 1)
    padding = (draw(0, 2), draw(0, 2))
    window = Window(kernel, stride, padding, dilation, groups)
    size = (draw(8, 10), draw(8, 10))
    weight = torch.randn(outputs, channels // groups, *kernel, generator=rng, dtype=torch.float64)
    z = functional.conv2d(
        torch.zeros(1, channels, *size, dtype=torch.float64), weight, None,
        stride, padding, dilation, groups,
    )  # fmt: skip
    return Layer(
        f"layer{i}", "Conv2d", weight, None, window, (channels, *size), tuple(z.shape[1:]),
        Activation(),
    )  # fmt: skip


def dense_rank(layer: Layer, n: int = 1) -> int:
    """rank [W; s K(k)] of n examples by the singular values of the whole matrix."""
    k = torch.randn((n, *layer.outputs), generator=stream(1, layer.name), dtype=torch.float64)
    balance = layer.weight.norm() / k.norm()
    columns = [
        torch.cat([layer.linear(x).flatten(), balance * layer.gathered(x, k).flatten()])
        for x in torch.eye(n * layer.unknowns, dtype=torch.float64).view(-1, n, *layer.inputs)
    ]
    values = torch.linalg.svdvals(torch.stack(columns))
    return int((values > 1e-9 * values[0]).sum())


def test_the_count_of_a_layer_bounds_its_rank_and_mostly_equals_it() -> None:
    pairs = [(layer_rank(layer), dense_rank(layer)) for layer in map(random_layer, range(120))]
    assert all(count >= found for count, found in pairs)
    # These layers are odder than those of real networks, where 96 % agree.
    assert sum(count == found for count, found in pairs) >= 0.75 * len(pairs)


def test_the_count_of_a_layer_bounds_its_rank_for_several_examples() -> None:
    small = [layer for layer in map(random_layer, range(60)) if layer.unknowns <= 250]
    pairs = [(layer_rank(layer, 2), dense_rank(layer, 2)) for layer in small]
    assert len(pairs) >= 30
    assert all(count >= found for count, found in pairs)
    assert sum(count == found for count, found in pairs) >= 0.75 * len(pairs)


def test_the_confirmed_rank_is_that_of_the_whole_matrix() -> None:
    for i in range(200, 240):
        layer = random_layer(i)
        assert layer_rank_found(layer) == dense_rank(layer), i


def test_a_false_full_count_is_not_confirmed() -> None:
    network = nn.Sequential(
        nn.Conv2d(6, 8, 3, 2, 2, bias=False), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(392, 4)
    )
    (first, _) = rank.table(model_of(seeded(0, network), 11, 6))
    assert (first.unknowns, first.count, first.confirmed) == (726, 726, 710)
    assert rank.layers(model_of(network, 11, 6)).tier != "recursive"


SIZES = {
    "cnn6": {32: (0, 0), 64: (-72, 0), 224: (-33672, -52392)},
    "cnn6_d": {32: (-280, 0), 64: (-5528, -4184), 224: (-86488, -83224)},
    "lenet_leaky": {32: (0, 0), 64: (-5760, -4872), 224: (-109440, -108552)},
}


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("size", [32, 64])
def test_the_papers_networks_have_their_figures(name: str, size: int) -> None:
    chain = walk(model_of(getattr(zoo, name)(size=size), size))
    second = chain.layers[1]
    found = layer_rank(second) - second.unknowns, network_ranks(chain)[0] - 3 * size * size
    assert found == SIZES[name][size]


def test_the_tiers() -> None:
    full = rank.layers(model_of(zoo.three_conv(12, 20)))
    assert full.tier == "recursive"
    assert all(row.confirmed == row.unknowns for row in full.rows)
    short = rank.layers(model_of(zoo.three_conv(12, 8)), most=0)
    assert short.tier == "identifiable"
    assert [row.deficit for row in short.rows] == [0, -164, 0, 0]
    narrow = rank.layers(model_of(zoo.three_conv(4, 20)), most=0)
    assert narrow.tier == "deficient"
    assert narrow.rows[0].network_deficit < 0
    for exposure in (full, short, narrow):
        assert "safe" not in str(exposure)
        assert exposure.rows[1].name in str(exposure)
    assert any("conv2 is short" in text for text in short.advice)


def test_the_advice_names_the_width_that_opens_the_input() -> None:
    chain = walk(model_of(zoo.three_conv(12, 20)))
    width = widest_open(chain, 0)
    assert width is not None
    for made, opened in ((width, True), (width + 1, False)):
        thin = zoo.three_conv(made, 20)
        deficit = network_ranks(walk(model_of(thin)))[0] - 768
        assert (deficit < 0) == opened
        assert network_ranks(narrowed(chain, 0, made))[0] - 768 == deficit


def strided(first: int, second: int, classes: int, act: type[nn.Module], side: int) -> nn.Module:
    """Two convolutions of the zoo's kind, on images of this side."""
    after = (side + 4 - 4) // 2 + 1
    last = (after + 2 - 3) // 2 + 1
    slope = {"negative_slope": 0.2} if act is nn.LeakyReLU else {}
    return nn.Sequential(
        nn.Conv2d(3, first, 4, 2, 2, bias=False), act(**slope),
        nn.Conv2d(first, second, 3, 2, 1, bias=False), act(**slope),
        nn.Flatten(), nn.Linear(second * last * last, classes, bias=False),
    )  # fmt: skip


NETWORKS = [
    (f, s, c, a) for f, s in ((3, 4), (6, 3), (4, 8), (8, 2), (5, 5))
    for c, a in ((1, nn.LeakyReLU), (4, nn.LeakyReLU), (4, nn.Tanh))
]  # fmt: skip


@pytest.mark.parametrize(("first", "second", "classes", "act"), NETWORKS)
def test_the_count_of_a_network_is_its_numeric_rank(
    first: int, second: int, classes: int, act: type[nn.Module]
) -> None:
    side = 8
    network = seeded(first * 10 + second, strided(first, second, classes, act, side)).double()
    model = model_of_double(network, side, classes)
    x = torch.rand(1, 3, side, side, generator=stream(3, "noise"), dtype=torch.float64)
    y = torch.tensor([1])
    found = rank.jacobian(model, Batch(x, y), sketch=None)
    assert found.rank == network_ranks(walk(model))[0]


def model_of_double(network: nn.Module, side: int, classes: int) -> Model:
    loss = zoo.logistic_loss if classes == 1 else functional.cross_entropy
    return Model.of(network, loss, Images((3, side, side), max(classes, 2)))


def test_channels_with_the_same_signs_tell_less_of_a_photograph() -> None:
    convs = [nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.LeakyReLU(0.2)]
    convs += [nn.Conv2d(8, 6, 3, 2, 1, bias=False), nn.LeakyReLU(0.2)]
    network = nn.Sequential(*convs, nn.Flatten(), nn.Linear(96, 10, bias=False))
    model = model_of_double(seeded(1, network).double(), 16, 10)
    batch = Batch(zoo.photos(1, 16).batch.x.double(), torch.tensor([1]))
    (plain, *_), (at, *_) = rank.table(model), rank.table(model, batch=batch)
    found = rank.jacobian(model, batch, sketch=None).rank
    assert found == at.network < plain.network


def test_what_no_window_sees_is_counted_out() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 11, 3, 2, 2, bias=False), nn.Tanh(),
        nn.Conv2d(11, 12, 4, 2, 0, bias=False), nn.Tanh(),
        nn.Flatten(), nn.Linear(48, 1, bias=False),
    )  # fmt: skip
    model = model_of_double(seeded(3, network).double(), 12, 1)
    assert layer_rank(walk(model).layers[0]) == 432
    x = torch.rand(1, 3, 12, 12, generator=stream(3, "noise"), dtype=torch.float64)
    found = rank.jacobian(model, Batch(x, torch.tensor([1])), sketch=None).rank
    assert network_ranks(walk(model))[0] == found == 363


def test_a_count_at_an_example_takes_one() -> None:
    model = model_of(zoo.three_conv(12, 20))
    with pytest.raises(InvalidInput, match="one example"):
        rank.layers(model, batch=Batch(torch.zeros(2, 3, 16, 16), torch.tensor([1, 2])))


def dense_jacobian(model: Model, batch: Batch) -> Tensor:
    def gradient(x: Tensor) -> Tensor:
        params = {n: p.clone().requires_grad_() for n, p in model.params.items()}
        risk = model.risk(params, Batch(x, batch.y))
        found = torch.autograd.grad(risk, list(params.values()), create_graph=True)
        return torch.cat([g.flatten() for g in found])

    whole = torch.autograd.functional.jacobian(gradient, batch.x)
    return whole.flatten(1)


def test_the_spectrum_is_that_of_the_dense_jacobian() -> None:
    network = seeded(5, nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 3)))
    model = Model.of(network.double(), functional.cross_entropy, Images((3, 2, 2), 3))
    x = torch.rand(2, 3, 2, 2, generator=stream(4, "x"), dtype=torch.float64)
    batch = Batch(x, torch.tensor([0, 2]))
    found = rank.jacobian(model, batch, sketch=None)
    whole = dense_jacobian(model, batch)
    assert torch.allclose(found.values, torch.linalg.svdvals(whole), atol=1e-7)
    assert found.rank == int(torch.linalg.matrix_rank(whole))
    assert (found.unknowns, found.entries) == (24, whole.shape[0])
    inverse = torch.linalg.pinv(whole.T @ whole)
    sigma = 1e-3 * found.length / math.sqrt(found.entries)
    wanted = sigma * math.sqrt(float(inverse.trace()) / 24)
    if found.rank == 24:
        assert found.error(1e-3) == pytest.approx(wanted, rel=1e-3)


def test_a_basis_measures_a_subspace() -> None:
    model = model_of(seeded(6, zoo.three_conv(12, 20)))
    batch = Batch(zoo.photos(1, 16).batch.x, torch.tensor([3]))
    told: list[tuple[int, int]] = []
    found = rank.jacobian(model, batch, basis=4, progress=lambda a, b: told.append((a, b)))
    assert (found.unknowns, found.rank) == (48, 48)
    assert told == [(48, 48)]
    assert 0 < found.error(1e-4) < 10 * found.error(1e-3)
    assert found.above(1e-4) >= found.above(1e-2)
    cost = rank.cost(model, batch)
    assert cost.columns == 768
    assert cost.gigabytes < 1


def test_the_layers_of_a_spectrum_add_up_to_it() -> None:
    network = nn.Sequential(nn.Flatten(), zoo.mlp(27, 12, 10, activation="tanh"))
    model = model_of_double(seeded(10, network).double(), 3, 10)
    x = torch.rand(1, 3, 3, 3, generator=stream(2, "x"), dtype=torch.float64)
    batch = Batch(x, torch.tensor([4]))
    found = rank.jacobian(model, batch, sketch=None)
    assert list(found.layers) == ["1.linear1", "1.linear2"]
    whole = sum(float(values.square().sum()) for values in found.layers.values())
    assert whole == pytest.approx(float(found.values.square().sum()), rel=1e-9)
    jacobian = dense_jacobian(model, batch)
    first = jacobian[: 12 * 27 + 12]  # the weight and the bias of linear1 come first
    wanted = torch.linalg.svdvals(first)
    assert torch.allclose(found.layers["1.linear1"], wanted, atol=1e-6)
    assert found.told("1.linear1") == int(torch.linalg.matrix_rank(first, rtol=3e-7))


def test_directions_that_no_weight_sees_are_undetermined() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1, stride=2), nn.Tanh(), nn.Flatten(), nn.Linear(64, 3))
    model = model_of(seeded(7, network), 8)
    found = rank.jacobian(model, Batch(zoo.photos(1, 8).batch.x, torch.tensor([0])))
    assert found.unknowns == 192
    assert found.rank <= 48
    assert found.error(1e-4) == math.inf
    (first, _) = rank.table(model)
    assert first.network <= 48


def test_hashing_keeps_the_rank() -> None:
    network = seeded(8, zoo.mlp(27, 200, 10, activation="tanh"))
    model = Model.of(nn.Sequential(nn.Flatten(), network), functional.cross_entropy,
                     Images((3, 3, 3), 10))  # fmt: skip
    batch = Batch(torch.rand(1, 3, 3, 3, generator=stream(1, "x")), torch.tensor([4]))
    plain, hashed = rank.jacobian(model, batch, sketch=None), rank.jacobian(model, batch)
    assert plain.rank == hashed.rank == 27
    assert 0.5 < float(plain.values[0] / hashed.values[0]) < 2


def test_any_network_can_be_measured_and_only_chains_counted() -> None:
    model = model_of(seeded(9, zoo.convnet(4, shape=(3, 9, 9))), 9)
    with pytest.raises(InvalidInput, match=r"rank\.jacobian\(\)"):
        rank.layers(model)
    found = rank.jacobian(model, Batch(zoo.photos(1, 9).batch.x, torch.tensor([1])), basis=2)
    assert found.unknowns == 12


def test_what_cannot_be_measured_is_refused() -> None:
    model = model_of(zoo.three_conv(12, 20))
    batch = Batch(zoo.photos(1, 16).batch.x, torch.tensor([3]))
    with pytest.raises(InvalidInput, match="rows of 5 entries"):
        rank.jacobian(model, batch, basis=torch.zeros(2, 5))
    with pytest.raises(InvalidInput, match="no derivative"):
        rank.jacobian(model, Batch(torch.zeros(1, 4, dtype=torch.long), None))
    with pytest.raises(InvalidInput, match="for images"):
        rank.jacobian(*zoo.example(), basis=2)


def test_the_rank_of_a_gram_matrix() -> None:
    a = torch.randn(9, 5, generator=stream(1, "gram"), dtype=torch.float64)
    assert gram_rank(a.T @ a) == 5
    assert gram_rank(a @ a.T) == 5
    assert gram_rank(torch.zeros(3, 3)) == 0
