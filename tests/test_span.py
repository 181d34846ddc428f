"""Span: exact inputs from one gradient of a two-layer network, and features of deeper ones."""

import itertools
import math

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from seepage.attacks.span import Span, activations
from seepage.attacks.span.equations import Equations, Unknown, evaluated, normal
from seepage.clients import FedSGD
from seepage.core import Batch, Model, Observation, Reconstruction, observe, stream
from seepage.forms import Images

ACTIVATIONS = {
    "gelu": nn.GELU,
    "tanh": nn.Tanh,
    "elu": nn.ELU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "sigmoid": nn.Sigmoid,
    "selu": nn.SELU,
    "relu": nn.ReLU,
    "leaky": lambda: nn.LeakyReLU(0.2),
}


def network(activation: str, *sizes: int, seed: int = 0, bias: bool = True) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers: list[nn.Module] = [nn.Flatten()]
        for inputs, outputs in itertools.pairwise(sizes):
            layers += [nn.Linear(inputs, outputs, bias=bias), ACTIVATIONS[activation]()]
        return nn.Sequential(*layers[:-1])


def images(n: int, d: int, seed: int, classes: int = 10) -> tuple[Batch, Images]:
    draw = stream(seed, "data")
    side = math.isqrt(d)
    shape = (1, side, side) if side * side == d else (1, 1, d)
    x = torch.rand((n, *shape), generator=draw, dtype=torch.float64)
    return Batch(x, torch.randint(classes, (n,), generator=draw)), Images(shape, classes)


def scene(
    activation: str, n: int, *sizes: int, seed: int = 0, dtype: torch.dtype = torch.float64
) -> tuple[Observation, Batch]:
    batch, form = images(n, sizes[0], seed, sizes[-1])
    batch = Batch(batch.x.to(dtype), batch.y)
    model = Model.of(network(activation, *sizes, seed=seed).to(dtype), cross_entropy, form)
    return observe(model, batch, FedSGD(), stream(seed, "client")), batch


def error(answer: Tensor, truth: Tensor) -> float:
    """The largest relative distance of a truth to the candidate assigned to it."""
    found, wanted = answer.double().flatten(1), truth.double().flatten(1)
    distance = torch.cdist(wanted, found) / wanted.norm(dim=1, keepdim=True)
    rows, columns = linear_sum_assignment(distance.clamp_min(1e-16).log().numpy())
    return float(distance[rows, columns].max()) if len(rows) == len(truth) else math.inf


def attack(seen: Observation, seed: int = 0, **fields: object) -> Reconstruction:
    return Span(**fields)(seen, stream(seed, "attack"))  # type: ignore[arg-type]


@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_normal_equations_are_those_of_the_jacobian(activation: str) -> None:
    draw = stream(3, "numbers")
    m, r, n, classes = 12, 3, 4, 3
    shapes = [(m, r), (m,), (classes, m), (m, r), (m,), (classes, m), (classes,)]
    given = Equations(*(torch.randn(s, generator=draw, dtype=torch.float64) for s in shapes))
    x, delta = (torch.randn(n, w, generator=draw, dtype=torch.float64) for w in (r, classes))
    known = activations.named(activation)
    curve = known.smooth if known.sides is None else known.softened(3.0)

    def slope(z: Tensor) -> Tensor:
        if known.sides is not None:
            return torch.sigmoid(3 * z)
        (made,) = torch.autograd.grad(nn.functional.gelu(z).sum(), z, create_graph=True)
        return made

    def residual(flat: Tensor) -> Tensor:
        x, delta = flat.view(n, -1)[:, :r], flat.view(n, -1)[:, r:]
        z = given.weight @ x.T + given.bias[:, None]
        h = nn.functional.gelu(z) if known.sides is None else z * torch.sigmoid(3 * z)
        back = (given.head.T @ delta.T) * slope(z)
        made = (back @ x, back.sum(1), delta.T @ h.T, delta.sum(0))
        pairs = zip(made, given.blocks, strict=True)
        return torch.cat([((p - b) / b.norm()).reshape(-1) for p, b in pairs if b is not None])

    at = Unknown(x, delta)
    flat = at.flat.requires_grad_()
    jacobian = torch.autograd.functional.jacobian(residual, flat)
    expected = residual(flat).detach()
    state = evaluated(given, curve, at)
    matrix, vector = normal(given, state)
    assert torch.allclose(matrix, jacobian.T @ jacobian, atol=1e-12)
    assert torch.allclose(vector, jacobian.T @ expected, atol=1e-12)
    assert state.cost == pytest.approx(float(expected.square().sum()))


@pytest.mark.parametrize(
    ("activation", "n", "d", "hidden"),
    [("gelu", 4, 784, 256), ("tanh", 4, 784, 256), ("gelu", 8, 64, 128), ("tanh", 8, 64, 128),
     ("gelu", 16, 784, 512), ("silu", 4, 64, 128), ("elu", 4, 64, 128), ("selu", 4, 100, 256),
     ("relu", 4, 784, 512), ("relu", 8, 784, 512), ("leaky", 4, 784, 512)],
)  # fmt: skip
def test_default_networks_give_up_their_batch(activation: str, n: int, d: int, hidden: int) -> None:
    for seed in (11, 12):
        seen, batch = scene(activation, n, d, hidden, 10, seed=seed)
        answer = attack(seen, seed)
        assert answer.note == ""
        assert error(answer.x, batch.x) < 1e-8
        assert float(answer.residual.max()) < 1e-8
        assert sorted(answer.y.tolist()) == sorted(batch.y.tolist())
