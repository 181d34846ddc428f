"""Seepage inside Flower: real messages, a real ClientApp, and one real simulation."""

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from seepage import Model, zoo
from seepage.attacks import BiasRatio, Imprint
from seepage.clients import FedAvg
from seepage.core import Batch, Observation, stream
from seepage.defenses import Clip, Noise, Prune
from seepage.errors import Failed, InvalidInput
from seepage.guard import SelfAudit

with warnings.catch_warnings():
    # The typer that Flower 1.41 asks for imports names that click 8.5 deprecates.
    warnings.filterwarnings("ignore", "'click", DeprecationWarning)
    pytest.importorskip("flwr", reason="Flower is not installed: pip install 'flwr[simulation]'")
    from typer.testing import CliRunner

    from seepage.cli import app as command

from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Error,
    Message,
    MetricRecord,
    RecordDict,
)
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg as Averaging
from flwr.supercore.task_identity import TaskIdentity

from seepage.integrations.flower import CapturingStrategy, audit_mod, defend_mod, guard_mod

EXAMPLE = Path(__file__).parent.parent / "examples" / "flower"
LR = 0.1


@pytest.fixture(autouse=True)
def server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages may only be made inside a run, which has a number; here it is the test."""
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


def model() -> Model:
    return zoo.photos(1, 8).model(zoo.mlp(192, 16, 8, activation="tanh", seed=0))


def private(context: Context | None = None, n: int = 1) -> Batch:
    return zoo.photos(n, 8).batch


def context() -> Context:
    return Context(run_id=1, node_id=7, node_config={}, state=RecordDict(), run_config={})


def broadcast(state: dict[str, Any] | None = None, kind: str = "train", node: int = 7) -> Message:
    arrays = ArrayRecord(dict(model().state)) if state is None else ArrayRecord(state)
    content = RecordDict({"arrays": arrays, "config": ConfigRecord({"server-round": 1})})
    return Message(content, dst_node_id=node, message_type=kind)


def replied(message: Message, state: dict[str, Any], n: int = 1) -> Message:
    metrics = MetricRecord({"num-examples": n})
    return Message(RecordDict({"arrays": ArrayRecord(state), "metrics": metrics}), reply_to=message)


def trained(n: int = 1) -> dict[str, Tensor]:
    known = model()
    update = FedAvg(lr=LR)(known, private(n=n), stream(0, "client"))
    return {name: p - update[name] for name, p in known.params.items()}


def asked(mods: list[Any], message: Message, n: int = 1, state: Any = None) -> Message:
    """The answer of a real ClientApp with these mods, which trains one step."""
    app = ClientApp(mods=mods)

    @app.train()
    def train(incoming: Message, _: Context) -> Message:
        return replied(incoming, trained(n) if state is None else state, n)

    @app.query()
    def query(incoming: Message, _: Context) -> Message:
        return Message(RecordDict(), reply_to=incoming)

    answer: Message = app(message, context())
    return answer


def update_of(reply: Message) -> dict[str, Tensor]:
    after = reply.content["arrays"].to_torch_state_dict()
    return {name: before - after[name] for name, before in model().state.items()}


def trap() -> dict[str, Tensor]:
    rows = {"linear1.weight": torch.full((16, 192), 1 / 192)}
    return {**model().state, **rows, "linear1.bias": -torch.linspace(0.2, 0.8, 16)}


def test_the_guard_passes_an_honest_model_and_refuses_a_trap() -> None:
    honest = asked([guard_mod(model())], broadcast())
    assert honest.has_content()
    reply = asked([guard_mod(model())], broadcast(trap()))
    assert reply.has_error()
    assert "duplicates: linear1.weight" in reply.error.reason
    own = asked([guard_mod(model(), (SelfAudit(least=1),), private)], broadcast())
    assert "isolated" in own.error.reason


def other(name: str, tensor: Tensor) -> dict[str, Tensor]:
    return {**model().state, name: tensor}


def claimed(shape: tuple[int, ...], data: bytes, stype: str = "numpy.ndarray") -> Message:
    message = broadcast()
    array = Array(dtype="float32", shape=shape, stype=stype, data=data)
    message.content["arrays"]["linear1.bias"] = array
    return message


def lying() -> bytes:
    """Few bytes, whose header declares a terabyte."""
    head = BytesIO()
    declared = {"descr": "<f4", "fortran_order": False, "shape": (2**38,)}
    np.lib.format.write_array_header_1_0(head, declared)  # type: ignore[arg-type]
    return head.getvalue() + bytes(64)


@pytest.mark.parametrize(
    ("make", "wanted"),
    [
        (lambda: broadcast(other("more", torch.ones(2))), "unexpected more"),
        (lambda: broadcast({"linear1.bias": torch.ones(16)}), "missing linear1.weight"),
        (lambda: broadcast(other("linear1.bias", torch.ones(15))), "(15,)"),
        (lambda: broadcast(other("linear1.bias", torch.full((16,), float("nan")))), "NaN"),
        (lambda: broadcast(other("linear1.bias", torch.ones(16, dtype=torch.int64))), "int64"),
        (lambda: claimed((16,), b"no numbers"), "cannot be read"),
        (lambda: claimed((16,), bytes(10**6)), "1000000 bytes for 16 numbers"),
        (lambda: claimed((16,), lying()), "is (274877906944,) of float32"),
        (lambda: claimed((16,), b"", "pickle"), "serialised as 'pickle'"),
    ],
)
def test_a_hostile_server_is_refused_with_the_reason(
    make: Callable[[], Message], wanted: str
) -> None:
    reply = asked([guard_mod(model())], make())
    assert reply.has_error()
    assert wanted in reply.error.reason


def test_several_records_of_arrays_are_refused() -> None:
    message = broadcast()
    message.content["second"] = ArrayRecord({"w": torch.ones(1)})
    assert "2 ArrayRecords" in asked([guard_mod(model())], message).error.reason
    for mod in (audit_mod(model(), private, [BiasRatio()]), defend_mod(lambda c: Clip(c, 1.0))):
        assert "withheld" in asked([mod], message).error.reason


def test_messages_that_share_no_update_pass() -> None:
    mods = [
        guard_mod(model()),
        audit_mod(model(), private, [BiasRatio()]),
        defend_mod(lambda c: Clip(c, 1.0)),
    ]
    assert asked(mods, broadcast(trap(), "query")).has_content()


def test_the_audit_reports_what_the_update_gives_away() -> None:
    mod = audit_mod(model(), private, [BiasRatio()], FedAvg(lr=LR))
    reply = asked([mod], broadcast())
    metrics = reply.content["metrics"]
    assert metrics["seepage.recovered"] == 1.0
    assert metrics["seepage.failed"] == 0
    assert metrics["num-examples"] == 1
    assert all(torch.equal(a, b) for a, b in zip(
        reply.content["arrays"].to_torch_state_dict().values(), trained().values(), strict=True
    ))  # fmt: skip


def failing(seen: Observation, rng: torch.Generator) -> Any:
    raise RuntimeError("no luck")


def test_an_update_above_the_limit_does_not_leave() -> None:
    known, believed = model(), FedAvg(lr=LR)
    reply = asked([audit_mod(known, private, [BiasRatio()], believed, 0.5)], broadcast())
    assert "100% of the examples could be recovered" in reply.error.reason
    through = asked([audit_mod(known, private, [BiasRatio()], believed, 1.0)], broadcast())
    assert through.has_content()


def test_what_was_not_measured_is_not_called_safe() -> None:
    reply = asked([audit_mod(model(), private, [failing])], broadcast())
    assert np.isnan(reply.content["metrics"]["seepage.recovered"])
    assert reply.content["metrics"]["seepage.failed"] == 1
    reply = asked([audit_mod(model(), private, [failing], limit=1.0)], broadcast())
    assert "nothing was measured: RuntimeError: no luck" in reply.error.reason


def test_the_audit_needs_attacks_on_a_given_broadcast() -> None:
    for attacks in ([], [Imprint(bins=8)]):
        with pytest.raises(InvalidInput, match="audit_mod"):
            audit_mod(model(), private, attacks)


def test_a_diverged_update_does_not_leave_the_audit() -> None:
    state = {**trained(), "linear1.bias": torch.full((16,), float("inf"))}
    reply = asked([audit_mod(model(), private, [BiasRatio()])], broadcast(), state=state)
    assert "NaN or infinity" in reply.error.reason


def test_a_defense_changes_what_leaves_and_nothing_else() -> None:
    plain = update_of(asked([], broadcast()))
    pruned = update_of(asked([defend_mod(lambda c: Prune(c, ratio=0.9))], broadcast()))
    total = sum(u.numel() for u in pruned.values())
    assert sum(int((u != 0).sum()) for u in pruned.values()) <= 0.11 * total
    for name, u in pruned.items():
        kept = u != 0
        torch.testing.assert_close(u[kept], plain[name][kept], atol=1e-6, rtol=1e-4)
    clipped = update_of(asked([defend_mod(lambda c: Clip(c, 0.01))], broadcast()))
    length = torch.cat([u.flatten() for u in clipped.values()]).norm()
    assert float(length) == pytest.approx(0.01, rel=1e-2)


def test_noise_is_fresh_in_every_round_unless_seeded() -> None:
    def shared(**seed: Any) -> Tensor:
        mod = defend_mod(lambda c: Noise(Clip(c, 1.0), 0.1), **seed)
        return update_of(asked([mod], broadcast()))["linear1.bias"]

    assert not torch.equal(shared(), shared())
    assert torch.equal(shared(seed=lambda: 3), shared(seed=lambda: 3))


def test_the_audit_attacks_what_really_leaves() -> None:
    """Mods apply from the outside in: the audit stands before the defense in the list."""
    audit = audit_mod(model(), private, [BiasRatio()], FedAvg(lr=LR))
    noisy = defend_mod(lambda c: Noise(Clip(c, 1.0), 0.1), seed=lambda: 0)
    reply = asked([audit, noisy], broadcast())
    assert reply.content["metrics"]["seepage.recovered"] == 0.0


class Nobody:
    """A grid that is never asked: the messages are made by hand."""


def strategy(folder: Path, **more: Any) -> CapturingStrategy:
    made = CapturingStrategy(Averaging(), folder, model(), FedAvg(lr=LR), **more)
    made._sent = {7: broadcast().content["arrays"]}
    return made


def answered(state: dict[str, Any], n: int = 1) -> Message:
    return replied(broadcast(), state, n)


def test_the_strategy_keeps_what_the_server_holds(tmp_path: Path) -> None:
    arrays, _ = strategy(tmp_path).aggregate_train(1, [answered(trained(2), 2)])
    assert arrays is not None
    seen = Observation.load(tmp_path / "round-1" / "node-7.safetensors", model())
    assert (seen.n, seen.client, seen.y) == (2, FedAvg(lr=LR), None)
    update = FedAvg(lr=LR)(model(), private(n=2), stream(0, "client"))
    for name, u in update.items():
        torch.testing.assert_close(seen.update[name], u, atol=1e-7, rtol=0)


@pytest.mark.parametrize(
    ("state", "wanted"),
    [
        ({"linear1.bias": torch.ones(15)}, "(15,)"),
        ({"more": torch.ones(15)}, "unexpected more"),
        ({"linear1.bias": torch.full((16,), float("nan"))}, "NaN"),
    ],
)
def test_a_bad_update_is_a_finding_and_the_federation_goes_on_or_stops(
    tmp_path: Path, state: dict[str, Tensor], wanted: str
) -> None:
    replies = [answered({**trained(), **state})]
    arrays, _ = strategy(tmp_path / "on").aggregate_train(1, replies)
    assert arrays is None
    (line,) = (tmp_path / "on" / "findings.jsonl").read_text().splitlines()
    assert wanted in json.loads(line)["why"]
    assert len(list((tmp_path / "on").rglob("node-7.raw/*.safetensors"))) == len(
        replies[0].content["arrays"]
    )
    good = answered(trained())
    with pytest.raises(Failed, match="1 of 2 replies"):
        strategy(tmp_path / "stop", stop=True).aggregate_train(1, [good, *replies])
    assert (tmp_path / "stop" / "round-1" / "node-7.safetensors").exists()
    assert (tmp_path / "stop" / "findings.jsonl").exists()


def test_a_client_that_answers_with_an_error_is_a_finding(tmp_path: Path) -> None:
    reply = Message(Error(2, "out of memory"), reply_to=broadcast(node=9))
    arrays, _ = strategy(tmp_path).aggregate_train(3, [reply, answered(trained())])
    assert arrays is not None
    found = json.loads((tmp_path / "findings.jsonl").read_text())
    assert found == {
        "round": 3, "node": 9, "why": "the client answered with an error: out of memory"
    }  # fmt: skip


def simulated(folder: Path, *words: str) -> str:
    """The example, run as a user runs it; Ray needs a process of its own."""
    # A cluster of its own, whatever other runs on this machine.
    quiet = {"RAY_DEDUP_LOGS": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    environment = {**os.environ, **quiet, "RAY_ADDRESS": "local"}
    ran = subprocess.run(
        [sys.executable, str(EXAMPLE / "federation.py"), "--rounds", "1", "--out", str(folder),
         *words],
        capture_output=True, text=True, env=environment, timeout=300, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-3000:]
    return ran.stdout


def test_a_simulated_federation_leaks_and_is_attacked_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray", reason="Flower's simulation needs Ray")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert "4 updates kept" in simulated(tmp_path / "open")
    files = sorted((tmp_path / "open").rglob("node-*.safetensors"))
    single = [f for f in files if '\\"n\\": 1,' in header(f) or '"n": 1' in header(f)]
    words = ["--model", str(EXAMPLE / "task.py:build"), "--attack", "BiasRatio()", "--out", "a"]
    result = CliRunner().invoke(command, ["attack", str(single[0]), *words])
    assert result.exit_code == 0, result.output
    with safe_open("a/reconstruction.safetensors", "pt") as file:
        found = file.get_tensor("x")[0].clamp(0, 1)
    truth = zoo.photos(10, 32).x[0]
    assert -10 * (found - truth).square().mean().log10() > 60


def test_a_simulated_federation_protects_itself(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Flower's simulation needs Ray")
    said = simulated(tmp_path / "shut", "--protect", "--hostile")
    assert "0 updates kept" in said
    assert said.count("refused by the guard") == 4


def header(path: Path) -> str:
    with safe_open(path, "pt") as file:
        return str(file.metadata()["seepage"])
