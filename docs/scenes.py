"""What each page's picture shows: one trial for an attack, two for a defense."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from seepage import Attack, Client, FedAvg, FedSGD, Only, Trial, attacks, clients, defenses, zoo
from seepage.defenses.precode import precode


@dataclass(frozen=True)
class Scene:
    """A trial to draw, and in words what the reader sees."""

    about: str
    trial: Trial


def _public(size: int = 32) -> Tensor:
    return zoo.photos(300, size, split="public").x


def _photos(
    attack: Attack, n: int, *widths: int, activation: str = "relu", size: int = 32
) -> Trial:
    """Photographs, a fully connected network of these widths, plain FedSGD."""
    sample = zoo.photos(n, size)
    network = zoo.mlp(3 * size**2, *widths, 8, activation=activation, seed=0)
    return Trial(sample.model(network), sample.batch, FedSGD(), attack)


def _crafted(attack: Attack, n: int) -> Trial:
    """A server that puts a block of its own before an honest convolutional network."""
    sample = zoo.photos(n, 32)
    model = sample.model(zoo.convnet(8, classes=8, seed=0))
    return Trial(model, sample.batch, FedSGD(), attack)


def _search(attack: Attack, n: int = 1, client: Client | None = None) -> Trial:
    """One digit and a small smooth network, where a search takes a second."""
    sample = zoo.digits(n)
    model = sample.model(zoo.mlp(64, 128, 10, activation="tanh", seed=0))
    return Trial(model, sample.batch, client or FedSGD(), attack)


def _coded() -> Trial:
    """The smooth network with a bottleneck, in train mode."""
    sample = zoo.digits(1)
    network = zoo.mlp(64, 128, 64, 10, activation="tanh", bias=False, seed=0)
    model = precode(sample.model(network), code=32)
    return Trial(model, sample.batch, FedSGD("train"), attacks.Coded())


def _mixed() -> Trial:
    """Two digits of different classes, of which `InstaHide` makes mixtures."""
    sample = zoo.digits(9, seed=1)
    other = next(i for i, label in enumerate(sample.y.tolist()) if label != int(sample.y[0]))
    model = sample.model(zoo.mlp(64, 48, 10, activation="tanh", seed=0))
    batch, client = sample.batch[torch.tensor([0, other])], defenses.InstaHide(FedSGD(), k=2)
    return Trial(model, batch, client, attacks.Unmix(starts=1), tell=("n", "y"))


def _deep(attack: Attack) -> Trial:
    sample = zoo.photos(1, 32).signed()
    model = sample.model(zoo.cnn6(seed=0), zoo.logistic_loss)
    return Trial(model, sample.batch, FedSGD(), attack)


def _two_layers(attack: Attack, width: int) -> Trial:
    sample = zoo.digits(4)
    model = sample.model(zoo.two_layer(64, width, "gelu", classes=10, seed=0))
    return Trial(model, sample.batch, FedSGD(), attack)


def _text(attack: Attack, n: int, tell: tuple[Any, ...] = ("n",)) -> Trial:
    from seepage.integrations.minilm import minilm, sentences

    model, tokenizer = minilm()
    batch = sentences(model, tokenizer, n, seed=0)
    return Trial(model, batch, FedSGD(), attack, tell=tell)


_INVERT = attacks.Invert(steps=100)
_FOUR = "Four photographs of 32x32 and a ReLU network with 256 hidden units."
_CONV = "A batch of 16 photographs of 32x32; the server put its rows before a ConvNet."
_DIGIT = "One handwritten digit and a tanh network with 128 hidden units."

ATTACKS: dict[str, Callable[[], Scene]] = {
    "Adaptive": lambda: Scene(
        "One digit; the client prunes 90 % of its update, and the attacker knows it.",
        _search(attacks.Adaptive(_INVERT), client=defenses.Prune(FedSGD(), ratio=0.9)),
    ),
    "BiasRatio": lambda: Scene(_FOUR, _photos(attacks.BiasRatio(), 4, 256)),
    "Coded": lambda: Scene(
        "One digit; a random bottleneck before the last layer of a network without biases.",
        _coded(),
    ),
    "Counted": lambda: Scene(
        _CONV, _crafted(attacks.Counted(bins=128, directions=2, public=_public()), 16)
    ),
    "EitherMode": lambda: Scene(_DIGIT, _search(attacks.EitherMode(_INVERT))),
    "EmbeddingRows": lambda: Scene(
        "One sentence and MiniLM with a fresh head.", _text(attacks.EmbeddingRows(), 1)
    ),
    "Group": lambda: Scene(_DIGIT, _search(attacks.Group(_INVERT, members=2))),
    "Imprint": lambda: Scene(_CONV, _crafted(attacks.Imprint(bins=128, public=_public()), 16)),
    "Invert": lambda: Scene(_DIGIT, _search(_INVERT)),
    "Lamp": lambda: Scene(
        "One sentence, MiniLM with a fresh head, a short search; labels are told.",
        _text(attacks.Lamp(starts=1, steps=30, every=15, proposals=5), 1, ("n", "y")),
    ),
    "Moments": lambda: Scene(
        "Four digits; the server drew the 4000 hidden units from a normal law.",
        _two_layers(attacks.Moments(polish=True), 4000),
    ),
    "OneShot": lambda: Scene(
        "A batch of 16 photographs; one row waits for one of 16.",
        _crafted(attacks.OneShot(n=16, public=_public()), 16),
    ),
    "Pooler": lambda: Scene(
        "One sentence; the server widened MiniLM's pooler.",
        _text(attacks.Pooler(lamp=attacks.Lamp(starts=1, steps=10, every=5, proposals=5)), 1),
    ),
    "RGap": lambda: Scene("One photograph of 32x32 and CNN6.", _deep(attacks.RGap())),
    "Restarts": lambda: Scene(_DIGIT, _search(attacks.Restarts(_INVERT, 2))),
    "Span": lambda: Scene(
        "Four digits and a GELU network with 256 hidden units.", _two_layers(attacks.Span(), 256)
    ),
    "SparseImprint": lambda: Scene(
        "A batch of 16 photographs; the client takes two epochs of local steps.",
        replace(
            _crafted(attacks.SparseImprint(bins=128, public=_public()), 16),
            client=FedAvg(epochs=2, batch_size=8, lr=1e-3),
        ),
    ),
    "StateSearch": lambda: Scene(
        "Two sentences and MiniLM with a fresh head; the client keeps its attention back.",
        replace(_text(attacks.StateSearch(), 2), client=Only(FedSGD(), "!*.encoder.*")),
    ),
    "TokenSpan": lambda: Scene(
        "Two sentences and MiniLM with a fresh head.", _text(attacks.TokenSpan(), 2)
    ),
    "Unmix": lambda: Scene(
        "Two digits of different classes, mixed and with their signs flipped; labels are told.",
        _mixed(),
    ),
    "Trap": lambda: Scene(_CONV, _crafted(attacks.Trap(n=16, rows=256, public=_public()), 16)),
}

_LOCAL = FedAvg(lr=0.1)
CLIENTS: dict[str, Callable[[], Client]] = {
    "Clip": lambda: defenses.Clip(FedSGD(), norm=0.01),
    "DPSGD": lambda: defenses.DPSGD(norm=1.0, multiplier=0.1),
    "Dropout": lambda: defenses.Dropout(FedSGD(), keep=0.5),
    "FedAvg": lambda: clients.FedAvg(epochs=5, lr=0.1),
    "FedSGD": clients.FedSGD,
    "InstaHide": lambda: defenses.InstaHide(FedSGD(), k=2),
    "MixUp": lambda: defenses.MixUp(FedSGD()),
    "Noise": lambda: defenses.Noise(FedSGD(), std=0.1, relative=True),
    "Only": lambda: clients.Only(FedSGD(), "linear1.*"),
    "Percentile": lambda: defenses.Percentile(_LOCAL, percentile=50, gamma=0.01),
    "Prune": lambda: defenses.Prune(FedSGD(), ratio=0.9),
    "Quantize": lambda: defenses.Quantize(FedSGD(), bits=4),
    "SVT": lambda: defenses.SVT(_LOCAL),
    "SecureSum": lambda: clients.SecureSum(FedSGD(), 4),
    "Sign": lambda: defenses.Sign(FedSGD()),
    "Soteria": lambda: defenses.Soteria(FedSGD(), share=0.5),
}
"""Beside the same photographs without the client; `Given` has no data of its own to draw."""


def defended(name: str) -> Scene:
    """The same four photographs and network as on BiasRatio's page, under this client."""
    client = CLIENTS[name]()
    about = f"{_FOUR} Read by `BiasRatio()` alone: what other attacks get is on the page below."
    return Scene(about, replace(_photos(attacks.BiasRatio(), 4, 256), client=client))
