"""What every attack and every defense must keep, whoever wrote it.

An attack or a defense added to its folder's `__all__` needs one row here.
"""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_language import encoder
from torch import Generator, Tensor, nn
from torch.nn import functional

from seepage import (
    Attack,
    Batch,
    Client,
    FedAvg,
    FedSGD,
    Images,
    Model,
    Observation,
    attacks,
    defenses,
    noiseless,
    observe,
    stream,
    tree,
)
from seepage.defenses.precode import precode
from seepage.expr import read

Setting = tuple[Model, Batch, Client]


def linear(n: int = 1, dtype: torch.dtype = torch.float32) -> Setting:
    """A linear softmax classifier of small images."""
    return _setting(nn.Sequential(nn.Flatten(), nn.Linear(48, 5)), n, dtype)


def smooth(n: int = 1, dtype: torch.dtype = torch.float32) -> Setting:
    """A small network with a smooth activation."""
    module = nn.Sequential(nn.Flatten(), nn.Linear(48, 12), nn.Tanh(), nn.Linear(12, 5))
    return _setting(module, n, dtype)


def wide(n: int = 1, dtype: torch.dtype = torch.float32) -> Setting:
    """Two layers, wide enough for averages over the hidden units to converge."""
    module = nn.Sequential(nn.Flatten(), nn.Linear(48, 600), nn.GELU(), nn.Linear(600, 5))
    return _setting(module, n, dtype)


def convolutional(n: int = 1, dtype: torch.dtype = torch.float32) -> Setting:
    """A small convolutional network with BatchNorm."""
    module = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5)
    )
    return _setting(module, n, dtype)


def coded(n: int = 1, dtype: torch.dtype = torch.float32) -> Setting:
    """The smooth network behind a random bottleneck."""
    model, batch, _ = smooth(n, dtype)
    return precode(model, code=4), batch, FedSGD("train")


def tokens(n: int = 1, dtype: torch.dtype = torch.float32) -> Setting:
    """A small encoder of sentences, whose words answers are made of."""
    return (*encoder(n, dtype), FedSGD())


def _setting(module: nn.Module, n: int, dtype: torch.dtype) -> Setting:
    drawn = stream(11, "setting")
    for parameter in module.parameters():
        with torch.no_grad():
            parameter.copy_(torch.randn(parameter.shape, generator=drawn) / 4)
    model = Model.of(module.to(dtype), functional.cross_entropy, Images((3, 4, 4), 5))
    pixels = torch.randint(256, (n, 3, 4, 4), generator=drawn) / 255
    return model, Batch(pixels.to(dtype), torch.arange(n) % 5), FedSGD()


