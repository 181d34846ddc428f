"""`seepage dp`: declared against tight, slips of a client, and the noise that is enough."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from test_cli import refused, said

from seepage import accounting
from seepage.analysis import bounds

PUBLIC = """
import torch
from seepage import zoo

def small():
    return zoo.photos(40, 8, split="public").x

def dark():
    return small() - 1

def large():
    return torch.rand(3, 3, 64, 64)

def words():
    return torch.zeros(3, 4, dtype=torch.long)
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "pictures", raising=False)
    (tmp_path / "pictures.py").write_text(PUBLIC)
    return tmp_path


def computed(*words: str, code: int = 0) -> Any:
    result = said("dp", *words, "--json")
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def test_a_setting_of_training_has_the_epsilon_of_the_accountant() -> None:
    found = computed("--noise-multiplier", "1.1", "--sample-rate", "0.05", "--steps", "20")
    assert found["readings"][0]["tight"] == round(accounting.epsilon(1e-5, 1.1, 20, 0.05), 2)
    assert found["readings"][1]["tight"] > found["readings"][0]["tight"]
    assert [f["severity"] for f in found["findings"]] == ["note", "note"]
    assert found["ceilings"][0]["value"] == pytest.approx(bounds.rero(0.01, 1.1, 20, 0.05).value)


def test_what_is_declared_and_false_is_an_error_and_exit_code_1() -> None:
    result = said("dp", "--noise-multiplier", "0.2422403", "--epsilon", "20")
    assert result.exit_code == 1, result.output
    text = " ".join(result.stdout.split())
    assert "ERROR: epsilon: declared 20, but it is 25.44" in text
    assert "68.49" in text
    assert "safe" not in text
    found = computed("--noise-multiplier", "0.2422403", "--epsilon", "20", code=1)
    repaired = found["readings"][0]["needed"]
    assert accounting.epsilon(1e-5, repaired) == pytest.approx(20, abs=1e-2)
    assert computed("--noise-multiplier", str(repaired * 2.01), "--epsilon", "20")


def test_a_formula_is_judged_where_only_its_epsilon_is_given() -> None:
    found = computed("--epsilon", "20", "--clip", "1", code=1)
    assert found["mechanism"]["std"] == pytest.approx(0.2422403, rel=1e-5)
    assert found["readings"][0]["tight"] == 25.44


@pytest.mark.parametrize(
    ("client", "field", "std"),
    [
        ("Noise(Clip(FedSGD(), norm=1), std=0.2)", None, 0.2),
        ("DPSGD(norm=0.5, multiplier=2.0)", None, 1.0),
        ("Clip(Noise(FedSGD(), std=0.2), norm=1)", "clip", None),
        ("Noise(FedSGD(), std=0.2)", "clip", None),
        ("Noise(Clip(FedSGD(), norm=1), std=0.2, relative=True)", "Noise.relative", None),
        ("Noise(Clip(FedSGD(), norm=1), std=0.2, kind='laplace')", "Noise.kind", None),
        ("Prune(FedSGD())", "noise", None),
    ],
)
def test_a_client_is_linted(client: str, field: str | None, std: float | None) -> None:
    found = computed("--client", client, code=0 if field is None else 1)
    errors = [f["field"] for f in found["findings"] if f["severity"] == "error"]
    assert errors == ([] if field is None else [field])
    assert (found["mechanism"] and found["mechanism"]["std"]) == std


def test_the_noise_for_a_wanted_epsilon_keeps_it() -> None:
    found = computed("--want-epsilon", "3", "--steps", "10", "--sample-rate", "0.1")
    added, replaced = (need["multiplier"] for need in found["needed"])
    assert (
        accounting.epsilon(1e-5, added, 10, 0.1)
        <= 3
        < accounting.epsilon(1e-5, added * 0.99, 10, 0.1)
    )
    assert replaced == pytest.approx(2 * added)
    assert found["mechanism"] is None


def test_the_noise_for_a_wanted_success_keeps_it() -> None:
    full = computed("--want-success", "0.3", "--steps", "10")["needed"][0]["multiplier"]
    assert bounds.rero(0.01, full, 10).value == pytest.approx(0.3, rel=1e-3)
    words = ("--want-success", "0.3", "--steps", "10", "--sample-rate", "0.1")
    sampled = computed(*words)["needed"][0]["multiplier"]
    assert bounds.rero(0.01, sampled, 10, 0.1).value == pytest.approx(0.3, rel=1e-3)
    assert sampled < full / 3


@pytest.mark.usefixtures("home")
def test_the_noise_for_a_wanted_psnr_keeps_it() -> None:
    words = ("--want-psnr", "18", "--public", "pictures.py:small", "--noise-multiplier", "1")
    found = computed(*words)
    ceilings = [bound["unit"] for bound in found["ceilings"]]
    assert ceilings == ["probability", "dB"]
    z = found["needed"][0]["multiplier"]
    again = computed("--noise-multiplier", str(z), "--public", "pictures.py:small")
    assert again["ceilings"][1]["value"] == pytest.approx(18, abs=0.01)


@pytest.mark.usefixtures("home")
def test_large_pictures_make_a_prior_without_their_covariance() -> None:
    asked = ["--want-psnr", "20", "--public", "pictures.py:large", "--json"]
    found = json.loads(said("dp", *asked).stdout)
    assert found["needed"][0]["multiplier"] > 0


@pytest.mark.usefixtures("home")
def test_a_client_says_its_own_sampling_rate() -> None:
    def tight(*more: str) -> float:
        client = ("--client", "DPSGD(norm=1.0, multiplier=1.0, rate=0.01)")
        value: float = json.loads(said("dp", *client, *more, "--json").stdout)["readings"][0][
            "tight"
        ]
        return value

    assert tight("--steps", "100") == pytest.approx(0.72, abs=0.01)
    assert tight("--steps", "100", "--sample-rate", "0.05") > 1


MISTAKES = {
    "nothing": ([], "nothing to account for"),
    "twice": (["--noise-multiplier", "1", "--std", "1"], "say the same twice"),
    "client and numbers": (["--client", "FedSGD()", "--clip", "1"], "has its own noise"),
    "no client": (["--client", "Nois(FedSGD())"], "Did you mean Noise?"),
    "delta": (["--noise-multiplier", "1", "--delta", "2"], "delta=2.0 is no probability"),
    "rate": (["--noise-multiplier", "1", "--sample-rate", "0"], "rate=0.0 is no sampling rate"),
    "steps": (["--noise-multiplier", "1", "--steps", "0"], "rounds=0 must be"),
    "multiplier": (["--noise-multiplier", "nan"], "multiplier=nan must be"),
    "epsilon": (["--noise-multiplier", "1", "--epsilon", "-1"], "epsilon=-1.0 must be"),
    "want": (["--want-epsilon", "0"], "--want-epsilon=0.0 must be"),
    "below chance": (["--want-success", "0.001"], "Give more, or another --chance"),
    "chance": (["--noise-multiplier", "1", "--chance", "0"], "use 0 < kappa < 1"),
    "no public": (["--want-psnr", "20"], "--want-psnr needs --public"),
    "out of reach": (["--want-psnr", "3", "--public", "pictures.py:small"], "out of reach"),
    "dark": (["--want-psnr", "20", "--public", "pictures.py:dark"], "values in [0, 1]"),
    "words": (["--want-psnr", "20", "--public", "pictures.py:words"], "values in [0, 1]"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.usefixtures("home")
def test_no_mistake_ends_in_a_traceback(mistake: str) -> None:
    words, wanted = MISTAKES[mistake]
    assert wanted in refused("dp", *words)
