"""Build the site: the pages of this folder, and one for each attack, defense and client.

python docs/build.py              # site/html/index.html; the pictures take a minute or two
python docs/build.py --no-pictures
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent
MEASURED = HERE.parent / "runs" / "reproduced" / "reproduced.md"  # of `make reproduced`
sys.path.insert(0, str(HERE))

import pages  # noqa: E402 (a neighbour, wherever this is started)

NAV = {
    "Start here": {"Start here": "index", "The threat model": "threat_model"},
    "Tutorials": {
        "Audit my Flower app": "flower",
        "What does epsilon = 8 stop?": "epsilon",
        "Write an attack": "write_an_attack",
        "Read a report": "report",
    },
    "Guides": {
        "Audits from Python": "audit",
        "Commands that check": "commands",
        "Captured updates": "capture",
        "Scores": "metrics",
        "The zoo": "zoo",
    },
    "What leaks, and how": {
        "A gradient over a gradient": "bias_ratio",
        "Gradient matching": "matching",
        "Recursion and rank": "rgap",
        "Span and moments": "moments",
        "Malicious servers, the guard": "imprint",
        "Text": "text",
    },
    "What helps": {"Defenses and bounds": "defenses"},
    "Published results": {"Reproduced papers": "reproduced"},
}
"""The pages that are written by hand; one that is not named here is put among the guides."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--no-pictures", action="store_true", help="leave the trials out")
    parser.add_argument("--out", type=Path, default=HERE.parent / "site")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    config = write(asked.out, None if asked.no_pictures else asked.out / "scenes")
    build(config)
    print(f"open {asked.out / 'html' / 'index.html'}")


def write(out: Path, store: Path | None) -> Path:
    """All pages as Markdown and the settings of the site; where the settings are."""
    source = out / "pages"
    shutil.rmtree(source, ignore_errors=True)
    source.mkdir(parents=True)
    for page in (*HERE.glob("*.md"), *HERE.glob("*.png")):
        if page.suffix == ".md":
            (source / page.name).write_text(_outward(page.read_text("utf-8")), "utf-8")
        else:
            shutil.copy(page, source)
    with (source / "reproduced.md").open("a", encoding="utf-8") as file:
        file.write(pages.papers_table())
        if MEASURED.exists():
            file.write(re.sub("^#", "\n##", MEASURED.read_text("utf-8"), flags=re.MULTILINE))
    (source / "attacks").mkdir()
    pages.parts_page(source)
    found = {"attacks": list(pages.attack_pages(source, store)), "defenses": [], "clients": []}
    for name, path in pages.client_pages(source, store):
        found[path.partition("/")[0]].append((name, path))
    for folder, title in (("attacks", "Attacks"), ("defenses", "Defenses"), ("clients", "Clients")):
        pages.index_page(source, folder, title, found[folder])
    config = out / "mkdocs.yml"
    config.write_text(json.dumps(_settings(found), indent=1), encoding="utf-8")
    return config


def build(config: Path) -> None:
    """Have Zensical build it; a broken link is an error."""
    command = [sys.executable, "-m", "zensical", "build", "--strict", "-f", str(config)]
    subprocess.run(command, check=True)


def _outward(text: str) -> str:
    """Links out of this folder name the repository's file, which the site does not have."""
    return re.sub(r"\[([^\]]+)\]\(\.\./([^)]+)\)", r"\1 (`\2`)", text)


def _settings(found: dict[str, list[tuple[str, str]]]) -> dict[str, Any]:
    """JSON, which YAML reads: Zensical and Material for MkDocs take the same file."""
    known = {page for part in NAV.values() for page in part.values()}
    others = [page.name for page in sorted(HERE.glob("*.md")) if page.stem not in known]
    nav: list[Any] = [
        {title: [{name: f"{page}.md"} for name, page in part.items()]}
        for title, part in NAV.items()
    ]
    nav[list(NAV).index("Guides")]["Guides"] += others
    for folder, entries in found.items():
        pages_ = [f"{folder}/index.md", *({name: path} for name, path in entries)]
        pages_ += ["attacks/parts.md"] if folder == "attacks" else []
        nav.append({folder.capitalize(): pages_})
    extensions = ["tables", "attr_list", "pymdownx.superfences", "pymdownx.highlight"]
    return {
        "site_name": "Seepage",
        "site_description": "How much private data leaks from what clients share.",
        "docs_dir": "pages",
        "site_dir": "html",
        "use_directory_urls": False,
        "nav": nav,
        "theme": {
            "font": False,
            "features": ["navigation.sections", "navigation.indexes", "toc.follow"],
        },
        "markdown_extensions": [*extensions, {"toc": {"permalink": True}}],
        "plugins": ["search", "offline"],
    }


if __name__ == "__main__":
    main()
