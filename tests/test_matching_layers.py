"""The layers made for searching, against autograd in double precision."""

import dataclasses
import itertools

import pytest
import torch
from torch import Tensor, nn

from seepage import zoo
from seepage.attacks.matching.layers import searchable
from seepage.clients import FedAvg, FedSGD
from seepage.core import Batch, Client, Model, stream
from seepage.forms import Images

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


def randomised(module: nn.Module) -> nn.Module:
    """Statistics and scales as after training, so that no term of theirs is zero."""
    rng = stream(5, "statistics")
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d | nn.LayerNorm):
            statistics = [getattr(layer, n, None) for n in ("running_mean", "running_var")]
            for tensor in (*filter(torch.is_tensor, statistics), layer.weight, layer.bias):
                tensor.data = 0.5 + torch.rand(tensor.shape, generator=rng)
    return module


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
        nn.Conv2d(3, 3, 3),
    )
    form = Images((3, 8, 8), classes=3)
    model = Model.of(nn.Sequential(net, nn.Flatten()), nn.functional.cross_entropy, form)
    kinds = [type(layer).__name__ for layer in searchable(model).module[0]]  # type: ignore[index]
    assert kinds == ["Conv2d", "Conv2d", "BatchNorm2d", "Convolution"]
    assert type(model.module[0][3]) is nn.Conv2d  # type: ignore[index]
    assert list(searchable(model).module.state_dict()) == list(model.module.state_dict())