PUBLIC = torch.randint(256, (500, 3, 4, 4), generator=stream(12, "public")) / 255
ATTACKS: dict[str, tuple[Attack, Callable[..., Setting]]] = {
    "Adaptive": (attacks.Adaptive(attacks.Invert(steps=3)), smooth),
    "Unmix": (attacks.Unmix(starts=1, steps=3, solves=1), smooth),
    "Coded": (attacks.Coded(attacks.Invert(steps=3)), coded),
    "BiasRatio": (attacks.BiasRatio(), smooth),
    "BiasRatio of a classifier": (attacks.BiasRatio(), linear),
    "Invert": (attacks.Invert(steps=5), convolutional),
    "Invert with L-BFGS": (
        attacks.Invert(attacks.L2(), (), attacks.Joint(), optimiser=attacks.LBFGS(), steps=2),
        smooth,
    ),
    "EitherMode": (attacks.EitherMode(attacks.Invert(steps=3)), convolutional),
    "Group": (attacks.Group(attacks.Invert(steps=3), members=2), smooth),
    "RGap": (attacks.RGap(combination=True), smooth),
    "Span": (attacks.Span(starts=4), smooth),
    "Moments": (attacks.Moments(), wide),
    "Imprint": (attacks.Imprint(bins=8, public=PUBLIC), convolutional),
    "Counted": (attacks.Counted(bins=8, directions=2, public=PUBLIC), convolutional),
    "OneShot": (attacks.OneShot(n=3, public=PUBLIC), convolutional),
    "SparseImprint": (attacks.SparseImprint(bins=8, public=PUBLIC), convolutional),
    "Trap": (attacks.Trap(n=3, rows=16, public=PUBLIC), convolutional),
    "EmbeddingRows": (attacks.EmbeddingRows(), tokens),
    "TokenSpan": (attacks.TokenSpan(budget=300), tokens),
    "TokenSpan without rows": (attacks.TokenSpan(budget=300, rows=False), tokens),
    "StateSearch": (attacks.StateSearch(budget=300), tokens),
    "Lamp": (
        attacks.Lamp(starts=2, steps=12, every=5, proposals=3),
        tokens,
    ),
    "Pooler": (
        attacks.Pooler(width=200, lamp=attacks.Lamp(starts=1, steps=6), starts=3),
        tokens,
    ),
    "Restarts": (attacks.Restarts(attacks.Invert(steps=3), 2), smooth),
}
DEFENSES: dict[str, Client] = {
    "Clip": defenses.Clip(FedSGD(), norm=0.01),
    "DPSGD": defenses.DPSGD(norm=1.0, multiplier=0.5),
    "Dropout": defenses.Dropout(FedSGD(), keep=0.6, at="entries"),
    "InstaHide": defenses.InstaHide(FedSGD(), k=3),
    "MixUp": defenses.MixUp(FedSGD()),
    "Noise": defenses.Noise(FedSGD(), std=0.1, kind="laplace", relative=True),
    "Noise where it tells most": defenses.Noise(FedSGD(), std=0.1, kind="optimal"),
    "Percentile": defenses.Percentile(FedAvg(lr=0.1), percentile=30, gamma=0.02, steps=3),
    "Prune": defenses.Prune(FedAvg(epochs=2, batch_size=1), ratio=0.7, scope="global"),
    "Prune what tells most": defenses.Prune(FedSGD(), ratio=0.7, kind="optimal"),
    "Quantize": defenses.Quantize(FedSGD(), bits=3, stochastic=True),
    "SVT": defenses.SVT(FedSGD(), gamma=1.0),
    "Sign": defenses.Sign(FedSGD()),
    "Soteria": defenses.Soteria(FedSGD(), share=0.3),
}

# Clipping example by example is not defined under BatchNorm.
REFUSED = [("DPSGD", convolutional)]


def is_attack(thing: Any) -> bool:
    return callable(thing) and list(inspect.signature(thing.__call__).parameters)[-2:] == [
        "seen",
        "rng",
    ]


def test_every_attack_has_a_row() -> None:
    named = {name for name in attacks.__all__ if is_attack(getattr(attacks, name))}
    assert named == {type(attack).__name__ for attack, _ in ATTACKS.values()}


def test_every_defense_has_a_row() -> None:
    assert {type(defense).__name__ for defense in DEFENSES.values()} == set(defenses.__all__)


def answered(attack: Attack, setting: Setting, spoil: bool = False) -> dict[str, Tensor]:
    """What the attack answers, with the secret overwritten once it has left the client."""
    model, batch, client = setting
    batch = Batch(batch.x.clone(), None if batch.y is None else batch.y.clone())
    craft = getattr(attack, "craft", None)
    model = model if craft is None else craft(model, stream(5, "craft"))
    told = ("n", "y") if isinstance(attack, attacks.Lamp | attacks.Unmix) else ("n",)
    seen = observe(model, batch, client, stream(5, "client"), tell=told)
    before = fingerprint(seen)
    if spoil:
        batch.x.fill_(torch.nan if batch.x.is_floating_point() else 3)
        batch.target.fill_(-1)
    answer = attack(seen, stream(5, "attack"))
    assert fingerprint(seen) == before, "the observation was changed"
    given = {"x": answer.x, "y": answer.y, "belief": answer.belief, "residual": answer.residual}
    return {name: tensor for name, tensor in given.items() if tensor is not None}


def fingerprint(seen: Observation) -> str:
    return tree.fingerprint(seen.model.state) + tree.fingerprint(seen.update)


