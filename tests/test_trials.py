"""Trials: keys that name them, rows that say all of them, sweeps that finish what is missing."""

import dataclasses
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, nn

from seepage import attacks, files
from seepage.clients import FedAvg, FedSGD
from seepage.core import Batch, Model, Observation, Reconstruction
from seepage.defenses import DPSGD, Noise
from seepage.errors import InvalidInput
from seepage.executors import Processes
from seepage.forms import Images
from seepage.store import Store
from seepage.trials import Step, Trial, run, sweep
from seepage.values import value

FORM = Images((1, 4, 4), classes=3)


def network(scale: float = 1.0) -> nn.Module:
    module = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    weights = torch.linspace(-scale, scale, 48).reshape(3, 16)
    module.load_state_dict({"1.weight": weights, "1.bias": torch.zeros(3)})
    return module


def make(**changes: Any) -> Trial:
    model = Model.of(network(), nn.functional.cross_entropy, FORM)
    x = torch.rand(2, 1, 4, 4, generator=Generator().manual_seed(3))
    trial = Trial(model, Batch(x, torch.tensor([0, 2])), FedSGD(), Guess())
    return dataclasses.replace(trial, **changes)


@value
class Guess:
    """Random candidates, with everything that an answer can hold."""

    candidates: int = 3

    def __call__(self, seen: Observation, rng: Generator) -> Reconstruction:
        x = torch.rand(self.candidates, *seen.model.form.shape, generator=rng)
        certainty = torch.arange(self.candidates).float()
        residual = torch.full((self.candidates,), float("nan"))
        trace = {"curve": [1.0, float("inf")], "image": x[0], "deep": {"map": x[0], "k": 1}}
        return Reconstruction(x, torch.zeros(self.candidates), certainty, residual, "tried", trace)


@value
class Crafted:
    """A malicious server: it doubles the weights, and reads them off again."""

    def craft(self, model: Model, rng: Generator) -> Model:
        return model.replaced({name: 2 * p for name, p in model.params.items()})

    def __call__(self, seen: Observation, rng: Generator) -> Reconstruction:
        weight = seen.model.params["1.weight"]
        one = torch.zeros(1)
        return Reconstruction(weight[:1].reshape(1, 1, 4, 4), None, one, one)


