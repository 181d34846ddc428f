"""Span: exact inputs from one gradient of a two-layer network, and features of deeper ones."""

import itertools
import math

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from seepage import expr, zoo
from seepage.attacks.span import Span, activations, features, stack_of
from seepage.attacks.span.equations import Equations, Unknown, evaluated, normal
from seepage.attacks.span.kinks import without
from seepage.attacks.span.measured import measured
from seepage.attacks.span.peeling import peeled
from seepage.attacks.span.search import Search, Sought, affordable, best
from seepage.clients import FedAvg, FedSGD, Given
from seepage.core import Batch, Model, Observation, Reconstruction, observe, stream
from seepage.defenses import Noise, Prune
from seepage.errors import InvalidInput
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
        return nn.Sequential(*layers[:-1]).double()


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
    found, wanted = (t.detach().double().flatten(1) for t in (answer, truth))
    distance = torch.cdist(wanted, found, compute_mode="donot_use_mm_for_euclid_dist")
    distance = distance / wanted.norm(dim=1, keepdim=True)
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


@pytest.mark.parametrize(
    ("activation", "n", "dtype"),
    [("relu", 16, torch.float64), ("relu", 32, torch.float64), ("leaky", 16, torch.float64),
     ("relu", 8, torch.float32), ("relu", 32, torch.float32)],
)  # fmt: skip
def test_large_batches_peel_off_without_a_search(
    activation: str, n: int, dtype: torch.dtype
) -> None:
    for seed in (13, 14):
        seen, batch = scene(activation, n, 196, 512, 10, seed=seed, dtype=dtype)
        answer = attack(seen, seed)
        assert answer.note == ""
        assert answer.trace["starts"] == 0
        assert error(answer.x, batch.x) < (1e-8 if dtype == torch.float64 else 1e-4)
        assert sorted(answer.y.tolist()) == sorted(batch.y.tolist())


def test_what_peels_off_is_right_and_the_rest_is_searched() -> None:
    """Two units agree where no loss tells, and a search starts from what is known."""
    seen, batch = scene("relu", 6, 196, 512, 10, seed=15)
    given = measured(seen, stack_of(seen.model), 6, stream(0, ""))

    def silent(outputs: Tensor, delta: Tensor) -> Tensor:
        return torch.full((len(delta),), torch.inf, dtype=torch.float64)

    some = peeled(given.equations, (1.0, 0.0), 4, 1e-10, silent)
    assert len(some.x) == 4
    found = some.x @ given.space.basis.T
    apart = torch.cdist(found, batch.x.flatten(1)).amin(1) / batch.x[0].norm()
    assert float(apart.max()) < 1e-6
    rest = without(given.equations, activations.named("relu"), some)
    assert int(torch.linalg.matrix_rank(rest.weight_gradient, rtol=1e-6)) == 2
    whole = best(given.equations, activations.named("relu"), Sought(6, some), Search(9, 16, 1e-8),
                 stream(1, ""))  # fmt: skip
    assert whole.residual < 1e-8
    assert whole.starts > 0
    assert error(whole.state.at.x @ given.space.basis.T, batch.x) < 1e-8


@pytest.mark.parametrize("activation", ["gelu", "elu", "silu", "tanh", "softplus", "relu"])
def test_digits_come_back(activation: str) -> None:
    sample = zoo.digits(4 if activation == "relu" else 8, seed=5)
    batch = Batch(sample.x.double(), sample.y)
    model = Model.of(network(activation, 64, 512, 10, seed=5), cross_entropy, sample.form)
    answer = attack(observe(model, batch, FedSGD(), stream(0, "client")))
    assert answer.note == ""
    assert error(answer.x, batch.x) < 1e-8


@pytest.mark.parametrize("activation", ["gelu", "tanh", "relu"])
def test_float32_updates(activation: str) -> None:
    for sizes in ((784, 256, 10), (64, 128, 10)):
        seen, batch = scene(activation, 4, *sizes, seed=21, dtype=torch.float32)
        answer = attack(seen)
        assert answer.note == ""
        assert answer.x.dtype == torch.float32
        assert error(answer.x, batch.x) < 1e-4
        assert float(answer.residual.max()) < 2e-6


