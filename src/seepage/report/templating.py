"""The templates of the pages, and how they set code, sentences and means."""

import functools
import re
from typing import TYPE_CHECKING

from seepage.report import verdict, words
from seepage.report.results import Group

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup


@functools.cache
def environment() -> "Environment":
    """The templates of the pages."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    made = Environment(
        loader=PackageLoader("seepage.report", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    made.globals |= {"level_of": verdict.level, "words": words, "mean": _mean}
    made.filters["drawing"] = Markup  # our own drawings of numbers and letters: see plots.py
    made.filters |= {"code": _code, "sentence": _sentence}
    return made


def _code(text: str) -> "Markup":
    """An expression, escaped, that breaks where a reader expects it."""
    from markupsafe import Markup, escape

    pieces = re.split(r"(?<=[(,])(?![) ])", words.label(text))
    return Markup("<code>{}</code>").format(Markup("<wbr>").join(map(escape, pieces)))


def _sentence(text: str) -> "Markup":
    """A sentence, escaped, its expressions set as code."""
    from markupsafe import Markup, escape

    pieces = words.MARKED.split(text)
    made = [_code(p) if i % 2 else escape(words.plain(p)) for i, p in enumerate(pieces)]
    return Markup("").join(made)


def _mean(group: Group) -> float:
    return sum(result.share for result in group.results) / len(group)