class Plain:
    """Somebody's own attack, without any of our decorations."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def __call__(self, seen: Observation, rng: Generator) -> Reconstruction:
        return Reconstruction.nothing(seen, f"after {self.steps} steps")


def broken(seen: Observation, rng: Generator) -> Reconstruction:
    raise RuntimeError("two lines\nof trouble")


def mended(seen: Observation, rng: Generator) -> Reconstruction:
    if not Path("mended").exists():
        raise InvalidInput("not yet")
    return Guess()(seen, rng)


def test_a_row_says_everything() -> None:
    row = run(make())
    assert row["status"] == "done"
    assert row["key"] == make().key
    assert (row["client"], row["attack"], row["believed"]) == ("FedSGD()", "Guess()", "FedSGD()")
    assert (row["name"], row["parameters"], row["n"], row["tell"]) == ("Sequential", 51, 2, ["n"])
    assert row["form"]["shape"] == [1, 4, 4]
    assert row["candidates"] == 3
    assert len(row["scores"]["psnr"]) == len(row["recovered"]) == len(row["residual"]) == 2
    assert row["residual"] == [None, None]
    assert row["labels"]["right"] == 0.5
    assert row["trace"] == {"curve": [1.0, None], "deep": {"k": 1}}
    assert row["note"] == "tried"
    assert row["malicious"] is False
    assert row["error"] is None
    assert "identified" not in row
    assert run(make(public=torch.rand(4, 1, 4, 4)))["identified"] in (
        [a, b] for a in (False, True) for b in (False, True)
    )


def test_the_scorer_notes_how_near_the_pictures_on_the_way_were() -> None:
    row = run(make(attack=attacks.Invert(steps=16)))
    assert [len(course) for course in row["frames_psnr"]] == [8, 8]
    last = [course[-1] for course in row["frames_psnr"]]
    assert last == pytest.approx(row["scores"]["psnr"], abs=0.1)


def test_the_same_trial_gives_the_same_row_and_another_seed_another() -> None:
    first, second, other = run(make()), run(make()), run(make(seed=1))
    for row in (first, second, other):
        assert row.pop("seconds") >= 0
    assert first == second
    assert first["scores"] != other["scores"]


def test_the_artefact_holds_the_truth_and_the_matched_candidates(tmp_path: Path) -> None:
    trial = make(attack=Guess(candidates=1))
    (row,) = sweep([trial], tmp_path)
    tensors, _ = files.read(tmp_path / row["artefact"])
    assert torch.equal(tensors["truth/x"], trial.batch.x)
    assert sorted(row["shown"], key=str) == [0, None]
    assert set(tensors) == {
        "truth/x",
        "truth/y",
        "answer/x",
        "answer/y",
        "trace/image",
        "trace/deep/map",
    }
    assert torch.equal(tensors["answer/x"][0], tensors["trace/image"])


def test_artefacts_hold_at_most_64_candidates_the_matched_ones_first(tmp_path: Path) -> None:
    x = torch.rand(70, 1, 4, 4, generator=Generator().manual_seed(0))
    (row,) = sweep(
        [make(batch=Batch(x, torch.zeros(70, dtype=torch.long)), attack=Guess(100))], tmp_path
    )
    tensors, _ = files.read(tmp_path / row["artefact"])
    assert len(tensors["truth/x"]) == len(tensors["answer/x"]) == 64
    assert row["shown"] == [*range(64), *[None] * 6]
    error = (tensors["answer/x"] - tensors["truth/x"]).square().mean((1, 2, 3))
    assert torch.allclose(-10 * error.log10(), torch.tensor(row["scores"]["psnr"][:64]), atol=1e-3)


def test_a_malicious_attack_crafts_the_model_first() -> None:
    row = run(make(attack=Crafted()))
    assert row["malicious"] is True
    assert row["status"] == "done"


CHANGES: dict[str, Any] = {
    "model": Model.of(network(0.5), nn.functional.cross_entropy, FORM),
    "batch": Batch(torch.zeros(2, 1, 4, 4), torch.tensor([0, 2])),
    "client": FedAvg(lr=0.5),
    "attack": Guess(4),
    "believed": FedAvg(),
    "tell": ("n", "y"),
    "seed": 7,
    "public": torch.zeros(1, 1, 4, 4),
}


@pytest.mark.parametrize("field", CHANGES)
def test_a_key_changes_with_every_part(field: str) -> None:
    assert make(**{field: CHANGES[field]}).key != make().key
    assert make(**{field: CHANGES[field]}) != make()


def test_a_key_knows_loss_form_code_and_settings_of_a_network() -> None:
    loss, wide = nn.CrossEntropyLoss(), dataclasses.replace(FORM, high=2.0)
    nets = [
        Model.of(network(), loss, FORM),
        Model.of(network(), nn.CrossEntropyLoss(label_smoothing=0.1), FORM),
        Model.of(network(), loss, wide),
        Model.of(nn.Sequential(*network(), nn.LeakyReLU(0.1)), loss, FORM),
        Model.of(nn.Sequential(*network(), nn.LeakyReLU(0.2)), loss, FORM),
        *(Model.of(kind(), loss, FORM) for kind in own_networks()),
    ]
    assert len({make(model=model).key for model in nets}) == len(nets)


def own_networks() -> list[type[nn.Module]]:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network()

        def forward(self, x: torch.Tensor) -> Any:
            return self.inner(x).relu()

    first = Own

    class Own(nn.Module):  # type: ignore[no-redef]
        def __init__(self) -> None:
            super().__init__()
            self.inner = network()

        def forward(self, x: torch.Tensor) -> Any:
            return self.inner(x).tanh()

    return [first, Own]


def test_a_key_knows_the_settings_of_an_undecorated_attack() -> None:
    assert make(attack=Plain(1)).key == make(attack=Plain(1)).key
    assert make(attack=Plain(1)).key != make(attack=Plain(2)).key


def test_believing_in_the_real_client_is_the_default() -> None:
    client = FedAvg(epochs=2)
    assert make(client=client) == make(client=client, believed=client)
    assert hash(make()) == hash(make())


def test_keys_are_the_same_in_every_process() -> None:
    code = "import test_trials; print(test_trials.make().key)"
    command = [sys.executable, "-c", code]
    for seed in ("1", "2"):
        said = subprocess.run(
            command,
            env={"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert said.stdout.strip() == make().key


def test_a_failing_trial_becomes_a_row_and_the_rest_goes_on(tmp_path: Path) -> None:
    failed, done = sweep([make(attack=broken), make()], tmp_path)
    assert failed["status"] == "failed"
    assert failed["error"] == "RuntimeError: two lines of trouble"
    assert failed["attack"].endswith("test_trials:broken")
    assert "scores" not in failed
    assert done["status"] == "done"


def test_failed_trials_are_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    trials = [make(attack=mended), make()]
    assert sweep(trials, "runs")[0]["error"] == "InvalidInput: not yet"
    Path("mended").touch()
    told: list[tuple[int, int, Trial | None]] = []
    rows = sweep(
        trials, "runs", progress=lambda step: told.append((step.done, step.total, step.doing))
    )
    assert [row["status"] for row in rows] == ["done", "done"]
    assert told == [(1, 2, trials[0]), (2, 2, None)]
    assert len(Store(Path("runs")).rows()) == 2


def test_a_finished_sweep_does_nothing_and_needs_no_lock(tmp_path: Path) -> None:
    trials = [make(), make(seed=1), make()]
    rows = sweep(trials, tmp_path)
    assert rows[0] == rows[2]
    before = (tmp_path / "rows.jsonl").read_bytes()
    assert len(before.splitlines()) == 2
    with Store(tmp_path).writing():
        assert sweep(trials, tmp_path) == rows
    assert (tmp_path / "rows.jsonl").read_bytes() == before


def test_executors_agree_bit_for_bit(tmp_path: Path) -> None:
    client = Noise(FedAvg(epochs=2), std=0.1)
    trials = [make(seed=seed, client=client) for seed in range(3)]
    here, there = sweep(trials, tmp_path / "a"), sweep(trials, tmp_path / "b", Processes(2))
    for ours, theirs in zip(here, there, strict=True):
        assert {**ours, "seconds": 0} == {**theirs, "seconds": 0}
        first, _ = files.read(tmp_path / "a" / ours["artefact"])
        second, _ = files.read(tmp_path / "b" / theirs["artefact"])
        assert all(torch.equal(first[name], second[name]) for name in first)


def dying(seen: Observation, rng: Generator) -> Reconstruction:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def test_a_trial_that_kills_its_process_becomes_a_failed_row(tmp_path: Path) -> None:
    failed, done = sweep([make(attack=dying), make()], tmp_path, Processes(1))
    assert (failed["status"], done["status"]) == ("failed", "done")
    assert failed["key"] == make(attack=dying).key
    assert "exit code -9" in failed["error"]
    assert Store(tmp_path).rows()[failed["key"]] == failed


def test_an_unpicklable_attack_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"top of a module.*Serial\(\)"):
        sweep(
            [make(attack=lambda seen, rng: Reconstruction.nothing(seen, ""))],
            tmp_path,
            Processes(1),
        )


def test_stopping_says_how_to_resume(tmp_path: Path) -> None:
    def stop(step: Step) -> None:
        if step.row is not None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        sweep([make(), make(seed=1)], tmp_path, progress=stop)
    assert caught.value.__notes__ == [
        f"What is done is kept in {tmp_path}: run the same again to resume."
    ]
    with pytest.raises(KeyboardInterrupt) as caught:
        sweep([make()], progress=stop)
    assert "name a store" in caught.value.__notes__[0]
    assert len(Store(tmp_path).rows()) == 1
    with Store(tmp_path).writing():
        pass  # the lock is free, although the error still holds the stack
    assert [row["seed"] for row in sweep([make(), make(seed=1)], tmp_path)] == [0, 1]


def test_a_key_knows_the_constants_of_a_nameless_function() -> None:
    def made(scale: float) -> Any:
        return lambda output, target: scale * nn.functional.cross_entropy(output, target)

    losses = [
        made(1.0),
        made(2.0),
        lambda output, target: 2 * output.sum(),
        lambda output, target: 3 * output.sum(),
        lambda output, target: 3 * output.mean(),
    ]
    models = [Model.of(network(), loss, FORM) for loss in losses]
    assert len({make(model=model).key for model in models}) == 5
    assert make(model=Model.of(network(), made(1.0), FORM)).key == make(model=models[0]).key


def test_a_row_of_a_noisy_client_holds_both_sides_and_keeps_them(tmp_path: Path) -> None:
    public = torch.rand(30, 1, 4, 4, generator=Generator().manual_seed(4))
    noisy = make(client=DPSGD(1.0, 2.0), public=public)
    plain = make(public=public)
    sweep([noisy, plain], tmp_path)
    row, without = (Store(tmp_path).rows()[trial.key] for trial in (noisy, plain))
    assert [(one["of"], one["found"] is None) for one in row["ceilings"]] == [
        ("naming", True),
        ("records", False),
        ("pixels", False),
    ]
    assert without["ceilings"] == []
    errors = [10 ** (-one / 10) for one in row["scores"]["psnr"]]
    assert row["ceilings"][2]["found"] == pytest.approx(-10 * math.log10(sum(errors) / 2))
    assert 0 < row["ceilings"][1]["limit"] < 2
