"""The store survives kills: nothing is lost, nothing is done twice, nothing is half written."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from seepage import files
from seepage.errors import InvalidInput
from seepage.store import Store, plain

SCRIPT = """
import sys, torch
from torch import nn
from seepage.clients import FedSGD
from seepage.core import Batch, Model, Reconstruction
from seepage.executors import Processes, Serial
from seepage.forms import Images
from seepage.trials import Trial, sweep

def noise(seen, rng):
    x = torch.rand(2, *seen.model.form.shape, generator=rng)
    for _ in range(60):  # long enough for a kill to fall into it
        x = (x + torch.rand(x.shape, generator=rng) @ torch.eye(12)) / 2
    return Reconstruction(x, None, torch.zeros(2), torch.ones(2), trace={"x": x})

def trials():
    module = nn.Sequential(nn.Flatten(), nn.Linear(3 * 12 * 12, 4))
    nn.init.zeros_(module[1].weight), nn.init.zeros_(module[1].bias)
    model = Model.of(module, nn.functional.cross_entropy, Images((3, 12, 12), classes=4))
    batch = Batch(torch.linspace(0, 1, 2 * 432).reshape(2, 3, 12, 12), torch.tensor([0, 1]))
    return [Trial(model, batch, FedSGD(), noise, seed=seed) for seed in range(24)]

if __name__ == "__main__":
    executor = Serial() if sys.argv[2] == "serial" else Processes(2)
    sweep(trials(), sys.argv[1], executor, lambda step: print(step.done, step.total, flush=True))
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "runs" / "one")


def filled(store: Store, *rows: dict[str, object]) -> Store:
    with store.writing() as append:
        for row in rows:
            append(row)
    return store


def test_the_folder_is_made_by_the_first_write(store: Store) -> None:
    assert store.rows() == {}
    assert not store.folder.parent.exists()
    filled(store, {"key": "a"})
    assert store.rows() == {"a": {"key": "a"}}


def test_the_last_row_of_a_key_counts(store: Store) -> None:
    filled(store, {"key": "a", "v": 1}, {"key": "b", "v": 2}, {"key": "a", "v": 3})
    assert [row["v"] for row in store.rows().values()] == [3, 2]


@pytest.mark.parametrize("cut", [1, 2, 9, 15])
def test_a_torn_last_line_is_dropped_and_its_room_used_again(store: Store, cut: int) -> None:
    filled(store, {"key": "a"}, {"key": "bé", "text": "€"})
    path = store.folder / "rows.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    assert list(store.rows()) == ["a"]
    filled(store, {"key": "c"})
    assert list(store.rows()) == ["a", "c"]
    assert path.read_text() == '{"key": "a"}\n{"key": "c"}\n'


def test_a_damaged_line_is_named(store: Store) -> None:
    filled(store, {"key": "a"})
    path = store.folder / "rows.jsonl"
    path.write_bytes(path.read_bytes() + b"\xff\xfe nonsense\n")
    with pytest.raises(InvalidInput, match=r"line 2 is not a row.*Delete the line"):
        store.rows()
    path.write_text('{"no": "key"}\n')
    with pytest.raises(InvalidInput, match="line 1"):
        store.rows()


def test_a_line_separator_inside_a_text_ends_no_row(store: Store) -> None:
    filled(store, {"key": "a", "note": "one\u2028two\x85three\rfour\x0bfive\nsix"})
    assert store.rows()["a"]["note"] == "one\u2028two\x85three\rfour\x0bfive\nsix"


def test_a_second_writer_is_refused(store: Store) -> None:
    with (
        store.writing(),
        pytest.raises(InvalidInput, match=f"being written by process {os.getpid()}"),
        Store(store.folder).writing(),
    ):
        pass
    filled(store, {"key": "free again"})


def test_a_place_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(InvalidInput, match="Choose another store"),
        Store(tmp_path / "file" / "x").writing(),
    ):
        pass


def test_pictures_of_killed_writers_are_cleaned_away(store: Store) -> None:
    filled(store, {"key": "a"})
    assert store.keep("a", {"x": torch.ones(2)}) == "artefacts/a.safetensors"
    draft = store.folder / "artefacts" / ".b.safetensors.123"
    draft.write_bytes(b"half")
    filled(store, {"key": "b"})
    assert not draft.exists()
    assert torch.equal(files.read(store.artefact("a"))[0]["x"], torch.ones(2))


def test_rows_are_strict_json(store: Store) -> None:
    row = {"key": "a", "n": float("nan"), "t": torch.tensor([1.0, float("inf")]), "p": Path("x")}
    filled(store, row)
    line = (store.folder / "rows.jsonl").read_text()
    assert json.loads(line, parse_constant=pytest.fail) == plain(row)
    assert store.rows()["a"] == {"key": "a", "n": None, "t": [1.0, None], "p": "x"}


def test_without_a_place_a_temporary_one_is_used() -> None:
    first, second = Store.of(None), Store.of(None)
    assert first.folder != second.folder
    assert Store.of(first) is first


def start(script: Path, folder: Path, how: str) -> "subprocess.Popen[str]":
    command = [sys.executable, str(script), str(folder), how]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def finish(script: Path, folder: Path, how: str) -> list[str]:
    with start(script, folder, how) as process:
        said = process.communicate()[0].splitlines()
    assert process.returncode == 0
    return said


def results(folder: Path) -> dict[str, dict[str, object]]:
    rows = Store(folder).rows()
    return {key: {k: v for k, v in row.items() if k != "seconds"} for key, row in rows.items()}


@pytest.mark.parametrize("how", ["serial", "processes"])
def test_killed_at_any_moment_and_run_again_gives_the_rows_of_one_run(
    tmp_path: Path, how: str
) -> None:
    (script := tmp_path / "script.py").write_text(SCRIPT)
    whole, broken, draw = tmp_path / "whole", tmp_path / "broken", random.Random(how)
    finish(script, whole, "serial")
    for _ in range(2):
        with start(script, broken, how) as process:
            assert process.stdout is not None
            for _ in range(draw.randint(1, 9)):
                process.stdout.readline()
            process.send_signal(signal.SIGKILL)
    rows = broken / "rows.jsonl"
    kept = rows.read_bytes()
    rows.write_bytes(kept[: -draw.randint(2, 300)])  # as if the kill had come mid-line
    done = len(Store(broken).rows())
    assert 0 < done < 24
    said = finish(script, broken, how)
    assert said[0] == f"{done} 24"
    assert said[-1] == "24 24"
    assert results(broken) == results(whole)
    assert len(rows.read_text().splitlines()) == 24
    for key in results(whole):
        expected, _ = files.read(Store(whole).artefact(key))
        got, _ = files.read(Store(broken).artefact(key))
        assert expected.keys() == got.keys()
        assert all(torch.equal(expected[name], got[name]) for name in expected)
    assert len(list((broken / "artefacts").iterdir())) == 24
