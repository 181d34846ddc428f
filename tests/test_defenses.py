"""Each defense equals its formula on random updates."""

import pytest
import torch

from seepage import Client, Clip, Given, InvalidInput, Noise, Prune, stream, tree
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
    ],
)
def test_wrong_fields_are_named(make: object, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        make(Given(update()))  # type: ignore[operator]


def test_the_same_draw_on_every_type() -> None:
    single = shared(Noise(Given(update()), 1.0))["a"]
    double = shared(Noise(Given(tree.mapped(torch.Tensor.double, update())), 1.0))["a"]
    torch.testing.assert_close(single.double(), double, rtol=1e-5, atol=1e-6)
