"""Finds the fully connected layers at the end of any network, by watching it compute once."""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from seepage import tree
from seepage.attacks.span.activations import Activation, Function, recognised
from seepage.core import Model
from seepage.errors import InvalidInput
from seepage.forms import Images, Tokens

_LARGE = 20_000_000
_NORMS = (nn.BatchNorm1d, nn.LayerNorm, nn.GroupNorm)


@dataclass(frozen=True)
class Layer:
    """One fully connected layer by the names of its tensors, and the activation after it."""

    name: str
    weight: str
    bias: str | None
    activation: Activation | None


@dataclass(frozen=True)
class Stack:
    """Fully connected layers that feed each other, the head last.

    `reads_data`: the first of them reads the flattened data, not features of it. `ends`: the head
    gives the network's output, with nothing after it.
    """

    layers: tuple[Layer, ...]
    reads_data: bool
    ends: bool

    @property
    def hidden(self) -> Layer:
        """The layer under the head: the exact attacks recover its inputs first."""
        return self.layers[-2]

    @property
    def head(self) -> Layer:
        return self.layers[-1]

    @property
    def activation(self) -> Activation:
        """What stands between the hidden layer and the head."""
        assert self.hidden.activation is not None
        return self.hidden.activation


@dataclass(frozen=True)
class _Call:
    name: str
    module: nn.Module
    given: Tensor
    returned: Tensor


def stack_of(model: Model, activation: Activation | None = None) -> Stack:
    """The longest run of fully connected layers that ends in the network's last one.

    >>> from seepage import zoo
    >>> model = zoo.photos(1, 8).model(zoo.mlp(192, 64, 32, 8))
    >>> [layer.name for layer in stack_of(model).layers]
    ['linear1', 'linear2', 'linear3']
    """
    x, output, calls = _watched(model)
    linear = [call for call in calls if isinstance(call.module, nn.Linear)]
    if len(linear) < 2:
        raise InvalidInput(
            f"{type(model.module).__name__} runs {len(linear)} fully connected layer(s), and the "
            "attack needs two, one feeding the other. Give the network a two-layer head, or use "
            "an attack for one layer (BiasRatio) or for any network (Invert)."
        )
    layers = [_layer(linear[-1], None)]
    lowest = linear[-1]
    for below in reversed(linear[:-1]):
        between = activation if len(layers) == 1 and activation else _between(below, lowest, calls)
        if between is None:
            break
        layers.insert(0, _layer(below, between))
        lowest = below
    if len(layers) < 2:
        raise InvalidInput(_unlike(linear[-2], linear[-1], calls))
    reads_data = torch.equal(lowest.given, x.reshape(len(x), -1).to(lowest.given.dtype))
    ends = torch.equal(linear[-1].returned.reshape(-1), output.reshape(-1))
    return Stack(tuple(layers), reads_data, ends)


def inputs_of(model: Model, layer: Layer) -> Callable[[Tensor], Tensor]:
    """The features that a layer reads, as a differentiable function of the network's input."""
    module = model.shell()
    seen: list[Tensor] = []
    part = module.get_submodule(layer.name)
    part.register_forward_pre_hook(lambda _, given: seen.append(given[0]))

    def features(x: Tensor) -> Tensor:
        seen.clear()
        torch.func.functional_call(module, dict(model.state), (x,))
        return seen[0]

    return features


def _watched(model: Model) -> tuple[Tensor, Tensor, list[_Call]]:
    own = next(iter(model.params.values())).dtype
    large = tree.size(model.params) > _LARGE
    for dtype in (own,) if large else (torch.float64, own):
        try:
            return _watch(model, dtype)
        except RuntimeError:  # some networks fix a dtype in their code
            continue
    return _watch(model, next(iter(model.params.values())).dtype)


def _watch(model: Model, dtype: torch.dtype) -> tuple[Tensor, Tensor, list[_Call]]:
    module, calls = model.shell(), list[_Call]()
    for name, part in module.named_modules():
        if not any(True for _ in part.children()):
            part.register_forward_hook(_recorder(name, calls))
    state = tree.mapped(lambda t: t.to(dtype) if t.is_floating_point() else t, model.state)
    x = _probe(model, dtype)
    with torch.no_grad():
        output: Tensor = torch.func.functional_call(module, state, (x,))
    return x, output, calls


def _recorder(
    name: str, calls: list[_Call]
) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
    def record(module: nn.Module, given: tuple[Tensor, ...], returned: Tensor) -> None:
        plain = given and isinstance(given[0], Tensor) and isinstance(returned, Tensor)
        if plain:
            calls.append(_Call(name, module, given[0].clone(), returned.clone()))

    return record


def _probe(model: Model, dtype: torch.dtype) -> Tensor:
    fixed, form = torch.Generator().manual_seed(0), model.form
    if isinstance(form, Tokens):
        return torch.randint(form.vocab, (3, form.length), generator=fixed).to(model.device)
    noise = torch.rand((3, *form.shape), generator=fixed, dtype=torch.float64)
    x = noise.to(model.device, dtype)
    if not isinstance(form, Images):
        return 4 * x - 2
    low, high = form.box(x)
    return low + (high - low) * x


def _layer(call: _Call, activation: Activation | None) -> Layer:
    bias = f"{call.name}.bias" if call.module.bias is not None else None
    prefix = f"{call.name}." if call.name else ""
    return Layer(call.name, f"{prefix}weight", bias, activation)


def _between(below: _Call, above: _Call, calls: list[_Call]) -> Activation | None:
    z, h = below.returned, above.given
    if z.ndim != 2 or h.shape != z.shape:
        return None
    return recognised(z, h, _modules(below, above, calls))


def _modules(below: _Call, above: _Call, calls: list[_Call]) -> Function | None:
    inside = calls[calls.index(below) + 1 : calls.index(above)]
    parts = [call.module for call in inside]
    if not parts or any(any(True for _ in part.parameters()) for part in parts):
        return None
    return nn.Sequential(*(copy.deepcopy(part) for part in parts)).requires_grad_(False)


def _unlike(below: _Call, above: _Call, calls: list[_Call]) -> str:
    inside = [c.module for c in calls[calls.index(below) + 1 : calls.index(above)]]
    norms = [type(part).__name__ for part in inside if isinstance(part, _NORMS)]
    if norms:
        return (
            f"{norms[0]} stands between the last fully connected layers '{below.name}' and "
            f"'{above.name}': it mixes units or examples. Use Invert for this network."
        )
    return (
        f"between the last fully connected layers '{below.name}' {tuple(below.returned.shape)} and "
        f"'{above.name}' {tuple(above.given.shape)} there is no elementwise activation that is "
        "known. Pass activation=, its name or the function itself, or use Invert."
    )
