"""What clients, attackers and scores are, in words that need no training in the field."""

import math
import re
from collections import defaultdict
from collections.abc import Sequence

from seepage.report.expressions import Part, part
from seepage.report.results import Result
from seepage.report.sentences import ATTACKS, CLIENTS, STATISTICS, STEPS

NOUNS = {"Images": "image", "Table": "record", "Tokens": "sentence"}
CRITERIA = {
    "Images": "An image counts as recovered when its PSNR against the original is above 30 dB: "
    "a person sees the same picture. Above 60 dB the two cannot be told apart by eye.",
    "Table": "A record counts as recovered when every column is read back right: categories by "
    "name, numbers to within a tenth of a standard deviation.",
    "Tokens": "A sentence counts as recovered when it is read back word for word.",
}


def count(n: int, noun: str) -> str:
    """A number with its noun.

    >>> count(1, "image"), count(2, "image"), count(2, "entry")
    ('1 image', '2 images', '2 entries')
    """
    plural = noun[:-1] + "ies" if noun.endswith("y") else noun + "s"
    return f"{n:,} {noun if n == 1 else plural}"


def noun(kind: str) -> str:
    """What one example of a form is called."""
    return NOUNS.get(kind, "example")


def listed(items: Sequence[str]) -> str:
    """
    >>> listed(["a"]), listed(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    if len(items) < 2:
        return "".join(items)
    return ", ".join(items[:-1]) + " and " + items[-1]


def score(metric: str, number: float) -> str:
    """A score with its unit.

    >>> score("psnr", 31.25), score("columns_right", 0.5), score("psnr", float("nan"))
    ('31.2 dB', '50 % right', 'unknown')
    """
    if math.isnan(number):
        return "unknown"
    if metric == "psnr":
        return f"{number:.1f} dB"
    return f"{number:.0%} {metric_name(metric)}".replace("%", " %", 1)


def metric_name(metric: str) -> str:
    """The name of a score as one writes it."""
    if metric.endswith("_right"):
        return "right"
    return {"psnr": "PSNR", "ssim": "SSIM"}.get(metric, cut(metric.replace("_", " "), 40))


def small(number: float) -> str:
    """A residual, short.

    >>> small(0.0), small(3.21e-9), small(0.25)
    ('0', '3e-9', '0.25')
    """
    if number == 0 or math.isnan(number):
        return "0" if number == 0 else "none"
    if 0.01 <= abs(number) < 1000:
        return f"{number:.2g}"
    digits, _, power = f"{number:.0e}".partition("e")
    return f"{digits}e{int(power)}"


def label(text: str) -> str:
    """An expression as one types it: what a wrapper wraps needs no name.

    >>> label("Prune(inner=FedSGD(), ratio=0.5)")
    'Prune(FedSGD(), ratio=0.5)'
    """
    return _DIGEST.sub(r"tensor(\1)", cut(text, 600)).replace("(inner=", "(")


_DIGEST = re.compile(r"tensor\(([\dx]+), \w+, \w+\)")
"""Tensors in an expression: their shape is enough for a reader."""


def cut(text: str, longest: int) -> str:
    """The beginning of a text that is too long to show."""
    return text if len(text) <= longest else text[: longest - 1] + "…"


def expression(text: str, longest: int = 80) -> str:
    """An expression inside a sentence, marked so that a page can set it apart."""
    return f"{_OPEN}{cut(label(plain(text)), longest)}{_CLOSE}"


def plain(sentence: str) -> str:
    """A sentence without the marks around its expressions."""
    return sentence.replace(_OPEN, "").replace(_CLOSE, "")


_OPEN, _CLOSE = "\x02", "\x03"
MARKED = re.compile(f"{_OPEN}([^{_OPEN}{_CLOSE}]*){_CLOSE}")


def told(tell: Sequence[str]) -> str:
    """What the attacker was told beside the update."""
    known = {"n": "the number of examples", "y": "the labels"}
    return listed([known.get(word, word) for word in tell]) or "nothing else"


def told_briefly(tell: Sequence[str]) -> str:
    """The same, for the cell of a table."""
    return (
        listed([{"n": "batch size", "y": "labels"}.get(word, word) for word in tell]) or "nothing"
    )


def guesses(result: Result) -> str:
    """What every guess without the update scores."""
    each = [
        f"{guess.name} {score(result.metric, guess.best)} ({guess.recovered} of {result.n})"
        for guess in result.baselines[:4]
    ]
    return f"Guesses without the update reach: {listed(each)}." if each else ""


def knows(result: Result) -> str:
    """Whether the attacker took the client for what it is."""
    if result.adaptive:
        return "adaptive" if defended(result.client) else "knows the client"
    return "naive" if part(result.client).name != "Given" else f"believes {result.believed}"


def defended(client: str) -> bool:
    """Whether anything is done to the update beside the training itself."""
    plain = {"FedSGD", "FedAvg", "Given"}
    return any(layer.name not in plain for layer in part(client).layers())


def client(text: str) -> list[str]:
    """What the client does, step by step in the order it happens."""
    inside_out = list(reversed(list(part(text).layers())))
    local = any(layer.name == "FedAvg" for layer in inside_out)
    steps = [_local(layer) if local else _layer(layer) for layer in inside_out]
    return [step for step in steps if step]


def _local(layer: Part) -> str:
    """A step of a client that trains locally, where one gradient is no step of its own."""
    if layer.name != "FedSGD":
        return _layer(layer)
    return STATISTICS if "mode" in dict(layer.settings) else ""


def attack(text: str) -> str:
    """What the attack does, in one or two sentences."""
    names = [layer.name for layer in part(text).layers()]
    if names == [text]:  # tensors and modules are not written as Python is
        names = re.findall(r"\b([A-Za-z]\w*)\(", text)
    known = [ATTACKS[name] for name in dict.fromkeys(names) if name in ATTACKS]
    return " ".join(known) or "No description of this attack is known to this report."


def _layer(layer: Part) -> str:
    settings = dict(layer.settings)
    if layer.name in CLIENTS:
        return CLIENTS[layer.name](settings)
    if layer.name in STEPS:
        return STEPS[layer.name].format_map(defaultdict(lambda: "an unknown number", settings))
    with_what = ", ".join(f"{k} = {v}" for k, v in settings.items())
    return (
        cut(f"It then applies {layer.name}" + (f" with {with_what}" if with_what else ""), 300)
        + "."
    )
