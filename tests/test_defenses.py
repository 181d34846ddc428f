"""Each defense equals its formula on random updates."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from seepage import (
    DPSGD,
    SVT,
    Client,
    Clip,
    Dropout,
    FedSGD,
    Given,
    Images,
    InstaHide,
    InvalidInput,
    MixUp,
    Noise,
    Percentile,
    Prune,
    Quantize,
    Sign,
    Soteria,
    noiseless,
    stream,
    tree,
    zoo,
)
from seepage.core import Batch, Model
from seepage.defenses.local_dp import local_dp
from seepage.defenses.mixup import mixed, simplex
from seepage.defenses.precode import precode


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


def small() -> tuple[Model, Batch]:
    """A small network with a smooth activation, in double precision."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, 4)).double()
    drawn = stream(3, "small")
    for parameter in net.parameters():
        with torch.no_grad():
            parameter.copy_(torch.randn(parameter.shape, generator=drawn) / 4)
    x = torch.rand((2, 1, 4, 4), generator=drawn, dtype=torch.float64)
    return Model.of(net, functional.cross_entropy, Images((1, 4, 4), 4)), Batch(x, torch.arange(2))


def told_ratios(model: Model, batch: Batch) -> Tensor:
    """sqrt(|dg_k/dx| / |g_k|) of every entry of the gradient, from the whole Jacobian."""

    def gradient(x: Tensor) -> Tensor:
        return tree.flat(FedSGD()(model, Batch(x, batch.y), stream(0, "client")))

    jacobian = torch.autograd.functional.jacobian(gradient, batch.x.clone())
    size = gradient(batch.x).abs().clamp_min(1e-8)
    return (jacobian.flatten(1).norm(dim=1) / size).sqrt().clamp(1e-8, 1e6)


def test_optimal_noise_follows_what_each_entry_tells() -> None:
    model, batch = small()
    ratio, plain = told_ratios(model, batch), FedSGD()(model, batch, stream(0, "client"))
    defense = Noise(FedSGD(), 0.3, kind="optimal")
    added = torch.stack(
        [tree.flat(tree.subtract(defense(model, batch, stream(seed, "noise")), plain))
         for seed in range(300)]
    )  # fmt: skip
    expected = 0.3 * ratio * (len(ratio) / ratio.square().sum()).sqrt()
    assert float(added.square().mean().sqrt()) == pytest.approx(0.3, rel=0.1)
    # Ten sketches know a length to within sqrt(1 / 20), and its root to half of that.
    gap = (added.std(0) / expected).log()
    assert float(gap.abs().median()) < 0.15
    assert float(gap.abs().max()) < 0.7


