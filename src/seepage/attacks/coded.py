"""A random bottleneck (PRECODE) read before its noise: at the layer that it encodes."""

import dataclasses

import torch
from torch import Generator, Tensor

from seepage.attacks.matching.invert import Invert
from seepage.attacks.matching.objectives import L2
from seepage.attacks.matching.optimisers import Adam
from seepage.attacks.matching.starts import Gray
from seepage.core import Batch, Model, Observation, Reconstruction
from seepage.errors import InvalidInput
from seepage.tree import Tensors
from seepage.values import value

# Features are matched as they are, without a picture's prior.
_SEARCH = Invert(priors=(), start=Gray(), optimiser=Adam(lr=0.4), schedule="cosine", steps=300)


@value
class Coded:
    """h = gW^T gb / |gb|^2 at the encoder, then the input of which the network makes this h.

    For one example the encoder's gradients are gW = gb h^T whatever was drawn behind it, so that h
    is exact; the input is searched to match it. Defense: Scheliga et al. 2022, arXiv 2108.04725;
    that its noise can be left out: Scheliga et al. 2022, arXiv 2208.04767; reading h is ours.
    """

    inner: Invert = _SEARCH

    def __call__(self, seen: Observation, rng: Generator) -> Reconstruction:
        layer = bottleneck(seen.model)
        if layer is None:
            raise InvalidInput("Coded reads a bottleneck, and this model has none. Use Invert().")
        if seen.n != 1:
            return Reconstruction.nothing(seen, "an encoder tells single examples only")
        h, apart = _read(seen.update[f"{layer}.weight"], seen.update[f"{layer}.bias"])
        shown = dataclasses.replace(seen, client=Read(layer), update={"h": h})
        answer = dataclasses.replace(self.inner, objective=L2(), labels=None)(shown, rng)
        note = f"{answer.note}; the encoder's gradient is off rank one by {apart:.1g}"
        return dataclasses.replace(answer, y=seen.y, note=note)


def bottleneck(model: Model) -> str | None:
    """The encoder of a bottleneck: a linear layer with a decoder and a head beside it."""
    names = set(model.params)
    for name in names:
        stem = name.removesuffix("encoder.weight")
        if stem != name and {f"{stem}decoder.weight", f"{stem}head.weight"} <= names:
            return f"{stem}encoder"
    return None


@value
class Read:
    """As if a client shared what one layer is given."""

    layer: str

    def __call__(self, model: Model, batch: Batch, rng: Generator) -> Tensors:
        found: list[Tensor] = []
        hook = model.module.get_submodule(self.layer).register_forward_pre_hook(
            lambda _, given: found.append(given[0])
        )
        try:
            model.predict(batch.x)
        finally:
            hook.remove()
        return {"h": found[0][0]}


def _read(weight: Tensor, bias: Tensor) -> tuple[Tensor, float]:
    """h by least squares over the rows, and how far the gradient is from rank one."""
    total = bias.square().sum().clamp(min=1e-30)
    h = bias @ weight / total
    apart = (weight - torch.outer(bias, h)).norm() / weight.norm().clamp(min=1e-30)
    return h, float(apart)
