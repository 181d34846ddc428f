"""Clients and attacks as text, taken apart: names, settings, and the one number that varies."""

import ast
import dataclasses
import functools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from seepage import expr

Literal = float | int | str | bool | None
_LONGEST = 4_000


@dataclass(frozen=True)
class Part:
    """One layer of an expression: its name, its literal settings, and what it wraps."""

    name: str
    settings: tuple[tuple[str, str], ...]
    inner: tuple["Part", ...]

    def layers(self) -> Iterator["Part"]:
        """From the outside in."""
        yield self
        for part in self.inner:
            yield from part.layers()


def part(text: str) -> Part:
    """The layers of an expression; text that is none stands for itself.

    >>> [layer.name for layer in part("Prune(inner=FedAvg(epochs=2), ratio=0.9)").layers()]
    ['Prune', 'FedAvg']
    """
    call = _parsed(text)
    return _part(call) if call is not None else Part(text, (), ())


def _part(call: ast.Call) -> Part:
    settings, inner = [], []
    for name, node in _arguments(call):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            inner.append(_part(node))
        else:
            settings.append((name, ast.unparse(node)))
    return Part(ast.unparse(call.func), tuple(settings), tuple(inner))


@dataclass(frozen=True)
class Family:
    """Expressions that differ in one number only: `label` names it, `values` holds it for each."""

    label: str
    values: dict[str, float]


def families(texts: Iterable[str]) -> list[Family]:
    """Every set of two or more expressions that differ in exactly one number.

    Settings left at a known default count with their default value.

    >>> found = families(["Prune(inner=FedSGD())", "Prune(inner=FedSGD(), ratio=0.5)"])
    >>> found[0].label, sorted(found[0].values.values())
    ('Prune.ratio', [0.5, 0.9])
    """
    grouped: dict[tuple[object, ...], dict[str, float]] = defaultdict(dict)
    for text in dict.fromkeys(texts):
        skeleton, literals = _outline(text)
        for i, (label, given) in enumerate(literals):
            if isinstance(given, int | float) and not isinstance(given, bool):
                rest = tuple((repr(v) for _, v in literals[:i] + literals[i + 1 :]))
                grouped[(skeleton, i, label, rest)][text] = float(given)
    return [
        Family(str(key[2]), values)
        for key, values in grouped.items()
        if len(set(values.values())) >= 2
    ]


def _outline(text: str) -> tuple[str, list[tuple[str, Literal]]]:
    """The expression with a hole for each literal, and what fills the holes, with their names."""
    call = _parsed(text)
    literals: list[tuple[str, Literal]] = []
    return (text if call is None else _holed(call, literals)), literals


def _holed(call: ast.Call, literals: list[tuple[str, Literal]]) -> str:
    name, shown = ast.unparse(call.func), []
    given = dict(_arguments(call))
    for field, node in sorted((_defaults(name) | given).items()):
        if isinstance(node, ast.Call):
            shown.append(f"{field}={_holed(node, literals)}")
        else:
            literals.append((f"{name}.{field}", _literal(node)))
            shown.append(f"{field}=_")
    return f"{name}({', '.join(shown)})"


def _literal(node: ast.expr) -> Literal:
    """A number or another setting; what is neither is taken as its text."""
    match node:
        case ast.Constant(value=int() | float() | str() | None as literal):
            return literal
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return -number
    return ast.unparse(node)


def _arguments(call: ast.Call) -> Iterator[tuple[str, ast.expr]]:
    name = ast.unparse(call.func)
    for field, node in zip(_fields(name), call.args, strict=False):
        yield field, node
    for i, node in enumerate(call.args[len(_fields(name)) :]):
        yield f"argument {i + 1}", node
    for word in call.keywords:
        yield str(word.arg), word.value


def _parsed(text: str) -> ast.Call | None:
    try:
        tree = ast.parse(text[: _LONGEST + 1].strip(), mode="eval").body
        ast.unparse(tree)  # too deep a nesting fails here, and nowhere later
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return tree if isinstance(tree, ast.Call) and len(text) <= _LONGEST else None


def _fields(name: str) -> tuple[str, ...]:
    known = _known().get(name)
    return tuple(field.name for field in _dataclass_fields(known))


@functools.cache
def _defaults(name: str) -> dict[str, ast.expr]:
    """The literal defaults of a known value, as they would be written."""
    fields = _dataclass_fields(_known().get(name))
    numbers = {f.name: f.default for f in fields if isinstance(f.default, int | float | str)}
    return {field: ast.Constant(default) for field, default in numbers.items()}


def _dataclass_fields(known: object) -> "tuple[dataclasses.Field[Any], ...]":
    return dataclasses.fields(known) if dataclasses.is_dataclass(known) else ()


@functools.cache
def _known() -> dict[str, Callable[..., Any]]:
    return expr.exported()
