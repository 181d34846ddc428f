"""A part of a network whose branches are added up, such as a residual block."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from seepage.chains.activations import Activation
from seepage.chains.layers import Layer


@dataclass(frozen=True, eq=False)
class Block:
    """y = f(s), s = sum over branches of layers in a row; a branch without layers is x itself."""

    name: str
    branches: tuple[tuple[Layer, ...], ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    after: Activation

    @property
    def layers(self) -> Iterator[Layer]:
        """All of its layers."""
        return (layer for branch in self.branches for layer in branch)

    def states(self, x: Tensor) -> list[Tensor]:
        """The input of the last layer of every branch."""
        made = []
        for branch in self.branches:
            at = x
            for layer in branch[:-1]:
                at = layer.after.apply(layer.forward(at.reshape(layer.inputs)))
            made.append(at)
        return made

    def forward(self, x: Tensor) -> Tensor:
        """s, before the activation."""
        ends = [
            branch[-1].after.apply(branch[-1].forward(at.reshape(branch[-1].inputs)))
            if branch
            else at
            for branch, at in zip(self.branches, self.states(x), strict=True)
        ]
        total = ends[0]
        for end in ends[1:]:
            total = total + end
        return total


@dataclass(frozen=True, eq=False)
class Linked:
    """Layers and blocks in a row, and what comes before the first."""

    links: tuple[Layer | Block, ...]
    before: Activation
    shape: tuple[int, ...]

    def forward(self, x: Tensor) -> Tensor:
        """The network's output for one example, in float64."""
        x = self.before.apply(x)
        for link in self.links:
            x = link.after.apply(link.forward(x.reshape(link.inputs)))
        return x
