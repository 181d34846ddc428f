"""Public English that every installation holds: the documentation inside SciPy and NumPy."""

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from seepage.attacks.text.bigram import Bigram
from seepage.forms import Tokens

_PACKAGES = ("numpy", "scipy")
_TOKENS = 250_000
_CODE = re.compile(r"[>`|=_\\{}\[\]:]|--|\.\.\s")
"""What prose does not have."""

_BETWEEN = re.compile(r"(?<=[.?!])\s+(?=[A-Z])")
_SHORTEST = 4


def prose() -> Iterator[str]:
    """One sentence of documentation after another, always in the same order."""
    for package in _PACKAGES:
        folder = Path(str(importlib.import_module(package).__file__)).parent
        for path in sorted(folder.rglob("*.py")):
            if "tests" not in path.parts:
                yield from _sentences(path.read_text(encoding="utf-8"))


def _sentences(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            for paragraph in (ast.get_docstring(node) or "").split("\n\n"):
                for sentence in _BETWEEN.split(" ".join(paragraph.split())):
                    if not _CODE.search(sentence) and len(sentence.split()) >= _SHORTEST:
                        yield sentence


def english(tokenizer: Any, form: Tokens, tokens: int = _TOKENS) -> Bigram:
    """A bigram model of this prose in the vocabulary of a tokenizer, special tokens included."""
    special = form.start is not None or form.end is not None
    rows, total = list[list[int]](), 0
    for sentence in prose():
        row = tokenizer.encode(sentence, add_special_tokens=special)
        rows.append(row)
        total += len(row)
        if total >= tokens:
            break
    x = torch.full((len(rows), max(map(len, rows))), form.pad)
    for line, row in zip(x, rows, strict=True):
        line[: len(row)] = torch.tensor(row)
    return Bigram.of(x, form.vocab, form.pad)
