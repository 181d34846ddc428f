"""Read `Prune(FedAvg(epochs=2), ratio=0.9)` as the value that it writes: names and literals only.

The text is parsed, never evaluated: a call may only name what Seepage exports, or, where the user
typed it, a class of a module of theirs, as in "their.module:Mine(steps=3)".
"""

import ast
import importlib
import re
from collections.abc import Callable, Mapping
from typing import Any

from seepage.errors import InvalidInput

_OWN = re.compile(r"^\s*(?P<module>[A-Za-z_][\w.]*):(?P<call>[A-Za-z_]\w*.*)$", re.DOTALL)
_LONGEST = 10_000


def read(text: str, names: Mapping[str, Callable[..., Any]] | None = None) -> Any:
    """The value of an expression made of exported names, keyword arguments and literals.

    >>> read("FedAvg(epochs=2, lr=0.1)")
    FedAvg(epochs=2, lr=0.1)
    """
    names = exported() if names is None else names
    try:
        if len(text) > _LONGEST:
            raise InvalidInput(f"an expression of {len(text)} characters is too long to be one.")
        return _value(ast.parse(text.strip(), mode="eval").body, names)
    except (SyntaxError, ValueError, RecursionError, MemoryError, TypeError) as error:
        if isinstance(error, InvalidInput):
            raise InvalidInput(f"in {_quoted(text)}: {error}") from None
        raise InvalidInput(
            f"{_quoted(text)} cannot be read ({type(error).__name__}: {error}). "
            'Write it as in Python: "Prune(FedSGD(), ratio=0.9)".'
        ) from None


def read_own(text: str) -> Any:
    """As `read`, and "their.module:Mine(steps=3)" too: it imports that module."""
    own = _OWN.match(text)
    if own is None:
        return read(text)
    try:
        module = importlib.import_module(own["module"])
    except ImportError as error:
        raise InvalidInput(
            f"{_quoted(text)}: no module {own['module']!r} ({error}). "
            "Run from the folder that holds it, or set PYTHONPATH."
        ) from None
    public = {k: v for k, v in vars(module).items() if callable(v) and not k.startswith("_")}
    return read(own["call"], {**exported(), **public})


def read_client(text: object, path: object) -> Any:
    """The client that a file names: its text is not trusted, so only exported names count."""
    if not isinstance(text, str):
        raise InvalidInput(f"{path}: it names no client. Pass the client that you believe in.")
    try:
        client = read(text)
    except InvalidInput as error:
        raise InvalidInput(f"{path}: its client {error} Or pass client= yourself.") from None
    if not callable(client) or isinstance(client, type):
        raise InvalidInput(f"{path}: {_quoted(text)} is not a client. Pass client= yourself.")
    return client


def exported() -> dict[str, Callable[..., Any]]:
    """Every public name that a command line may call: clients, defenses, attacks, and parts."""
    return {
        name: getattr(module, name)
        for home in ("clients", "defenses", "attacks", "forms")
        for module in [importlib.import_module(f"seepage.{home}")]
        for name in module.__all__
        if callable(getattr(module, name))
    }


def _value(node: ast.expr, names: Mapping[str, Callable[..., Any]]) -> Any:
    match node:
        case ast.Constant(value=str() | int() | float() | bool() | None as literal):
            return literal
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return -number
        case ast.Tuple(elts=parts):
            return tuple(_value(part, names) for part in parts)
        case ast.List(elts=parts):
            return [_value(part, names) for part in parts]
        case ast.Dict(keys=keys, values=values):
            pairs = zip(keys, values, strict=True)
            return {_value(k, names): _value(v, names) for k, v in pairs if k is not None}
        case ast.Name(id=name):
            return _known(name, names)
        case ast.Call(func=ast.Name(id=name), args=args, keywords=keywords):
            return _made(name, args, keywords, names)
    raise InvalidInput(
        f"{ast.unparse(node)[:60]!r} is not allowed here: use names, keyword arguments, literals."
    )


def _made(
    name: str, args: list[ast.expr], keywords: list[ast.keyword], names: Mapping[str, Any]
) -> Any:
    positional = [_value(arg, names) for arg in args]
    named = {str(word.arg): _value(word.value, names) for word in keywords}
    try:
        return _known(name, names)(*positional, **named)
    except TypeError as error:
        raise InvalidInput(f"{name}: {error}. See 'seepage list' for its fields.") from None


def _known(name: str, names: Mapping[str, Any]) -> Any:
    if name in names:
        return names[name]
    import difflib

    close = difflib.get_close_matches(name, names, n=1)
    hint = f"Did you mean {close[0]}?" if close else "'seepage list' prints the names."
    raise InvalidInput(f"there is no {name!r}. {hint}")


def _quoted(text: str) -> str:
    return repr(text if len(text) < 100 else text[:97] + "...")
