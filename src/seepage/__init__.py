"""Seepage measures how much private data leaks from what clients share in federated learning."""

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Public names are looked up where they live, when first used: `import seepage` loads nothing.
_HOMES = (
    "core",
    "forms",
    "errors",
    "clients",
    "defenses",
    "attacks",
    "trials",
    "store",
    "executors",
    "report",
    "auditing",
)

if TYPE_CHECKING:
    from seepage import analysis, attacks, defenses, metrics, zoo
    from seepage.attacks import *
    from seepage.auditing import *
    from seepage.clients import *
    from seepage.core import *
    from seepage.defenses import *
    from seepage.errors import *
    from seepage.executors import *
    from seepage.forms import *
    from seepage.report import *
    from seepage.store import *
    from seepage.trials import *


def __getattr__(name: str) -> Any:
    if name == "__all__":
        return __dir__()
    if not name.startswith("_"):
        if importlib.util.find_spec(f"seepage.{name}"):
            return importlib.import_module(f"seepage.{name}")
        for home in _HOMES:
            module = importlib.import_module(f"seepage.{home}")
            if name in module.__all__:
                return globals().setdefault(name, getattr(module, name))
    raise AttributeError(f"module 'seepage' has no attribute {name!r}")


def __dir__() -> list[str]:
    homes = (importlib.import_module(f"seepage.{home}") for home in _HOMES)
    return sorted({name for home in homes for name in home.__all__})
