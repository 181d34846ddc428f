"""Find the chain of layers in a network, or say which part of it is none."""

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor, nn

from seepage import tree
from seepage.chains import activations as act
from seepage.chains.activations import Activation, Elementwise
from seepage.chains.blocks import Block, Linked
from seepage.chains.chain import Chain
from seepage.chains.layers import Layer, Window
from seepage.chains.parts import Sum, parts
from seepage.core import Model
from seepage.errors import InvalidInput

_LINEAR = (nn.Linear, nn.Conv2d)
_NEUTRAL = (nn.Identity, nn.Dropout, nn.Dropout2d, nn.AlphaDropout)


def walk(model: Model, who: str = "RGap") -> Chain:
    """The network as a chain, in float64, checked against the network itself on a random input."""
    found = linked(model, who)
    layers = tuple(link for link in found.links if isinstance(link, Layer))
    for link in found.links:
        if isinstance(link, Block):
            raise InvalidInput(
                f"{who}: at '{link.name}' the network is no chain: a residual addition has no "
                "count of its own. Use rank.jacobian() to measure exposure."
            )
    return Chain(layers, found.before, found.shape)


def linked(model: Model, who: str = "RGap") -> Linked:
    """The network as layers and residual blocks in a row, checked on a random input."""
    shape = tuple(model.form.shape)
    exact = dataclasses.replace(
        model, params=_doubled(model.params), buffers=_doubled(model.buffers)
    )
    x = torch.rand((1, *shape), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = x.to(model.device)
    build = _Builder(exact, who, x[0])
    for name, module in parts(exact, x, who):
        build.add(name, module)
    found = build.linked(shape)
    _check(found, exact, x, who)
    return found


class _Builder:
    """Adds one module after another, and carries a random example to learn the shapes."""

    def __init__(self, model: Model, who: str, x: Tensor) -> None:
        self.model, self.who, self.x = model, who, x
        self.layers: list[Layer | Block] = []
        self.pending: list[Elementwise] = []
        self.before = act.identity()

    def add(self, name: str, module: nn.Module | Sum) -> None:
        if isinstance(module, Sum):
            self._close()
            self.layers.append(self._block(name, module))
        elif isinstance(module, _LINEAR):
            self._close()
            self._linear(name, module)
        elif isinstance(module, nn.Flatten):
            self.x = self.x.flatten()
        elif not isinstance(module, _NEUTRAL):
            step = self._elementwise(name, module)
            self.x = step.apply(self.x)
            self.pending.append(_flattened(step, self.x.shape))

    def linked(self, shape: tuple[int, ...]) -> Linked:
        self._close()
        if not self.layers:
            raise InvalidInput(f"{self.who}: the network has no Linear or Conv2d layer to invert.")
        return Linked(tuple(self.layers), self.before, shape)

    def _block(self, name: str, module: Sum) -> Block:
        built = []
        for branch in module.branches:
            build = _Builder(self.model, self.who, self.x)
            for part in branch:
                build.add(*part)
            build._close()
            if build.before.steps:
                raise InvalidInput(
                    f"{self.who}: a branch that ends in '{name}' begins with "
                    f"{build.before.name}, and R-GAP needs a layer first. Use Invert()."
                )
            built.append(build)
        inputs, outputs = tuple(self.x.shape), tuple(built[0].x.shape)
        branches = tuple(
            tuple(layer for layer in build.layers if isinstance(layer, Layer)) for build in built
        )
        self.x = built[0].x + built[1].x
        return Block(name, branches, inputs, outputs, act.identity())

    def _close(self) -> None:
        steps, self.pending = Activation(tuple(self.pending)), []
        if self.layers:
            self.layers[-1] = dataclasses.replace(self.layers[-1], after=steps)
        else:
            self.before = steps

    def _linear(self, name: str, module: nn.Module) -> None:
        assert isinstance(module, nn.Linear | nn.Conv2d)
        if any(layer.name == name for layer in self.layers):
            raise _refused(self.who, name, module, "is used twice, so that its gradients add up")
        window = _window(name, module, self.who) if isinstance(module, nn.Conv2d) else None
        state = self.model.state
        weight = state[f"{name}.weight" if name else "weight"]
        bias = state.get(f"{name}.bias" if name else "bias")
        if window is None and self.x.ndim != 1:
            raise _refused(self.who, name, module, f"acts on each row of {tuple(self.x.shape)}")
        inputs = tuple(self.x.shape)
        kind = type(module).__name__
        layer = Layer(name, kind, weight, bias, window, inputs, (), act.identity())
        self.x = layer.forward(self.x)
        self.layers.append(dataclasses.replace(layer, outputs=tuple(self.x.shape)))

    def _elementwise(self, name: str, module: nn.Module) -> Elementwise:
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            return _batch_norm(name, module, self.model, self.x, self.who)
        if isinstance(module, nn.PReLU):
            slope = self.model.state[f"{name}.weight" if name else "weight"]
            if bool((slope <= 0).any()):
                raise _refused(self.who, name, module, "has a slope that is not positive")
            shape = (-1, *(1,) * (self.x.ndim - 1))
            return act.leaky(slope.view(shape) if slope.numel() > 1 else slope, "PReLU")
        made = _MADE.get(type(module))
        step = made(module) if made else None
        if step is None:
            raise _refused(self.who, name, module, _reason(module))
        return step


def _leaky(module: nn.Module) -> Elementwise | None:
    slope = float(module.negative_slope)  # type: ignore[arg-type]
    return act.relu() if slope == 0 else act.leaky(slope) if slope > 0 else None


def _softplus(module: nn.Module) -> Elementwise | None:
    assert isinstance(module, nn.Softplus)
    # Past the threshold torch returns z itself: from 18/beta on that is the same number.
    return act.softplus(module.beta) if module.beta * module.threshold >= 18 else None


def _elu(module: nn.Module) -> Elementwise | None:
    assert isinstance(module, nn.ELU)
    return act.elu(module.alpha) if module.alpha > 0 else None


_MADE: dict[type, Callable[[nn.Module], Elementwise | None]] = {
    nn.LeakyReLU: _leaky,
    nn.ReLU: lambda _m: act.relu(),
    nn.Tanh: lambda _m: act.tanh(),
    nn.Sigmoid: lambda _m: act.sigmoid(),
    nn.Softplus: _softplus,
    nn.ELU: _elu,
}


def _batch_norm(name: str, module: nn.Module, model: Model, x: Tensor, who: str) -> Elementwise:
    state, dot = model.state, f"{name}." if name else ""
    mean, spread = state.get(f"{dot}running_mean"), state.get(f"{dot}running_var")
    if mean is None or spread is None:
        raise _refused(who, name, module, "keeps no running statistics, so it mixes the batch")
    gain = state.get(f"{dot}weight", torch.ones_like(mean))
    shift = state.get(f"{dot}bias", torch.zeros_like(mean))
    scale = gain / (spread + float(module.eps)).sqrt()  # type: ignore[arg-type]
    if bool((scale == 0).any()):
        raise _refused(who, name, module, "has a channel of weight zero, which loses it")
    shape = (-1, *(1,) * (x.ndim - 1))
    offset = shift - scale * mean
    return act.affine(scale.view(shape), offset.view(shape), type(module).__name__)


def _flattened(step: Elementwise, shape: torch.Size) -> Elementwise:
    """The same map, whose slope or scale for each channel keeps the shape it was made for."""
    if step.kind != "affine" and not isinstance(step.slope, Tensor):
        return step

    def through(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda x: function(x.reshape(-1, *shape)).reshape(x.shape)

    return dataclasses.replace(
        step,
        apply=through(step.apply),
        inverse=through(step.inverse),
        derivative=through(step.derivative),
    )


def _window(name: str, module: nn.Conv2d, who: str) -> Window:
    if module.padding_mode != "zeros":
        raise _refused(who, name, module, f"pads by padding_mode={module.padding_mode!r}")
    kernel, dilation = _pair(module.kernel_size), _pair(module.dilation)
    if module.padding == "same":
        sides = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        if any(side % 2 for side in sides):
            raise _refused(who, name, module, "pads its sides unequally (padding='same')")
        padding = (sides[0] // 2, sides[1] // 2)
    else:
        padding = (0, 0) if isinstance(module.padding, str) else _pair(module.padding)
    return Window(kernel, _pair(module.stride), padding, dilation, module.groups)


def _pair(given: tuple[int, ...]) -> tuple[int, int]:
    return given[0], given[1]


def _reason(module: nn.Module) -> str:
    if isinstance(module, nn.LeakyReLU | nn.ELU | nn.Softplus):
        return "has a setting under which it is not one-to-one"
    return "cannot be inverted"


def _refused(who: str, name: str, module: nn.Module, reason: str) -> InvalidInput:
    return InvalidInput(
        f"{who}: layer '{name}' ({type(module).__name__}) {reason}. {who} needs a chain of "
        "Linear/Conv2d with invertible activations; use Invert(), or rank.jacobian() to measure "
        "exposure."
    )


def _doubled(tensors: tree.Tensors) -> dict[str, Tensor]:
    return tree.mapped(lambda t: t.double() if t.is_floating_point() else t, tensors)


def _check(chain: Linked, model: Model, x: Tensor, who: str) -> None:
    with torch.no_grad():
        wanted, got = model.predict(x)[0], chain.forward(x[0])
    same = wanted.shape == got.shape and float((wanted - got).norm()) <= 1e-5 * float(wanted.norm())
    if not same:
        raise InvalidInput(
            f"{who}: the layers found ({', '.join(layer.name for layer in chain.links)}) do not "
            "reproduce the network's output, so something between them is no layer of a chain "
            "(an addition, a concatenation, a branch). Use Invert(), or rank.jacobian() to "
            "measure exposure."
        )
