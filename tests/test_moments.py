"""Moments: the span, the components and the exact inputs from the gradient of a wide head."""

import itertools
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from seepage import expr, zoo
from seepage.attacks.moments import Moments
from seepage.attacks.moments.decompose import decomposed
from seepage.attacks.moments.hermite import coefficients, planned
from seepage.attacks.moments.rows import Rows
from seepage.attacks.moments.span import component_tensor, low_moments, second_span, third_span
from seepage.clients import FedSGD, Given, Only
from seepage.core import Batch, Model, Observation, Reconstruction, observe, stream
from seepage.defenses import Noise
from seepage.errors import InvalidInput
from seepage.forms import Column, Images, Table
from seepage.guard import scan

FUNCTIONS = {
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "leaky": nn.LeakyReLU,
    "gelu": nn.GELU,
    "softplus": nn.Softplus,
    "silu": nn.SiLU,
    "selu": nn.SELU,
    "elu": nn.ELU,
    "mish": nn.Mish,
}


def numbers(draw: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=draw, dtype=torch.float64)


def scene(
    activation: str, d: int, n: int, hidden: int, seed: int, noise: float = 0.0
) -> tuple[Observation, Tensor, Tensor]:
    """Unit inputs, slopes l of either sign in [.5, 1.5], standard-normal weights, head 1/m."""
    draw = stream(seed, "moments")
    x = normalize(numbers(draw, n, d))
    slopes = (0.5 + torch.rand(n, generator=draw, dtype=torch.float64)) * numbers(draw, n).sign()
    low, high = nn.Linear(d, hidden, bias=False), nn.Linear(hidden, 1, bias=False)
    net = nn.Sequential(nn.Flatten(), low, FUNCTIONS[activation](), high).double()
    with torch.no_grad():
        low.weight.copy_(numbers(draw, hidden, d))
        high.weight.fill_(1 / hidden)

    def loss(output: Tensor, y: Tensor) -> Tensor:
        return (output.reshape(-1) * y).sum()

    model = Model.of(net, loss, Images((1, 1, d), classes=1, low=-1, high=1))
    batch = Batch(x.view(n, 1, 1, d), slopes)
    client = Only(FedSGD(), "3.weight")
    size = float(client(model, batch, stream(0, ""))["3.weight"].std())
    noisy = Noise(client, std=noise * size) if noise else client
    return observe(model, batch, noisy, stream(seed, "client")), x, slopes


def attack(seen: Observation, seed: int = 0, **fields: object) -> Reconstruction:
    return Moments(**fields)(seen, stream(seed, "attack"))  # type: ignore[arg-type]


def error(answer: Tensor, truth: Tensor) -> float:
    """The mean of sqrt(2 - 2 |cos|) after assignment."""
    cosine = normalize(answer.double().flatten(1)) @ normalize(truth.double().flatten(1)).T
    distance = (2 - 2 * cosine.abs()).clamp_min(1e-16).sqrt()
    return float(distance[linear_sum_assignment(distance.log().numpy())].mean())


def relative(answer: Tensor, truth: Tensor) -> float:
    """The largest relative distance of a truth to the candidate assigned to it, signs counted."""
    distance = torch.cdist(truth.double().flatten(1), answer.double().flatten(1))
    distance = distance / truth.double().flatten(1).norm(dim=1, keepdim=True)
    return float(distance[linear_sum_assignment(distance.clamp_min(1e-16).log().numpy())].max())


def test_hermite_coefficients() -> None:
    """The table of the specification; relu and x^3 + x^2 in closed form."""
    table = {
        "sigmoid": (0.2066, 0, -0.0624, 0),
        "tanh": (0.6057, 0, -0.3636, 0),
        "relu": (0.5, 0.3989, 0, -0.3989),
        "leaky": (0.505, 0.3949, 0, -0.3949),
        "gelu": (0.5, 0.4231, 0, -0.3526),
        "softplus": (0.5, 0.2066, 0, -0.0624),
        "silu": (0.5, 0.3509, 0, -0.1852),
        "selu": (0.9852, 0.1777, -0.2415, 0.0407),
        "elu": (0.7616, 0.2616, -0.1374, -0.1374),
        "mish": (0.5638, 0.3824, -0.0492, -0.2583),
    }
    for name, expected in table.items():
        found = coefficients(FUNCTIONS[name]())[1:]
        assert torch.allclose(found, torch.tensor(expected).double(), atol=2e-4), name
    density = 1 / math.sqrt(2 * math.pi)
    assert coefficients(torch.relu)[2:].tolist() == pytest.approx([density, 0, -density], abs=1e-9)
    cubic = coefficients(lambda z: z**3 + z**2, radius=2.0)
    assert cubic.tolist() == pytest.approx([4, 12, 2, 6, 0], abs=1e-6)


