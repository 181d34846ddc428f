"""What all tests and doctests share: one thread, for the same bits on every machine."""

from importlib.util import find_spec

import torch

torch.set_num_threads(1)

# Doctests of an integration run where its package is installed.
_NEEDS = {"opacus": "opacus.py", "nvflare": "nvflare.py"}
# Flower's own imports warn, and these files have no doctest: tests/test_flower.py runs them.
_SILENT = ("flower.py", "flower_records.py")
collect_ignore = [
    f"src/seepage/integrations/{file}"
    for file in (*_SILENT, *(file for name, file in _NEEDS.items() if not find_spec(name)))
]
