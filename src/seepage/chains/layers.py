"""Linear and convolutional layers as two linear maps: of their input, and of their weights."""

import math
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional, grad

from seepage.chains.activations import Activation

Pair = tuple[int, int]


@dataclass(frozen=True)
class Window:
    """How a convolution slides: nothing of it is unknown, and padding adds only zeros."""

    kernel: Pair
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1


@dataclass(frozen=True, eq=False)
class Layer:
    """z = W x + b, with everything in float64, and the activation that follows.

    `weight` and `bias` are tensors, `name` the module's name in the state. For a convolution,
    with k = dL/dz, the gradient dL/dW = K(k) x is linear in x too, and `gathered`, `scattered`
    are that map and its adjoint. x, z and k are of one example, or of several, first dimension;
    the gradient of several is the sum of theirs.
    """

    name: str
    kind: str
    weight: Tensor
    bias: Tensor | None
    window: Window | None
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    after: Activation

    @property
    def weight_name(self) -> str:
        """The name of the weights in a state."""
        return f"{self.name}.weight" if self.name else "weight"

    @property
    def bias_name(self) -> str:
        """The name of the bias in a state."""
        return f"{self.name}.bias" if self.name else "bias"

    @property
    def unknowns(self) -> int:
        """The number of entries of one input."""
        return math.prod(self.inputs)

    def seen(self) -> Tensor | None:
        """Which inputs lie in a window at all; None where all do."""
        if self.window is None:
            return None
        slide, ones = self._slide, self.weight.new_ones(self.weight.shape)
        places = self.weight.new_ones(1, *self.outputs)
        reached = grad.conv2d_input([1, *self.inputs], ones, places, *slide)[0] > 0  # type: ignore[no-untyped-call]
        return None if bool(reached.all()) else reached

    def forward(self, x: Tensor) -> Tensor:
        """z = W x + b for one example."""
        z = self.linear(x)
        return z if self.bias is None else z + self._spread(self.bias)

    def linear(self, x: Tensor) -> Tensor:
        """W x."""
        if self.window is None:
            return x @ self.weight.T
        return functional.conv2d(x, self.weight, None, *self._slide)

    def adjoint(self, z: Tensor) -> Tensor:
        """W^T z."""
        if self.window is None:
            return z @ self.weight
        return self._spread_back(self.weight, z)

    def gathered(self, x: Tensor, k: Tensor) -> Tensor:
        """K(k) x: the gradient of the weights."""
        if self.window is None:
            return k.reshape(-1, *self.outputs).T @ x.reshape(-1, *self.inputs)
        shape = list(self.weight.shape)
        xs, ks = x.reshape(-1, *self.inputs), k.reshape(-1, *self.outputs)
        made: Tensor = grad.conv2d_weight(xs, shape, ks, *self._slide)  # type: ignore[no-untyped-call]
        return made

    def scattered(self, gradient: Tensor, k: Tensor) -> Tensor:
        """K(k)^T g: the gradient stands where the weights of a transposed convolution do."""
        if self.window is None:
            return k @ gradient
        return self._spread_back(gradient, k)

    def convolved(self, x: Tensor, gradient: Tensor) -> Tensor:
        """The adjoint of k -> K(k) x: a forward pass with the gradient as weights."""
        if self.window is None:
            return x @ gradient.T
        return functional.conv2d(x, gradient, None, *self._slide)

    def without_bias(self, z: Tensor) -> Tensor:
        """W x from z."""
        return z if self.bias is None else z - self._spread(self.bias)

    def _spread_back(self, weight: Tensor, z: Tensor) -> Tensor:
        zs = z.reshape(-1, *self.outputs)
        shape = [len(zs), *self.inputs]
        made: Tensor = grad.conv2d_input(shape, weight, zs, *self._slide)  # type: ignore[no-untyped-call]
        return made.reshape(*z.shape[: z.ndim - 3], *self.inputs)

    def _spread(self, bias: Tensor) -> Tensor:
        return bias if self.window is None else bias[:, None, None]

    @property
    def _slide(self) -> tuple[Pair, Pair, Pair, int]:
        assert self.window is not None
        w = self.window
        return w.stride, w.padding, w.dilation, w.groups
