"""Honest models for the study of the guard: trained as honest federations train, to convergence."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from seepage import zoo
from seepage.core import Batch, Model, stream
from seepage.forms import Images
from seepage.values import value
from seepage.zoo.bundled import Split

__all__ = ["Honest", "honest"]

_TRAINED, _HELD, _LOCAL = 800, 256, 32
_EPOCHS = {"MLP": 20, "ConvNet": 20, "ResNet-18": 8}
_PEAK = {"MLP": 0.05, "ConvNet": 0.1, "ResNet-18": 0.1}


@value
class Honest:
    """A model as an honest server would broadcast it, with batches of its clients."""

    kind: str
    state: str
    model: Model
    batches: tuple[Batch, ...]
    accuracy: float
    """On examples that it was not trained on."""


def honest(kind: str, data: str, seed: int, quick: bool) -> Iterator[Honest]:
    """A network fresh, after one epoch, and when training has ended.

    SGD with momentum .9, weight decay 5e-4 and a rate that rises and falls (one cycle) over all
    epochs, in train mode. The batches are two: of what it is trained on, and of new examples.
    """
    size = 16 if data == "photographs" or kind == "ConvNet" else 8
    train = _sample(data, (_TRAINED, size), seed, "private")
    held = _sample(data, (_HELD, size), seed, "public")
    form = train.form
    assert isinstance(form, Images)
    module = _network(kind, form, seed)
    epochs = 4 if quick else _EPOCHS[kind]
    batches = tuple(Batch(s.x[:64], s.y[:64]) for s in (train, held))
    for done in _trained(module, train, (epochs, _PEAK[kind]), seed):
        if done in (0, 1, epochs):
            state = {0: "fresh", 1: "one epoch"}.get(done, "trained")
            model = Model.of(module.eval(), nn.functional.cross_entropy, form)
            accuracy = _accuracy(module, held)
            yield Honest(f"{kind}, {data}", state, model, batches, accuracy)


def _trained(
    module: nn.Module, sample: zoo.Sample, plan: tuple[int, float], seed: int
) -> Iterator[int]:
    """Trains, and says after how many epochs."""
    epochs, peak = plan
    order, steps = stream(seed, "training"), math.ceil(len(sample.x) / _LOCAL)
    solver = torch.optim.SGD(module.parameters(), peak, momentum=0.9, weight_decay=5e-4)
    cycle = torch.optim.lr_scheduler.OneCycleLR(solver, peak, total_steps=epochs * steps)
    yield 0
    for epoch in range(1, epochs + 1):
        module.train()
        for pick in _parts(torch.randperm(len(sample.x), generator=order), _LOCAL):
            solver.zero_grad()
            risk = nn.functional.cross_entropy(module(sample.x[pick]), sample.y[pick])
            torch.autograd.backward(risk)
            solver.step()
            cycle.step()
        yield epoch


def _parts(x: Tensor, size: int) -> Iterator[Tensor]:
    return (x[start : start + size] for start in range(0, len(x), size))


def _accuracy(module: nn.Module, sample: zoo.Sample) -> float:
    with torch.no_grad():
        said = torch.cat([module(x).argmax(1) for x in _parts(sample.x, 64)])
    return float((said == sample.y).double().mean())


def _sample(data: str, shape: tuple[int, int], seed: int, split: Split) -> zoo.Sample:
    """Other digits, or other crops of the same eight photographs, which are the classes."""
    if data == "digits":
        return zoo.digits(*shape, split=split, seed=seed)
    return zoo.photos(*shape, split="both", seed=2 * seed + (split == "public")).normalised()


def _network(kind: str, form: Images, seed: int) -> nn.Module:
    if kind == "MLP":
        return zoo.mlp(math.prod(form.shape), 256, 128, form.classes, seed=seed)
    if kind == "ConvNet":
        return zoo.convnet(8, classes=form.classes, shape=form.shape, seed=seed)
    network = zoo.resnet18("cifar", classes=form.classes, seed=seed)
    stem = network.get_submodule("conv1")
    assert isinstance(stem, nn.Conv2d)
    if form.shape[0] == 1:  # a grey image seen as one with three equal colours
        stem.weight = nn.Parameter(stem.weight.detach().sum(1, keepdim=True))
        stem.in_channels = 1
    return network