def test_coefficients_are_mean_derivatives_at_every_length_and_bias() -> None:
    z = torch.linspace(-9, 9, 20_001, dtype=torch.float64)
    density = torch.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    for radius, bias in ((0.5, 0.0), (2.0, 0.7)):
        point = (radius * z + bias).requires_grad_()
        value = torch.tanh(point)
        found = coefficients(torch.tanh, radius, torch.tensor([bias]))
        for order in range(1, 5):
            (value,) = torch.autograd.grad(value.sum(), point, create_graph=True)
            mean = torch.trapezoid(value.detach() * density, z)
            assert float(found[order]) == pytest.approx(float(mean), abs=1e-6)


@pytest.mark.parametrize(
    ("activation", "path"),
    [("sigmoid", "C"), ("tanh", "C"), ("relu", "B"), ("gelu", "B"), ("softplus", "B"),
     ("silu", "B"), ("selu", "A"), ("elu", "A"), ("mish", "B")],
)  # fmt: skip
def test_paths(activation: str, path: str) -> None:
    assert planned(coefficients(FUNCTIONS[activation]()), "auto").path == path


def test_quadratic_activations_are_refused() -> None:
    for function in (lambda z: z, lambda z: z**2 + z):
        with pytest.raises(InvalidInput, match="not identifiable"):
            planned(coefficients(function), "auto")


@pytest.mark.parametrize("order", [2, 3, 4])
def test_component_tensors_are_hermite_moments(order: int) -> None:
    """Against the definition, entry by entry, and without bias in expectation."""
    draw = stream(1, "tensor")
    points, weights = numbers(draw, 40, 3), numbers(draw, 40)
    found = component_tensor(points, weights, order)
    for index in itertools.product(range(3), repeat=order):
        polynomial = torch.ones(40, dtype=torch.float64)
        for axis in range(3):
            z = points[:, axis]
            hermite = [torch.ones_like(z), z, z**2 - 1, z**3 - 3 * z, z**4 - 6 * z**2 + 3]
            polynomial = polynomial * hermite[index.count(axis)]
        assert float(found[index]) == pytest.approx(float((weights * polynomial).mean()), abs=1e-12)


@pytest.mark.parametrize(("order", "bound"), [(3, 0.03), (4, 0.01)])
def test_decomposition_of_signed_powers(order: int, bound: float) -> None:
    for seed in (1, 2):
        draw = stream(seed, "powers")
        e = torch.eye(8, dtype=torch.float64) + 0.3 * numbers(draw, 8, 8)
        e = e / e.norm(dim=0)
        c = (0.5 + torch.rand(8, generator=draw, dtype=torch.float64)) * numbers(draw, 8).sign()
        letters = "abcd"[:order]
        product = ",".join(f"{letter}i" for letter in letters)
        tensor = torch.einsum(f"{product},i->{letters}", *[e] * order, c)
        noise = numbers(draw, *[8] * order)
        even = torch.stack([noise.permute(p) for p in itertools.permutations(range(order))]).sum(0)
        exact, noisy = decomposed(tensor, draw), tensor + 0.01 * tensor.norm() * even / even.norm()
        assert exact.misfit < 1e-9
        assert error(exact.directions.T, e.T) < 1e-7
        close = decomposed(noisy, draw)
        assert error(close.directions.T, e.T) < bound
        if order == 4:  # an odd power turns its sign with its direction
            assert sorted(close.coefficients.sign().tolist()) == sorted(c.sign().tolist())


