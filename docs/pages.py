"""One page for each attack, defense and client, out of its docstring and a trial of its scene."""

import importlib
import inspect
import re
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from scenes import ATTACKS, CLIENTS, Scene, defended

from seepage import Images, Tokens, Trial, attacks, clients, defenses, papers, sweep
from seepage.cli.listing import attacking, signature
from seepage.report.artefacts import Pair, pairs, place
from seepage.report.pictures import cells

Row = dict[str, Any]
GUIDES = {
    "seepage.attacks.bias_ratio": "bias_ratio",
    "seepage.attacks.imprint": "imprint",
    "seepage.attacks.moments": "moments",
    "seepage.attacks.span": "moments",
    "seepage.attacks.rgap": "rgap",
    "seepage.attacks.text": "text",
    "seepage.attacks": "matching",
    "seepage.defenses": "defenses",
    "seepage.clients": "audit",
}
_AT_MOST = 8  # examples of a picture


def attack_pages(out: Path, store: Path | None) -> Iterator[tuple[str, str]]:
    """Each attack's page, written; its name and its path."""
    for name in (n for n in attacks.__all__ if attacking(getattr(attacks, n))):
        shown: list[str] = []
        if store is not None:
            scene = ATTACKS[name]()
            shown = _drawn(out, store, name, scene, {"read back": scene.trial})
        yield _written(out, "attacks", name, getattr(attacks, name), shown)


def client_pages(out: Path, store: Path | None) -> Iterator[tuple[str, str]]:
    """Each defense's page and each client's, with what gets through it beside what did before."""
    for folder, home in (("defenses", defenses), ("clients", clients)):
        for name in home.__all__:
            shown: list[str] = []
            if store is not None and name in CLIENTS:
                scene, plain = defended(name), defended("FedSGD").trial
                rows = {"from FedSGD()": plain, f"from {name}": scene.trial}
                shown = _drawn(out, store, name, scene, rows)
            yield _written(out, folder, name, getattr(home, name), shown)


def parts_page(out: Path) -> None:
    """What attacks are put together from, and the presets of papers: one page for all."""
    lines = ["# Parts and presets of attacks", ""]
    for name in attacks.__all__:
        thing = getattr(attacks, name)
        if not attacking(thing):
            lines += [f"## {name}", "", f"```text\n{_called(thing)}\n```", "", *_prose(thing), ""]
    (out / "attacks" / "parts.md").write_text("\n".join(lines), encoding="utf-8")


def papers_table() -> str:
    """Everything that `seepage reproduce` knows, by the first line of its module."""
    lines = [
        "",
        "",
        "## All of them",
        "",
        "| `seepage reproduce` | what it measures |",
        "|---|---|",
    ]
    for name in papers.__all__:
        about = inspect.getdoc(importlib.import_module(f"seepage.papers.{name}")) or ""
        lines.append(f"| `{name.replace('_', '-')}` | {_marked(about.splitlines()[0])} |")
    return "\n".join(lines) + "\n"


def index_page(out: Path, folder: str, title: str, names: list[tuple[str, str]]) -> None:
    """All pages of a folder with their first sentences."""
    homes = {"attacks": attacks, "defenses": defenses, "clients": clients}
    lines = [f"# {title}", "", "| name | in a sentence |", "|---|---|"]
    for name, path in names:
        about = (inspect.getdoc(getattr(homes[folder], name)) or "").split("\n\n", maxsplit=1)[0]
        first = re.split(r"(?<=[.:]) ", " ".join(about.split()))[0].rstrip(".:")
        lines.append(f"| [{name}]({Path(path).name}) | {_marked(first)} |")
    (out / folder / "index.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _written(out: Path, folder: str, name: str, thing: Any, shown: list[str]) -> tuple[str, str]:
    home = max((h for h in GUIDES if thing.__module__.startswith(h)), key=len)
    option = "--attack" if folder == "attacks" else "--client"
    first, *rest = _prose(thing)
    lines = [f"# {name}", "", first, "", *shown, "", "```text", _called(thing), "```", "", *rest]
    guide = GUIDES[home]
    title = (Path(__file__).parent / f"{guide}.md").read_text("utf-8").splitlines()[0].strip("# ")
    lines += [
        "",
        f"From Python pass it to [`seepage.audit`](../audit.md), on the command line as `{option}`."
        f" How it works, what was measured and where it fails: [{title}](../{guide}.md).",
        "",
    ]
    path = f"{folder}/{name}.md"
    (out / folder).mkdir(parents=True, exist_ok=True)
    (out / path).write_text("\n".join(lines), encoding="utf-8")
    return name, path


def _called(thing: Any) -> str:
    """As one writes it, one field a line where it is long."""
    said = signature(thing)
    if len(said) < 80:
        return said
    name, _, fields = said[:-1].partition("(")
    return f"{name}(\n    " + re.sub(r", (?=\w+=)", ",\n    ", fields) + ",\n)"


def _prose(thing: Any) -> list[str]:
    """A docstring as Markdown: paragraphs, and examples as they are typed."""
    blocks = (inspect.getdoc(thing) or "").split("\n\n")
    return [f"```pycon\n{b}\n```\n" if ">>>" in b else f"{_marked(b)}\n" for b in blocks]


def _marked(text: str) -> str:
    """Text in which nothing but code marks is Markdown; indented lines are equations."""
    if all(line.startswith("    ") for line in text.splitlines()):
        return f"```text\n{inspect.cleandoc(text)}\n```"
    parts = text.split("`")
    parts[::2] = [_escaped(part) for part in parts[::2]]
    return "`".join(parts)


def _escaped(text: str) -> str:
    plain = text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "&#124;")
    return re.sub(r"([*_\[\]])", r"\\\1", plain)


