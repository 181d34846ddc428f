"""ResNet-18, with the names of the widely used implementation so that its weights load."""

from typing import Literal

from torch import Tensor, nn

from seepage.checks import one_of
from seepage.zoo.build import named, seeded

__all__ = ["resnet18"]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut: relu(F(x) + x)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = nn.Identity() if stride == 1 else _projection(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.relu(self.bn1(self.conv1(x)))
        shortcut: Tensor = self.downsample(x)
        joined: Tensor = self.relu(self.bn2(self.conv2(inner)) + shortcut)
        return joined


def resnet18(
    stem: Literal["cifar", "imagenet"] = "cifar",
    classes: int = 10,
    seed: int | None = None,
) -> nn.Sequential:
    """ResNet-18: a 3x3 stem for small images ("cifar"), or 7x7 and max-pooling ("imagenet").

    He et al. 2016, arXiv 1512.03385. `layer4` ends in 512 channels; any image size will do.

    >>> sum(p.numel() for p in resnet18("imagenet", classes=1000).parameters())
    11689512
    """
    one_of("resnet18.stem", stem, ("cifar", "imagenet"))
    with seeded(seed):
        layers: list[tuple[str, nn.Module]] = [
            ("conv1", _stem(stem)),
            ("bn1", nn.BatchNorm2d(64)),
            ("relu", nn.ReLU()),
            ("maxpool", nn.MaxPool2d(3, 2, 1) if stem == "imagenet" else nn.Identity()),
        ]
        inputs = 64
        for place, outputs in enumerate((64, 128, 256, 512), start=1):
            first = BasicBlock(inputs, outputs, stride=1 if place == 1 else 2)
            second = BasicBlock(outputs, outputs, stride=1)
            layers.append((f"layer{place}", nn.Sequential(first, second)))
            inputs = outputs
        pool, flatten = nn.AdaptiveAvgPool2d(1), nn.Flatten()
        ends = [("avgpool", pool), ("flatten", flatten), ("fc", nn.Linear(512, classes))]
        return named([*layers, *ends])


def _stem(stem: str) -> nn.Conv2d:
    if stem == "cifar":
        return nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    return nn.Conv2d(3, 64, 7, 2, 3, bias=False)


def _projection(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
