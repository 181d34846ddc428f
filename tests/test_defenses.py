"""Each defense equals its formula on random updates."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from seepage import (
    DPSGD,
    Client,
    Clip,
    Dropout,
    FedSGD,
    Given,
    Images,
    InvalidInput,
    Noise,
    Prune,
    Quantize,
    Sign,
    noiseless,
    stream,
    tree,
)
from seepage.core import Batch, Model


def update(seed: int = 0) -> dict[str, torch.Tensor]:
    drawn = stream(seed, "update")
    shapes = {"a": (30, 20), "b": (7,), "c": (1,)}
    return {name: torch.randn(shape, generator=drawn) for name, shape in shapes.items()}


def shared(client: Client, seed: int = 0) -> tree.Tensors:
    model: Model = None  # type: ignore[assignment]  # a captured update asks for neither
    batch: Batch = None  # type: ignore[assignment]
    return client(model, batch, stream(seed, "client"))


@pytest.mark.parametrize("kind", ["gauss", "laplace"])
@pytest.mark.parametrize("relative", [False, True])
def test_noise_has_the_spread_that_it_names(kind: str, relative: bool) -> None:
    zero = {"a": torch.full((400, 500), 2.0), "b": torch.full((100,), -2.0)}
    added = tree.subtract(shared(Noise(Given(zero), 0.3, kind, relative)), zero)  # type: ignore[arg-type]
    flat = tree.flat(added) / (2 if relative else 1)
    assert float(flat.std()) == pytest.approx(0.3, rel=0.01)
    assert float(flat.mean()) == pytest.approx(0, abs=0.004)
    # A normal variable has a mean magnitude of sqrt(2/pi) standard deviations, a Laplace sqrt(1/2).
    share = {"gauss": (2 / torch.pi) ** 0.5, "laplace": 0.5**0.5}[kind]
    assert float(flat.abs().mean()) == pytest.approx(0.3 * share, rel=0.01)


def test_no_noise_changes_nothing() -> None:
    assert tree.fingerprint(shared(Noise(Given(update()), 0.0))) == tree.fingerprint(update())


@pytest.mark.parametrize("norm", [0.1, 5.0, 1e6])
def test_clipping_shortens_and_never_turns(norm: float) -> None:
    before, after = update(), shared(Clip(Given(update()), norm))
    length = tree.flat(before).norm()
    torch.testing.assert_close(tree.flat(after).norm(), length.clamp(max=norm))
    torch.testing.assert_close(tree.flat(after), tree.flat(before) * min(1.0, norm / float(length)))


def test_clipping_keeps_zero() -> None:
    zero = tree.mapped(torch.zeros_like, update())
    assert tree.fingerprint(shared(Clip(Given(zero), 1.0))) == tree.fingerprint(zero)


@pytest.mark.parametrize("scope", ["tensor", "global"])
@pytest.mark.parametrize("ratio", [0.0, 0.29, 0.5, 0.9, 0.999])
def test_pruning_keeps_the_largest(scope: str, ratio: float) -> None:
    before, after = update(), shared(Prune(Given(update()), ratio, scope))  # type: ignore[arg-type]
    groups = [tree.flat(before)] if scope == "global" else [u.flatten() for u in before.values()]
    kept = [tree.flat(after)] if scope == "global" else [u.flatten() for u in after.values()]
    for whole, part in zip(groups, kept, strict=True):
        zeroed = int(ratio * len(whole) + 1e-9)
        smallest = whole.abs().argsort()[:zeroed]
        expected = whole.clone()
        expected[smallest] = 0
        assert torch.equal(part, expected)


def test_ties_at_the_cut_are_zeroed() -> None:
    ties = {"a": torch.tensor([1.0, -2.0, 2.0, 2.0, 3.0])}
    assert shared(Prune(Given(ties), 0.4))["a"].tolist() == [0, 0, 0, 0, 3]


def test_what_pruning_says_of_the_entries_it_zeroed() -> None:
    defense = Prune(Given({"a": torch.tensor([0.1, -0.2, 3.0, 0.5])}), 0.5)
    low, high = defense.cell(shared(defense))
    torch.testing.assert_close(low["a"], torch.tensor([-0.5, -0.5, 3.0, 0.5]))
    torch.testing.assert_close(high["a"], torch.tensor([0.5, 0.5, 3.0, 0.5]))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda inner: Prune(inner, 1.0), "Prune.ratio=1.0 removes everything"),
        (lambda inner: Prune(inner, -0.1), "0 <= ratio < 1"),
        (lambda inner: Prune(inner, 0.1, "row"), "Prune.scope='row'"),
        (lambda inner: Noise(inner, -1.0), "Noise.std=-1.0"),
        (lambda inner: Noise(inner, float("nan")), "Noise.std=nan"),
        (lambda inner: Noise(inner, 1.0, "uniform"), "Noise.kind='uniform'"),
        (lambda inner: Clip(inner, 0.0), "Clip.norm=0.0"),
        (lambda inner: DPSGD(0.0, 1.0), "DPSGD.norm=0.0"),
        (lambda inner: DPSGD(1.0, -1.0), "DPSGD.multiplier=-1.0"),
        (lambda inner: DPSGD(1.0, 1.0, 0.0), "DPSGD.expected=0.0"),
        (lambda inner: Quantize(inner, 1), "Quantize.bits=1"),
        (lambda inner: Dropout(inner, 0.0), "Dropout.keep=0.0 is no share"),
        (lambda inner: Dropout(inner, 0.5, "rows"), "Dropout.at='rows'"),
    ],
)
def test_wrong_fields_are_named(make: object, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        make(Given(update()))  # type: ignore[operator]


def test_the_same_draw_on_every_type() -> None:
    single = shared(Noise(Given(update()), 1.0))["a"]
    double = shared(Noise(Given(tree.mapped(torch.Tensor.double, update())), 1.0))["a"]
    torch.testing.assert_close(single.double(), double, rtol=1e-5, atol=1e-6)


def network(*layers: nn.Module, shape: tuple[int, int, int] = (2, 4, 4)) -> Model:
    """A network in double precision whose weights the test's own stream draws."""
    module, drawn = nn.Sequential(*layers), stream(3, "weights")
    for parameter in module.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=drawn) / 3)
    return Model.of(module.double(), functional.cross_entropy, Images(shape, 3))


