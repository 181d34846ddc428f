"""Networks on layers made for searching."""

import copy
import dataclasses

from torch import nn

from seepage.attacks.matching.convolution import Convolution
from seepage.attacks.matching.normalisation import Normalisation
from seepage.attacks.matching.rectifier import SmoothRectifier
from seepage.core import Model


def searchable(model: Model) -> Model:
    """The same model on a copy of its network whose layers are those of this file where they fit.

    >>> from seepage import zoo
    >>> batch, form = zoo.photos(1, 32)
    >>> fast = searchable(Model.of(zoo.convnet(4), nn.functional.cross_entropy, form))
    >>> type(fast.module.conv1).__name__
    'Convolution'
    """
    module = copy.deepcopy(model.module)
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            made = _made(child)
            if made is not None:
                setattr(parent, name, made)
    return dataclasses.replace(model, module=module.eval())


def _made(plain: nn.Module) -> nn.Module | None:
    # Exact types: a subclass may compute something else.
    if type(plain) is nn.Conv2d:
        simple = plain.padding_mode == "zeros" and not isinstance(plain.padding, str)
        return Convolution(plain) if simple else None
    if type(plain) is nn.BatchNorm2d and plain.affine and plain.track_running_stats:
        return Normalisation(plain) if plain.momentum is not None else None
    if type(plain) is nn.GELU and plain.approximate == "none":
        return SmoothRectifier()
    return None
