"""The command line: what it does, and that no slip of a user ends in a traceback."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner

from seepage import files, papers, zoo
from seepage.cli import app
from seepage.clients import FedSGD
from seepage.core import observe, stream
from seepage.store import Store

APP = """
import torch
from torch import nn
from seepage import zoo
from seepage.core import Batch, Model
from seepage.core import Reconstruction

def form():
    return zoo.photos(1, 8).form

def build(width=16):
    return zoo.mlp(192, width, 8, seed=0), nn.functional.cross_entropy, form()

def bare():
    return zoo.mlp(192, 16, 8, seed=0)

def data(n=2):
    return zoo.photos(n, 8)

def large():
    return torch.rand(2, 3, 9, 9), torch.tensor([0, 1])

def public():
    return zoo.photos(5, 8, split="public")

def wrong():
    return 3

def broken():
    raise KeyError("weights")

def nothing(seen, rng):
    return Reconstruction.nothing(seen, "did not try")

def failing(seen, rng):
    raise RuntimeError("no luck")
"""
BIAS = "BiasRatio()"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder with a module of their own, of a name that no other test uses."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    (tmp_path / "mine.py").write_text(APP)
    return tmp_path


def said(*words: str) -> Any:
    return CliRunner().invoke(app, list(words))


def refused(*words: str) -> str:
    """What stderr says of words that cannot work; stdout stays empty."""
    result = said(*words)
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    assert result.stdout == ""
    before, error, message = result.stderr.partition("Error: ")
    assert error
    assert "Error" not in before
    return " ".join(message.split())


def audited(*more: str) -> Any:
    words = ("--model", "mine.py:build", "--data", "mine.py:data", "--attack", BIAS)
    return said("audit", *words, *more)


def test_help_loads_nothing_heavy() -> None:
    code = "import sys; from seepage.cli import app; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    shown = said("--help").output
    for command in ("demo", "audit", "attack", "report", "list", "reproduce"):
        assert command in shown
        assert "Usage" in said(command, "--help").output
    assert said("--version").output.startswith("seepage ")


def test_an_audit_writes_a_report_and_goes_on_where_it_was(home: Path) -> None:
    first = audited("--client", "FedSGD()", "--client", "Prune(FedSGD(), ratio=0.99)")
    assert first.exit_code == 0, first.output
    assert "FedSGD()" in first.stdout
    assert (home / "runs" / "audit" / "report.html").stat().st_size > 1000
    rows = (home / "runs" / "audit" / "rows.jsonl").read_bytes()
    assert len(rows.splitlines()) == 3
    again = audited("--client", "FedSGD()", "--client", "Prune(FedSGD(), ratio=0.99)")
    assert again.stdout == first.stdout
    assert (home / "runs" / "audit" / "rows.jsonl").read_bytes() == rows


def test_json_is_all_that_stdout_holds(home: Path) -> None:
    result = audited(
        "--json", "--out", "page.html", "--public", "mine:public", "--seed", "1", "--seed", "2"
    )
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert summary["trials"] == {"done": 2, "failed": 0}
    assert (home / "page.html").exists()


def test_fail_above_is_for_continuous_integration(home: Path) -> None:
    assert audited("--fail-above", "recovered=1").exit_code == 0
    assert audited("--fail-above", "recovered=0.1").exit_code == 1
    assert said("report", "runs/audit", "--fail-above", "recovered=0.1", "--json").exit_code == 1
    assert "recovered=0.1" in refused("report", "runs/audit", "--fail-above", "psnr=3")
    assert "recovered=0.1" in refused("report", "runs/audit", "--fail-above", "recovered=x")
    assert "recovered=0.1" in refused("report", "runs/audit", "--fail-above", "recovered=nan")


def test_a_report_of_a_store(home: Path) -> None:
    audit = audited("--client", "FedAvg(lr=0.1)")
    result = said("report", "runs/audit", "--out", "again.html")
    assert result.exit_code == 0, result.output
    assert result.stdout == audit.stdout
    assert (home / "again.html").exists()
    assert "holds no rows" in refused("report", "nowhere")


def test_an_audit_where_nothing_finished_is_no_success(home: Path) -> None:
    result = audited("--attack", "mine:failing")
    assert result.exit_code == 0
    assert "1 of 2 trials failed" in result.stderr
    result = said(
        "audit",
        "--model",
        "mine:build",
        "--data",
        "mine:data",
        "--attack",
        "mine:failing",
        "--store",
        "s",
    )
    assert result.exit_code == 2
    assert "no trial finished. The first error: RuntimeError: no luck" in result.stderr


def test_workers_do_the_same(home: Path) -> None:
    script = home / "again.py"
    script.write_text("from seepage.cli import main\nif __name__ == '__main__':\n    main()\n")
    rows = []
    for workers in ("1", "2"):
        words = ["audit", "--model", "mine.py:build", "--data", "mine.py:data", "--store", workers]
        more = ["--attack", BIAS, "--attack", "mine:nothing", "--workers", workers]
        subprocess.run([sys.executable, script, *words, *more], check=True, capture_output=True)
        rows.append({k: {**row, "seconds": 0} for k, row in Store(Path(workers)).rows().items()})
    assert rows[0] == rows[1]
    assert [row["status"] for row in rows[0].values()] == ["done", "done"]


MISTAKES = {
    "no file": (["--model", "nowhere.py:build"], "there is no file nowhere.py"),
    "no module": (["--model", "no.where:build"], "there is no module 'no'"),
    "no function": (["--model", "mine.py:biuld"], "no function 'biuld'. Did you mean build?"),
    "no colon": (["--model", "mine.py"], "names no function. Write file.py:function"),
    "bad arguments": (["--model", "mine.py:build(depth=3)"], "unexpected keyword argument 'depth'"),
    "no literal": (["--model", "mine.py:build(width=open('x'))"], "there is no 'open'"),
    "its own error": (
        ["--model", "mine.py:broken"],
        "failed with KeyError: 'weights' (mine.py, line 30)",
    ),
    "no model": (["--model", "mine.py:wrong"], "returned a int. Return a seepage.Model, or"),
    "no data": (["--data", "mine.py:wrong"], "data is a int. Pass a Batch, (x, y), or"),
    "other shape": (["--data", "mine.py:large"], "x has shape (2, 3, 9, 9)"),
    "other shape, bare": (
        ["--model", "mine:bare", "--data", "mine:large"],
        "cannot take x of shape",
    ),
    "too few batches": (
        ["--batches", "3", "--data", "mine:large"],
        "asks for 3 batches, and the data hold 1",
    ),
    "no public": (["--public", "mine:wrong"], "Return a tensor of examples"),
    "no client": (["--client", "FedSDG()"], "there is no 'FedSDG'. Did you mean FedSGD?"),
    "no brackets": (["--client", "FedSGD"], 'write it with its brackets, "FedSGD()"'),
    "bad field": (["--client", "FedAvg(epochs=0)"], "FedAvg.epochs=0 must be"),
    "bad syntax": (["--attack", "Invert(steps=="], "cannot be read"),
    "code": (["--attack", "__import__('os').system('true')"], "is not allowed here"),
    "not an attack": (["--attack", "3"], "is not a attack"),
    "no own module": (["--attack", "their.module:Mine()"], "no module 'their.module'"),
    "tell": (["--tell", "x"], "--tell x is not known: use n, y, or none"),
    "store": (["--store", "mine.py/x"], "Choose another store"),
    "out": (["--out", "mine.py/x.html"], "Choose another path"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_no_mistake_of_an_audit_ends_in_a_traceback(home: Path, mistake: str) -> None:
    words, wanted = MISTAKES[mistake]
    defaults = {"--model": "mine.py:build", "--data": "mine.py:data", "--attack": BIAS}
    given = set(words)
    rest = [part for pair in defaults.items() if pair[0] not in given for part in pair]
    assert wanted in refused("audit", *rest, *words)


def test_what_typer_itself_refuses() -> None:
    for words in (["audit"], ["nonsense"], ["audit", "--workers", "0"]):
        result = said(*words)
        assert result.exit_code == 2
        assert "Traceback" not in result.output


def captured(home: Path) -> dict[str, torch.Tensor]:
    """An update of the model of `mine.build`, as a server may have stored it."""
    sample = zoo.photos(2, 8)
    model = sample.model(zoo.mlp(192, 16, 8, seed=0))
    seen = observe(model, sample.batch, FedSGD(), stream(0, "client"))
    seen.save(home / "seen.safetensors")
    save_file(dict(seen.update), home / "update.safetensors")
    save_file({name: p.clone() for name, p in model.params.items()}, home / "before.safetensors")
    return {"x": sample.x, **seen.update}


def test_an_attack_on_a_captured_update(home: Path) -> None:
    truth = captured(home)["x"]
    base = ["--model", "mine.py:build", "--attack", BIAS]
    bare = ["attack", "update.safetensors", *base, "--n", "2", "--params", "before.safetensors"]
    for words in (
        [*bare, "--client", "FedSGD()", "--out", "a"],
        ["attack", "seen.safetensors", *base, "--out", "a"],
    ):
        result = said(*words)
        assert result.exit_code == 0, result.output
        assert "candidates" in result.stdout
        found, _ = files.read("a/reconstruction.safetensors")
        distance = (found["x"][:, None] - truth[None]).square().mean((2, 3, 4)).amin(0)
        assert distance.max() < 1e-6
        summary = json.loads(Path("a/summary.json").read_text())
        assert (summary["attack"], summary["n"]) == ("BiasRatio()", 2)
        assert Path("a/candidate-01.png").read_bytes().startswith(b"\x89PNG")


def test_attacks_on_rows_write_rows(home: Path) -> None:
    model, batch = zoo.example()
    observe(model, batch, FedSGD(), stream(0, "client")).save("one.safetensors")
    (home / "mine.py").write_text("from seepage import zoo\ndef build(): return zoo.example()[0]\n")
    result = said(
        "attack", "one.safetensors", "--model", "mine.py:build", "--attack", BIAS, "--out", "a"
    )
    assert result.exit_code == 0, result.output
    assert json.loads(Path("a/candidates.jsonl").read_text().splitlines()[0])["smokes"] == "yes"


def test_an_update_of_another_model_lists_what_differs(home: Path) -> None:
    update = captured(home)
    base = ["--model", "mine.py:build", "--n", "2", "--attack", BIAS]
    del update["x"]
    changed = {**update, "extra.weight": torch.ones(1)}
    changed["linear1.weight"] = torch.ones(3, 192)
    save_file(changed, home / "other.safetensors")
    text = refused("attack", "other.safetensors", *base)
    assert "unexpected: extra.weight" in text
    assert "mis-shaped: linear1.weight is (3, 192), expected (16, 192)" in text
    del changed["linear2.bias"]
    save_file(changed, home / "other.safetensors")
    text = refused("attack", "update.safetensors", *base, "--params", "other.safetensors")
    assert "missing: linear2.bias; unexpected: extra.weight; mis-shaped: linear1.weight" in text


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["none.safetensors"], "no file at none.safetensors"),
        (["mine.py"], "not a readable safetensors file"),
        (["update.safetensors", "--params", "none"], "no file at none"),
        (["update.safetensors", "--model", "mine:bare"], "Return (module, loss, form)"),
        (["update.safetensors", "--labels", "a,b"], "Write them as in 3,0,7"),
        (["update.safetensors", "--labels", "1,2,3", "--n", "2"], "3 labels for n=2"),
        (["update.safetensors", "--attack", "mine:failing"], "failed with RuntimeError: no luck"),
        (["update.safetensors", "--client", "Prune()"], "missing 1 required positional argument"),
        (["update.safetensors", "--out", "mine.py/a", "--attack", "BiasRatio()"], "cannot write"),
    ],
)
def test_no_mistake_of_an_attack_ends_in_a_traceback(
    home: Path, words: list[str], wanted: str
) -> None:
    captured(home)
    rest = [] if "--model" in words else ["--model", "mine.py:build"]
    assert wanted in refused("attack", *words, *rest)


def test_an_attack_that_recovers_nothing_says_so(home: Path) -> None:
    captured(home)
    base = ["--model", "mine.py:build", "--attack", "mine:nothing"]
    result = said("attack", "update.safetensors", *base, "--out", "a")
    assert result.exit_code == 0, result.output
    assert "not recovered: did not try" in result.stdout


def test_the_list_names_everything() -> None:
    shown = said("list").output
    for name in ("FedAvg(", "Prune(", "Invert(", "BiasRatio(", "ratio=0.9"):
        assert name in shown


PAPER = '''"""A result of tests.