def dense() -> Model:
    return network(nn.Flatten(), nn.Linear(32, 6), nn.Tanh(), nn.Linear(6, 5), nn.Linear(5, 3))


def examples(n: int) -> Batch:
    x = torch.rand((n, 2, 4, 4), generator=stream(n, "examples"), dtype=torch.float64)
    return Batch(x, torch.arange(n) % 3)


@pytest.mark.parametrize("norm", [0.05, 0.6, 1e3])
@pytest.mark.parametrize("expected", [None, 12.0])
def test_each_example_is_clipped_by_itself(norm: float, expected: float | None) -> None:
    model, batch = dense(), examples(7)
    update = DPSGD(norm, 0.0, expected)(model, batch, stream(0, "client"))
    wanted = tree.scale(model.params, 0.0)
    for i in range(len(batch)):
        own = FedSGD()(model, batch[i : i + 1], stream(0, "client"))
        factor = min(1.0, norm / (float(tree.flat(own).norm()) + 1e-6))
        wanted = tree.total([wanted, tree.scale(own, factor / (expected or 7))])
    torch.testing.assert_close(tree.flat(update), tree.flat(wanted))


def test_many_examples_are_taken_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = DPSGD(0.3, 0.0)(dense(), examples(7), stream(0, "client"))
    monkeypatch.setattr("seepage.defenses.dpsgd._ENTRIES", 3 * tree.size(dense().params))
    parts = DPSGD(0.3, 0.0)(dense(), examples(7), stream(0, "client"))
    torch.testing.assert_close(tree.flat(parts), tree.flat(whole))


def test_the_noise_of_a_private_gradient_is_that_of_one_example() -> None:
    model = network(nn.Flatten(), nn.Linear(32, 3000))
    client, batch = DPSGD(0.2, 1.5), examples(5)
    one, none = (
        client(model, batch, stream(1, "c")),
        noiseless(client)(model, batch, stream(1, "c")),
    )
    spread = tree.flat(tree.subtract(one, none)).std()
    assert float(spread) == pytest.approx(1.5 * 0.2 / 5, rel=0.01)


def test_data_that_are_their_own_target_are_clipped_too() -> None:
    module = nn.Linear(4, 4).double()
    model = Model.of(module, functional.mse_loss, Images((1, 2, 2), 1))
    batch = Batch(torch.rand((3, 4), generator=stream(0, "x"), dtype=torch.float64))
    own = FedSGD()(model, batch, stream(0, "client"))
    update = DPSGD(1e6, 0.0)(model, batch, stream(0, "client"))
    torch.testing.assert_close(tree.flat(update), tree.flat(own))


def test_private_gradients_refuse_layers_that_mix_examples() -> None:
    model = network(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 3))
    with pytest.raises(InvalidInput, match=r"layer '1' \(BatchNorm\).*nn\.GroupNorm"):
        DPSGD(1.0, 1.0)(model, examples(2), stream(0, "client"))


