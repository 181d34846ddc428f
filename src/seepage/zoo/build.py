"""How the reference networks are put together: seeds, activations, named chains."""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from math import prod

import torch
from torch import nn

from seepage.errors import InvalidInput

Activation = str | Callable[[], nn.Module]
Conv = tuple[int, int, int, int]
"""Channels out, kernel, padding, stride."""

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "identity": nn.Identity,
    "leaky": lambda: nn.LeakyReLU(0.2),
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
}


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Draw initial weights from this seed, and leave the global generator as it was."""
    if seed is None:
        yield
        return
    before = torch.random.get_rng_state()
    torch.random.set_rng_state(torch.Generator().manual_seed(seed).get_state())
    try:
        yield
    finally:
        torch.random.set_rng_state(before)


def activated(activation: Activation) -> nn.Module:
    """A fresh activation layer, by name ("leaky" has slope .2) or from its class."""
    if not isinstance(activation, str):
        return activation()
    if activation not in _ACTIVATIONS:
        raise InvalidInput(
            f"activation={activation!r} is not known: use {', '.join(_ACTIVATIONS)}, "
            "or pass a class such as torch.nn.Mish."
        )
    return _ACTIVATIONS[activation]()


def named(layers: Iterable[tuple[str, nn.Module]]) -> nn.Sequential:
    """A chain of named layers."""
    return nn.Sequential(OrderedDict(layers))


def dense(sizes: Sequence[int], activation: Activation, bias: bool) -> nn.Sequential:
    """Flatten, then linear1, act1, linear2, ...: no activation after the last."""
    if len(sizes) < 2 or min(sizes) < 1:
        raise InvalidInput(
            f"sizes={tuple(sizes)}: give the inputs, any hidden widths, the outputs."
        )
    layers: list[tuple[str, nn.Module]] = [("flatten", nn.Flatten())]
    for place, (inputs, outputs) in enumerate(pairwise(sizes), start=1):
        layers.append((f"linear{place}", nn.Linear(inputs, outputs, bias=bias)))
        if place < len(sizes) - 1:
            layers.append((f"act{place}", activated(activation)))
    return named(layers)


def convolutional(
    shape: Sequence[int], convs: Sequence[Conv], classes: int, activation: Activation, bias: bool
) -> nn.Sequential:
    """conv1, act1, conv2, ..., flatten, linear: a chain without pooling or normalisation."""
    channels, *sides = shape
    layers: list[tuple[str, nn.Module]] = []
    for place, (out, kernel, padding, stride) in enumerate(convs, start=1):
        conv = nn.Conv2d(channels, out, kernel, stride, padding, bias=bias)
        layers += [(f"conv{place}", conv), (f"act{place}", activated(activation))]
        if min(sides) + 2 * padding < kernel or min(sides) < 1:
            raise InvalidInput(f"shape={tuple(shape)} is too small for convolution {place}.")
        channels, sides = out, [(side + 2 * padding - kernel) // stride + 1 for side in sides]
    linear = nn.Linear(channels * prod(sides), classes, bias=bias)
    return named([*layers, ("flatten", nn.Flatten()), ("linear", linear)])
