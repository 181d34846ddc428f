"""What the guard and the audit add to a Flower client's round, and what a cluster costs a trial.

    python benchmarks/federation.py [guard] [audit] [offline] [cluster]

CPU time, one thread. Needs flwr (guard, audit, offline) and ray (cluster).
"""

import dataclasses
import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from seepage import zoo
from seepage.attacks import BiasRatio, Span
from seepage.clients import FedAvg, FedSGD
from seepage.core import Attack, Batch, Model, Observation, Reconstruction, stream
from seepage.executors import Serial
from seepage.store import Store
from seepage.trials import Trial, sweep
from seepage.values import value

torch.set_num_threads(1)
warnings.simplefilter("ignore")
LR = 0.1


def said(what: str, **figures: Any) -> None:
    print(json.dumps({"what": what, **figures}), flush=True)


def spent(work: Callable[[], Any], repeats: int = 3) -> float:
    """The least CPU time of some repeats, after a first that warms up."""
    return interleaved([work], repeats)[0]


def interleaved(works: list[Callable[[], Any]], repeats: int = 5) -> list[float]:
    """The least CPU time of each, all in turn, so that other work on the machine hits all alike."""
    times = [[_timed(work) for work in works] for _ in range(repeats + 1)][1:]
    return [min(column) for column in zip(*times, strict=True)]


