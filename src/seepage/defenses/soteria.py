"""Perturbed representations."""

import torch
from torch import Generator, Tensor, nn

from seepage.core import Batch, Client, Model
from seepage.errors import InvalidInput
from seepage.tree import Tensors
from seepage.values import value


@value
class Soteria:
    """Zero the columns of one linear layer's weight gradient whose inputs r tell most of x.

    Those with the largest sum_batch |r_i| / |dr_i/dx|. Sun et al. 2021, arXiv 2012.06043. `layer`
    names it, or it is the last linear one. The other layers leak as before: an attacker who leaves
    this layer out is not hindered (cf. Balunovic et al. 2022, arXiv 2111.04706).
    """

    inner: Client
    layer: str | None = None
    share: float = 0.2

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1:
            raise InvalidInput(
                f"Soteria.share={self.share} removes everything or is no share: use 0 <= share < 1."
            )

    def __call__(self, model: Model, batch: Batch, rng: Generator) -> Tensors:
        layer = self._layer(model)
        update, name = dict(self.inner(model, batch, rng)), f"{layer}.weight"
        if name not in update:
            raise InvalidInput(
                f"Soteria.layer={layer!r}: the update holds no '{name}'. Name a layer whose "
                f"weight is shared: it holds {', '.join(list(update)[:8])}."
            )
        update[name] = update[name] * _telling(model, batch.x.detach(), layer, self.share)
        return update

    def cell(self, update: Tensors) -> tuple[Tensors, Tensors]:
        """The box of inner updates that could have given this one; zero columns tell nothing."""
        far = float("inf")

        def edge(name: str, u: Tensor, side: int) -> Tensor:
            if u.ndim != 2 or (self.layer is not None and name != f"{self.layer}.weight"):
                return u
            return torch.where((u == 0).all(0), side * far, u)

        low = {name: edge(name, u, -1) for name, u in update.items()}
        return low, {name: edge(name, u, +1) for name, u in update.items()}

    def _layer(self, model: Model) -> str:
        """The layer's name, checked."""
        linear = [n for n, m in model.module.named_modules() if isinstance(m, nn.Linear)]
        chosen = (linear or [None])[-1] if self.layer is None else self.layer
        if not chosen or chosen not in linear:
            raise InvalidInput(
                f"Soteria.layer={self.layer!r} is no linear layer of the network, whose linear "
                f"layers are {', '.join(linear) or 'none'}. Name one of them."
            )
        return chosen


def _telling(model: Model, x: Tensor, layer: str, share: float) -> Tensor:
    """One for each input of the layer, zero for those to remove."""
    score = _ratios(model, x, layer).sum(0)
    kept = torch.ones_like(score)
    kept[score.argsort(descending=True)[: int(share * len(score) + 1e-9)]] = 0
    return kept


def _ratios(model: Model, x: Tensor, layer: str) -> Tensor:
    """|r_i| / |dr_i/dx| for each example and each input i of the layer."""
    with torch.enable_grad():
        x = x.clone().requires_grad_()
        r = layer_input(model, x, layer)
        slopes = [
            torch.autograd.grad(r[:, i].sum(), x, retain_graph=True, materialize_grads=True)[0]
            for i in range(r.shape[1])
        ]
    lengths = torch.stack([slope.flatten(1).norm(dim=1) for slope in slopes], 1)
    return r.detach().abs() / lengths.clamp(min=1e-12)


class _Read(Exception):
    """Carries a layer's input out of the forward pass."""

    def __init__(self, found: Tensor) -> None:
        super().__init__()
        self.found = found


class _Reader(nn.Module):
    """Stands in a layer's place."""

    def forward(self, x: Tensor) -> Tensor:
        raise _Read(x)


def layer_input(model: Model, x: Tensor, layer: str) -> Tensor:
    """What a layer of the network is given."""
    module = model.shell()
    parent, _, own = layer.rpartition(".")
    setattr(module.get_submodule(parent), own, _Reader())
    state = {name: t for name, t in model.state.items() if not name.startswith(f"{layer}.")}
    try:
        torch.func.functional_call(module, state, (x,))
    except _Read as read:
        return read.found
    raise InvalidInput(f"Soteria.layer={layer!r} is never called. Name a layer that is.")
