"""Every block of code of the README and of the docs runs as it stands, and the site is built."""

import importlib
import inspect
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from html import unescape
from pathlib import Path

import click
import numpy
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from typer.main import get_group
from typer.testing import CliRunner

from seepage import attacks, clients, defenses, zoo
from seepage.cli import app
from seepage.cli.listing import attacking

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
ELSEWHERE = {
    "make demo": "test_cli.py",
    "make test": "test_docs.py",
    "pip install": "test_flower.py",
    "python examples/flower/federation.py": "test_flower.py",
    "nvflare simulator": "test_nvflare.py",
    "seepage attack $(ls runs/flower/": "test_flower.py",
    "seepage audit --model app.py:build": "test_cli.py",
    "seepage dp --noise-multiplier": "test_cli_dp.py",
    "seepage dp --want-epsilon": "test_cli_dp.py",
    "seepage dp --want-psnr": "test_cli_dp.py",
    "seepage tradeoff": "test_tradeoff.py",
}
"""Commands that another test runs with smaller numbers, since as they stand they take minutes."""
# Opacus and Flower's typer announce what they will change.
pytestmark = [
    pytest.mark.filterwarnings("ignore:'click:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:opacus"),
    pytest.mark.filterwarnings("ignore:Secure RNG:UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning:opacus"),
]


def blocks(page: Path, *kinds: str) -> list[str]:
    fences = re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    return [text for kind, text in fences if kind in kinds]


def MyNet() -> nn.Module:
    return zoo.mlp(8 * 8, 10, seed=0)


@pytest.mark.parametrize(
    "page", [p for p in PAGES if blocks(p, "python")], ids=lambda page: page.name
)
def test_the_examples_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    batch = zoo.digits(8).batch
    my_data = torch.utils.data.TensorDataset(batch.x, batch.target)
    names = {"MyNet": MyNet, "my_data": my_data, "__name__": "docs"}
    for block in blocks(page, "python"):
        exec(compile(block, str(page), "exec"), names)


def commands(page: Path) -> list[str]:
    """The lines of a page's shell blocks, continued ones joined, comments left out."""
    joined = "\n".join(blocks(page, "sh", "bash")).replace("\\\n", " ")
    return [line.partition("  #")[0].strip() for line in joined.splitlines() if line.strip()]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the pages take for given: an app.py, and the states before and after a round."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "app", raising=False)
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    public = "\n\ndef public():\n    return zoo.photos(50, 32, split='public').x\n"
    (tmp_path / "app.py").write_text((ROOT / "examples" / "app.py").read_text() + public)
    monkeypatch.setattr(sys, "path", [*sys.path])
    runpy.run_path(str(tmp_path / "examples" / "one_round.py"), run_name="__main__")
    monkeypatch.delitem(sys.modules, "app")
    before, update = (load_file(f"{name}.safetensors") for name in ("before", "update"))
    after = {name: before[name] - change for name, change in update.items()}
    for name, state in {"before": before, "after": after}.items():
        numpy.savez(f"{name}.npz", **{key: t.numpy() for key, t in state.items()})
    return tmp_path


@pytest.mark.parametrize("page", [p for p in PAGES if commands(p)], ids=lambda page: page.name)
@pytest.mark.usefixtures("home")
def test_the_commands_run(page: Path) -> None:
    for line in commands(page):
        other = [test for known, test in ELSEWHERE.items() if line.startswith(known)]
        if other:
            assert (Path(__file__).parent / other[0]).exists()
            continue
        program, *words = shlex.split(line)
        assert program == "seepage", f"nothing runs: {line}"
        result = CliRunner().invoke(app, words)
        assert result.exit_code in (0, 1), f"{line}\n{result.output}"
        assert result.exception is None or isinstance(result.exception, SystemExit), line


def misread(line: str) -> str:
    """What the command line says against a command's words; nothing if they are all known."""
    name, *words = shlex.split(re.sub(r"\$\(.*?\)", "FILE", line))
    known = get_group(app).commands
    if name not in known:
        return "" if name == "--help" else f"{line}: there is no such command"
    try:
        known[name].make_context(name, words)
    except click.UsageError as error:
        return "" if "does not exist" in error.message else f"{line}: {error.message}"
    return ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_commands_have_the_options_that_they_are_shown_with(page: Path) -> None:
    """Also those that take minutes and those of tables: they are read, not run."""
    tables = re.findall(r"^\| `seepage ([^`\[]*)`", page.read_text(), re.MULTILINE)
    shown = [
        line.removeprefix("seepage ") for line in commands(page) if re.match(r"seepage \w", line)
    ]
    assert [said for said in map(misread, tables + shown) if said] == []


def test_no_code_of_the_docs_is_left_out() -> None:
    """A block is Python or a shell's, and runs, or is text."""
    for page in PAGES:
        kinds = re.findall(r"^```(\w*)\n.*?^```", page.read_text(), re.DOTALL | re.MULTILINE)
        assert set(kinds) <= {"python", "sh", "bash", "text"}, page.name


def test_every_link_to_a_file_leads_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_site_has_a_page_for_everything(tmp_path: Path) -> None:
    pytest.importorskip("zensical", reason="the site needs: pip install 'seepage[docs]'")
    command = [sys.executable, str(DOCS / "build.py"), "--no-pictures", "--out", str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    html = tmp_path / "html"
    index = (html / "index.html").read_text()
    for page in DOCS.glob("*.md"):
        assert (html / f"{page.stem}.html").exists()
        assert page.stem == "index" or f'href="./{page.stem}.html"' in index
    for folder, home in {"attacks": attacks, "defenses": defenses, "clients": clients}.items():
        for name in home.__all__:
            if folder != "attacks" or attacking(getattr(home, name)):
                text = unescape((html / folder / f"{name}.html").read_text())
                assert (inspect.getdoc(getattr(home, name)) or "")[:20].split("`")[0] in text


def test_every_attack_and_client_has_a_scene_for_its_picture(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(DOCS))
    scenes = importlib.import_module("scenes")
    assert set(scenes.ATTACKS) == {n for n in attacks.__all__ if attacking(getattr(attacks, n))}
    assert set(scenes.CLIENTS) == {*defenses.__all__, *clients.__all__} - {"Given"}
