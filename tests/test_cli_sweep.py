"""`seepage sweep`: trials of a Python file, resumed, reported, and its mistakes."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_cli import refused, said

from seepage.store import Store

EXAMPLE = Path(__file__).parent.parent / "examples" / "sweep.py"
OWN = """
from seepage import BiasRatio, FedSGD, Prune, Trial, zoo

def one(ratio=0.5):
    private = zoo.photos(2, 8)
    model = private.model(zoo.mlp(192, 16, 8, seed=0))
    return Trial(model, private.batch, Prune(FedSGD(), ratio=ratio), BiasRatio())

def trials(ratios=(0.5, 0.9)):
    for ratio in ratios:
        yield one(ratio)

listed = [one(0.1), one(0.2)]
none = []
number = 3
mixed = [one(0.1), "Prune"]

def broken():
    yield one(0.1)
    raise KeyError("ratio")
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "several", raising=False)
    (tmp_path / "several.py").write_text(OWN)
    return tmp_path


def test_a_sweep_is_reported_and_goes_on_where_it_was(home: Path) -> None:
    first = said("sweep", "several.py", "--json")
    assert first.exit_code == 0, first.output
    assert json.loads(first.stdout)["trials"] == {"done": 2, "failed": 0}
    assert "2 of 2 trials done" in first.stderr
    rows = (home / "runs" / "sweep" / "rows.jsonl").read_bytes()
    more = said("sweep", "several.py:trials(ratios=[0.5, 0.9, 0.99])", "--json")
    assert json.loads(more.stdout)["trials"]["done"] == 3
    assert "1 of 3 trials done" not in more.stderr
    assert (home / "runs" / "sweep" / "rows.jsonl").read_bytes().startswith(rows)
    assert len(Store(Path("runs/sweep")).rows()) == 3
    assert (home / "runs" / "sweep" / "report.html").exists()


@pytest.mark.usefixtures("home")
def test_only_what_was_asked_for_is_reported() -> None:
    assert said("sweep", "several.py", "--store", "s").exit_code == 0
    found = json.loads(said("sweep", "several.py:listed", "--store", "s", "--json").stdout)
    assert found["trials"]["done"] == 2
    assert json.loads(said("sweep", "several.py:one", "--json").stdout)["trials"]["done"] == 1


@pytest.mark.usefixtures("home")
def test_a_leak_fails_a_pipeline_that_asks_for_it() -> None:
    assert said("sweep", "several.py:listed", "--fail-above", "recovered=1").exit_code == 0
    assert said("sweep", "several.py:listed", "--fail-above", "recovered=0").exit_code == 1


def test_workers_find_the_file(home: Path) -> None:
    script = home / "again.py"
    script.write_text("from seepage.cli import main\nif __name__ == '__main__':\n    main()\n")
    (home / "deep").mkdir()
    shutil.move("several.py", "deep/several.py")
    words = ["sweep", "deep/several.py", "--workers", "2", "--store", "s"]
    subprocess.run([sys.executable, script, *words], check=True, capture_output=True)
    assert [row["status"] for row in Store(Path("s")).rows().values()] == ["done", "done"]


def test_the_example_runs(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "sweep", raising=False)
    shutil.copy(EXAMPLE, home / "sweep.py")
    result = said("sweep", "sweep.py:trials(stds=[0.00001, 10.0])", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["trials"] == {"done": 8, "failed": 0}
    shares = {case["client"]: case["share"] for case in found["clients"]}
    assert [share for client, share in shares.items() if "std=10.0" in client] == [0.0]
    assert max(shares.values()) > 0


MISTAKES = {
    "no file": (["nowhere.py"], "there is no file nowhere.py"),
    "no name": (["several.py:trails"], "no function 'trails'. Did you mean trials?"),
    "no colon": (["several"], "names no file of trials"),
    "nothing": (["several.py:none"], "gives nothing where a trial is expected"),
    "a number": (["several.py:number"], "gives a int. Give seepage.Trial values"),
    "mixed": (["several.py:mixed"], "gives a str where a trial is expected"),
    "its own error": (["several.py:broken"], "failed with KeyError: 'ratio' (several.py, line 20)"),
    "bad arguments": (["several.py:trials(depth=3)"], "unexpected keyword argument 'depth'"),
    "limit": (["several.py", "--fail-above", "x=1"], "Write it as recovered=0.1"),
    "store": (["several.py", "--store", "several.py/x"], "Choose another store"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.usefixtures("home")
def test_no_mistake_ends_in_a_traceback(mistake: str) -> None:
    words, wanted = MISTAKES[mistake]
    assert wanted in refused("sweep", *words)