def bits(answer: dict[str, Tensor]) -> str:
    return tree.fingerprint(answer)


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("n", [1, 3])
def test_an_attack_is_blind_to_the_truth(name: str, n: int) -> None:
    attack, setting = ATTACKS[name]
    assert bits(answered(attack, setting(n))) == bits(answered(attack, setting(n), spoil=True))


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_repeats_itself_and_leaves_the_global_generator_alone(name: str) -> None:
    attack, make = ATTACKS[name]
    setting = make()
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = bits(answered(attack, setting))
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    assert bits(answered(attack, setting)) == first


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_attack_keeps_type_and_device(name: str, dtype: torch.dtype) -> None:
    attack, setting = ATTACKS[name]
    model, batch, client = setting(1, dtype)
    answer = answered(attack, (model, batch, client))
    assert answer["x"].dtype == (batch.x.dtype if setting is tokens else dtype)
    assert answer["x"].device == model.device
    assert answer["x"].shape[1:] == model.form.shape


@pytest.mark.parametrize(
    "thing", [a for a, _ in ATTACKS.values()] + list(DEFENSES.values()), ids=str
)
def test_what_it_prints_can_be_read_back(thing: Attack | Client) -> None:
    if "tensor(" not in repr(thing):
        assert read(repr(thing)) == thing
    assert (
        type(thing)(**{f.name: getattr(thing, f.name) for f in dataclasses.fields(thing)}) == thing
    )


@pytest.mark.parametrize("name", DEFENSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("setting", [smooth, convolutional])
def test_a_defense_keeps_names_shapes_and_types(
    name: str, dtype: torch.dtype, setting: Callable[..., Setting]
) -> None:
    if (name, setting) in REFUSED:
        pytest.skip("it refuses this network, and its own test says how")
    model, batch, _ = setting(3, dtype)
    before = tree.fingerprint(model.state)
    update = DEFENSES[name](model, batch, stream(1, "client"))
    assert {k: (u.shape, u.dtype) for k, u in update.items()} == {
        k: (p.shape, p.dtype) for k, p in model.params.items()
    }
    assert tree.fingerprint(model.state) == before
    tree.check_finite(update, name)


@pytest.mark.parametrize("name", DEFENSES)
def test_a_defense_draws_from_the_clients_stream_only(name: str) -> None:
    model, batch, _ = smooth(3)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = DEFENSES[name](model, batch, stream(1, "client"))
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    again = DEFENSES[name](model, batch, stream(1, "client"))
    assert tree.fingerprint(first) == tree.fingerprint(again)


@pytest.mark.parametrize("name", DEFENSES)
def test_the_noiseless_part_repeats_whatever_the_stream_where_order_does_not_matter(
    name: str,
) -> None:
    model, batch, _ = smooth(1)
    plain = noiseless(DEFENSES[name])
    one, two = (plain(model, batch, stream(s, "client")) for s in (1, 2))
    assert tree.fingerprint(one) == tree.fingerprint(two)


@pytest.mark.parametrize("name", DEFENSES)
def test_the_cell_holds_the_inner_update(name: str) -> None:
    defense: Any = DEFENSES[name]
    if not hasattr(defense, "cell"):
        pytest.skip("this defense offers no cell")
    model, batch, _ = smooth(3)
    inner = defense.inner(model, batch, stream(1, "client"))
    low, high = defense.cell(defense(model, batch, stream(1, "client")))
    for key, tensor in inner.items():
        assert (low[key] <= tensor).all()
        assert (tensor <= high[key]).all()


@pytest.mark.parametrize("name", DEFENSES)
def test_a_defense_can_be_simulated(name: str) -> None:
    model, batch, _ = smooth(2)
    x = batch.x.clone().requires_grad_()
    update = noiseless(DEFENSES[name])(model, Batch(x, batch.y), Generator().manual_seed(0))
    (slope,) = torch.autograd.grad(tree.flat(update).sin().sum(), x)
    assert slope.isfinite().all()
    assert slope.any()
