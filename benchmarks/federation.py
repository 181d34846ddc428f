"""What the guard and the audit add to a Flower client's round, and what a cluster costs a trial.

    python benchmarks/federation.py [guard] [audit] [offline] [cluster]

CPU time, one thread. Needs flwr (guard, audit, offline) and ray (cluster).
"""

import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from seepage import zoo
from seepage.attacks import BiasRatio, Span
from seepage.clients import FedAvg, FedSGD
from seepage.core import Batch, Model, Observation, stream
from seepage.executors import Serial
from seepage.trials import Trial, sweep

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

    for name, (model, batch) in (("ResNet-18, 32x32", resnet()), ("mlp, 32x32", perceptron(2))):
        mod = audit_mod(model, lambda _, b=batch: b, [BiasRatio(), Span()], FedAvg(lr=LR))
        for steps in (1, 10):
            plain, run = (spent(round_of(model, batch, mods, steps), 1) for mods in ([], [mod]))
            metrics = dict(round_of(model, batch, [mod], steps)().content["metrics"])
            figures = {"round": plain, "added": run / plain - 1, "metrics": metrics}
            said("audit", network=name, batch=len(batch), steps=steps, **figures)


def offline() -> None:
    """The reply of a client with one photograph, captured by difference, attacked."""
    model, batch = perceptron(1)
    after = round_of(model, batch, [])().content["arrays"].to_torch_state_dict()
    update = {name: t - after[name] for name, t in model.state.items()}
    answer = BiasRatio()(Observation(model, FedAvg(lr=LR), update, 1), stream(0, "attack"))
    error = (answer.x[0].clamp(0, 1) - batch.x[0]).square().mean()
    said("offline", network="mlp, 32x32", psnr=float(-10 * error.log10()), note=answer.note)


def planned(n: int) -> list[Trial]:
    model, batch = perceptron(1)
    return [Trial(model, batch, FedSGD(), BiasRatio(), seed=seed) for seed in range(n)]


def timed(executor: Any, trials: list[Trial], progress: Any = None) -> tuple[float, list[Any]]:
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        rows = sweep(trials, Path(folder) / "runs", executor, progress)
        seconds = time.perf_counter() - start
        lines = (Path(folder) / "runs" / "rows.jsonl").read_text().splitlines()
    assert len(lines) == len(rows) == len(trials)
    return seconds, [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def cluster(n: int = 1000) -> None:
    """n short trials at one and two workers, and with one of two machines killed half way."""
    import ray
    from ray.cluster_utils import Cluster

    from seepage.integrations.ray import Ray

    trials = planned(n)
    serial, wanted = timed(Serial(), trials)
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    made.add_node(num_cpus=1)
    doomed = made.add_node(num_cpus=1)
    ray.init(address=made.address, log_to_driver=False, logging_level=40)
    list(Ray(workers=2)(abs, list(range(20))))  # processes started, torch imported
    one, first = timed(Ray(workers=1), trials)
    two, second = timed(Ray(workers=2), trials)
    said("cluster", trials=n, serial=serial, one=one, two=two, overhead=(one - serial) / n,
         efficiency=one / (2 * two), equal=first == wanted and second == wanted)  # fmt: skip

    def progress(step: Any) -> None:
        if step.done == n // 2:
            made.remove_node(doomed, allow_graceful=False)

    seconds, rows = timed(Ray(workers=2), trials, progress)
    said("a machine killed half way", trials=n, seconds=seconds, equal=rows == wanted)
    ray.shutdown()
    made.shutdown()


if __name__ == "__main__":
    parts = {"guard": guard, "audit": audit, "offline": offline, "cluster": cluster}
    for name in sys.argv[1:] or parts:
        parts[name]()
