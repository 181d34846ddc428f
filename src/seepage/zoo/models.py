"""Reference networks of the papers, each a plain module with PyTorch's initial weights.

`seed` draws the weights from a stream of their own; without it they come from the global one.
"""

from typing import Literal

from torch import nn

from seepage.checks import at_least, one_of
from seepage.zoo.build import Activation, Conv, activated, convolutional, dense, named, seeded
from seepage.zoo.residual import resnet18
from seepage.zoo.transformer import vit

__all__ = [
    "cnn6",
    "cnn6_d",
    "convnet",
    "fcn3",
    "lenet",
    "lenet_leaky",
    "linear",
    "mlp",
    "resnet18",
    "strided2",
    "three_conv",
    "two_layer",
    "vit",
]

_CNN6: tuple[Conv, ...] = (
    (12, 4, 2, 2),
    (36, 3, 1, 2),
    (36, 3, 1, 1),
    (36, 3, 1, 1),
    (64, 3, 1, 2),
    (128, 3, 1, 1),
)


def linear(
    inputs: int, classes: int = 1, bias: bool = True, seed: int | None = None
) -> nn.Sequential:
    """Logistic regression, f(x) = W x + b, on examples of any shape with this many entries.

    >>> [(name, tuple(p.shape)) for name, p in linear(64, 10).named_parameters()]
    [('linear1.weight', (10, 64)), ('linear1.bias', (10,))]
    """
    return mlp(inputs, classes, bias=bias, seed=seed)


def mlp(
    *sizes: int, activation: Activation = "relu", bias: bool = True, seed: int | None = None
) -> nn.Sequential:
    """Dense layers of these sizes, inputs first and outputs last, an activation between them.

    >>> list(mlp(64, 128, 10, activation="tanh").named_children())[1:3]
    [('linear1', Linear(in_features=64, out_features=128, bias=True)), ('act1', Tanh())]
    """
    with seeded(seed):
        return dense(sizes, activation, bias)


def two_layer(
    inputs: int,
    hidden: int,
    activation: Activation = "relu",
    classes: int = 1,
    bias: bool = True,
    seed: int | None = None,
) -> nn.Sequential:
    """f(x) = A act(W x + b) + c, whose gradient is a tensor of moments of the batch.

    Wang, Lee and Lei 2023, arXiv 2212.03714.

    >>> [(name, tuple(p.shape)) for name, p in two_layer(8, 32).named_parameters()]
    [('linear1.weight', (32, 8)), ('linear1.bias', (32,)),
     ('linear2.weight', (1, 32)), ('linear2.bias', (1,))]
    """
    return mlp(inputs, hidden, classes, activation=activation, bias=bias, seed=seed)


def lenet(
    classes: int = 10,
    shape: tuple[int, int, int] = (3, 32, 32),
    strides: tuple[int, ...] = (2, 2, 1, 1),
    activation: Activation = "sigmoid",
    spread: float | None = 0.5,
    seed: int | None = None,
) -> nn.Sequential:
    """The LeNet of deep leakage: 12-channel 5x5 convolutions, then Linear(768, classes).

    Every parameter is drawn from U(-spread, spread), or as PyTorch does with spread=None.
    Zhu, Liu and Han 2019, arXiv 1906.08935.

    >>> tuple(lenet().linear.weight.shape)
    (10, 768)
    """
    with seeded(seed):
        convs = [(12, 5, 2, stride) for stride in strides]
        network = convolutional(shape, convs, classes, activation, bias=True)
        if spread is not None:
            for parameter in network.parameters():
                nn.init.uniform_(parameter, -spread, spread)
        return network


def lenet_leaky(classes: int = 1, size: int = 32, seed: int | None = None) -> nn.Sequential:
    """LeNet with three convolutions, LeakyReLU(.2) and no bias, which R-GAP solves in closed form.

    Zhu and Blaschko 2021, arXiv 2010.07733.

    >>> tuple(lenet_leaky().linear.weight.shape)
    (1, 768)
    """
    return _leaky(((12, 5, 2, 2), (12, 5, 2, 2), (12, 5, 2, 1)), classes, size, seed)


