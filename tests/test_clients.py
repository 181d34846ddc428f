"""Every update equals what a plain PyTorch loop gives, on three kinds of network."""

import copy
import functools

import pytest
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from seepage import (
    Batch,
    FedAvg,
    FedSGD,
    Given,
    Images,
    InvalidInput,
    Model,
    Only,
    SecureSum,
    observe,
    stream,
    tree,
)


class Transformer(nn.Module):
    """Two encoder layers over the rows of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(24, 16)
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        # The gradient of a key's bias is zero but for rounding, which Adam would magnify: biases
        # away from zero let the weight decay decide.
        for attention in self.layers.layers:
            nn.init.normal_(attention.self_attn.in_proj_bias)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.movedim(1, 2).flatten(2)
        return self.head(self.layers(self.embed(rows)).mean(1))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 20), nn.Tanh(), nn.Linear(20, 4))


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 8, 3, stride=2),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(72, 4),
    )


MAKERS = {"mlp": mlp, "convolutional": convolutional, "transformer": Transformer}


def made(name: str, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, Model, Batch]:
    torch.manual_seed(3)
    module = MAKERS[name]().to(dtype)
    for moving in module.modules():
        if isinstance(moving, nn.BatchNorm2d):
            nn.init.uniform_(moving.running_var, 0.5, 2.0)
            nn.init.normal_(moving.running_mean)
            nn.init.normal_(moving.weight)
    model = Model.of(module, functional.cross_entropy, Images((3, 8, 8), 4))
    batch = Batch(torch.randn(6, 3, 8, 8, dtype=dtype), torch.tensor([0, 1, 2, 3, 1, 1]))
    return module, model, batch


def close(update: tree.Tensors, expected: tree.Tensors, tolerance: float = 1e-10) -> None:
    assert set(update) == set(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(update[name], tensor, rtol=tolerance, atol=tolerance, msg=name)


def plain_gradient(module: nn.Module, batch: Batch, train: bool) -> dict[str, Tensor]:
    module = copy.deepcopy(module).train(train)
    before = {k: v.clone() for k, v in module.named_buffers() if v.is_floating_point()}
    functional.cross_entropy(module(batch.x), batch.target).backward()
    update = {k: p.grad.clone() for k, p in module.named_parameters()}
    after = dict(module.named_buffers())
    return update | {k: before[k] - after[k] for k in before if train}


def plain_training(
    module: nn.Module,
    parts: list[Batch],
    optimizer: functools.partial[torch.optim.Optimizer],
    train: bool = False,
) -> dict[str, Tensor]:
    module = copy.deepcopy(module).train(train)
    before = {k: v.clone() for k, v in module.state_dict().items() if v.is_floating_point()}
    stepper = optimizer(module.parameters())
    for part in parts:
        stepper.zero_grad()
        functional.cross_entropy(module(part.x), part.target).backward()
        stepper.step()
    after, shared = module.state_dict(), dict(module.named_parameters())
    return {k: before[k] - after[k] for k in before if train or k in shared}


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("train", [False, True])
def test_one_gradient_equals_backward(name: str, dtype: torch.dtype, train: bool) -> None:
    module, model, batch = made(name, dtype)
    update = FedSGD("train" if train else "eval")(model, batch, Generator())
    close(update, plain_gradient(module, batch, train), 1e-10 if dtype is torch.float64 else 2e-5)


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize(
    ("fields", "optimizer"),
    [
        ({}, functools.partial(torch.optim.SGD, lr=0.1)),
        ({"momentum": 0.9}, functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9)),
        (
            {"momentum": 0.5, "weight_decay": 0.01},
            functools.partial(torch.optim.SGD, lr=0.1, momentum=0.5, weight_decay=0.01),
        ),
        ({"optimizer": "adam"}, functools.partial(torch.optim.Adam, lr=0.1)),
        (
            {"optimizer": "adam", "weight_decay": 0.1},
            functools.partial(torch.optim.Adam, lr=0.1, weight_decay=0.1),
        ),
    ],
)
def test_local_training_equals_the_optimisers_of_pytorch(
    name: str, fields: dict[str, float], optimizer: functools.partial[torch.optim.Optimizer]
) -> None:
    module, model, batch = made(name)
    client = FedAvg(epochs=2, batch_size=4, lr=0.1, shuffle=False, **fields)
    parts = [batch[:4], batch[4:]] * 2
    close(client(model, batch, Generator()), plain_training(module, parts, optimizer), 1e-8)


def test_local_training_shares_the_statistics_of_train_mode() -> None:
    module, model, batch = made("convolutional")
    client = FedAvg(FedSGD("train"), epochs=3, batch_size=3, lr=0.05, shuffle=False)
    parts = [batch[:3], batch[3:]] * 3
    expected = plain_training(module, parts, functools.partial(torch.optim.SGD, lr=0.05), True)
    close(client(model, batch, Generator()), expected, 1e-8)
    assert "1.running_mean" in expected


def test_shuffling_comes_from_the_clients_own_stream() -> None:
    _, model, batch = made("mlp")
    client = FedAvg(epochs=1, batch_size=1, lr=0.5)
    first, again, other = (client(model, batch, stream(s, "client")) for s in (1, 1, 2))
    assert tree.fingerprint(first) == tree.fingerprint(again) != tree.fingerprint(other)
    order = torch.randperm(6, generator=stream(1, "client"))
    ordered = FedAvg(epochs=1, batch_size=1, lr=0.5, shuffle=False)
    close(first, ordered(model, batch[order], Generator()))


def test_secure_sum_of_gradients_is_the_gradient_of_all() -> None:
    _, model, batch = made("convolutional")
    whole = FedSGD()(model, batch, Generator())
    close(SecureSum(FedSGD(), 4)(model, batch, Generator()), whole)


def test_secure_sum_weighs_users_by_examples() -> None:
    _, model, batch = made("mlp")
    local = FedAvg(epochs=2, lr=0.3, shuffle=False)
    both = SecureSum(local, 2)(model, batch[:5], Generator())
    first = local(model, batch[:3], Generator())
    second = local(model, batch[3:5], Generator())
    close(both, {k: 0.6 * first[k] + 0.4 * second[k] for k in first})


def test_frozen_parameters_and_unused_ones() -> None:
    module, _, batch = made("mlp")
    module.get_parameter("1.weight").requires_grad_(False)
    module.spare = nn.Parameter(torch.ones(2, dtype=torch.float64))
    model = Model.of(module, functional.cross_entropy, Images((3, 8, 8), 4))
    update = FedSGD()(model, batch, Generator())
    assert "1.weight" not in update
    assert "1.weight" in model.buffers
    assert torch.equal(update["spare"], torch.zeros(2, dtype=torch.float64))


def test_tied_weights_are_shared_once() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    module[2].weight = module[0].weight
    model = Model.of(module, functional.mse_loss, Images((1, 2, 2), 4))
    batch = Batch(torch.rand(2, 4), torch.rand(2, 4))
    functional.mse_loss(module(batch.x), batch.y).backward()
    update = FedSGD()(model, batch, Generator())
    assert list(update) == ["0.weight", "0.bias", "2.bias"]
    torch.testing.assert_close(update["0.weight"], module[0].weight.grad)


@pytest.mark.parametrize(
    "client", [FedSGD(), FedSGD("train"), FedAvg(epochs=2, lr=0.2, momentum=0.9)]
)
def test_a_simulated_update_is_differentiable(client: FedSGD | FedAvg) -> None:
    _, model, batch = made("convolutional")
    candidate = Batch(batch.x.clone().requires_grad_(), batch.y)

    def length(x: Tensor) -> Tensor:
        update = client(model, Batch(x, batch.y), Generator().manual_seed(0))
        shared = {name: u for name, u in update.items() if name in model.params}
        return tree.dot(shared, shared)

    (slope,) = torch.autograd.grad(length(candidate.x), candidate.x)
    direction = torch.randn(batch.x.shape, generator=Generator().manual_seed(1)).double()
    step = 1e-6
    with torch.no_grad():
        rise = length(batch.x + step * direction) - length(batch.x - step * direction)
    torch.testing.assert_close((slope * direction).sum(), rise / (2 * step), rtol=1e-4, atol=1e-8)


def test_attention_has_a_second_derivative_when_simulated() -> None:
    _, model, batch = made("transformer", torch.float32)
    x = batch.x.clone().requires_grad_()
    update = FedSGD()(model, Batch(x, batch.y), Generator())
    (slope,) = torch.autograd.grad(tree.norm(update), x)
    assert slope.abs().max() > 0


def test_dropout_draws_from_the_clients_stream_only() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(192, 4))
    model = Model.of(module, functional.cross_entropy, Images((3, 8, 8), 4))
    batch = Batch(torch.rand(2, 3, 8, 8), torch.tensor([0, 1]))
    before = torch.get_rng_state()
    first, again, other = (
        FedSGD("train")(model, batch, stream(s, "client"))["2.weight"] for s in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(before, torch.get_rng_state())


def test_train_mode_leaves_the_model_as_it_was() -> None:
    _, model, batch = made("convolutional")
    before = tree.fingerprint(model.state)
    FedAvg(FedSGD("train"), epochs=2)(model, batch, Generator())
    assert tree.fingerprint(model.state) == before
    assert not model.module.training


def test_only_shares_what_matches() -> None:
    _, model, batch = made("convolutional")
    assert list(Only(FedSGD(), "*.bias")(model, batch, Generator())) == [
        "0.bias",
        "1.bias",
        "3.bias",
        "4.bias",
        "7.bias",
    ]
    kept = Only(FedSGD("train"), "!*.running_*")(model, batch, Generator())
    assert set(kept) == set(model.params)
    with pytest.raises(InvalidInput, match="matches no tensor"):
        Only(FedSGD(), "nothing")(model, batch, Generator())


def test_given_is_a_captured_update() -> None:
    _, model, batch = made("mlp")
    update = FedSGD()(model, batch, Generator())
    seen = observe(model, batch, Given(update), Generator(), believed=FedSGD())
    assert tree.fingerprint(seen.update) == tree.fingerprint(update)
    assert Given(update) == Given(dict(update)) != Given(tree.scale(update, 2))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda: FedSGD("both"), "FedSGD.mode='both'"),
        (lambda: FedAvg(epochs=0), "FedAvg.epochs=0"),
        (lambda: FedAvg(batch_size=0), "FedAvg.batch_size=0"),
        (lambda: FedAvg(lr=-1), "FedAvg.lr=-1"),
        (lambda: FedAvg(lr=float("nan")), "FedAvg.lr=nan"),
        (lambda: FedAvg(momentum=-0.1), "FedAvg.momentum=-0.1"),
        (lambda: FedAvg(optimizer="lion"), "FedAvg.optimizer='lion'"),
        (lambda: SecureSum(FedSGD(), 0), "SecureSum.users=0"),
    ],
)
def test_wrong_fields_are_named(wrong: object, words: str) -> None:
    with pytest.raises(InvalidInput, match=words.replace("(", r"\(")):
        wrong()  # type: ignore[operator]


def test_a_sum_over_more_users_than_examples_is_refused() -> None:
    _, model, batch = made("mlp")
    with pytest.raises(InvalidInput, match="at least one example for each user"):
        SecureSum(FedSGD(), 7)(model, batch, Generator())


def test_a_loss_that_is_not_one_number_is_refused() -> None:
    loss = functools.partial(functional.cross_entropy, reduction="none")
    model = Model.of(mlp(), loss, Images((3, 8, 8), 4))
    with pytest.raises(InvalidInput, match="reduction='mean'"):
        FedSGD()(model, Batch(torch.rand(2, 3, 8, 8), torch.tensor([0, 1])), Generator())
