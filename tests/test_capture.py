"""Captured updates of any framework, and the protocol that an update itself shows."""

import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from typer.testing import CliRunner

from seepage import files, zoo
from seepage.cli import app
from seepage.clients import FedAvg, FedSGD
from seepage.core import Batch, Client, Model, observe, stream
from seepage.errors import InvalidInput
from seepage.forms import Images
from seepage.integrations import checkpoints
from seepage.integrations.protocol import infer

APP = """
from torch import nn
from seepage import zoo

def build():
    return zoo.mlp(192, 16, 8, seed=0), nn.functional.cross_entropy, zoo.photos(1, 8).form
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "captured_app", raising=False)
    (tmp_path / "captured_app.py").write_text(APP)
    return tmp_path


def said(*words: str) -> Any:
    return CliRunner().invoke(app, list(words), catch_exceptions=False, env={"COLUMNS": "200"})


def refused(*words: str) -> str:
    result = said(*words)
    assert result.exit_code == 2, result.output
    return " ".join(result.output.split())


def states(lr: float = 0.05, n: int = 1) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
    """A state before and after one step of a plain PyTorch training loop, and the data."""
    batch = zoo.photos(n, 8).batch
    network = zoo.mlp(192, 16, 8, seed=0)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    optimiser = torch.optim.SGD(network.parameters(), lr=lr)
    nn.functional.cross_entropy(network(batch.x), batch.target).backward()
    optimiser.step()
    return before, dict(network.state_dict()), batch.x


def written(state: dict[str, Tensor], path: Path) -> None:
    if path.suffix == ".npz":
        np.savez(path, **{name: t.numpy() for name, t in state.items()})
    elif path.suffix == ".safetensors":
        save_file({name: t.clone() for name, t in state.items()}, path)
    else:
        torch.save({"epoch": 3, "model": OrderedDict((f"module.{k}", t) for k, t in state.items())},
                   path)  # fmt: skip


@pytest.mark.parametrize("kind", ["safetensors", "npz", "pt"])
def test_states_of_any_framework_are_captured_and_attacked(home: Path, kind: str) -> None:
    before, after, truth = states()
    written(before, home / f"before.{kind}")
    written(after, home / f"after.{kind}")
    result = said("capture", f"before.{kind}", f"after.{kind}", "-o", "update.safetensors")
    assert result.exit_code == 0, result.output
    update, about = files.read("update.safetensors")
    assert not about
    assert all(torch.equal(update[name], before[name] - after[name]) for name in before)
    words = ["--model", "captured_app.py:build", "--params", f"before.{kind}", "--out", "a"]
    result = said("attack", "update.safetensors", *words, "--attack", "BiasRatio()")
    assert result.exit_code == 0, result.output
    assert "Believed: FedAvg(lr=0.05)" in result.stderr
    assert "n=1: the rank of linear1.weight" in result.stderr
    found, _ = files.read("a/reconstruction.safetensors")
    assert (found["x"][0] - truth[0]).square().mean() < 1e-8


def test_arrays_without_names_are_named_by_the_model(home: Path) -> None:
    before, after, _ = states()
    np.savez("before.npz", *[t.numpy() for t in before.values()])
    np.savez("after.npz", *[t.numpy() for t in after.values()])
    assert "Pass --model" in refused("capture", "before.npz", "after.npz")
    words = ("--model", "captured_app.py:build", "-o", "u.safetensors")
    result = said("capture", "before.npz", "after.npz", *words)
    assert result.exit_code == 0, result.output
    assert list(files.read("u.safetensors")[0]) == sorted(before)
    np.savez("after.npz", *[t.numpy() for t in after.values()][:3])
    assert "holds 3 arrays" in refused("capture", "before.npz", "after.npz", *words)


def changed(path: str, name: str, tensor: Tensor) -> None:
    state = {**states()[1], name: tensor}
    save_file(state, path)


class Evil:
    """What a pickle would run."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("owned",))


@pytest.mark.parametrize(
    ("make", "wanted"),
    [
        (lambda: changed("after", "linear1.weight", torch.ones(3, 192)), "expected (16, 192)"),
        (lambda: changed("after", "more", torch.ones(1)), "unexpected: more"),
        (lambda: changed("after", "linear1.bias", torch.full((16,), float("nan"))), "NaN or inf"),
        (lambda: changed("after", "linear1.bias", torch.ones(16, dtype=torch.int8)), "torch.int8"),
        (lambda: save_file(states()[0], "after"), "the two states are equal"),
        (lambda: Path("after").write_bytes(b"\xff" * 99), "not a readable safetensors"),
        (lambda: torch.save(Evil(), "after.pt"), "loads with weights only"),
        (lambda: torch.save([1, 2], "after.pt"), "no named tensors"),
        (lambda: torch.save({"w": torch.ones(1).expand(10**9)}, "after.pt"), "claims 1000000000"),
        (lambda: Path("after.pt").write_bytes(b"PK\x03\x04"), "loads with weights only"),
        (lambda: np.savez("after.npz", w=np.array([Evil()])), "arrays of objects"),
        (lambda: Path("after.npz").write_bytes(b"no"), "not a readable .npz"),
        (lambda: bomb("after.npz"), "would unpack to"),
        (lambda: None, "no file at after"),
    ],
)
def test_hostile_and_mistaken_states_are_refused(home: Path, make: Any, wanted: str) -> None:
    save_file(states()[0], "before")
    make()
    after = next((p.name for p in home.glob("after*")), "after")
    text = refused("capture", "before", after)
    assert wanted in text
    assert "owned" not in text
    assert not Path("update.safetensors").exists()