def one_output(
    activation: str, n: int, d: int, hidden: int, seed: int = 0, bias: bool = False
) -> tuple[Observation, Tensor, Tensor]:
    """Standard-normal weights, inputs of unit length, and gradients l at the only output."""
    draw = stream(seed, "one output")

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw, dtype=torch.float64)

    x = nn.functional.normalize(normal(n, d))
    slopes = (0.5 + torch.rand(n, generator=draw, dtype=torch.float64)) * normal(n).sign()
    net = network(activation, d, hidden, 1, bias=bias)
    with torch.no_grad():
        for name, p in net.named_parameters():
            p.copy_(torch.full_like(p, 1 / hidden) if name == "3.weight" else normal(*p.shape))

    def loss(output: Tensor, y: Tensor) -> Tensor:
        return (output.reshape(-1) * y).sum()

    form = Images((1, 1, d), classes=1, low=-1, high=1)
    model = Model.of(net, loss, form)
    batch = Batch(x.view(n, 1, 1, d), slopes)
    return observe(model, batch, FedSGD(), stream(seed, "client")), x, slopes


@pytest.mark.parametrize(
    ("activation", "n", "d", "hidden"),
    [("gelu", 4, 3072, 64), ("gelu", 8, 784, 1024), ("elu", 8, 784, 1024),
     ("softplus", 8, 784, 1024), ("selu", 4, 784, 256)],
)  # fmt: skip
def test_one_output_without_biases(activation: str, n: int, d: int, hidden: int) -> None:
    seen, x, _ = one_output(activation, n, d, hidden, seed=31)
    answer = attack(seen, 31)
    assert answer.note == ""
    assert error(answer.x, x) < 1e-8


def test_an_odd_activation_without_biases_gives_inputs_up_to_sign() -> None:
    seen, x, _ = one_output("tanh", 8, 784, 1024, seed=32)
    answer = attack(seen, 32)
    assert "signs" in answer.note
    both = torch.cat([answer.x, -answer.x])
    assert error(both, x) < 1e-6


@pytest.mark.parametrize("activation", ["relu", "leaky"])
def test_piecewise_linear_without_biases_gives_the_products(activation: str) -> None:
    for seed in (33, 34):
        seen, x, slopes = one_output(activation, 8, 3072, 64, seed=seed)
        answer = attack(seen, seed)
        assert "lengths" in answer.note
        products = answer.x.flatten(1) * answer.trace["output gradients"]
        assert error(products, x * slopes[:, None]) < 1e-6


def test_piecewise_linear_with_biases_gives_the_inputs() -> None:
    seen, x, _ = one_output("relu", 8, 3072, 64, seed=35, bias=True)
    assert error(attack(seen, 35).x, x) < 1e-6


def test_the_softmax_settles_lengths_without_biases() -> None:
    batch, form = images(4, 196, 36)
    net = network("relu", 196, 256, 10, seed=36, bias=False)
    seen = observe(Model.of(net, cross_entropy, form), batch, FedSGD(), stream(0, "client"))
    answer = attack(seen, 36)
    assert answer.note == ""
    assert error(answer.x, batch.x) < 1e-5
    assert sorted(answer.y.tolist()) == sorted(batch.y.tolist())


def test_the_logistic_loss_settles_lengths_or_says_that_it_does_not() -> None:
    for seed in range(4):
        batch, form = images(3, 196, seed, 2)
        batch = Batch(batch.x, batch.y * 2 - 1)
        net = network("relu", 196, 256, 1, seed=seed, bias=False)
        model = Model.of(net, zoo.logistic_loss, form)
        answer = attack(observe(model, batch, FedSGD(), stream(0, "client")), seed)
        rows, truth = (nn.functional.normalize(t.flatten(1)) for t in (answer.x, batch.x))
        assert error(rows, truth) < 1e-8
        assert "lengths" in answer.note or error(answer.x, batch.x) < 1e-5


def test_features_then_data_of_deeper_networks() -> None:
    for activation in ("gelu", "tanh", "relu"):
        seen, batch = scene(activation, 4, 64, 256, 128, 10, seed=41)
        answer = attack(seen)
        features = network(activation, 64, 256, 128, 10, seed=41)[:-3](batch.x)
        assert error(answer.trace["features"], features) < 1e-7
        assert answer.note == ""
        assert error(answer.x, batch.x) < 1e-7


