"""The filters inside NVFlare's own chain: a real Shareable through a real DXOFilter."""

import json
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from seepage import zoo
from seepage.attacks import BiasRatio
from seepage.clients import FedAvg
from seepage.core import Batch, Model, stream
from seepage.defenses import Clip

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # NVFlare's own imports warn
    pytest.importorskip("nvflare", reason="NVFlare is not installed: pip install nvflare")
    from nvflare.apis.dxo import DXO, DataKind, from_shareable
    from nvflare.apis.filter import ContentBlockedException
    from nvflare.apis.fl_context import FLContext

    from seepage.integrations.nvflare import AuditFilter, DefendFilter


def model() -> Model:
    return zoo.photos(1, 8).model(zoo.mlp(192, 16, 8, activation="tanh", seed=0))


def private() -> Batch:
    return zoo.photos(1, 8).batch


def difference() -> dict[str, np.ndarray]:
    update = FedAvg(lr=0.1)(model(), private(), stream(0, "client"))
    return {name: -u.numpy() for name, u in update.items()}


def sent(filter_: Any, data: dict[str, np.ndarray], kind: str = DataKind.WEIGHT_DIFF) -> DXO:
    shareable = DXO(kind, data).to_shareable()
    return from_shareable(filter_.process(shareable, FLContext()))


def test_the_audit_measures_and_blocks() -> None:
    seen = sent(AuditFilter(model(), private, [BiasRatio()], FedAvg(lr=0.1)), difference())
    assert seen.get_meta_prop("seepage.recovered") == 1.0
    with pytest.raises(ContentBlockedException, match="100% of the examples"):
        sent(AuditFilter(model(), private, [BiasRatio()], FedAvg(lr=0.1), 0.5), difference())


def test_a_diverged_difference_is_blocked() -> None:
    data = {**difference(), "linear1.bias": np.full(16, np.nan, np.float32)}
    with pytest.raises(ContentBlockedException, match="NaN"):
        sent(AuditFilter(model(), private, [BiasRatio()]), data)


def test_a_defense_changes_the_difference() -> None:
    made = sent(DefendFilter(lambda c: Clip(c, 0.01), model()), difference()).data
    length = torch.cat([torch.from_numpy(a).flatten() for a in made.values()]).norm()
    assert float(length) == pytest.approx(0.01, rel=1e-4)
    plain = difference()
    assert all(float((made[name] * plain[name]).sum()) > 0 for name in plain)


def test_whole_weights_pass_unseen() -> None:
    data = {"linear1.bias": np.ones(16, np.float32)}
    made = sent(DefendFilter(lambda c: Clip(c, 0.01), model()), data, DataKind.WEIGHTS)
    assert np.array_equal(made.data["linear1.bias"], data["linear1.bias"])


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({}, [[1.0, 1.0], [1.0, 1.0]]),
        ({'"std": 0.0': '"std": 0.3'}, [[0.0, 0.0], [0.0, 0.0]]),
        ({'"limit": 1.0': '"limit": 0.5'}, [[], []]),
    ],
)
def test_a_simulated_federation_audits_defends_and_withholds(
    settings: dict[str, str], wanted: list[list[float]], tmp_path: Path
) -> None:
    """The example's job in NVFlare's own simulator: a server, two sites, two rounds."""
    job = tmp_path / "job"
    shutil.copytree(Path(__file__).parent.parent / "examples" / "nvflare", job)
    config = job / "app" / "config" / "config_fed_client.json"
    text = config.read_text()
    for old, new in settings.items():
        assert old in text
        text = text.replace(old, new)
    config.write_text(text)
    words = ["-m", "nvflare.cli", "simulator", str(job), "-w", str(tmp_path / "ws"), "-n", "2"]
    ran = subprocess.run(
        [sys.executable, *words, "-t", "1"], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
    (rows,) = (tmp_path / "ws").rglob("rounds.jsonl")
    found = [json.loads(line) for line in rows.read_text().splitlines()]
    assert [row["recovered"] for row in found] == wanted