@pytest.mark.parametrize("bits", [2, 3, 8])
def test_quantising_goes_to_the_nearest_level(bits: int) -> None:
    before, after = update(), shared(Quantize(Given(update()), bits))
    for name, v in before.items():
        levels = v.abs().max() * torch.linspace(-1, 1, 2**bits - 1)
        nearest = levels[(v.reshape(-1, 1) - levels).abs().argmin(1)].view(v.shape)
        torch.testing.assert_close(after[name], nearest, rtol=1e-5, atol=1e-6)


def test_stochastic_quantising_keeps_the_mean() -> None:
    drawn = {"a": torch.tensor([0.3, -0.2, 1.0, 0.0])}
    client = Quantize(Given(drawn), 2, stochastic=True)
    draws = torch.stack([shared(client, seed)["a"] for seed in range(2000)])
    assert set(draws.unique().tolist()) == {-1.0, 0.0, 1.0}
    torch.testing.assert_close(draws.mean(0), drawn["a"], rtol=0, atol=0.04)


@pytest.mark.parametrize("stochastic", [False, True])
def test_the_cell_of_a_quantised_update_holds_it_and_is_one_step_wide(stochastic: bool) -> None:
    client = Quantize(Given(update()), 4, stochastic)
    low, high = client.cell(shared(client))
    for name, v in update().items():
        assert ((low[name] <= v) & (v <= high[name])).all()
        step = float(v.abs().max()) / 7
        assert float((high[name] - low[name]).max()) <= step * (2 if stochastic else 1) * 1.001


def test_zero_is_quantised_to_zero() -> None:
    zero = {"a": torch.zeros(3), "b": torch.zeros(0)}
    assert tree.fingerprint(shared(Quantize(Given(zero), 4))) == tree.fingerprint(zero)


def test_signs_and_their_half_lines() -> None:
    client = Sign(Given({"a": torch.tensor([-2.0, 0.0, 0.5])}))
    assert shared(client)["a"].tolist() == [-1, 0, 1]
    low, high = client.cell(shared(client))
    far = float("inf")
    assert low["a"].tolist() == [-far, 0, 0]
    assert high["a"].tolist() == [0, 0, far]


def test_dropped_entries_are_zero_and_the_others_grow() -> None:
    one = {"a": torch.ones(200, 300)}
    client = Dropout(Given(one), 0.25, at="entries")
    after = shared(client)["a"]
    assert set(after.unique().tolist()) == {0.0, 4.0}
    assert float(after.mean()) == pytest.approx(1, abs=0.03)
    low, high = client.cell({"a": torch.tensor([0.0, 4.0, -4.0])})
    torch.testing.assert_close(low["a"], torch.tensor([-torch.inf, 1.0, -1.0]))
    torch.testing.assert_close(high["a"], torch.tensor([torch.inf, 1.0, -1.0]))


class Masked(nn.Module):
    """Dropout of activations with a fixed mask, written out in the forward pass."""

    def __init__(self, mask: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.mask


def test_dropping_units_is_dropout_of_activations_with_one_mask() -> None:
    plain = dense()
    dropped = Dropout(FedSGD(), 0.5)(plain, examples(4), stream(5, "client"))
    first, second = (u.ne(0).any(0) * 2.0 for u in (dropped["3.weight"], dropped["4.weight"]))
    assert 0 < first.sum() < 12
    layers = list(plain.module)
    written = network(*layers[:3], Masked(first), layers[3], Masked(second), layers[4])
    names = {"1": "1", "4": "3", "6": "4"}
    written = written.replaced(
        {f"{w}.{k}": plain.params[f"{p}.{k}"] for w, p in names.items() for k in ("weight", "bias")}
    )
    wanted = FedSGD()(written, examples(4), stream(0, "client"))
    for w, p in names.items():
        torch.testing.assert_close(dropped[f"{p}.weight"], wanted[f"{w}.weight"])
        torch.testing.assert_close(dropped[f"{p}.bias"], wanted[f"{w}.bias"])


def test_units_of_grouped_convolutions_are_channels() -> None:
    model = network(nn.Conv2d(2, 4, 3), nn.Tanh(), nn.Conv2d(4, 6, 2, groups=2), nn.Flatten())
    update = Dropout(FedSGD(), 0.5)(model, examples(2), stream(2, "client"))
    alive = update["2.weight"].flatten(2).ne(0).any(2)
    assert (alive[:3] == alive[0]).all()
    assert (alive[3:] == alive[3]).all()
    assert not alive.all()


def test_keeping_everything_drops_nothing() -> None:
    model, batch = dense(), examples(3)
    plain = FedSGD()(model, batch, stream(0, "client"))
    kept = Dropout(FedSGD(), 1.0)(model, batch, stream(0, "client"))
    assert tree.fingerprint(kept) == tree.fingerprint(plain)