def test_a_convolutional_network_gives_features_and_says_so() -> None:
    batch, form = images(4, 64, 42)
    with torch.random.fork_rng():
        torch.manual_seed(42)
        body = nn.Sequential(nn.Conv2d(1, 8, 3), nn.GELU(), nn.Flatten())
        net = nn.Sequential(body, nn.Linear(288, 96), nn.GELU(), nn.Linear(96, 10)).double()
    model = Model.of(net, cross_entropy, form)
    seen = observe(model, batch, FedSGD(), stream(0, "client"))
    answer = attack(seen)
    assert answer.note.startswith("not recovered: only the features")
    assert len(answer.x) == 0
    assert error(answer.trace["features"], body.double()(batch.x)) < 1e-8
    found = features(seen, stream(0, "attack"))
    assert found is not None
    assert torch.equal(found.values, answer.trace["features"])
    x = batch.x.clone().requires_grad_()
    read = found.of(x)
    assert error(found.values, read) < 1e-8
    assert torch.autograd.grad(read.sum(), x)[0].abs().sum() > 0


def test_activations_between_layers_are_recognised_without_modules() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.low, self.high = nn.Linear(9, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return torch.log_softmax(self.high(nn.functional.silu(self.low(x.flatten(1)))), 1)

    form = Images((1, 3, 3), classes=3)
    stack = stack_of(Model.of(Net(), nn.functional.nll_loss, form))
    assert [layer.name for layer in stack.layers] == ["low", "high"]
    assert stack.activation.name == "silu"
    assert stack.reads_data
    assert not stack.ends


@pytest.mark.parametrize(
    ("module", "name"),
    [(nn.ReLU(), "relu"), (nn.LeakyReLU(0.2), "leaky_relu"), (nn.SELU(), "selu"),
     (nn.ELU(0.5), "elu"), (nn.ELU(), "elu"), (nn.Mish(), "mish"), (nn.GELU("tanh"), "gelu_tanh"),
     (nn.Softplus(beta=3), "modules"), (nn.Sequential(nn.Tanh(), nn.Dropout()), "tanh")],
)  # fmt: skip
def test_activation_modules_are_recognised(module: nn.Module, name: str) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(9, 32), module, nn.Linear(32, 3))
    stack = stack_of(Model.of(net, cross_entropy, Images((1, 3, 3), classes=3)))
    z = torch.linspace(-2, 2, 9, dtype=torch.float64)
    assert stack.activation.name == name
    assert torch.allclose(stack.activation.function(z), module.eval()(z), atol=1e-9)


def test_noise_is_declared_and_bounds_what_is_asked() -> None:
    errors = []
    for seed in range(6):
        batch, form = images(4, 64, 50 + seed)
        model = Model.of(network("gelu", 64, 512, 10, seed=seed), cross_entropy, form)
        size = FedSGD()(model, batch, stream(0, ""))["1.weight"].std()
        client = Noise(FedSGD(), std=0.01 * float(size))
        seen = observe(model, batch, client, stream(seed, "client"))
        answer = attack(seen, seed)
        errors.append(error(answer.x, batch.x))
        predicted = answer.trace["predicted error"]
        assert predicted / 10 < errors[-1] < 10 * predicted
        assert "certifies nothing" in answer.note
        naive = observe(model, batch, client, stream(seed, "client"), believed=FedSGD())
        assert attack(naive, starts=1).note.startswith("not recovered")
    assert sorted(errors)[3] < 1e-2


def test_what_is_not_solved_is_not_recovered() -> None:
    """A failing run never claims an answer: starved of starts, and fed an update of noise."""
    for seed in range(6):
        seen, batch = scene("sigmoid", 8, 64, 96, 10, seed=60 + seed)
        answer = attack(seen, seed, starts=1, rows=3)
        wrong = error(answer.x, batch.x) > 1e-4
        assert wrong == (float(answer.residual.max()) > 1e-8) == answer.note.startswith("not rec")
    draw = stream(0, "noise")
    noise = {n: torch.randn(u.shape, generator=draw).double() for n, u in seen.update.items()}
    random = observe(seen.model, batch, Given(noise), stream(0, ""), believed=FedSGD())
    assert attack(random, starts=2).note.startswith("not recovered")


def test_a_search_ends_where_it_costs_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, batch = scene("gelu", 4, 64, 128, 10, seed=70)
    given = measured(seen, stack_of(seen.model), 4, stream(0, ""))
    steps = [affordable(given.equations, unknowns) for unknowns in (56, 560, 5600)]
    assert steps[0] > 1000 > steps[1] > steps[2] == 0
    monkeypatch.setattr("seepage.attacks.span.search._WORK", 0)
    answer = attack(seen)
    assert answer.note.startswith("not recovered")
    assert "after 0 starts" in answer.note
    assert "56 unknowns more would take too long" in answer.note
    assert answer.x.shape == batch.x.shape