def _drawn(out: Path, store: Path, name: str, scene: Scene, tried: dict[str, Trial]) -> list[str]:
    """The picture of a scene, and the sentences under it."""
    rows = dict(zip(tried, sweep(list(tried.values()), store), strict=True))
    failed = [str(row["error"]) for row in rows.values() if row["error"]]
    if failed:
        return [f"This attack says of this client: {_marked(failed[0])}", ""]
    under = [scene.about, *(_said(title, row) for title, row in rows.items())]
    form = scene.trial.model.form
    found = {title: _pairs(store, row, form) for title, row in rows.items()}
    if isinstance(form, Tokens):
        return [_sentences(form, next(iter(found.values()))), "", " ".join(under), ""]
    assert isinstance(form, Images)
    picture = out / "pictures" / f"{name}.png"
    picture.parent.mkdir(exist_ok=True)
    _figure(form, found).savefig(picture, dpi=150, bbox_inches="tight")
    return [f"![Private images above what was read back](../pictures/{name}.png)", "",
            " ".join(under), ""]  # fmt: skip


def _said(title: str, row: Row) -> str:
    got, n = sum(row["recovered"]), row["n"]
    note = f" Of itself the attack says: {_marked(row['note'])}." if row["note"] else ""
    return f"{title[0].upper()}{title[1:]}: {got} of {n} recovered.{note}"


def _pairs(store: Path, row: Row, form: Any) -> list[Pair]:
    wanted = list(enumerate(row["shown"]))[:_AT_MOST]
    return pairs(place(store, row["artefact"]), form, wanted)


def _figure(form: Images, found: dict[str, list[Pair]]) -> Figure:
    """Private images in the first row, and under them what came back of each."""
    truths = next(iter(found.values()))
    figure = Figure(figsize=(1.1 * max(len(truths), 2) + 1, 1.15 * (len(found) + 1)))
    grid = figure.subplots(len(found) + 1, len(truths), squeeze=False)
    for column, pair in enumerate(truths):
        _image(grid[0, column], form, pair.truth)
    for line, pairs_ in enumerate(found.values(), start=1):
        for column, pair in enumerate(pairs_):
            _image(grid[line, column], form, pair.answer)
    for axes, title in zip(grid[:, 0], ("private", *found), strict=True):
        axes.set_ylabel(title, rotation=0, ha="right", va="center", fontsize=9)
    return figure


def _image(axes: Any, form: Images, x: Any) -> None:
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(x is None)
    if x is None:
        axes.text(0.5, 0.5, "nothing", ha="center", va="center", transform=axes.transAxes, size=8)
        return
    levels = form.show(x.float()).nan_to_num(0).permute(1, 2, 0)
    axes.imshow(levels.squeeze(-1), cmap="gray", vmin=0, vmax=1, interpolation="nearest")


def _sentences(form: Tokens, found: list[Pair]) -> str:
    """Private words above what came back, the right ones in bold."""
    lines = []
    for pair in found:
        words = cells(form, pair.truth, pair.answer)
        above = " ".join(escape(word.original) for word in words)
        below = " ".join(f"<b>{escape(word.answer)}</b>" if word.right else escape(word.answer)
                         for word in words)  # fmt: skip
        lines.append(f"<p>private: {above}<br>read back: {below}</p>")
    return "\n".join(lines)
