"""Doctests of a file that needs a package run where that package is installed."""

from importlib.util import find_spec

_NEEDS = {
    "opacus": ("integrations/opacus.py",),
    "nvflare": ("integrations/nvflare.py",),
}

# Flower's own imports warn, and its files have no doctest: tests/test_flower.py runs them.
_FLOWER = ["seepage/integrations/flower.py", "seepage/integrations/flower_records.py"]
collect_ignore = _FLOWER + [
    f"seepage/{file}" for package, files in _NEEDS.items() if not find_spec(package)
    for file in files
]  # fmt: skip
