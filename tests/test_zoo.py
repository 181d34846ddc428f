"""The zoo's networks and losses: published shapes, repeatable weights, formulas."""

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional

from seepage import zoo
from seepage.core import Batch, Model
from seepage.errors import InvalidInput
from seepage.zoo.generators import trained_generator

IMAGE = (3, 32, 32)
NETWORKS: dict[str, tuple[Callable[..., nn.Module], tuple[int, ...], int, int]] = {
    # name: how to make it, the shape of one example, outputs, parameters counted by hand
    "linear": (lambda seed=None: zoo.linear(64, 10, seed=seed), (1, 8, 8), 10, 650),
    "mlp": (lambda seed=None: zoo.mlp(64, 128, 10, seed=seed), (64,), 10, 9610),
    "two_layer": (lambda seed=None: zoo.two_layer(8, 32, seed=seed), (8,), 1, 321),
    "lenet": (zoo.lenet, IMAGE, 10, 912 + 3 * 3612 + 7690),
    "lenet_leaky": (zoo.lenet_leaky, IMAGE, 1, 900 + 2 * 3600 + 768),
    "cnn6": (zoo.cnn6, IMAGE, 1, 576 + 3888 + 2 * 11664 + 20736 + 73728 + 3200),
    "cnn6_d": (zoo.cnn6_d, IMAGE, 1, 576 + 2160 + 6480 + 11664 + 20736 + 73728 + 3200),
    "strided2": (zoo.strided2, IMAGE, 1, 768 + 9216 + 64 * 81),
    "three_conv": (lambda seed=None: zoo.three_conv(12, 20, seed=seed), (3, 16, 16), 10, 18216),
    "fcn3": (zoo.fcn3, (1, 28, 28), 1, 884100),
    "resnet18": (zoo.resnet18, IMAGE, 10, 11173962),
    "imagenet": (lambda seed=None: zoo.resnet18("imagenet", seed=seed), (3, 64, 64), 10, 11181642),
    "vit": (zoo.vit, IMAGE, 10, 2693578),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_network_has_the_published_shape(name: str) -> None:
    make, shape, outputs, parameters = NETWORKS[name]
    network = make(seed=3).eval()
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert network(torch.rand(2, *shape)).shape == (2, outputs)


def test_convnet_has_the_widths_of_the_paper() -> None:
    network = zoo.convnet(16)
    widths = [m.out_channels for m in network if isinstance(m, nn.Conv2d)]
    assert widths == [16, 32, 32, 64, 64, 64, 64, 64]
    kinds = [type(m).__name__ for m in network]
    assert kinds.count("BatchNorm2d") == kinds.count("ReLU") == 8
    assert [i for i, kind in enumerate(kinds) if kind == "MaxPool2d"] == [18, 25]
    assert zoo.convnet(4, 3, (1, 28, 28))(torch.rand(2, 1, 28, 28)).shape == (2, 3)


@pytest.mark.parametrize("name", NETWORKS)
def test_seed_gives_the_weights_and_leaves_the_global_generator(name: str) -> None:
    make = NETWORKS[name][0]
    before = torch.random.get_rng_state()
    first, again, other = make(seed=7), make(seed=7), make(seed=8)
    assert torch.equal(torch.random.get_rng_state(), before)
    state, others = first.state_dict(), other.state_dict()
    assert all(torch.equal(t, again.state_dict()[name]) for name, t in state.items())
    assert any(not torch.equal(t, others[name]) for name, t in state.items())
    torch.manual_seed(7)
    plain = make().state_dict()
    assert all(torch.equal(t, plain[name]) for name, t in state.items())


def test_lenet_spreads_every_parameter_evenly() -> None:
    drawn = torch.cat([p.detach().reshape(-1) for p in zoo.lenet(seed=0).parameters()])
    assert drawn.abs().max() <= 0.5
    assert abs(float(drawn.std()) - 1 / 12**0.5) < 0.01
    plain = zoo.lenet(spread=None, activation="relu", strides=(2, 2, 1), seed=0)
    assert plain.conv1.weight.abs().max() < 75**-0.5 + 1e-6
    assert isinstance(plain.act1, nn.ReLU)


def test_chains_without_bias_have_none() -> None:
    for make in (zoo.cnn6, zoo.cnn6_d, zoo.lenet_leaky, zoo.strided2, zoo.fcn3):
        assert not [name for name, _ in make().named_parameters() if "bias" in name]


def test_fcn3_may_end_in_an_activation() -> None:
    x = torch.rand(8, 1, 28, 28)
    plain, leaky = zoo.fcn3(seed=1), zoo.fcn3("leaky", seed=1)
    assert torch.equal(leaky(x), functional.leaky_relu(plain(x), 0.2))


def test_resnet_blocks_follow_their_definition() -> None:
    torch.manual_seed(0)
    block = zoo.resnet18(seed=2).eval().layer2[0]
    x = torch.rand(2, 64, 8, 8)
    inner = functional.relu(functional.conv2d(x, block.conv1.weight, stride=2, padding=1))
    twice = functional.conv2d(inner / (1 + 1e-5) ** 0.5, block.conv2.weight, padding=1)
    side = functional.conv2d(x, block.downsample[0].weight, stride=2)
    expected = functional.relu((twice + side) / (1 + 1e-5) ** 0.5)
    assert torch.allclose(block(x), expected, atol=1e-5)


def test_vit_attends_as_the_formula_says() -> None:
    network = zoo.vit(depth=1, seed=0)
    attention = network.blocks[0].attention
    x = torch.rand(2, 5, 192)
    q, k, v = attention.qkv(x).chunk(3, dim=-1)
    heads = []
    for part in torch.arange(192).split(64):
        scores = q[..., part] @ k[..., part].transpose(1, 2) / 8
        heads.append(scores.softmax(-1) @ v[..., part])
    assert torch.allclose(attention(x), attention.out(torch.cat(heads, -1)), atol=1e-6)


def test_vit_can_be_simulated() -> None:
    sample = zoo.photos(1, 32)
    model = sample.model(zoo.vit(depth=1, seed=0))
    x = sample.x.clone().requires_grad_()
    leaves = {name: p.requires_grad_() for name, p in model.params.items()}
    risk = model.risk(leaves, Batch(x, sample.y))
    gradient = torch.autograd.grad(risk, list(leaves.values()), create_graph=True)
    (second,) = torch.autograd.grad(sum(g.square().sum() for g in gradient), x)
    assert second.norm() > 0


def test_losses_agree_with_their_formulas() -> None:
    f, y = torch.randn(5, 1, dtype=torch.float64), torch.tensor([1, -1, -1, 1, -1])
    expected = (1 + torch.exp(-y * f[:, 0])).log().mean()
    assert torch.allclose(zoo.logistic_loss(f, y), expected)
    targets = torch.randn(5, 3, dtype=torch.float64)
    outputs = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(zoo.squared_loss(outputs, targets), outputs)
    assert torch.allclose(slope, (outputs - targets) / 5)


def test_losses_refuse_what_would_broadcast() -> None:
    for loss in (zoo.logistic_loss, zoo.squared_loss):
        with pytest.raises(InvalidInput, match=r"labels|targets"):
            loss(torch.zeros(4, 3), torch.zeros(4))


def test_example_is_one_named_linear_layer() -> None:
    model, batch = zoo.example()
    assert list(model.params) == ["weight", "bias"]
    assert len(batch) == 1
    assert batch.x.shape[1:] == model.form.shape
    assert torch.isfinite(model.risk(model.params, batch))


def test_every_network_makes_a_model_of_its_data() -> None:
    sample = zoo.photos(2, 32)
    for make in (zoo.lenet, lambda: zoo.convnet(4), zoo.resnet18, zoo.vit):
        model = sample.model(make())
        assert isinstance(model, Model)
        assert model.risk(model.params, sample.batch).ndim == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: zoo.mlp(3), "sizes"),
        (lambda: zoo.mlp(3, 4, 5, activation="swish"), "swish"),
        (lambda: zoo.resnet18("mnist"), "cifar"),  # type: ignore[arg-type]
        (lambda: zoo.vit(patch=5), "divide"),
        (lambda: zoo.cnn6(size=0), "too small"),
        (lambda: zoo.fcn3("tanh"), "identity"),  # type: ignore[arg-type]
    ],
)
def test_mistakes_are_named(call: Callable[[], object], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        call()


def test_importing_the_zoo_loads_no_data_library() -> None:
    code = (
        "import sys, seepage.zoo; "
        "print([m for m in ('skimage', 'sklearn', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_public_names_exist_and_are_documented() -> None:
    for name in zoo.__all__:
        assert getattr(zoo, name).__doc__
    assert len(set(zoo.__all__)) == len(zoo.__all__)


def test_the_bundled_generator_makes_pictures_near_photographs() -> None:
    network = zoo.generator()
    z = torch.zeros(8, 96, requires_grad=True)
    x, solver = zoo.photos(8, 32, seed=9).x, torch.optim.Adam([z], 0.1)
    for _ in range(40):
        error = (network(z) - x).square().flatten(1).mean(1)
        solver.zero_grad()
        error.sum().backward()
        solver.step()
    flat = (x - x.mean((2, 3), keepdim=True)).square().flatten(1).mean(1)
    assert float((error.detach() / flat).mean()) < 0.6
    made = trained_generator(steps=2, crops=4)
    assert [p.shape for p in made.parameters()] == [p.shape for p in network.parameters()]
    with torch.no_grad():
        assert 0 < float(made(z).min()) < float(made(z).max()) < 1
