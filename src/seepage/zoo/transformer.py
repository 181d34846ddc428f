"""A small vision transformer whose attention is PyTorch's own function."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from seepage.errors import InvalidInput
from seepage.zoo.build import seeded

__all__ = ["vit"]


class Attention(nn.Module):
    """softmax(Q K^T / sqrt(width / heads)) V, head by head."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind()
        mixed = functional.scaled_dot_product_attention(q, k, v)
        joined: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return joined


class Block(nn.Module):
    """Attention, then a dense pair, each normalised first and added to its input."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.dense = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        joined: Tensor = x + self.dense(self.norm2(x))
        return joined


class VisionTransformer(nn.Module):
    """Patches as words after a class token, learned positions, and a linear head on that token."""

    def __init__(self, shape: tuple[int, int, int], patch: int, width: int, depth: int) -> None:
        super().__init__()
        channels, height, breadth = shape
        places = (height // patch) * (breadth // patch)
        self.patches = nn.Conv2d(channels, width, patch, stride=patch)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(0.02 * torch.randn(1, places + 1, width))
        self.blocks = nn.Sequential(*(Block(width, width // 64) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head: nn.Module = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        words = self.patches(x).flatten(2).transpose(1, 2)
        words = torch.cat([self.token.expand(len(x), -1, -1), words], dim=1) + self.positions
        output: Tensor = self.head(self.norm(self.blocks(words))[:, 0])
        return output


def vit(
    classes: int = 10,
    shape: tuple[int, int, int] = (3, 32, 32),
    patch: int = 4,
    width: int = 192,
    depth: int = 6,
    seed: int | None = None,
) -> nn.Module:
    """A vision transformer of `depth` blocks, `width` wide, with heads of 64.

    Dosovitskiy et al. 2021, arXiv 2010.11929.

    >>> sum(p.numel() for p in vit().parameters())
    2693578
    """
    if shape[1] % patch or shape[2] % patch or width % 64:
        raise InvalidInput(
            f"vit: patch={patch} must divide the sides of {shape}, and 64 the width={width}."
        )
    with seeded(seed):
        network = VisionTransformer(shape, patch, width, depth)
        network.head = nn.Linear(width, classes)
        return network
