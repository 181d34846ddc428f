"""The public names: all there, all documented, and cheap until they are used."""

import importlib
import inspect
import subprocess
import sys

import pytest

import seepage

HOMES = ["clients", "defenses", "attacks", "forms", "core", "errors", "trials", "auditing"]


@pytest.mark.parametrize("home", HOMES)
def test_every_public_name_is_reached_from_the_top(home: str) -> None:
    module = importlib.import_module(f"seepage.{home}")
    for name in module.__all__:
        assert getattr(seepage, name) is getattr(module, name)


@pytest.mark.parametrize("home", HOMES)
def test_every_public_name_says_what_it_is(home: str) -> None:
    module = importlib.import_module(f"seepage.{home}")
    for name in module.__all__:
        thing = getattr(module, name)
        if inspect.isclass(thing) or inspect.isfunction(thing):
            assert thing.__doc__, name
            assert not thing.__doc__.startswith(f"{name}("), f"{name} has no docstring of its own"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Prunes'"):
        seepage.Prunes  # noqa: B018


def printed(code: str) -> str:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_importing_loads_nothing_heavy() -> None:
    code = (
        "import sys, seepage; "
        "heavy = {'torch', 'numpy', 'scipy', 'skimage', 'matplotlib', 'rich'} & set(sys.modules); "
        "print(sorted(heavy), seepage.__version__)"
    )
    assert printed(code) == f"[] {seepage.__version__}\n"


def test_names_beyond_torch_load_nothing_else_that_is_heavy() -> None:
    code = (
        "import sys, torch; before = set(sys.modules); "
        "import seepage; seepage.Prune, seepage.audit; "
        "print(sorted({'scipy', 'skimage', 'matplotlib', 'sklearn', 'rich', 'jinja2'} "
        "& (set(sys.modules) - before)))"
    )
    assert printed(code) == "[]\n"