def bomb(path: str) -> None:
    """Two megabytes on disk that would unpack to a thousand times as much: only the index says."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("w.npy", bytes(250 * 2**20))


def test_capture_checks_states_against_the_model(home: Path) -> None:
    save_file({"w": torch.zeros(2)}, "before")
    save_file({"w": torch.ones(2)}, "after")
    text = refused("capture", "before", "after", "--model", "captured_app.py:build")
    assert "unexpected: w" in text


def test_counters_stay_behind_and_idle_statistics_are_dropped(home: Path) -> None:
    before = {"w": torch.zeros(2), "steps": torch.tensor(1)}
    update = checkpoints.difference(before, {"w": torch.ones(2), "steps": torch.tensor(2)})
    assert list(update) == ["w"]
    half = {"w": torch.tensor([1.0], dtype=torch.float16)}
    assert checkpoints.difference(half, {"w": torch.tensor([0.9])})["w"].dtype == torch.float32


def inferred(client: Client, n: int, model: Model | None = None, size: int = 8) -> Any:
    sample = zoo.photos(n, size)
    known = model or sample.model(zoo.mlp(3 * size * size, 32, 8, seed=1))
    seen = observe(known, sample.batch, client, stream(5, "client"), FedSGD(), tell=())
    return infer(seen, stream(5, "attack")), sample.batch


@pytest.mark.parametrize(
    "client",
    [FedSGD(), FedAvg(lr=0.1), FedAvg(lr=0.003), FedAvg(epochs=3, lr=0.05),
     FedAvg(epochs=5, lr=0.02)],
)  # fmt: skip
def test_one_example_shows_gradient_rate_steps_and_label(client: Client) -> None:
    found, batch = inferred(client, 1)
    assert (found.client, found.n) == (client, 1)
    assert torch.equal(found.y, batch.y)


@pytest.mark.parametrize("client", [FedSGD(), FedAvg(lr=0.05)])
def test_a_convolutional_network_shows_one_step_too(client: Client) -> None:
    model = zoo.photos(1, 16).model(zoo.convnet(8, 8, (3, 16, 16), seed=0))
    found, batch = inferred(client, 1, model, 16)
    assert (found.client, found.n) == (client, 1)
    assert torch.equal(found.y, batch.y)


@pytest.mark.parametrize("n", [2, 5, 8])
@pytest.mark.parametrize("client", [FedSGD(), FedAvg(lr=0.1), FedAvg(epochs=3, lr=0.05)])
def test_several_examples_show_their_number(client: Client, n: int) -> None:
    found, _ = inferred(client, n)
    assert found.n == n
    assert found.y is None
    assert any(line.startswith("labels: about") for line in found.assumptions)


def test_what_cannot_be_known_is_said(home: Path) -> None:
    sample = zoo.photos(40, 8)
    model = sample.model(zoo.mlp(192, 16, 8, seed=0))
    seen = observe(model, sample.batch, FedSGD(), stream(0, "c"), tell=())
    found = infer(seen, stream(0, "a"))
    assert found.n is None
    assert "at least 14, the whole rank" in " ".join(found.assumptions)
    signs = observe(model, sample.batch, lambda m, b, r: {k: u.sign() for k, u in
                    FedSGD()(m, b, r).items()}, stream(0, "c"), FedSGD(), tell=())  # fmt: skip
    assert "signs, or Adam" in " ".join(infer(signs, stream(0, "a")).assumptions)
    squares = Model.of(model.module, zoo.squared_loss, Images((3, 8, 8), 8))
    batch = Batch(sample.x[:1], torch.rand(1, 8))
    seen = observe(squares, batch, FedSGD(), stream(0, "c"), tell=())
    assert "no softmax cross-entropy" in " ".join(infer(seen, stream(0, "a")).assumptions)


def test_bare_names_need_as_many_arrays() -> None:
    with pytest.raises(InvalidInput, match="holds 1 arrays"):
        checkpoints.named({"arr_0": torch.ones(1)}, {"a": torch.ones(1), "b": torch.ones(1)}, "it")
