"""Every Python block of the README and of the docs runs as it stands."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from seepage import zoo

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def MyNet() -> nn.Module:
    return zoo.mlp(8 * 8, 10, seed=0)


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p)], ids=lambda page: page.name)
def test_the_examples_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    batch = zoo.digits(8).batch
    my_data = torch.utils.data.TensorDataset(batch.x, batch.target)
    names = {"MyNet": MyNet, "my_data": my_data, "__name__": "docs"}
    for block in blocks(page):
        exec(compile(block, str(page), "exec"), names)


def test_every_link_to_a_file_leads_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