More words.
"""
from seepage.papers.claims import Claim

def reproduce(quick, folder):
    got = "31 dB" if quick else "32 dB"
    yield Claim("width | [red]", "30 dB", got, "confirmed", "on photographs")
    if folder is not None:
        (folder / "picture.txt").write_text("here")
    yield Claim("height", "not available", "7", "measured")
'''


@pytest.fixture
def paper(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "a_result.py").write_text(PAPER)
    (home / "bad_result.py").write_text(
        '"""Bad."""\ndef reproduce(quick, folder):\n    yield 1 / 0\n'
    )
    monkeypatch.setattr(papers, "__path__", [*papers.__path__, str(home)])
    monkeypatch.setattr(papers, "__all__", ["a_result", "bad_result"])
    yield
    for name in ("a_result", "bad_result"):
        sys.modules.pop(f"seepage.papers.{name}", None)


@pytest.mark.usefixtures("paper")
def test_published_results_are_measured_again(home: Path) -> None:
    assert "A result of tests." in said("reproduce", "--list").output
    result = said("reproduce", "a-result", "--quick", "--out", "found")
    assert result.exit_code == 0, result.output
    for word in ("30 dB", "31 dB", "confirmed", "[red]", "not available"):
        assert word in result.stdout
    assert (home / "found" / "a_result" / "picture.txt").exists()
    table = (home / "found" / "reproduced.md").read_text()
    assert "| width \\| [red] | 30 dB | 31 dB | confirmed | on photographs |" in table
    assert "`seepage reproduce a-result`" in table
    assert "32 dB" in said("reproduce", "a_result").stdout


@pytest.mark.usefixtures("paper")
def test_of_all_results_one_may_fail(home: Path) -> None:
    result = said("reproduce", "--all", "--out", "found")
    assert result.exit_code == 2
    assert "1 of 2 could not be measured: bad_result (ZeroDivisionError" in " ".join(
        result.stderr.split()
    )
    assert "height" in (home / "found" / "reproduced.md").read_text()
    assert "Did you mean a_result?" in refused("reproduce", "a_reslut")


def test_ctrl_c_leaves_all_that_is_done_and_says_how_to_go_on(home: Path) -> None:
    slow = "from seepage.core import Reconstruction\ndef slow(seen, rng):\n    while True: pass\n"
    (home / "slow.py").write_text(slow)
    words = ["audit", "--model", "mine.py:build", "--data", "mine.py:data", "--attack", BIAS]
    words += ["--attack", "slow:slow"]
    code = "from seepage.cli import main; main()"
    for workers in ("1", "2"):
        command = [sys.executable, "-c", code, *words, "--store", workers, "--workers", workers]
        process = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        rows = home / workers / "rows.jsonl"
        while not (rows.exists() and rows.read_bytes()):
            assert process.poll() is None
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 130, errors
        assert "Traceback" not in errors
        assert f"What is done is kept in {workers}" in errors
        assert "seepage audit --model mine.py:build" in errors
        assert [row["attack"] for row in Store(Path(workers)).rows().values()] == [BIAS]


def test_the_demo_is_an_audit_that_finds_something(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from seepage.cli import demonstrating

    monkeypatch.setattr(
        demonstrating, "attacks", lambda: demonstrating.BiasRatio() and [demonstrating.BiasRatio()]
    )
    result = said("demo", "--workers", "1")
    assert result.exit_code == 0, result.output
    assert "4 of 4" in result.stdout
    assert (home / "runs" / "demo" / "report.html").stat().st_size < 5_000_000


def test_the_demo_reads_sentences_where_the_extra_is_installed(home: Path) -> None:
    pytest.importorskip("transformers", reason="needs the extra seepage[text]")
    from seepage.auditing import Plan
    from seepage.cli import demonstrating

    report = demonstrating.sentences(Plan(store=home / "sentences"))
    read = {result.client for result in report.results if result.hits == 4}
    assert {"FedSGD()", "FedAvg(epochs=2, lr=0.05)", "Quantize(FedSGD(), bits=16)"} == {
        client.replace("inner=", "") for client in read
    }
    assert 'class="word"' in report.save(home / "report.html").read_text(encoding="utf-8")


def test_the_demo_says_how_to_install_what_sentences_need(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from seepage.cli import demonstrating

    monkeypatch.setattr(demonstrating, "attacks", lambda: [demonstrating.BiasRatio()])
    monkeypatch.setattr(demonstrating.small_bert, "available", lambda: False)
    result = said("demo", "--workers", "1")
    assert "pip install 'seepage[text]'" in result.output
    assert not (home / "runs" / "demo" / "sentences").exists()


def test_sample_networks_are_named_by_modules_too() -> None:
    from seepage.cli import loading

    made: Any = loading.called("seepage.zoo:mlp(192, 16, 8)")
    assert isinstance(made, nn.Module)
