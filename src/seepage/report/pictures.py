"""Examples as a page shows them: images as PNG text, records and sentences cell by cell."""

import base64
import io
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from seepage.forms import Form, Images, Table, Tokens
from seepage.report.words import cut

BUDGET = 3_000_000
"""Bytes that all pictures of one page may take together, as text."""
SMALLEST, LARGEST = 48, 192
LONGEST = 40
"""Characters of a cell."""


@dataclass(frozen=True)
class Picture:
    """An image ready for a page: `small` ones are enlarged without smoothing."""

    source: str
    small: bool


@dataclass(frozen=True)
class Cell:
    """One column of a record, or one word of a sentence: the original, the answer."""

    name: str
    original: str
    answer: str
    right: bool


def side_for(pictures: int) -> int:
    """The longest side at which so many pictures stay within the budget.

    Noise does not compress: three bytes a pixel, and four characters for three bytes.
    """
    return int(min(LARGEST, max(SMALLEST, math.sqrt(BUDGET / (4 * max(pictures, 1))))))


def picture(form: Images, x: Tensor, side: int) -> Picture:
    """One image as a PNG in a data address, no side longer than `side`."""
    from PIL import Image

    shown = form.show(x.float()).nan_to_num(0)
    levels = (shown * 255).round().to(torch.uint8).cpu()
    if levels.shape[0] == 3:
        image = Image.fromarray(levels.permute(1, 2, 0).contiguous().numpy())
    else:
        image = Image.fromarray(levels[0].contiguous().numpy())
    native = max(image.size)
    if native > side:
        image.thumbnail((side, side))
    data = io.BytesIO()
    image.save(data, format="PNG", optimize=True)
    text = base64.b64encode(data.getvalue()).decode()
    return Picture(f"data:image/png;base64,{text}", small=native <= 64)


def cells(form: Form, truth: Tensor, answer: Tensor | None) -> tuple[Cell, ...]:
    """An example of a table or a text beside the answer, part by part."""
    if isinstance(form, Table):
        return _columns(form, truth, answer)
    return _words(form, truth, answer) if isinstance(form, Tokens) else ()


def _columns(form: Table, truth: Tensor, answer: Tensor | None) -> tuple[Cell, ...]:
    shown = form.show(truth.nan_to_num(0))
    guessed = form.show(answer.nan_to_num(0)) if answer is not None else {}
    return tuple(
        Cell(
            cut(column.name, LONGEST),
            _plain(shown[column.name]),
            _plain(guessed.get(column.name, "nothing")),
            answer is not None and _same(truth[part], answer[part], bool(column.levels)),
        )
        for column, part in form.groups()
    )


def _same(truth: Tensor, answer: Tensor, named: bool) -> bool:
    if named:
        return int(truth.argmax()) == int(answer.argmax())
    return bool((truth - answer).abs().max() <= 0.1)


def _plain(shown: float | str) -> str:
    return cut(shown, LONGEST) if isinstance(shown, str) else f"{shown:.4g}"


def _words(form: Tokens, truth: Tensor, answer: Tensor | None) -> tuple[Cell, ...]:
    right = [int(token) for token in truth]
    given = [int(token) for token in answer.nan_to_num(0)] if answer is not None else []
    padded = given + [form.pad] * (len(right) - len(given))
    return tuple(
        Cell(str(place + 1), _spelled(form, t), _spelled(form, a), t == a and answer is not None)
        for place, (t, a) in enumerate(zip(right, padded, strict=False))
        if not t == a == form.pad
    )


def _spelled(form: Tokens, token: int) -> str:
    if token == form.pad:
        return "–"
    return cut(form.words[token], LONGEST) if 0 <= token < len(form.words) else str(token)
