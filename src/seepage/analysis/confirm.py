"""The rank of one layer's equations by numbers, with a random error signal, on its own weights."""

import torch
from torch import Tensor
from torch.nn import functional

from seepage.chains import Layer
from seepage.core import stream

SMALLEST = 1e-13  # of the largest eigenvalue: a condition of 3e6


def layer_rank_found(layer: Layer, seed: int = 0, following: Layer | None = None) -> int:
    """rank [W; s K(k)] for a random k: `layer_rank` is its upper bound.

    Outputs that the layer after skips are not known, and have no error signal.
    """
    if layer.window is None:
        return layer.unknowns
    seen = None if following is None else following.seen()
    k = torch.randn(layer.outputs, generator=stream(seed, layer.name), dtype=torch.float64)
    k = k.to(layer.weight.device)
    if seen is not None:
        k = k * seen.view(layer.outputs)
    grams = [_gram(gradient_columns(layer, k, group)) for group in range(layer.window.groups)]
    channels = layer.inputs[0] // layer.window.groups
    own = [gram_rank(gram) for gram in grams]
    if all(rank == len(gram) for rank, gram in zip(own, grams, strict=True)):
        return layer.unknowns
    balance = (layer.weight.norm() / k.norm()).square()
    gram = _output_gram(layer, seen)
    places = layer.inputs[1] * layer.inputs[2]
    for channel in range(layer.inputs[0]):
        here = slice(channel * places, (channel + 1) * places)
        gram[here, here] += balance * grams[channel // channels]
    return gram_rank(gram)


def gram_rank(gram: Tensor) -> int:
    """The number of eigenvalues of A^T A above 1e-13 of the largest."""
    n = len(gram)
    top = float(torch.linalg.matrix_norm(gram, ord=float("inf")))
    if top == 0:
        return 0
    shifted = gram - SMALLEST * top * torch.eye(n, dtype=gram.dtype, device=gram.device)
    # A Cholesky factor exists only if every eigenvalue is above the shift: far cheaper to learn.
    if int(torch.linalg.cholesky_ex(shifted).info) == 0:
        return n
    values = torch.linalg.eigvalsh(gram)
    return int((values > SMALLEST * values[-1]).sum())


def gradient_columns(layer: Layer, k: Tensor, group: int = 0) -> Tensor:
    """K^T for one input channel of a group, a row for each pixel; the others have the same."""
    window = layer.window
    assert window is not None
    height, width = layer.inputs[1:]
    own = layer.outputs[0] // window.groups
    signal = k[group * own : (group + 1) * own].flatten(1)
    rows = []
    for unit in torch.split(torch.eye(height * width, dtype=k.dtype, device=k.device), 64):
        images = unit.view(-1, 1, height, width)
        patches = functional.unfold(
            images, window.kernel, window.dilation, window.padding, window.stride
        )
        rows.append(torch.einsum("qup,op->qou", patches, signal).flatten(1))
    return torch.cat(rows)


def _gram(columns: Tensor) -> Tensor:
    return columns @ columns.T


def _output_gram(layer: Layer, seen: Tensor | None) -> Tensor:
    """W^T W over the outputs that are known, a few columns at a time."""
    known = None if seen is None else seen.view(layer.outputs)

    def column(x: Tensor) -> Tensor:
        z = layer.linear(x)
        return layer.adjoint(z if known is None else z * known)

    eye = torch.eye(layer.unknowns, dtype=torch.float64, device=layer.weight.device)
    parts = (units.view(-1, *layer.inputs) for units in torch.split(eye, 64))
    return torch.cat([torch.vmap(column)(part).flatten(1) for part in parts])
