"""Convolutions whose windows tile the image, as vision transformers begin: dense on each patch."""

from torch import Tensor, nn

from seepage.attacks.matching.condensed import Fixed, placeholder
from seepage.attacks.matching.linear import dense


def tiles(plain: nn.Conv2d) -> bool:
    """Whether no two windows share a pixel, and none looks past the border."""
    near = plain.kernel_size == plain.stride and plain.dilation == (1, 1)
    return near and plain.kernel_size != (1, 1) and plain.groups == 1 and plain.padding == (0, 0)


class Patches(nn.Module):
    """Such a `Conv2d`, for searching; where fixed, `weight` stands for three numbers."""

    def __init__(self, plain: nn.Conv2d, fixed: Fixed | None = None) -> None:
        super().__init__()
        self.weight = plain.weight if fixed is None else placeholder(plain.weight)
        self.bias, self.sides = plain.bias, plain.kernel_size
        self.fixed = None
        if fixed is not None:
            self.fixed = Fixed.of(fixed.weight.flatten(1), fixed.goal.observed.flatten(1))

    def forward(self, x: Tensor) -> Tensor:
        (n, channels), (height, width) = x.shape[:2], self.sides
        down, across = x.shape[2] // height, x.shape[3] // width
        whole = x[..., : down * height, : across * width]
        parts = whole.reshape(n, channels, down, height, across, width)
        rows = parts.permute(0, 2, 4, 1, 3, 5).flatten(3)
        if self.fixed is None:
            output = nn.functional.linear(rows, self.weight.flatten(1), self.bias)
        else:
            output = dense(rows, self.weight, self.bias, self.fixed)
        return output.permute(0, 3, 1, 2)
