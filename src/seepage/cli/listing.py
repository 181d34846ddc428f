"""`seepage list`: what can be written after --client and --attack."""

import dataclasses
import inspect
from collections.abc import Callable
from types import ModuleType

from rich.table import Table as Grid
from rich.text import Text

from seepage import attacks, clients, defenses
from seepage.cli import screen
from seepage.values import describe


def run() -> None:
    """Print every exported class with what it is and what can be set."""
    tried = _classes(attacks)
    kinds = {
        "Clients": _classes(clients),
        "Defenses, around a client": _classes(defenses),
        "Attacks": [kind for kind in tried if attacking(kind)],
        "Parts of attacks": [kind for kind in tried if not attacking(kind)],
    }
    for title, found in kinds.items():
        if found:
            screen.out().print(_grid(title, found))


def _classes(home: ModuleType) -> list[type]:
    found = [getattr(home, name) for name in home.__all__]
    return [kind for kind in found if isinstance(kind, type)]


def attacking(kind: object) -> bool:
    """Whether its instances take an observation, as attacks do, and not the parts of one."""
    if not isinstance(kind, type):
        return False
    return list(inspect.signature(kind.__call__).parameters)[1:] == ["seen", "rng"]


def _grid(title: str, kinds: list[type]) -> Grid:
    grid = Grid("name and fields", "what it is", title=title, title_justify="left", show_lines=True)
    for kind in kinds:
        about = (inspect.getdoc(kind) or "").split("\n\n", maxsplit=1)[0]
        grid.add_row(Text(signature(kind)), Text(" ".join(about.split())))
    return grid


def signature(kind: Callable[..., object]) -> str:
    """As one would write it, with the defaults.

    >>> signature(clients.Only)
    'Only(inner, pattern)'
    """
    if not dataclasses.is_dataclass(kind):
        return f"{kind.__name__}{inspect.signature(kind)}"
    return f"{kind.__name__}({', '.join(_field(field) for field in dataclasses.fields(kind))})"


def _field(field: "dataclasses.Field[object]") -> str:
    if field.default is not dataclasses.MISSING:
        return f"{field.name}={describe(field.default)}"
    if field.default_factory is not dataclasses.MISSING:
        return f"{field.name}={describe(field.default_factory())}"
    return field.name
