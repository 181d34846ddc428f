"""`seepage rank`: the count, the measurement, and what cannot be counted."""

import json
import re
import sys
from pathlib import Path

import pytest
from test_cli import refused, said

OWN = """
import torch
from torch import nn
from seepage import zoo

FORM = zoo.photos(1, 8).form

def build(first=12, second=8):
    return zoo.three_conv(first, second), nn.functional.cross_entropy, zoo.photos(1, 16).form

def small(width=4):
    torch.manual_seed(0)
    made = nn.Sequential(nn.Linear(192, width), nn.Tanh(), nn.Flatten(), nn.Linear(width, 8))
    return nn.Sequential(nn.Flatten(), made), nn.functional.cross_entropy, FORM

class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(192, 192), nn.Linear(192, 8)

    def forward(self, x):
        x = x.flatten(1)
        return self.last(x + self.first(x).tanh())

def residual():
    return Residual(), nn.functional.cross_entropy, FORM

class Rounds(nn.Module):
    def __init__(self):
        super().__init__()
        self.last = nn.Linear(192, 8)

    def forward(self, x):
        return self.last(torch.bucketize(x.flatten(1), torch.tensor([0.5])).float())

def floats():
    return Rounds(), nn.functional.cross_entropy, FORM

def bare():
    return nn.Linear(192, 8)

def data(n=2, size=8):
    return zoo.photos(n, size)

def tokens():
    return torch.zeros(2, 5, dtype=torch.long), torch.zeros(2, dtype=torch.long)
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "counted", raising=False)
    (tmp_path / "counted.py").write_text(OWN)
    return tmp_path


@pytest.mark.usefixtures("home")
def test_the_count_names_layers_tier_and_what_moves_it() -> None:
    result = said("rank", "counted.py:build")
    assert result.exit_code == 0, result.output
    text = " ".join(result.stdout.split())
    assert re.search(r"conv2 .Conv2d. . 972 . 808 . 808 . -164 . -164", text)
    assert "768 equations for 768 unknowns of the input (none missing)" in text
    assert "High tier, identifiable" in text
    assert "Narrowing conv1 from 12 to 6 outputs" in text
    assert "safe" not in text.lower()


@pytest.mark.usefixtures("home")
def test_the_json_holds_what_the_table_shows() -> None:
    found = json.loads(said("rank", "counted.py:build(first=2)", "--json").stdout)
    counted = found["counted"]
    assert [row["name"] for row in counted["layers"]] == ["conv1", "conv2", "conv3", "linear"]
    assert counted["tier"] == "deficient"
    assert counted["network"]["deficit"] < 0
    assert found["measured"] is None


def test_a_measurement_says_its_cost_first_and_leaves_pictures(home: Path) -> None:
    words = ("--data", "counted.py:data", "--noise", "0.01", "--out", "found")
    result = said("rank", "counted.py:small", *words)
    assert result.exit_code == 0, result.output
    assert "Measuring 192 directions: about" in result.stderr
    assert "all 192 of 192 directions" in result.stdout
    measured = json.loads((home / "found" / "rank.json").read_text())["measured"]
    assert measured["rank"] == len(measured["singular_values"]) == 192
    assert measured["noise"] == 0.01
    for name in ("equations.png", "spectrum.png"):
        assert (home / "found" / name).read_bytes().startswith(b"\x89PNG")
    assert measured["layers"].keys() == {"1.0", "1.3"}
    assert "1.3 <span" in (home / "found" / "rank.html").read_text()


@pytest.mark.usefixtures("home")
def test_more_noise_hides_more() -> None:
    words = ("rank", "counted.py:small", "--data", "counted.py:data", "--basis", "2", "--json")
    found = [json.loads(said(*words, "--noise", n).stdout)["measured"] for n in ("0", "0.05", "5")]
    assert [one["directions"] for one in found] == [12, 12, 12]
    assert found[0]["error"] == 0
    assert found[0]["readable"] == 12 >= found[1]["readable"] > found[2]["readable"]
    assert found[2]["error"] == pytest.approx(100 * found[1]["error"])


@pytest.mark.usefixtures("home")
def test_what_is_no_chain_is_measured_and_not_counted() -> None:
    why = refused("rank", "counted.py:residual")
    assert "pass --data" in why
    result = said("rank", "counted.py:residual", "--data", "counted.py:data", "--basis", "2")
    assert result.exit_code == 0, result.output
    assert "Not counted: rank.layers" in result.stdout
    assert "the smoothest 12 of 192 directions" in result.stdout


MISTAKES = {
    "no file": (["nowhere.py:build"], "there is no file nowhere.py"),
    "no function": (["counted.py:biuld"], "Did you mean build?"),
    "bare": (["counted.py:bare"], "Return (module, loss, form)"),
    "noise": (["counted.py:small", "--noise", "-1"], "--noise=-1.0 must be"),
    "too many": (
        ["counted.py:small", "--data", "counted.py:data", "--examples", "3"],
        "--examples 3 is more than the 2 of the first batch",
    ),
    "other size": (
        ["counted.py:small", "--data", "counted.py:data(size=9)"],
        "x has shape (2, 3, 9, 9)",
    ),
    "tokens": (["counted.py:small", "--data", "counted.py:tokens"], "x has shape (2, 5)"),
    "no derivative": (
        ["counted.py:floats", "--data", "counted.py:data"],
        "Rounds cannot be measured (RuntimeError",
    ),
    "out": (["counted.py:small", "--out", "counted.py/x"], "Choose another --out"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.usefixtures("home")
def test_no_mistake_ends_in_a_traceback(mistake: str) -> None:
    words, wanted = MISTAKES[mistake]
    result = said("rank", *words)
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 2
    assert "Traceback" not in result.output
    assert wanted in " ".join(result.stderr.split())