def test_local_steps_scale_but_one_step_is_a_gradient() -> None:
    seen, batch = scene("gelu", 4, 64, 128, 10, seed=70)
    client = FedAvg(epochs=1, lr=0.03)
    moved = observe(seen.model, batch, client, stream(0, "client"))
    assert error(attack(moved).x, batch.x) < 1e-6


def test_duplicates_and_unknown_batch_sizes() -> None:
    batch, form = images(4, 64, 71)
    twice = Batch(torch.cat([batch.x, batch.x[:1]]), torch.cat([batch.y, batch.y[:1]]))
    model = Model.of(network("gelu", 64, 128, 10, seed=71), cross_entropy, form)
    seen = observe(model, twice, FedSGD(), stream(0, "client"))
    answer = attack(seen)
    assert "rank 4 for 5 examples" in answer.note
    assert error(answer.x, batch.x) < 1e-6
    blind = observe(model, batch, FedSGD(), stream(0, "client"), tell=())
    answer = attack(blind)
    assert len(answer) == 4
    assert error(answer.x, batch.x) < 1e-8


def test_same_seed_same_answer_and_the_secret_is_not_read() -> None:
    seen, batch = scene("relu", 4, 196, 128, 10, seed=72)
    before = tuple(t.clone() for t in seen.update.values())
    first = attack(seen, 1)
    batch.x.fill_(math.nan)
    torch.manual_seed(12345)
    second = attack(seen, 1)
    assert torch.equal(first.x, second.x)
    assert torch.equal(first.y, second.y)
    assert all(map(torch.equal, before, seen.update.values()))


def test_the_text_of_an_attack_reads_back() -> None:
    for attack_value in (Span(), Span(starts=3, tol=1e-5, activation="gelu")):
        assert expr.read(repr(attack_value)) == attack_value


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), "two"),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(),
                       nn.Linear(16, 10)), "BatchNorm1d"),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Softmax(1), nn.Linear(16, 10)),
         "activation="),
    ],
)  # fmt: skip
def test_networks_without_a_usable_pair_are_refused(net: nn.Module, message: str) -> None:
    batch, form = images(2, 64, 80)
    model = Model.of(net.double(), cross_entropy, form)
    seen = observe(model, batch, FedSGD(), stream(0, "client"))
    with pytest.raises(InvalidInput, match=message):
        attack(seen)


def test_updates_that_hold_nothing_are_refused() -> None:
    seen, batch = scene("gelu", 2, 64, 16, 10)
    for update, message in (
        ({n: u for n, u in seen.update.items() if n != "1.weight"}, "lacks '1.weight'"),
        ({n: 0 * u for n, u in seen.update.items()}, "all zero"),
    ):
        told = observe(seen.model, batch, Given(update), stream(0, ""), believed=FedSGD())
        with pytest.raises(InvalidInput, match=message):
            attack(told)
    with pytest.raises(InvalidInput, match="starts"):
        Span(starts=0)
    with pytest.raises(InvalidInput, match="swish"):
        attack(seen, activation="swish")


def test_a_batch_beyond_the_layer_is_said_to_be_too_large() -> None:
    seen, _ = scene("gelu", 40, 16, 20, 10)
    assert "too large" in attack(seen).note


def test_pruning_half_of_the_update_hides_nothing() -> None:
    for seed in (90, 91):
        seen, batch = scene("gelu", 4, 64, 512, 10, seed=seed)
        kept = observe(seen.model, batch, Prune(FedSGD(), 0.5), stream(0, "client"))
        answer = attack(kept, starts=10)
        assert answer.note == ""
        assert error(answer.x, batch.x) < 1e-6
    for ratio in (0.97, 0.99, 0.9995):  # at last a few units remain, which fit anything
        bare = observe(seen.model, batch, Prune(FedSGD(), ratio), stream(0, "client"))
        note = attack(bare, starts=2).note
        assert note.startswith("not recovered") or "too large" in note


def test_the_few_entries_that_hard_pruning_leaves_certify_nothing() -> None:
    """They can be completed to a gradient of any batch, without any misfit."""
    sample = zoo.photos(2, 16)
    for seed in (0, 1, 4):
        model = sample.model(zoo.two_layer(768, 64, "gelu", classes=8, seed=seed))
        seen = observe(model, sample.batch, Prune(FedSGD(), 0.99), stream(0, "client"))
        assert attack(seen, starts=2).note.startswith("not recovered")
        assert features(seen, stream(0, "attack"), Span(starts=2)) is None
