"""Networks on layers made for searching."""

import dataclasses
from collections.abc import Collection, Mapping

from torch import Tensor, nn

from seepage import tree
from seepage.attacks.matching.condensed import Fixed, laid
from seepage.attacks.matching.convolution import Convolution
from seepage.attacks.matching.layernorm import LayerNormalisation
from seepage.attacks.matching.linear import Dense
from seepage.attacks.matching.normalisation import Normalisation
from seepage.attacks.matching.patches import Patches, tiles
from seepage.attacks.matching.rectifier import SmoothRectifier
from seepage.core import Model

# On small layers Python's overhead is more than the arithmetic that is saved.
_SMALL, _LARGE = 4096, 32768


def searchable(model: Model, observed: Mapping[str, Tensor] | None = None) -> Model:
    """The same model on a copy of its network whose layers are those of this folder where they fit.

    With the observed gradient, the parameters of its dense and convolutional weights stand for
    three numbers each: see `condensed`.

    >>> from seepage import zoo
    >>> batch, form = zoo.photos(1, 32)
    >>> fast = searchable(Model.of(zoo.convnet(32), nn.functional.cross_entropy, form))
    >>> type(fast.module.conv2).__name__
    'Convolution'
    """
    module = model.shell()
    params = {name: laid(p) if p.numel() >= _SMALL else p for name, p in model.params.items()}
    known = observed or {}
    goals = {name: known[name] for name in condensed(model, known)}
    for path, parent in list(module.named_modules()):
        for name, child in list(parent.named_children()):
            weight = f"{path}.{name}.weight".lstrip(".")
            fixed = Fixed.of(params[weight], goals[weight]) if weight in goals else None
            made = _made(child, fixed)
            if made is not None:
                setattr(parent, name, made)
    short = {name: params[name].new_zeros(3) for name in goals}
    leaves = tree.mapped(lambda p: p.detach().requires_grad_(), params | short)
    return dataclasses.replace(model, module=module.eval(), params=leaves)


def condensed(model: Model, observed: Collection[str]) -> list[str]:
    """The large weights of the observed gradient that belong to one plain layer each."""
    named = list(model.module.named_parameters(remove_duplicate=False))
    uses = {name: sum(p is q for _, q in named) for name, p in named}
    layers = (f"{name}.weight".lstrip(".") for name, m in model.module.named_modules() if _fits(m))
    return [
        name
        for name in layers
        if name in observed and uses.get(name) == 1 and model.params[name].numel() >= _LARGE
    ]


def _fits(plain: nn.Module) -> bool:
    return type(plain) is nn.Linear or _simple(plain)


def _simple(plain: nn.Module) -> bool:
    # Exact types: a subclass may compute something else.
    zeros = type(plain) is nn.Conv2d and plain.padding_mode == "zeros"
    large = isinstance(plain, nn.Conv2d) and plain.weight.numel() >= _SMALL
    return zeros and large and not isinstance(plain.padding, str)


def _made(plain: nn.Module, fixed: Fixed | None) -> nn.Module | None:
    if isinstance(plain, nn.Conv2d) and _simple(plain):
        return Patches(plain, fixed) if tiles(plain) else Convolution(plain, fixed)
    if isinstance(plain, nn.Linear) and fixed is not None:
        return Dense(plain, fixed)
    if type(plain) is nn.BatchNorm2d and plain.affine and plain.track_running_stats:
        return Normalisation(plain) if plain.momentum is not None else None
    if type(plain) is nn.LayerNorm and plain.bias is not None and len(plain.normalized_shape) == 1:
        return LayerNormalisation(plain)
    if type(plain) is nn.GELU and plain.approximate == "none":
        return SmoothRectifier()
    return None
