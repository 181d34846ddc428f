"""The equations of a two-layer network's gradient, and their least-squares system.

With h = s(Wx + b), o = Ah + c and d_i = dL/do_i, the gradients of a batch are
    G_W = M X,  G_b = M 1,  G_A = D^T H^T,  G_c = D^T 1,   M = (A^T D^T) * s'(W X^T + b).
`X` may be coordinates in a subspace V: then W stands for W V and G_W for G_W V.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from seepage.attacks.span.activations import Curve, Drawing


@dataclass(frozen=True)
class Unknown:
    """What is solved for: the inputs (n, r) and the gradients at the head's outputs (n, C)."""

    x: Tensor
    delta: Tensor

    @property
    def flat(self) -> Tensor:
        return torch.cat([self.x, self.delta], 1).reshape(-1)

    def joined(self, other: "Unknown") -> "Unknown":
        """The examples of both."""
        return Unknown(torch.cat([self.x, other.x]), torch.cat([self.delta, other.delta]))

    def moved(self, step: Tensor) -> "Unknown":
        wide = step.view(len(self.x), -1)
        rank = self.x.shape[1]
        return Unknown(self.x + wide[:, :rank], self.delta + wide[:, rank:])


@dataclass(frozen=True)
class Equations:
    """The measured gradients with the weights they were taken at; absent tensors are None."""

    weight: Tensor
    bias: Tensor
    head: Tensor
    weight_gradient: Tensor | None
    bias_gradient: Tensor | None
    head_gradient: Tensor | None
    head_bias_gradient: Tensor | None

    def rows(self, index: Tensor) -> "Equations":
        """The same with some of the hidden units only."""
        return replace(
            self,
            weight=self.weight[index],
            bias=self.bias[index],
            head=self.head[:, index],
            weight_gradient=_picked(self.weight_gradient, index),
            bias_gradient=_picked(self.bias_gradient, index),
            head_gradient=None if self.head_gradient is None else self.head_gradient[:, index],
        )

    @property
    def blocks(self) -> list[Tensor | None]:
        return [
            self.weight_gradient,
            self.bias_gradient,
            self.head_gradient,
            self.head_bias_gradient,
        ]

    @property
    def scales(self) -> list[float]:
        """One weight for each block: the inverse of its norm, and zero where it is absent."""
        norms = [0.0 if block is None else float(block.norm()) for block in self.blocks]
        return [1 / norm if norm > 0 else 0.0 for norm in norms]

    @property
    def size(self) -> int:
        """How many numbers were measured. Zeros are none: pruning and dropout leave them."""
        return sum(int(block.count_nonzero()) for block in self.blocks if block is not None)


@dataclass(frozen=True)
class State:
    """The residuals at one point, each block divided by its norm."""

    at: Unknown
    curve: Curve
    back: Tensor
    residuals: list[Tensor]

    @property
    def cost(self) -> float:
        """The sum of the squared relative residuals of the blocks."""
        return float(torch.stack([r.square().sum() for r in self.residuals]).sum())


def evaluated(given: Equations, draw: Drawing, at: Unknown) -> State:
    """The residual blocks of these equations at one point."""
    curve = draw(given.weight @ at.x.T + given.bias[:, None])
    back = given.head.T @ at.delta.T
    parts = zip(predicted(curve, back, at), given.blocks, given.scales, strict=True)
    residuals = [
        (p - block) * scale if block is not None else p.new_zeros(0) for p, block, scale in parts
    ]
    return State(at, curve, back, residuals)


def predicted(curve: Curve, back: Tensor, at: Unknown) -> list[Tensor]:
    """The four gradients of a batch at this point."""
    through = back * curve.slope
    return [through @ at.x, through.sum(1), at.delta.T @ curve.value.T, at.delta.sum(0)]


def normal(given: Equations, state: State) -> tuple[Tensor, Tensor]:
    """J^T J and J^T r at a state, without ever holding J.

    The Jacobian of G_W has r rows for each unit, but they differ only by factors x: so J^T J is
    the Gram matrix of one row for each unit, times X X^T, plus thin terms.
    """
    matrix, vector = _hidden(given, state)
    if given.head_gradient is not None:
        _add_head(given, state, matrix, vector)
    if given.head_bias_gradient is not None:
        rank, scale = given.weight.shape[1], given.scales[3]
        matrix.diagonal(dim1=1, dim2=3)[..., rank:] += scale**2
        vector[:, rank:] += scale * state.residuals[3]
    size = vector.numel()
    return matrix.reshape(size, size), vector.reshape(size)


def _hidden(given: Equations, state: State) -> tuple[Tensor, Tensor]:
    x, curve = state.at.x, state.curve
    (n, rank), classes = x.shape, given.head.shape[0]
    through = state.back * curve.slope
    bent = (state.back * curve.bend)[:, :, None] * given.weight[:, None, :]
    sent = curve.slope[:, :, None] * given.head.T[:, None, :]
    rows = torch.cat([bent, sent], 2)
    weight_scale, bias_scale = given.scales[0], given.scales[1]
    if weight_scale == 0 and bias_scale == 0:
        width = rank + classes
        return x.new_zeros(n, width, n, width), x.new_zeros(n, width)
    flat = rows.reshape(len(rows), -1)
    mixing = weight_scale**2 * (x @ x.T) + bias_scale**2
    matrix = (flat.T @ flat).view(n, rank + classes, n, rank + classes) * mixing[:, None, :, None]
    vector = x.new_zeros(n, rank + classes)
    if weight_scale:
        thin = (through.T @ flat).view(n, 1, n, -1) * x.T[None, :, :, None] * weight_scale**2
        matrix[:, :rank] += thin
        matrix[:, :, :, :rank] += thin.permute(2, 3, 0, 1)
        same = weight_scale**2 * (through.T @ through)
        matrix.diagonal(dim1=1, dim2=3)[..., :rank] += same[:, :, None]
        residual = state.residuals[0]
        vector += weight_scale * torch.einsum("jks,jk->ks", rows, residual @ x.T)
        vector[:, :rank] += weight_scale * (through.T @ residual)
    if bias_scale:
        vector += bias_scale * torch.einsum("jks,j->ks", rows, state.residuals[1])
    return matrix, vector


def _add_head(given: Equations, state: State, matrix: Tensor, vector: Tensor) -> None:
    delta, curve, scale = state.at.delta, state.curve, given.scales[2]
    n, rank = state.at.x.shape
    flat = (curve.rise[:, :, None] * given.weight[:, None, :]).reshape(len(given.weight), -1)
    gram = (flat.T @ flat).view(n, rank, n, rank)
    matrix[:, :rank, :, :rank] += scale**2 * (delta @ delta.T)[:, None, :, None] * gram
    crossed = (flat.T @ curve.value).view(n, rank, n, 1) * delta[:, None, None, :] * scale**2
    matrix[:, :rank, :, rank:] += crossed
    matrix[:, rank:, :, :rank] += crossed.permute(2, 3, 0, 1)
    values = scale**2 * (curve.value.T @ curve.value)
    matrix.diagonal(dim1=1, dim2=3)[..., rank:] += values[:, :, None]
    residual = state.residuals[2]
    vector[:, :rank] += scale * (((residual.T @ delta.T) * curve.rise).T @ given.weight)
    vector[:, rank:] += scale * (residual @ curve.value).T


def _picked(block: Tensor | None, index: Tensor) -> Tensor | None:
    return None if block is None else block[index]
