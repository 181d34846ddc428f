"""The weights of a malicious server: Gaussian rows, and a head that treats all units alike."""

import math

import torch
from torch import Generator

from seepage.attacks.moments.carry import Passage, lower_weights, passage, wide_rows
from seepage.attacks.span.layers import Stack
from seepage.core import Model
from seepage.forms import Images

_FAR = {"tanh": 1.0, "sigmoid": 1.0, "softplus": 3.0}


def crafted(model: Model, stack: Stack, rng: Generator) -> Model:
    """W ~ N(0, s^2), b = 0, A = 1/m, and an output bias that keeps the loss slopes alike.

    With a_j = 1/m the gradient at the outputs does not depend on the hidden unit, and with the
    bias at twice the largest label its largest and smallest are within a factor of 3. Wang, Lee
    and Lei 2023, section 4. `s` puts typical inputs where the activation is curved.
    """
    hidden, head = stack.hidden, stack.head
    way, like = passage(model, stack), model.params[hidden.weight]
    width = like.shape[1] if way is None else way.width
    scale = _FAR.get(stack.activation.name, 1.0) / typical_length(model, width, way)
    drawn = torch.randn((len(like), width), generator=rng, dtype=torch.float32).mul_(scale)
    weight = drawn if way is None else wide_rows(drawn, like.shape[1], way)
    chosen = {} if way is None else lower_weights(model, stack, way)
    chosen[hidden.weight] = weight.to(like)
    top = model.params[head.weight]
    chosen[head.weight] = torch.full_like(top, 1 / top.shape[1])
    for name, height in ((hidden.bias, 0.0), (head.bias, 2.0 if len(top) == 1 else 0.0)):
        if name is not None and name in model.params:
            chosen[name] = torch.full_like(model.params[name], height)
    if way is not None and hidden.bias is not None:
        centre = torch.as_tensor(way.centre, dtype=torch.float64).expand(width)
        chosen[hidden.bias] = -(drawn.double() @ centre).to(like)
    return model.with_params({**model.params, **chosen})


def typical_length(model: Model, columns: int, way: Passage | None = None) -> float:
    """The length of an input of this form whose entries are spread over their range."""
    form = model.form
    if way is not None:
        low, high = way.seen(way.low), way.seen(way.high)
    elif isinstance(form, Images) and math.prod(form.shape) == columns:
        low, high = form.box(torch.zeros(1, dtype=torch.float64))
    else:
        return math.sqrt(columns)
    square = (low.square() + low * high + high.square()).mean() / 3
    return math.sqrt(columns * float(square))
