"""The modules that one example passes, in order: by symbolic tracing, or else by hooks.

Two branches that are added up again, as in a residual block, count as one part.
"""

import dataclasses
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from seepage.core import Model
from seepage.errors import InvalidInput


@dataclass(frozen=True)
class Sum:
    """Branches of one tensor that are added up: modules in a row each, none for the identity."""

    branches: "tuple[tuple[tuple[str, nn.Module], ...], ...]"


Part = tuple[str, nn.Module | Sum]


def parts(model: Model, x: Tensor, who: str) -> list[Part]:
    """Each module with its name; functions count as the modules that they are."""
    try:
        graph = fx.Tracer().trace(model.module)
    except Exception:  # noqa: BLE001 - tracing runs foreign code, and may raise anything
        return _hooked(dataclasses.replace(model, module=model.shell()), x)
    return list(_followed(graph, model.module, who))


def _followed(graph: fx.Graph, module: nn.Module, who: str) -> Iterator[Part]:
    # Sizes asked for on the way, as in x.view(x.size(0), -1), are no part of the chain.
    nodes = [node for node in graph.nodes if not _about_shape(node)]
    current = next(node for node in nodes if node.op == "placeholder")
    while True:
        users = _users(current)
        end = _end(users[0]) if len(users) == 2 else None
        if end is not None and all(_end(user) is end for user in users):
            yield end.name, Sum(tuple(tuple(_row(user, end, module, who)) for user in users))
            current = end
            continue
        if len(users) != 1:
            raise _branch(who, users, current)
        (user,) = users
        if user.op == "output":
            return
        if sum(isinstance(a, fx.Node) and not _about_shape(a) for a in user.args) > 1:
            raise _branch(who, [user], current)
        yield _named(user, module, who)
        current = user


def _users(node: fx.Node) -> list[fx.Node]:
    return [user for user in node.users if not _about_shape(user)]


def _end(node: fx.Node) -> fx.Node | None:
    """The addition in which a branch ends that begins with this node."""
    while node.op != "output" and node.target not in _ADDITIONS:
        users = _users(node)
        if len(users) != 1:
            return None
        node = users[0]
    return node if node.op != "output" and len(node.all_input_nodes) == 2 else None


def _row(
    node: fx.Node, end: fx.Node, module: nn.Module, who: str
) -> "Iterator[tuple[str, nn.Module]]":
    while node is not end:
        yield _named(node, module, who)
        (node,) = _users(node)


def _named(node: fx.Node, module: nn.Module, who: str) -> tuple[str, nn.Module]:
    if node.op == "call_module":
        return str(node.target), module.get_submodule(str(node.target))
    made = _FUNCTIONS.get(node.target)
    if made is None:
        raise InvalidInput(
            f"{who}: step '{node.name}' ({_title(node.target)}) cannot be inverted. {who} needs a "
            "chain of Linear/Conv2d with invertible activations; use Invert(), or "
            "rank.jacobian() to measure exposure."
        )
    return node.name, made(*node.args[1:], **node.kwargs)


def _branch(who: str, users: list[fx.Node], current: fx.Node) -> InvalidInput:
    names = ", ".join(f"'{user.name}' ({_title(user.target)})" for user in users) or "nothing"
    return InvalidInput(
        f"{who}: after '{current.name}' the network is no chain: it goes on to {names}. A residual "
        f"addition or a concatenation cannot be inverted layer by layer; use Invert(), or "
        "rank.jacobian() to measure exposure."
    )


def _title(target: Any) -> str:
    return str(getattr(target, "__name__", target))


def _about_shape(node: fx.Node) -> bool:
    if node.op == "call_method" and node.target in ("size", "dim"):
        return True
    if node.op != "call_function":
        return False
    if node.target is getattr and node.args[1] in ("shape", "ndim"):
        return True
    whole = (operator.getitem, operator.mul, operator.floordiv, operator.add)
    return node.target in whole and all(
        not isinstance(arg, fx.Node) or _about_shape(arg) for arg in node.args
    )


_ADDITIONS = (operator.add, operator.iadd, torch.add, "add", "add_")


def _hooked(model: Model, x: Tensor) -> list[Part]:
    """The leaves that a forward pass calls, in order: functions between them stay unseen.

    What is missed shows: the chain is compared with the network before it is used.
    """
    seen: list[tuple[str, nn.Module]] = []

    def note(name: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda module, _given, _out: seen.append((name, module))

    leaves = [(n, m) for n, m in model.module.named_modules() if not list(m.children())]
    hooks = [module.register_forward_hook(note(name)) for name, module in leaves]
    try:
        with torch.no_grad():
            model.predict(x)
    finally:
        for hook in hooks:
            hook.remove()
    return _with_flatten(seen)


def _with_flatten(seen: list[tuple[str, nn.Module]]) -> list[Part]:
    """A Linear after a convolution takes its output flat, whoever flattened it."""
    made: list[Part] = []
    wide = False
    for name, module in seen:
        if isinstance(module, nn.Linear) and wide:
            made.append((f"{name}.flatten", nn.Flatten()))
        wide = isinstance(module, nn.Conv2d) or (wide and not isinstance(module, nn.Linear))
        made.append((name, module))
    return made


def _flatten(*_args: Any, **_kwargs: Any) -> nn.Module:
    return nn.Flatten()


def _dropout(_share: float = 0.5, training: bool = True, *_inplace: bool) -> nn.Module:
    # Dropped units in eval mode too: no chain reproduces that, and the comparison says so.
    return nn.Hardshrink() if training else nn.Identity()


_FUNCTIONS: dict[Any, Callable[..., nn.Module]] = {
    functional.relu: nn.ReLU,
    torch.relu: nn.ReLU,
    "relu": nn.ReLU,
    functional.leaky_relu: nn.LeakyReLU,
    torch.tanh: nn.Tanh,
    functional.tanh: nn.Tanh,
    "tanh": nn.Tanh,
    torch.sigmoid: nn.Sigmoid,
    functional.sigmoid: nn.Sigmoid,
    "sigmoid": nn.Sigmoid,
    functional.softplus: nn.Softplus,
    functional.elu: nn.ELU,
    functional.dropout: _dropout,
    torch.flatten: _flatten,
    "flatten": _flatten,
    "view": _flatten,
    "reshape": _flatten,
    torch.reshape: _flatten,
    "contiguous": nn.Identity,
}
