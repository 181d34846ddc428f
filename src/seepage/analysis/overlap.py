"""Equations that a layer and the one after it both say, at one example.

In a layer without data, for channels o, o' and a dx with K(k) dx = 0, <k_o', (W dx)_o> = 0: so
some of what the layer after tells of z is known already. In terms of the error signal d that the
layer after passes back, k_o' = D_o' d_o', and the layer after tells of each channel what lies in
the span V of its own gradient's rows. Hence at least sum_o dim(span{(D_o'/D_o) d_o'} in V) of its
equations are said twice: O of them for any signs, as D_o/D_o = 1, and more where channels share
their pattern of signs, as they do on smooth photographs.
"""

import torch
from torch import Tensor

from seepage.analysis.confirm import gradient_columns
from seepage.chains import Chain, Layer
from seepage.core import Batch, Model
from seepage.errors import InvalidInput

_SMALLEST = 1e-9  # of the largest singular value


def repeated(model: Model, chain: Chain, batch: Batch) -> list[int]:
    """For each layer, how many equations of the one after it repeat its own at this example."""
    if len(batch) != 1:
        raise InvalidInput(f"rank.layers counts at one example, and {len(batch)} were given.")
    outputs, slopes = _passed(chain, batch.x[0].double())
    k = _error(model, batch, chain.layers[-1].after.apply(outputs[-1])) * slopes[-1]
    counts = [0]
    for i in reversed(range(len(chain.layers) - 1)):
        layer, following = chain.layers[i], chain.layers[i + 1]
        signal = following.adjoint(k).reshape(layer.outputs)
        counts.insert(0, _twice(layer, following, signal, slopes[i], k))
        k = signal * slopes[i]
    return counts


def _passed(chain: Chain, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """z of every layer, and the slope of its activation there."""
    outputs, slopes = [], []
    x = chain.before.apply(x)
    for layer in chain.layers:
        outputs.append(layer.forward(x.reshape(layer.inputs)))
        x = layer.after.apply(outputs[-1])
        slopes.append(layer.after.turned(x).derivative)
    return outputs, slopes


def _error(model: Model, batch: Batch, output: Tensor) -> Tensor:
    with torch.enable_grad():
        leaf = output[None].detach().requires_grad_()
        target = batch.y if batch.y is not None else batch.x
        target = target.double() if target.is_floating_point() else target
        (errors,) = torch.autograd.grad(model.loss(leaf, target), leaf)
    error: Tensor = errors[0]
    return error


def _twice(layer: Layer, following: Layer, signal: Tensor, slopes: Tensor, k: Tensor) -> int:
    """sum_o dim(span{(D_o'/D_o) d_o'} in V); at least one for each channel with kinks."""
    grouped = max(layer.window.groups if layer.window else 1,
                  following.window.groups if following.window else 1)  # fmt: skip
    if layer.after.smooth or layer.window is None or following.window is None or grouped > 1:
        return 0 if layer.after.smooth else layer.outputs[0]
    span = _span(gradient_columns(following, k).T)
    count = 0
    for own in slopes:
        rows = (slopes / own.clamp(min=1e-30) * signal).flatten(1)
        rows = rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-30)
        count += _rank(rows) + len(span) - _rank(torch.cat([rows, span]))
    return count


def _span(rows: Tensor) -> Tensor:
    _, sizes, right = torch.linalg.svd(rows, full_matrices=False)
    made: Tensor = right[: int((sizes > _SMALLEST * sizes[0]).sum())]
    return made


def _rank(rows: Tensor) -> int:
    sizes = torch.linalg.svdvals(rows)
    return int((sizes > _SMALLEST * sizes[0]).sum())
