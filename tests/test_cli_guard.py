"""`seepage guard`: what it finds, what it says it cannot see, and its exit codes."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from test_cli import refused, said

from seepage import zoo
from seepage.attacks import Imprint
from seepage.core import Model, stream

OWN = """
from torch import nn
from seepage import zoo
from seepage.attacks import Imprint
from seepage.core import stream

def build(width=64):
    return zoo.photos(16, 16).model(zoo.mlp(768, width, 8, seed=0))

def crafted():
    attack = Imprint(bins=32, public=zoo.photos(64, 16, split="public").x)
    return attack.craft(build(), stream(0, "craft"))

def bare():
    return zoo.mlp(768, 64, 8, seed=0)

def data(n=16, size=16):
    return zoo.photos(n, size)

def batches():
    return [zoo.photos(16, 16, seed=seed).batch for seed in range(3)]

def bad_loss():
    return zoo.mlp(768, 64, 8), (lambda out, y: out.no_such_thing), zoo.photos(1, 16).form
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "received", raising=False)
    (tmp_path / "received.py").write_text(OWN)
    return tmp_path


def written(model: Model, path: Path) -> None:
    save_file({name: p.clone().contiguous() for name, p in model.state.items()}, path)


def crafted() -> Model:
    model = zoo.photos(16, 16).model(zoo.mlp(768, 64, 8, seed=0))
    attack = Imprint(bins=32, public=zoo.photos(64, 16, split="public").x)
    return attack.craft(model, stream(0, "craft"))


def test_an_untrained_model_has_no_finding_and_is_not_called_harmless(home: Path) -> None:
    written(zoo.photos(1, 16).model(zoo.mlp(768, 64, 8, seed=1)), home / "sent.safetensors")
    words = ("guard", "sent.safetensors", "--model", "received.py:build")
    result = said(*words, "--data", "received.py:data")
    assert result.exit_code == 0, result.output
    assert "No finding: no figure is above its limit" in " ".join(result.stdout.split())
    assert "The scan of the parameters cannot see:" in result.stdout
    assert "The audit of your own batches cannot see:" in result.stdout
    assert "safe" not in result.output.lower().replace("safetensors", "")
    alone = said(*words)
    assert alone.exit_code == 0
    assert "Your own batches were not checked" in alone.stdout


def test_a_planted_layer_is_named_with_rows_reasons_and_remedies(home: Path) -> None:
    written(crafted(), home / "sent.safetensors")
    words = ("guard", "sent.safetensors", "--model", "received.py:crafted")
    result = said(*words, "--data", "received.py:data")
    assert result.exit_code == 1, result.output
    for wanted in (
        "HIGH: duplicates in block.linear.weight, 32 rows: 0, 1, 2",
        "HIGH: rank in block.linear.weight",
        "Evidence: 32, where the limit is 2 (received parameters)",
        "neighbours are bins",
        "What to do: Ask the server",
        "examples stand alone in it",
    ):
        assert wanted in result.stdout
    assert "inner.linear1: " not in result.stdout


def test_the_received_parameters_are_what_is_checked(home: Path) -> None:
    model = zoo.photos(1, 16).model(zoo.mlp(768, 64, 8, seed=0))
    weight = model.params["linear1.weight"]
    bins = {"linear1.weight": weight[:1].expand(64, -1).clone()}
    bins["linear1.bias"] = torch.linspace(-1, 1, 64)
    written(model.replaced(bins), home / "sent.safetensors")
    assert said("guard", "--model", "received.py:build").exit_code == 0
    result = said("guard", "sent.safetensors", "--model", "received.py:build", "--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert {(f["check"], f["layer"]) for f in found["findings"]} >= {
        ("rank", "linear1.weight"),
        ("duplicates", "linear1.weight"),
    }
    assert found["findings"][0]["severity"] == "high"
    assert found["cannot_see"]["scan"]


@pytest.mark.usefixtures("home")
def test_several_batches_are_checked_and_a_finding_counts_once() -> None:
    words = ("--data", "received.py:batches", "--batches", "3", "--json")
    result = said("guard", "--model", "received.py:crafted", *words)
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert len(found["isolated"]) == 3
    names = [(f["check"], f["layer"]) for f in found["findings"]]
    assert len(names) == len(set(names))
    assert any(f["where"] in ("2 of 3 batches", "3 of 3 batches") for f in found["findings"])


def oversized(path: str) -> None:
    """A few bytes whose header declares a terabyte."""
    shape = {"dtype": "F32", "shape": [2**38], "data_offsets": [0, 2**40]}
    header = json.dumps({"linear1.bias": shape}).encode()
    Path(path).write_bytes(len(header).to_bytes(8, "little") + header + bytes(64))


def replaced(path: str, tensor: torch.Tensor) -> None:
    save_file({**zoo.mlp(768, 64, 8, seed=0).state_dict(), "linear1.bias": tensor}, path)


@pytest.mark.parametrize(
    ("make", "wanted"),
    [
        (oversized, "not a readable safetensors file"),
        (lambda path: replaced(path, torch.ones(64, dtype=torch.int8)), "torch.int8"),
        (lambda path: replaced(path, torch.ones(10**6)), "1000000"),
        (lambda path: replaced(path, torch.full((64,), torch.nan)), "NaN or infinity"),
    ],
)
@pytest.mark.usefixtures("home")
def test_a_hostile_servers_file_is_refused_with_the_reason(make: Any, wanted: str) -> None:
    make("sent.safetensors")
    assert wanted in refused("guard", "sent.safetensors", "--model", "received.py:build")


def test_parameters_of_another_network_are_refused_with_what_differs(home: Path) -> None:
    written(crafted(), home / "sent.safetensors")
    text = refused("guard", "sent.safetensors", "--model", "received.py:build")
    assert "unexpected: block.linear" in text or "missing: linear1.weight" in text
    assert "it changed the network" in text


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["none.safetensors"], "no file at none.safetensors"),
        (["received.py"], "not a readable safetensors file"),
        (["--model", "nowhere.py:build"], "there is no file nowhere.py"),
        (["--model", "received.py:bare"], "Return (module, loss, form)"),
        (["--data", "received.py:data(size=9)"], "x has shape (16, 3, 9, 9)"),
        (["--data", "received.py:batches", "--batches", "4"], "asks for 4 batches"),
        (
            ["--model", "received.py:bad_loss", "--data", "received.py:data"],
            "could not be checked (AttributeError",
        ),
    ],
)
@pytest.mark.usefixtures("home")
def test_no_mistake_ends_in_a_traceback(words: list[str], wanted: str) -> None:
    rest = [] if "--model" in words else ["--model", "received.py:build"]
    assert wanted in refused("guard", *words, *rest)