def _timed(work: Callable[[], Any]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def round_of(model: Model, batch: Batch, mods: list[Any], steps: int = 1) -> Callable[[], Any]:
    """One round of a real ClientApp with these mods, as a function; the reply is its result."""
    from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp
    from flwr.supercore.task_identity import TaskIdentity

    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
    app, client = ClientApp(mods=mods), FedAvg(FedSGD("train"), epochs=max(steps, 1), lr=LR)

    @app.train()
    def train(message: Message, _: Context) -> Message:
        state = message.content["arrays"].to_torch_state_dict()
        broadcast = model.with_params(state)
        update = client(broadcast, batch, stream(0, "client")) if steps else {}
        after = {name: t - update[name] if name in update else t for name, t in state.items()}
        metrics = MetricRecord({"num-examples": len(batch)})
        content = RecordDict({"arrays": ArrayRecord(after), "metrics": metrics})
        return Message(content, reply_to=message)

    content = RecordDict({"arrays": ArrayRecord(dict(model.state))})
    message = Message(content, dst_node_id=2, message_type="train")
    context = Context(1, 2, {}, RecordDict(), {})
    return lambda: app(message, context)


def resnet(n: int = 32) -> tuple[Model, Batch]:
    sample = zoo.photos(n, 32)
    return sample.model(zoo.resnet18(stem="cifar", classes=8, seed=0)), sample.batch


def perceptron(n: int) -> tuple[Model, Batch]:
    sample = zoo.photos(n, 32)
    network = zoo.mlp(3 * 32 * 32, 64, 8, activation="tanh", seed=0)
    return sample.model(network), sample.batch


def guard() -> None:
    """The guard's own time is measured where nothing is trained: beside a round it is noise."""
    from seepage.guard import Scan
    from seepage.integrations.flower import guard_mod

    model, batch = resnet()
    screened, exact = [guard_mod(model)], [guard_mod(model, (Scan(),))]
    works = [round_of(model, batch, *how) for how in (([], 0), (screened, 0), (exact, 0), ([], 1))]
    idle, quick, whole, plain = interleaved(works)
    said("guard", network="ResNet-18, 32x32", batch=32, round=plain, seconds=quick - idle,
         added=(quick - idle) / plain, exact=(whole - idle) / plain)  # fmt: skip


def audit() -> None:
    from seepage.integrations.flower import audit_mod

    networks = {"ResNet-18, 32x32": resnet(), "mlp, 32x32": perceptron(2)}
    for name, (model, batch) in networks.items():
        mod = audit_mod(model, lambda _, b=batch: b, [BiasRatio(), Span()], FedAvg(lr=LR))
        for steps in (1, 10):
            works = [round_of(model, batch, mods, steps) for mods in ([], [mod])]
            plain, run = interleaved(works, 3 if steps == 1 else 1)
            metrics = dict(works[1]().content["metrics"])
            said("audit", network=name, batch=len(batch), steps=steps, round=plain,
                 seconds=run - plain, added=run / plain - 1, metrics=metrics)  # fmt: skip


def offline() -> None:
    """The reply of a client with one photograph, captured by difference, attacked."""
    model, batch = perceptron(1)
    after = round_of(model, batch, [])().content["arrays"].to_torch_state_dict()
    update = {name: t - after[name] for name, t in model.state.items()}
    answer = BiasRatio()(Observation(model, FedAvg(lr=LR), update, 1), stream(0, "attack"))
    error = (answer.x[0].clamp(0, 1) - batch.x[0]).square().mean()
    said("offline", network="mlp, 32x32", psnr=float(-10 * error.log10()), note=answer.note)


@value
class Awaited:
    """An attack that also waits, as for a GPU: what is left of the time is the cluster's own."""

    inner: Attack
    seconds: float

    def __call__(self, seen: Observation, rng: torch.Generator) -> Reconstruction:
        time.sleep(self.seconds)
        return self.inner(seen, rng)


def planned(n: int) -> list[Trial]:
    model, batch = perceptron(1)
    attack = Awaited(BiasRatio(), 0.1)
    return [Trial(model, batch, FedSGD(), attack, seed=seed) for seed in range(n)]


def warmed(executor: Any) -> None:
    """Processes start, and import torch, before the clock does."""
    sweep(
        [dataclasses.replace(trial, seed=10**6 + trial.seed) for trial in planned(4)],
        executor=executor,
    )


def drive(folder: str, address: str, workers: str, n: str) -> None:
    """The driver, a process of its own, so that it can be killed: prints its wall time."""
    import ray

    from seepage.integrations.ray import Ray

    executor = Ray(address, workers=int(workers))
    ray.init(address=address, log_to_driver=False, logging_level=40)
    warmed(executor)
    start = time.perf_counter()
    sweep(planned(int(n)), folder, executor)
    print(time.perf_counter() - start)


def driver(folder: Path, cluster: Any, workers: int, n: int) -> "subprocess.Popen[str]":
    words = ["drive", str(folder), cluster.address, str(workers), str(n)]
    return subprocess.Popen([sys.executable, __file__, *words], stdout=subprocess.PIPE, text=True)


def lines(folder: Path) -> list[str]:
    rows = folder / "rows.jsonl"
    return rows.read_text().splitlines() if rows.exists() else []


def reached(folder: Path, number: int, process: "subprocess.Popen[str]") -> None:
    while len(lines(folder)) < number:
        assert process.poll() is None, "the driver ended by itself"
        time.sleep(0.05)


def untimed(rows: Iterable[Any]) -> list[Any]:
    kept = [{k: v for k, v in row.items() if k != "seconds"} for row in rows]
    return sorted(kept, key=lambda row: str(row["key"]))


def cluster(n: int = 1000) -> None:
    """n short trials at one and two workers; then with a machine and the driver killed."""
    from ray.cluster_utils import Cluster

    trials, folder = planned(n), Path(tempfile.mkdtemp())
    warmed(Serial())
    start = time.perf_counter()
    wanted = untimed(sweep(trials, folder / "serial"))
    serial = time.perf_counter() - start
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    made.add_node(num_cpus=1)
    doomed = made.add_node(num_cpus=1)
    times = {}
    for workers in (1, 2):
        process = driver(folder / str(workers), made, workers, n)
        times[workers] = float(process.communicate()[0])
        equal = untimed(Store(folder / str(workers)).rows().values()) == wanted
        said("cluster", trials=n, workers=workers, seconds=times[workers], serial=serial,
             overhead=(times[workers] * workers - serial) / n,
             efficiency=serial / (workers * times[workers]), equal=equal)  # fmt: skip
    killed = folder / "killed"
    process = driver(killed, made, 2, n)
    reached(killed, n // 2, process)
    made.remove_node(doomed, allow_graceful=False)
    reached(killed, 3 * n // 4, process)
    process.kill()
    process.communicate()
    before = len(lines(killed))
    driver(killed, made, 2, n).communicate()
    keys = [json.loads(line)["key"] for line in lines(killed)]
    said("a machine killed half way, then the driver, then resumed", trials=n, before=before,
         rows=len(keys), lost=n - len(set(keys)), twice=len(keys) - len(set(keys)),
         equal=untimed(Store(killed).rows().values()) == wanted)  # fmt: skip
    made.shutdown()


if __name__ == "__main__":
    parts = {"guard": guard, "audit": audit, "offline": offline, "cluster": cluster}
    if sys.argv[1:2] == ["drive"]:
        drive(*sys.argv[2:])
    else:
        for name in sys.argv[1:] or parts:
            parts[name]()
