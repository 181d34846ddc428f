"""Real sets of short sentences by Hugging Face datasets, where they are present on this machine."""

import importlib
import os
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from seepage.core import stream
from seepage.errors import InvalidInput
from seepage.zoo.language import STYLES, Style, styled

_SETS: dict[str, tuple[str, str | None, str]] = {
    "cola": ("nyu-mll/glue", "cola", "sentence"),
    "sst2": ("nyu-mll/glue", "sst2", "sentence"),
    "rotten_tomatoes": ("cornell-movie-review-data/rotten_tomatoes", None, "text"),
}

_OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")


def public_set(style: Style, offline: bool = True) -> list[tuple[str, int]]:
    """The validation split of CoLA, SST-2 or Rotten Tomatoes: sentences and labels.

    Reads the local cache of the package datasets; with `offline=False` it may download. Needs
    `pip install datasets`.
    """
    if style not in STYLES:
        raise InvalidInput(f"public_set.style={style!r} is not known: use one of {STYLES}.")
    if offline:
        for name in _OFFLINE:  # read by datasets when it is first imported
            os.environ.setdefault(name, "1")
    try:
        datasets: Any = importlib.import_module("datasets")
    except ImportError:
        raise InvalidInput("real sets need: pip install datasets.") from None
    path, part, field = _SETS[style]
    try:
        rows: Iterable[Mapping[str, Any]] = datasets.load_dataset(path, part, split="validation")
    except (OSError, ValueError, RuntimeError) as error:
        first = (str(error).splitlines() or [""])[0][:200]
        raise InvalidInput(
            f"{path} is not in the local cache ({first}). Load it once while online: "
            f"python -c \"import datasets; datasets.load_dataset('{path}', {part!r})\"."
        ) from None
    return [(str(row[field]).strip(), int(row["label"])) for row in rows]


def short(style: Style, n: int, words: int, seed: int = 0) -> tuple[list[tuple[str, int]], str]:
    """Short sentences of a style, and where they are from: the real set, or else bundled ones."""
    try:
        lines, source = public_set(style), f"{style}, validation split"
    except InvalidInput:
        lines, source = styled(style), f"written here in the style of {style}"
    brief = [line for line in lines if len(line[0].split()) <= words]
    if len(brief) < n:
        raise InvalidInput(
            f"{source} has {len(brief)} sentences of at most {words} words, and {n} are asked for."
        )
    order = torch.randperm(len(brief), generator=stream(seed, f"short {style}"))[:n].tolist()
    return [brief[place] for place in order], source