def test_optimal_pruning_zeroes_what_tells_most() -> None:
    model, batch = small()
    ratio = told_ratios(model, batch)
    whole = FedSGD()(model, batch, stream(0, "client"))
    defense = Prune(FedSGD(), 0.5, scope="global", kind="optimal")
    kept = tree.flat(defense(model, batch, stream(0, "client")))
    assert torch.equal(kept[kept != 0], tree.flat(whole)[kept != 0])
    assert int((kept == 0).sum()) == len(ratio) // 2
    ordered = ratio.argsort(descending=True)
    assert float((kept[ordered[: len(ratio) // 4]] == 0).double().mean()) > 0.95
    assert float((kept[ordered[-len(ratio) // 4 :]] == 0).double().mean()) < 0.05


def test_optimal_kinds_need_data_with_a_derivative() -> None:
    model, batch = small()
    words = Batch(batch.x.long(), batch.y)
    with pytest.raises(InvalidInput, match="differentiates the update by the data"):
        Prune(FedSGD(), 0.5, kind="optimal")(model, words, stream(0, "client"))
    with pytest.raises(InvalidInput, match=r"Prune\.kind='best'"):
        Prune(FedSGD(), 0.5, kind="best")  # type: ignore[arg-type]


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
        (lambda inner: Soteria(inner, share=1.0), "Soteria.share=1.0"),
        (lambda inner: MixUp(inner, 0), "MixUp.k=0"),
        (lambda inner: MixUp(inner, 2, cap=0.5), "MixUp.cap=0.5: the largest of 2 shares"),
        (lambda inner: InstaHide(inner, 4, cap=1.1), "InstaHide.cap=1.1"),
        (lambda inner: Percentile(inner, 101), "Percentile.percentile=101"),
        (lambda inner: Percentile(inner, gamma=0.0), "Percentile.gamma=0.0"),
        (lambda inner: SVT(inner, epsilon=0.0), "SVT.epsilon=0.0"),
        (lambda inner: SVT(inner, fraction=0.0), "SVT.fraction=0.0"),
        (lambda inner: local_dp(inner, 1.0, 1.0, 1.0, 0.0), "local_dp.delta=0.0"),
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


def test_soteria_removes_the_inputs_that_tell_most() -> None:
    model, batch = dense(), examples(3)
    plain = FedSGD()(model, batch, stream(0, "client"))
    update = Soteria(FedSGD(), "3", share=0.5)(model, batch, stream(0, "client"))
    first = nn.Sequential(*list(model.module)[:3])
    slopes = torch.func.vmap(torch.func.jacrev(first))(batch.x[:, None]).flatten(3)[:, 0]
    score = (first(batch.x).abs() / slopes.norm(dim=2)).sum(0)
    gone = score.argsort(descending=True)[:3]
    wanted = plain["3.weight"].clone()
    wanted[:, gone] = 0
    torch.testing.assert_close(update["3.weight"], wanted)
    assert all(torch.equal(u, plain[k]) for k, u in update.items() if k != "3.weight")


def test_soteria_names_the_linear_layers() -> None:
    with pytest.raises(InvalidInput, match=r"'0' is no linear layer.* 1, 3, 4"):
        Soteria(FedSGD(), "0")(dense(), examples(1), stream(0, "client"))


def test_a_bottleneck_is_random_in_training_and_adds_its_divergence_to_the_loss() -> None:
    model = network(nn.Flatten(), nn.Linear(32, 6), nn.Tanh(), nn.Linear(6, 3))
    coded, batch = precode(model, code=4, beta=0.3), examples(5)
    output = coded.predict(batch.x)
    h = torch.tanh(batch.x.flatten(1) @ model.params["1.weight"].T + model.params["1.bias"])
    at = {k.removeprefix("3."): v for k, v in coded.params.items()}
    mean, log_variance = (h @ at["encoder.weight"].T + at["encoder.bias"]).chunk(2, 1)
    code = mean @ at["decoder.weight"].T + at["decoder.bias"]
    torch.testing.assert_close(
        output[:, :3], code @ model.params["3.weight"].T + model.params["3.bias"]
    )
    normal = torch.distributions.Normal
    wanted = torch.distributions.kl_divergence(
        normal(mean, (log_variance / 2).exp()), normal(0.0, 1.0)
    ).sum(1)
    torch.testing.assert_close(output[:, 3], wanted)
    risk = functional.cross_entropy(output[:, :3], batch.y) + 0.3 * wanted.mean()
    torch.testing.assert_close(coded.risk(coded.params, batch), risk)
    one, two = (FedSGD("train")(coded, batch, stream(s, "client")) for s in (1, 2))
    assert not torch.equal(one["1.weight"], two["1.weight"])
    # The bias of the output sees the class probabilities alone, as before.
    assert one["3.head.bias"].shape == (3,)


def test_a_network_of_one_layer_takes_no_bottleneck() -> None:
    linear = Model.of(nn.Linear(4, 2), functional.cross_entropy, Images((1, 2, 2), 2))
    with pytest.raises(InvalidInput, match="larger network"):
        precode(linear)


def test_mixtures_are_convex_and_their_labels_likewise() -> None:
    batch = Batch(torch.eye(6, dtype=torch.float64), torch.arange(6))
    model = Model.of(nn.Linear(6, 6).double(), functional.cross_entropy, Images((1, 2, 3), 6))
    made = mixed(model, batch, 3, 0.6, stream(4, "client"))
    torch.testing.assert_close(made.x, made.y)
    torch.testing.assert_close(made.x.sum(1), torch.ones(6, dtype=torch.float64))
    assert (made.x.diagonal() > 0).all()
    with pytest.raises(InvalidInput, match="not text"):
        mixed(model, Batch(torch.arange(6)[:, None], torch.arange(6)), 3, 0.6, stream(4, "c"))


def test_shares_are_uniform_below_their_cap() -> None:
    shares = simplex(20000, 2, 0.65, stream(0, "shares"))[:, 0]
    assert float(shares.min()) >= 0.35
    assert float(shares.max()) <= 0.65
    assert float(shares.var()) == pytest.approx(0.3**2 / 12, rel=0.05)


def test_hiding_flips_signs_of_a_mixture() -> None:
    seen = []

    class Spy:
        def __call__(self, model: Model, batch: Batch, rng: torch.Generator) -> tree.Tensors:
            seen.append(batch)
            return {}

    for client in (MixUp(Spy(), 2), InstaHide(Spy(), 2, cap=0.65)):
        client(dense(), examples(4), stream(0, "client"))
    assert torch.equal(seen[0].x.abs(), seen[1].x.abs())
    assert torch.equal(seen[0].y, seen[1].y)
    assert 0.3 < float((seen[0].x != seen[1].x).double().mean()) < 0.7


@pytest.mark.parametrize("share", [0.0, 10.0, 55.5, 100.0])
def test_the_percentile_filter_follows_its_formula(share: float) -> None:
    import numpy as np

    before = {**update(), "scalar": torch.tensor(5.0)}
    client = Percentile(Given(before), share, gamma=0.4, steps=2)
    after = shared(client)
    assert torch.equal(after["scalar"], before["scalar"])
    entries = tree.flat(update()).double().numpy() / 2
    kept = np.where(np.abs(entries) < np.percentile(np.abs(entries), share), 0, entries)
    wanted = torch.from_numpy(np.clip(kept, -0.4, 0.4) * 2).float()
    torch.testing.assert_close(tree.flat({k: after[k] for k in "abc"}), wanted)
    low, high = client.cell(after)
    for name, v in before.items():
        assert ((low[name] <= v) & (v <= high[name])).all()


def test_the_sparse_vector_technique_releases_its_share_and_no_more() -> None:
    drawn = {"a": torch.randn((50, 40), generator=stream(1, "u"))}
    # Almost no noise: the c chosen entries are those whose clamped size passes the threshold.
    quiet = SVT(Given(drawn), 0.05, 1e9, 1e9, gamma=1.0, tau=0.9, replace=False)
    after = shared(quiet)["a"]
    assert int(after.ne(0).sum()) == quiet.released(2000) == 100
    places = after.ne(0)
    torch.testing.assert_close(after[places], drawn["a"].clamp(-1, 1)[places])
    assert float(after[places].abs().min()) >= 0.9


def test_what_the_sparse_vector_technique_releases_by_default_is_noise() -> None:
    drawn = {"a": torch.full((5000,), 1e-5)}
    after = shared(SVT(Given(drawn)))["a"]
    spread = after[after != 0].abs().mean()
    assert float(spread) == pytest.approx(2 * 1e-5 / 0.1, rel=0.2)
    assert 400 < int(after.ne(0).sum()) <= 500


def test_an_impossible_threshold_ends_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seepage.defenses.svt._PASSES", 3)
    with pytest.raises(RuntimeError, match="smaller fraction or tau"):
        shared(SVT(Given(update()), 0.5, 1e9, 1e9, gamma=1.0, tau=2.0))


def test_local_privacy_is_clipping_and_the_classical_noise() -> None:
    made = local_dp(FedSGD(), 3.0, 3.0, 1.0, 1e-5)
    assert made.inner == Clip(FedSGD(), 3.0)
    assert made.std == pytest.approx(3 * 4.8448, rel=1e-4)


def test_poisson_sampling_shares_noise_alone_where_it_draws_no_example() -> None:
    model, batch = zoo.example()
    empty = DPSGD(norm=2.0, multiplier=0.5, expected=4.0, rate=1e-9)
    update = torch.cat([empty(model, batch, stream(s, "c"))["weight"] for s in range(400)])
    assert float(update.mean()) == pytest.approx(0, abs=0.02)
    assert float(update.std()) == pytest.approx(2.0 * 0.5 / 4.0, rel=0.05)
    # Without noise the mean over rounds is that of the whole batch.
    four = Batch(batch.x.repeat(4, 1) * torch.arange(1.0, 5.0)[:, None], batch.y.repeat(4))
    half = DPSGD(norm=0.1, multiplier=0.0, rate=0.5)
    rounds = [half(model, four, stream(s, "c"))["bias"] for s in range(600)]
    whole = DPSGD(norm=0.1, multiplier=0.0)(model, four, stream(0, "c"))["bias"]
    torch.testing.assert_close(torch.stack(rounds).mean(0), whole, rtol=0.1, atol=1e-3)
    with pytest.raises(InvalidInput, match=r"DPSGD\.rate=0"):
        DPSGD(1.0, 1.0, rate=0.0)


class Looking(nn.Module):
    """A network whose path depends on its data, which no vectorised map can follow."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.linear(x)
        return scores if bool((x >= 0).all()) else 2 * scores


def test_each_example_is_clipped_also_where_the_network_looks_at_its_data() -> None:
    model, _ = zoo.example()
    looking = Model.of(Looking(), functional.cross_entropy, model.form)
    x = torch.rand(3, 4, generator=stream(0, "x"))
    batch = Batch(torch.cat([x, -x]), torch.arange(6) % 2)
    client = DPSGD(norm=0.1, multiplier=0.0)
    found = client(looking, batch, stream(0, "c"))["linear.weight"]
    alone = [client(looking, batch[i : i + 1], stream(0, "c"))["linear.weight"] for i in range(6)]
    torch.testing.assert_close(found, torch.stack(alone).mean(0))
