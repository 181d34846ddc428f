"""Gradient matching against what devices really do: local steps, unknown orders, sums, text."""

import dataclasses

import pytest
import torch
from tiny_language import encoder
from torch import Tensor, nn
from torch.nn import functional

from seepage import tree, zoo
from seepage.attacks import L2, LBFGS, Adam, BatchStats, Gray, Invert, Normal, Restarts, labels
from seepage.attacks.matching.starts import Start
from seepage.clients import FedAvg, FedSGD, SecureSum
from seepage.core import Attack, Batch, Client, Model, observe, stream
from seepage.defenses import Sign
from seepage.errors import InvalidInput
from seepage.forms import Images
from seepage.metrics.match import assign
from seepage.papers import believed

IMAGES = Images((3, 8, 8), classes=5)
SEARCH = Invert(priors=(), optimiser=Adam(0.1), schedule="cosine", steps=400)
SHARED = dataclasses.replace(SEARCH, priors=(BatchStats(0.01, source="inferred"),))


def dense() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 256), nn.Tanh(), nn.Linear(256, 5))


def normalised() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Tanh()),
        *(nn.Conv2d(6, 6, 3, stride=2), nn.Sigmoid(), nn.Flatten(), nn.Linear(54, 5)),
    )


def setting(module: nn.Module, n: int) -> tuple[Model, Batch]:
    torch.manual_seed(0)
    for layer in module.modules():
        if hasattr(layer, "reset_parameters"):
            layer.reset_parameters()
    batch = Batch(torch.rand(n, 3, 8, 8, generator=stream(3, "data")), torch.arange(n) % 5)
    return Model.of(module, functional.cross_entropy, IMAGES), batch


def decibels(found: Tensor, truth: Tensor) -> Tensor:
    """Each truth's, by the best assignment."""
    errors = (found[None] - truth[:, None]).double().square().flatten(2).mean(-1)
    places = torch.as_tensor(assign(errors))
    return -10 * errors[torch.arange(len(truth)), places].log10()


CLIENTS: dict[str, tuple[Client, nn.Module, int, Attack, float]] = {
    "momentum": (
        FedAvg(epochs=2, batch_size=1, lr=0.1, momentum=0.9, shuffle=False), dense(), 2, SEARCH, 40
    ),
    "an order that nobody told": (
        FedAvg(batch_size=1, lr=0.5), dense(), 2, Restarts(SEARCH, 4), 50
    ),
    "a secure sum": (SecureSum(FedSGD(), users=2), dense(), 4, SEARCH, 35),
    "shared statistics of the batch": (FedSGD("train"), normalised(), 2, SHARED, 13),
}  # fmt: skip


@pytest.mark.parametrize("name", CLIENTS)
def test_what_a_device_did_is_searched_through(name: str) -> None:
    client, module, n, attack, floor = CLIENTS[name]
    model, batch = setting(module, n)
    seen = observe(model, batch, client, stream(0, "client"), tell=("n", "y"))
    answer = attack(seen, stream(0, "attack"))
    assert float(decibels(answer.x, batch.x).min()) > floor


@pytest.mark.parametrize("n", [8, 32])
def test_batches_with_inferred_labels(n: int) -> None:
    model, batch = setting(dense(), n)
    seen = observe(model, batch, FedSGD(), stream(0, "client"))
    answer = dataclasses.replace(SEARCH, steps=40)(seen, stream(0, "attack"))
    assert labels.overlap(answer.y, batch.target) > 0.95
    assert answer.x.shape == batch.x.shape
    assert answer.trace["objective"][-1] < 0.8 * answer.trace["objective"][0]


def test_sentences_are_searched_as_embeddings() -> None:
    model, batch = encoder(1)
    seen = observe(model, batch, FedSGD(), stream(0, "client"), tell=("n", "y"))
    attack = Invert(L2(), (), optimiser=LBFGS(), schedule="constant", steps=20)
    answer = Restarts(attack, 3)(seen, stream(1, "attack"))
    assert torch.equal(answer.x, batch.x)
    assert float(answer.residual[0]) < 1e-5
    bare = dataclasses.replace(model, form=dataclasses.replace(model.form, classes=0))
    with pytest.raises(InvalidInput, match="their own target"):
        attack(dataclasses.replace(seen, model=bare), stream(0, "attack"))


def test_local_adam_is_searched_through_and_not_taken_for_a_gradient() -> None:
    """Its steps are nearly signs, whose own derivative in the picture is nearly zero."""
    sample = zoo.digits(1, seed=14)
    model = sample.model(zoo.mlp(64, 128, 10, activation="tanh", seed=14))
    client = FedAvg(epochs=4, lr=0.01, optimizer="adam")
    seen = observe(model, sample.batch, client, stream(14, "client"), tell=("n", "y"))
    ignored = dataclasses.replace(seen, client=FedSGD())
    attack = dataclasses.replace(believed.ATTACK, steps=200)
    found, taken = (attack(one, stream(14, "attack")) for one in (seen, ignored))
    far, near = (float((one.x - sample.batch.x).square().mean()) for one in (taken, found))
    assert near < 0.02 * far
    assert float(found.residual[0]) < 0.05


@pytest.mark.parametrize("start", [Gray(), Normal()], ids=repr)
def test_signs_are_followed_from_any_start(start: Start) -> None:
    """Also by way of candidates whose update is zero in most entries, as is their median."""
    sample = zoo.digits(1, seed=11)
    model = sample.model(zoo.mlp(64, 128, 10, activation="tanh", seed=11))
    client = Sign(FedSGD())
    seen = observe(model, sample.batch, client, stream(11, "client"), tell=("n", "y"))
    found = dataclasses.replace(believed.ATTACK, start=start)(seen, stream(11, "attack"))
    assert float(found.residual[0]) < 0.01
    assert float(decibels(found.x, sample.batch.x)[0]) > 15


def test_the_value_of_a_step_of_adam_is_exact_and_its_derivative_smooth() -> None:
    """That of m / (root + a third of the mean root), by finite differences."""
    model, batch = setting(dense(), 1)
    x = batch.x.double()
    model = dataclasses.replace(model, params=tree.mapped(torch.Tensor.double, model.params))
    client = FedAvg(epochs=1, lr=0.01, optimizer="adam")
    plain = client(model, Batch(x, batch.y), stream(0, "client"))
    followed = client(model, Batch(x.requires_grad_(), batch.y), stream(0, "client"))
    assert all(torch.equal(plain[name], u.detach()) for name, u in followed.items())

    def smooth(at: Tensor) -> Tensor:
        g = tree.flat(FedSGD()(model, Batch(at, batch.y), stream(0, "client")))
        size = tree.flat(FedSGD()(model, Batch(x, batch.y), stream(0, "client"))).abs().mean()
        return 0.01 * g / (g.abs() + size / 3 + 1e-8)

    rng = stream(1, "directions")
    cotangent, along = (torch.randn(n, generator=rng).double() for n in (len(smooth(x)), x.numel()))
    (slope,) = torch.autograd.grad(tree.flat(followed), x, cotangent)
    along = along.reshape(x.shape)
    with torch.no_grad():
        ends = [cotangent @ smooth(x + side * 1e-6 * along) for side in (1, -1)]
    assert float((slope * along).sum()) == pytest.approx(float(ends[0] - ends[1]) / 2e-6, rel=1e-5)