def cnn6(classes: int = 1, size: int = 32, seed: int | None = None) -> nn.Sequential:
    """Six convolutions that R-GAP inverts one by one: LeakyReLU(.2), no bias, no pooling.

    Zhu and Blaschko 2021, arXiv 2010.07733.

    >>> tuple(cnn6().linear.weight.shape)
    (1, 3200)
    """
    return _leaky(_CNN6, classes, size, seed)


def cnn6_d(classes: int = 1, size: int = 32, seed: int | None = None) -> nn.Sequential:
    """`cnn6` with 20 channels in place of 36 after conv2, so that its equations fall short.

    Zhu and Blaschko 2021, arXiv 2010.07733.

    >>> tuple(cnn6_d().conv2.weight.shape)
    (20, 12, 3, 3)
    """
    return _leaky((_CNN6[0], (20, 3, 1, 2), *_CNN6[2:]), classes, size, seed)


def strided2(classes: int = 1, size: int = 32, seed: int | None = None) -> nn.Sequential:
    """Two strided convolutions for images of any size: LeakyReLU(.2), no bias.

    >>> tuple(strided2(size=224).linear.weight.shape)
    (1, 207936)
    """
    return _leaky(((16, 4, 2, 2), (64, 3, 1, 2)), classes, size, seed)


def three_conv(
    first: int, second: int, classes: int = 10, size: int = 16, seed: int | None = None
) -> nn.Sequential:
    """S(first, second): three convolutions whose widths decide whether the layers can be inverted.

    The smallest chains that show full and deficient rank: LeakyReLU(.2), no bias, 16x16 images.

    >>> [tuple(p.shape) for p in three_conv(12, 20).parameters()]
    [(12, 3, 4, 4), (20, 12, 3, 3), (36, 20, 3, 3), (10, 900)]
    """
    return _leaky(((first, 4, 2, 2), (second, 3, 1, 2), (36, 3, 1, 1)), classes, size, seed)


def fcn3(
    output: Literal["identity", "leaky"] = "identity",
    inputs: int = 784,
    seed: int | None = None,
) -> nn.Sequential:
    """Dense 784-1000-100-1 with LeakyReLU(.2) and no bias; the authors' code has one at the end.

    Zhu and Blaschko 2021, arXiv 2010.07733.

    >>> [tuple(p.shape) for p in fcn3().parameters()]
    [(1000, 784), (100, 1000), (1, 100)]
    """
    one_of("fcn3.output", output, ("identity", "leaky"))
    network = mlp(inputs, 1000, 100, 1, activation="leaky", bias=False, seed=seed)
    if output == "leaky":
        network.add_module("act3", activated("leaky"))
    return network


def convnet(
    width: int = 64,
    classes: int = 10,
    shape: tuple[int, int, int] = (3, 32, 32),
    seed: int | None = None,
) -> nn.Sequential:
    """Eight 3x3 convolutions, each with BatchNorm and ReLU, and two poolings, then linear.

    Widths w, 2w, 2w, 4w, 4w, 4w, pool, 4w, 4w, pool. Geiping et al. 2020, arXiv 2003.14053.

    >>> tuple(convnet(16).linear.weight.shape)
    (10, 576)
    """
    at_least("convnet.width", width, 1)
    channels, height, breadth = shape
    layers: list[tuple[str, nn.Module]] = []
    with seeded(seed):
        for place, factor in enumerate((1, 2, 2, 4, 4, 4, 4, 4), start=1):
            out = factor * width
            layers += [
                (f"conv{place}", nn.Conv2d(channels, out, 3, padding=1)),
                (f"norm{place}", nn.BatchNorm2d(out)),
                (f"act{place}", nn.ReLU()),
            ]
            channels = out
            if place in (6, 8):
                layers.append((f"pool{place // 4}", nn.MaxPool2d(3)))
        last = nn.Linear(channels * (height // 9) * (breadth // 9), classes)
        return named([*layers, ("flatten", nn.Flatten()), ("linear", last)])


def _leaky(convs: tuple[Conv, ...], classes: int, size: int, seed: int | None) -> nn.Sequential:
    with seeded(seed):
        return convolutional((3, size, size), convs, classes, "leaky", bias=False)