def test_spans_by_application_are_those_of_the_formed_matrices(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from seepage.attacks.moments import span

    for activation, second in (("relu", True), ("tanh", False)):
        seen, _, _ = scene(activation, 24, 2, 20_000, seed=3)
        weight, gradient = seen.model.params["1.weight"], seen.update["3.weight"]
        rows = Rows(gradient, weight, torch.zeros(len(weight)).double(), 1.0, chunk=999)
        low, spans = low_moments(rows), []
        for dense in (1024, 8):
            monkeypatch.setattr(span, "_DENSE", dense)
            draw = stream(0, "span")
            spans.append(
                second_span(rows, low.rest, 2, draw)
                if second
                else third_span(rows, low, 2, 2, draw)
            )
        assert torch.allclose(spans[0] @ spans[0].T, spans[1] @ spans[1].T, atol=5e-3)


@pytest.mark.parametrize(
    ("activation", "bound"),
    [("relu", 0.06), ("gelu", 0.06), ("elu", 0.07), ("selu", 0.07), ("tanh", 0.07),
     ("sigmoid", 0.08)],
)  # fmt: skip
def test_the_moment_estimator(activation: str, bound: float) -> None:
    errors = []
    for seed in range(2):
        seen, x, _ = scene(activation, 64, 4, 200_000, seed=100 + seed)
        answer = attack(seen, seed, polish=False)
        errors.append(error(answer.x, x))
        assert answer.note.startswith("not recovered")
    assert sum(errors) / len(errors) < bound


def test_neither_the_weights_nor_their_moments_are_held() -> None:
    """The weights in float64 alone would be 314 MB, and all chunks at once as much again."""
    script = Path(__file__).parents[1] / "benchmarks" / "moments.py"
    run = subprocess.run([sys.executable, script, "memory"], capture_output=True, check=True)
    row = json.loads(run.stdout.splitlines()[0])
    assert row["peak MB"] - row["before the attack"] < 180


def test_the_estimator_needs_wide_layers() -> None:
    wide = [scene("relu", 64, 4, 20_000, seed=seed) for seed in (1, 2, 3)]
    errors = [error(attack(seen, polish=False).x, x) for seen, x, _ in wide]
    assert 0.06 < sum(errors) / 3 < 0.2


@pytest.mark.parametrize("activation", ["relu", "gelu", "elu", "tanh", "selu", "softplus"])
def test_polish_makes_it_exact(activation: str) -> None:
    for seed in (200, 201):
        seen, x, slopes = scene(activation, 64, 4, 20_000, seed=seed)
        answer = attack(seen, seed)
        assert float(answer.residual.max()) < 1e-6
        assert error(answer.x, x) < 1e-6
        products = answer.x.flatten(1) * answer.trace["output gradients"]
        assert relative(products, x * slopes[:, None]) < 1e-6
        if activation in ("relu", "tanh"):
            assert "signs or lengths" in answer.note
        else:
            assert answer.note == ""
            assert relative(answer.x, x) < 1e-6


def test_sigmoid_settles_its_signs() -> None:
    seen, x, _ = scene("sigmoid", 32, 3, 20_000, seed=210)
    answer = attack(seen)
    assert answer.note == ""
    assert relative(answer.x, x) < 1e-6


def test_declared_noise() -> None:
    good = []
    for seed in range(4):
        seen, x, _ = scene("gelu", 64, 4, 20_000, seed=220 + seed, noise=0.1)
        answer = attack(seen, seed)
        good.append(error(answer.x, x) <= 0.05)
        assert not answer.note.startswith("not recovered")
        naive = observe(seen.model, Batch(seen.model.params["1.weight"][:1].view(1, 1, 1, -1)),
                        Given(seen.update), stream(0, ""), believed=FedSGD())  # fmt: skip
        assert attack(naive, batch=4, polish=False).note.startswith("not recovered")
    assert sum(good) >= 3


@pytest.mark.parametrize("activation", ["relu", "gelu", "tanh", "sigmoid"])
def test_a_malicious_server_reads_digits(activation: str) -> None:
    sample = zoo.digits(3, seed=5)
    model = sample.model(zoo.two_layer(64, 6000, activation, classes=10, seed=1))
    crafted = Moments().craft(model, stream(0, "server"))
    seen = observe(crafted, sample.batch, FedSGD(), stream(0, "client"))
    answer = attack(seen, 3)
    assert answer.note == ""
    assert answer.x.dtype == torch.float32
    assert relative(answer.x, sample.x) < 1e-3
    assert sorted(answer.y.tolist()) == sorted(sample.y.tolist())


@pytest.mark.parametrize(
    ("activation", "depth"),
    [("relu", 1), ("relu", 2), ("leaky", 2), ("tanh", 2), ("sigmoid", 1), ("gelu", 2),
     ("softplus", 1)],
)  # fmt: skip
def test_crafted_layers_carry_the_data_to_a_wide_one(activation: str, depth: int) -> None:
    """Every layer below the wide one passes the data on, and the guard sees that it does."""
    sample = zoo.digits(2, seed=8)
    sizes = 64, *[130] * depth, 3000, 10
    net = zoo.mlp(*sizes, activation=FUNCTIONS[activation], seed=1).double()
    batch = Batch(sample.x.double(), sample.y)
    crafted = Moments().craft(sample.model(net), stream(0, "server"))
    seen = observe(crafted, batch, FedSGD(), stream(0, "client"))
    answer = attack(seen, 3)
    assert answer.note == ""
    assert relative(answer.x, batch.x) < 1e-8
    assert sorted(answer.y.tolist()) == sorted(batch.y.tolist())
    found = {(finding.check, finding.layer) for finding in scan(crafted).findings}
    assert {("copies", f"linear{i + 1}.weight") for i in range(depth)} <= found
    assert scan(sample.model(net)).findings == ()


def test_data_outside_the_rising_part_of_an_activation_is_shifted_there() -> None:
    form = Images((1, 4, 4), classes=4, mean=(0.5,), std=(0.25,))
    draw = stream(3, "shifted")
    x = form.normalised(torch.rand((2, 1, 4, 4), generator=draw, dtype=torch.float64))
    net = zoo.mlp(16, 20, 3000, 4, activation=nn.GELU, seed=1).double()
    model = Moments().craft(Model.of(net, cross_entropy, form), stream(0, "server"))
    assert float(model.params["linear1.bias"][:16].min()) == 2.0
    seen = observe(model, Batch(x, torch.tensor([0, 1])), FedSGD(), stream(0, "client"))
    assert relative(attack(seen).x, x) < 1e-8


def test_layers_too_narrow_to_carry_the_data_are_named() -> None:
    sample = zoo.digits(2)
    for activation, needed in (("relu", 128), ("tanh", 64)):
        model = sample.model(zoo.mlp(64, 60, 3000, 10, activation=activation))
        with pytest.raises(InvalidInput, match=f"'linear1' has 60 units.*takes {needed}"):
            Moments().craft(model, stream(0, "server"))
    folded = sample.model(zoo.mlp(64, 140, 3000, 10, activation=Bump))
    with pytest.raises(InvalidInput, match="do not rise"):
        Moments(activation="gelu").craft(folded, stream(0, "server"))


class Bump(nn.Module):
    """An activation that falls again."""

    def forward(self, z: Tensor) -> Tensor:
        return z * torch.exp(-z * z)


def test_labels_of_a_squared_loss() -> None:
    form = Table(tuple(Column(f"c{i}") for i in range(20)), classes=1)
    draw = stream(4, "table")
    batch = Batch(numbers(draw, 3, 20), numbers(draw, 3))
    net = zoo.two_layer(20, 8000, "gelu", seed=2).double()
    model = Moments().craft(Model.of(net, zoo.squared_loss, form), stream(0, "server"))
    answer = attack(observe(model, batch, FedSGD(), stream(0, "client")))
    assert relative(answer.x, batch.x) < 1e-6
    assert sorted(answer.y.tolist()) == pytest.approx(sorted(batch.y.tolist()), abs=1e-5)


def test_the_batch_size_is_read_when_it_is_not_told() -> None:
    seen, x, _ = scene("gelu", 32, 3, 30_000, seed=230)
    blind = observe(seen.model, Batch(x.view(3, 1, 1, 32), torch.ones(3)), Given(seen.update),
                    stream(0, ""), believed=FedSGD(), tell=())  # fmt: skip
    answer = attack(blind)
    assert len(answer) == 3
    assert error(answer.x, x) < 1e-6


def test_same_seed_same_answer_and_the_secret_is_not_read() -> None:
    seen, x, _ = scene("elu", 32, 2, 5000, seed=240)
    first = attack(seen, 1)
    x.fill_(math.nan)
    torch.manual_seed(1)
    second = attack(seen, 1)
    assert torch.equal(first.x, second.x)
    assert len(first) == 2


def test_the_text_of_an_attack_reads_back() -> None:
    for attack_value in (Moments(), Moments(order=4, batch=3, polish=False, activation="relu")):
        assert expr.read(repr(attack_value)) == attack_value


def test_bad_input_is_refused() -> None:
    sample = zoo.digits(2)
    model = sample.model(zoo.two_layer(64, 100, "gelu", classes=10, seed=1))
    seen = observe(model, sample.batch, FedSGD(), stream(0, "client"))
    with pytest.raises(InvalidInput, match=r"not Gaussian.*Use Span"):
        attack(seen)
    seen, x, _ = scene("gelu", 16, 2, 3, seed=1)
    with pytest.raises(InvalidInput, match="3 hidden units"):
        attack(seen)
    zero = observe(seen.model, Batch(x.view(2, 1, 1, 16), torch.ones(2)),
                   Given({"3.weight": 0 * seen.update["3.weight"]}), stream(0, ""))  # fmt: skip
    with pytest.raises(InvalidInput, match="all zero"):
        attack(zero)
    for fields, message in (({"order": 2}, "order"), ({"chunk": 0}, "chunk")):
        with pytest.raises(InvalidInput, match=message):
            Moments(**fields)
    head = observe(seen.model, Batch(x.view(2, 1, 1, 16), torch.ones(2)),
                   Only(FedSGD(), "1.weight"), stream(0, ""))  # fmt: skip
    with pytest.raises(InvalidInput, match=r"lacks '3\.weight'"):
        attack(head)


def test_softmax_models_share_inputs_over_outputs() -> None:
    sample = zoo.digits(3, seed=6)
    model = sample.model(zoo.two_layer(64, 6000, "gelu", classes=10, seed=1), cross_entropy)
    crafted = Moments().craft(model, stream(1, "server"))
    seen = observe(crafted, sample.batch, FedSGD(), stream(0, "client"))
    assert relative(attack(seen).x, sample.x) < 1e-3
