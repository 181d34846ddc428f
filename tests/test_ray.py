"""Trials on a Ray cluster are those of a serial run, whatever dies on the way."""

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from seepage import zoo
from seepage.attacks import BiasRatio
from seepage.clients import FedSGD
from seepage.core import Batch, Model
from seepage.errors import Failed, InvalidInput
from seepage.executors import Serial
from seepage.trials import Trial, sweep

pytest.importorskip("ray", reason="Ray is not installed: pip install 'seepage[ray]'")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Ray's own imports warn of its plans
    import ray
    from ray.cluster_utils import Cluster

from seepage.integrations.ray import Ray

# Ray leaves sockets and pipes to the end of the process, and announces changes as warnings.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Tip. In future versions of Ray:FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
]
SECONDS = ("seconds",)


def model() -> tuple[Model, Batch]:
    return zoo.example()


def trials(n: int) -> list[Trial]:
    known, batch = model()
    return [Trial(known, batch, FedSGD(), BiasRatio(), seed=seed) for seed in range(n)]


def slow(seen: Any, rng: torch.Generator) -> Any:
    """As BiasRatio, on a machine where that takes a while."""
    time.sleep(0.05)
    return BiasRatio()(seen, rng)


def double(x: int) -> int:
    return 2 * x


def complain(x: int) -> int:
    raise InvalidInput("disk full")


def die(x: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return x


def where(item: list[int]) -> tuple[int, int]:
    return os.getpid(), id(item)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head that only drives, and one machine with a processor; tests add others."""
    head = {"num_cpus": 0, "ray_client_server_port": free_port()}
    made = Cluster(initialize_head=True, head_node_args=head)
    made.add_node(num_cpus=2)
    ray.init(address=made.address, log_to_driver=False, logging_level=40)
    yield made
    ray.shutdown()
    made.shutdown()


def untimed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k not in SECONDS} for row in rows]


def test_a_task_is_what_serial_does(cluster: Cluster) -> None:
    assert sorted(Ray(workers=2)(double, [3, 1, 2])) == [(0, 6), (1, 2), (2, 4)]
    assert list(Ray()(double, [])) == []


def test_everything_is_unpacked_once_in_each_process(cluster: Cluster) -> None:
    shared = [1]
    seen = [result for _, result in Ray(workers=1)(where, [shared] * 6)]
    assert len(set(seen)) == len({pid for pid, _ in seen})


def test_errors_of_the_work_stop_everything_and_lost_processes_do_not(cluster: Cluster) -> None:
    with pytest.raises(InvalidInput, match="disk full"):
        list(Ray()(complain, [1, 2]))
    ((_, lost),) = Ray(workers=1)(die, [1])
    assert isinstance(lost, Failed)
    assert "lost 4 times" in str(lost)


def test_rows_and_pictures_are_those_of_a_serial_run(cluster: Cluster, tmp_path: Path) -> None:
    made = sweep(trials(6), tmp_path / "ray", Ray(workers=2))
    wanted = sweep(trials(6), tmp_path / "serial", Serial())
    assert untimed(made) == untimed(wanted)
    for row in made:
        one, two = ((tmp_path / k / row["artefact"]).read_bytes() for k in ("ray", "serial"))
        assert one == two


def test_a_machine_killed_half_way_costs_nothing(cluster: Cluster, tmp_path: Path) -> None:
    doomed = cluster.add_node(num_cpus=2)
    cluster.wait_for_nodes()
    known, batch = model()
    planned = [Trial(known, batch, FedSGD(), slow, seed=seed) for seed in range(30)]
    seen = []

    def progress(step: Any) -> None:
        seen.append(step.done)
        if step.done == 10:
            cluster.remove_node(doomed, allow_graceful=False)

    rows = sweep(planned, tmp_path / "runs", Ray(workers=4), progress)
    lines = (tmp_path / "runs" / "rows.jsonl").read_text().splitlines()
    keys = [json.loads(line)["key"] for line in lines]
    assert sorted(keys) == sorted(trial.key for trial in planned)
    assert len(set(keys)) == 30
    assert seen == sorted(seen)
    assert all(row["status"] == "done" for row in rows)
    assert untimed(rows) == untimed(sweep(planned))


DRIVER = """
import sys
from pathlib import Path
import test_ray
from seepage.integrations.ray import Ray
from seepage.trials import Trial, sweep
from seepage.clients import FedSGD

if __name__ == "__main__":
    known, batch = test_ray.model()
    planned = [Trial(known, batch, FedSGD(), test_ray.slow, seed=s) for s in range(20)]
    sweep(planned, sys.argv[1], Ray(sys.argv[2], workers=2))
"""


def driver(folder: Path, address: str) -> "subprocess.Popen[bytes]":
    """Twenty trials, driven by a process of its own: one that can be killed."""
    script, here = folder / "driver.py", str(Path(__file__).parent)
    script.write_text(DRIVER)
    environment = {**os.environ, "PYTHONPATH": f"{os.environ.get('PYTHONPATH', '')}:{here}"}
    command = [sys.executable, str(script), str(folder / "runs"), address]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)


def rows_of(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "runs" / "rows.jsonl").read_text().splitlines()
    return sorted(untimed([json.loads(line) for line in lines]), key=lambda row: row["seed"])


def serially(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the drivers should find, as they would: the attack is known by its module."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    known, batch = model()
    attack = importlib.import_module("test_ray").slow
    return untimed(sweep([Trial(known, batch, FedSGD(), attack, seed=s) for s in range(20)]))


def test_a_killed_driver_is_resumed(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = driver(tmp_path, cluster.address)
    rows = tmp_path / "runs" / "rows.jsonl"
    while first.poll() is None and (not rows.exists() or rows.read_bytes().count(b"\n") < 5):
        time.sleep(0.01)
    first.kill()
    first.communicate()
    assert 5 <= rows.read_bytes().count(b"\n") < 20
    again = driver(tmp_path, cluster.address)
    said = again.communicate()[1].decode()
    assert again.returncode == 0, said[-3000:]
    assert rows_of(tmp_path) == serially(monkeypatch)


def test_a_driver_outside_the_cluster_finds_the_same(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through Ray's client server, as `--executor ray://HOST:10001` does from a laptop."""
    address = f"ray://127.0.0.1:{cluster.head_node._ray_params.ray_client_server_port}"
    for _ in range(3):
        ran = driver(tmp_path, address)
        said = ran.communicate()[1].decode()
        if "no Ray cluster at" not in said:
            break
    else:
        pytest.skip(f"Ray's own client server did not start: {said[-300:]}")
    assert ran.returncode == 0, said[-3000:]
    assert rows_of(tmp_path) == serially(monkeypatch)


def test_fields_are_checked() -> None:
    for wrong in ({"workers": 0}, {"cpus": 0}, {"gpus": -1}, {"threads": 0}):
        with pytest.raises(InvalidInput, match=next(iter(wrong))):
            Ray(**wrong)  # type: ignore[arg-type]
