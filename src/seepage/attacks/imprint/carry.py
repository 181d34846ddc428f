"""Deep placement by parameters alone: earlier layers of a ResNet are set to hand the image on."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from seepage.core import Model
from seepage.errors import InvalidInput
from seepage.tree import Tensors

__all__ = ["Step", "Unpack", "carrier", "pack", "revealed", "unpack"]

_SHIFT = 10.0  # added to every pixel, so that ReLU and max-pooling see positive numbers only


@dataclass(frozen=True)
class Step:
    """One layer on the way: a packing of 2x2 squares, or a normalisation with its name."""

    norm: str
    channels: int
    places: int
    """Positions in each channel behind it."""


@dataclass(frozen=True)
class Unpack:
    """From a layer's features (m, N) back to images (m, M)."""

    features: tuple[int, int, int]
    image: tuple[int, int, int]
    steps: tuple[Step, ...]
    statistics: Mapping[str, tuple[Tensor, Tensor]] | None = None
    """In train mode, by what mean and deviation each normalisation divided its channels."""

    def __call__(self, features: Tensor) -> Tensor:
        """Undo each step, last first; enlarge where a pooling stem lost resolution."""
        x = features.reshape(-1, *self.features)
        x = x[:, : self.steps[-1].channels]
        for step in reversed(self.steps):
            if not step.norm:
                x = unpack(x)
            elif self.statistics is not None:
                mean, deviation = (s.to(x).view(-1, 1, 1) for s in self.statistics[step.norm])
                x = (x - _SHIFT) * deviation + mean
        x = x - _SHIFT if self.statistics is None else x
        if x.shape[1:] != self.image:
            size = self.image[1:]
            x = nn.functional.interpolate(x, size, mode="bicubic", align_corners=False)
        return x.flatten(1)


def revealed(unpack: Unpack, model: Model, after: Tensors, n: int) -> Unpack:
    """The same, knowing what batch statistics moved the running ones: m = r - (r - r') / momentum.

    `after` are the running statistics after one step of n examples in train mode. PyTorch keeps
    the unbiased variance and divides by the biased one.
    """
    found = {}
    for step in unpack.steps:
        if step.norm:
            norm: Any = model.module.get_submodule(step.norm)
            mean, variance = (
                model.buffers[f"{step.norm}.{leaf}"].double()
                - (model.buffers[f"{step.norm}.{leaf}"] - after[f"{step.norm}.{leaf}"]).double()
                / norm.momentum
                for leaf in ("running_mean", "running_var")
            )
            count = n * step.places
            biased = variance[: step.channels] * (count - 1) / count
            found[step.norm] = (mean[: step.channels], (biased + norm.eps).sqrt())
    return replace(unpack, statistics=found)


def pack(x: Tensor) -> Tensor:
    """(m, C, 2H, 2W) -> (m, 4C, H, W): channel pC + c holds phase p = 2 dy + dx of channel c.

    >>> x = torch.arange(16.0).view(1, 1, 4, 4)
    >>> torch.equal(unpack(pack(x)), x)
    True
    """
    phases = [x[..., dy::2, dx::2] for dy in (0, 1) for dx in (0, 1)]
    return torch.cat(phases, 1)


def unpack(x: Tensor) -> Tensor:
    """The inverse of `pack`."""
    images, four, height, width = x.shape
    phases = x.reshape(images, 2, 2, four // 4, height, width)
    return phases.permute(0, 3, 4, 1, 5, 2).reshape(images, four // 4, 2 * height, 2 * width)


def carrier(module: nn.Module, at: str, probe: Tensor) -> Unpack:
    """Set all parameters before `at` so that the features there are the image, packed.

    The stem copies pixels (plus 10), residual branches add nothing, and where a block halves the
    resolution its branch reads the four phases of each 2x2 square into four times the channels
    while the shortcut is silenced: C -> 4C, so 3, 12, 48, 192 channels through a ResNet-18.
    """
    names = [name for name, _ in module.named_modules()]
    blocks = [name for name in names if name.startswith("layer") and name.count(".") == 1]
    ends = {name.split(".")[0] for name in blocks} | {*blocks, "avgpool"}
    if at not in ends or not {"conv1", "bn1", "maxpool", "avgpool"} <= set(names):
        raise InvalidInput(
            f"at={at!r}: what reaches this layer is not the example itself, and only a ResNet "
            "(conv1, bn1, relu, maxpool, layer1..4, avgpool) can be set to carry it there. "
            "Use at='' (before the whole model)"
            + (f", or {', '.join(sorted(ends))}." if blocks else ".")
        )
    before = blocks if at == "avgpool" else blocks[: _first(blocks, at)]
    with torch.no_grad():
        _stem(module, probe.shape[1])
        x = module.get_submodule("conv1")(probe)
        steps = [Step("bn1", probe.shape[1], x[0, 0].numel())]
        for name in ("bn1", "relu", "maxpool"):
            x = module.get_submodule(name)(x)
        for name in before:
            halves = _through(module.get_submodule(name), steps[-1].channels)
            x = module.get_submodule(name)(x)
            if halves:
                size = 4 * steps[-1].channels, x[0, 0].numel()
                steps += [Step(norm, *size) for norm in ("", f"{name}.bn1", f"{name}.bn2")]
    features: Any = tuple(x.shape[1:])
    image: Any = tuple(probe.shape[1:])
    return Unpack(features, image, tuple(steps))


def _first(blocks: list[str], at: str) -> int:
    return next(i for i, name in enumerate(blocks) if name == at or name.startswith(at + "."))


def _stem(module: Any, channels: int) -> None:
    """Centre taps copy the colour channels; the shift comes from the normalisation's bias."""
    _dirac(module.conv1, channels)
    _identity(module.bn1, channels)
    module.bn1.running_mean[:channels] = 0


def _through(block: Any, channels: int) -> int:
    """Let a residual block hand its input on; returns whether it halves the resolution."""
    if isinstance(block.downsample, nn.Identity) or block.downsample is None:
        block.conv1.weight.zero_()
        block.conv2.weight.zero_()
        _identity(block.bn1, 0)
        block.bn2.weight.zero_()
        block.bn2.bias.zero_()
        return 0
    if 4 * channels > block.conv1.out_channels:
        raise InvalidInput(
            f"{4 * channels} channels are needed to carry the image and a block has "
            f"{block.conv1.out_channels}. Place the rows at an earlier layer."
        )
    block.conv1.weight.zero_()
    for phase in range(4):
        for c in range(channels):
            block.conv1.weight[phase * channels + c, c, 1 + phase // 2, 1 + phase % 2] = 1
    _dirac(block.conv2, 4 * channels)
    _identity(block.bn1, 4 * channels)
    _identity(block.bn2, 4 * channels)
    block.downsample[1].weight.zero_()
    block.downsample[1].bias.zero_()
    return 1


def _dirac(conv: Any, channels: int) -> None:
    conv.weight.zero_()
    middle = conv.kernel_size[0] // 2
    for c in range(channels):
        conv.weight[c, c, middle, middle] = 1


def _identity(norm: Any, channels: int) -> None:
    """y = x for carried pixels (they bear the shift), 0 for the other channels.

    The shift is both the running mean and the bias: in train mode, where a channel comes out
    standardised, it is positive all the same.
    """
    norm.running_mean.zero_()
    norm.running_var.fill_(1 - norm.eps)
    norm.weight.fill_(1)
    norm.bias.zero_()
    norm.running_mean[:channels] = _SHIFT
    norm.bias[:channels] = _SHIFT
