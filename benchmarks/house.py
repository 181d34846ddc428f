"""What the house itself costs: start, store, audit, client. Prints JSON lines, then a table.

    python benchmarks/house.py [start import store audit client ...]

Times on a shared machine are noisy: starts are the best of several, ratios are medians of
interleaved pairs of CPU times.
"""

import functools
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Generator, nn

from seepage import zoo
from seepage.clients import FedSGD
from seepage.core import Batch, Model, Observation, Reconstruction, observe, stream
from seepage.metrics.score import Context, score
from seepage.report import Report
from seepage.store import Store
from seepage.trials import Trial, run, sweep

Finding = dict[str, Any]


def best(command: list[str], clock: Callable[[], float], times: int = 9) -> float:
    """The shortest time of a process."""
    taken = []
    for _ in range(times):
        before = clock()
        subprocess.run([sys.executable, *command], check=True, capture_output=True)
        taken.append(clock() - before)
    return min(taken)


def start() -> Iterator[Finding]:
    """`seepage --help`, by the clock on the wall, and by what the processor did."""
    command = ["-c", "from seepage.cli import main; main()", "--help"]
    for unit, clock in (("s", time.perf_counter), ("CPU s", _children)):
        seconds = best(command, clock)
        yield {"what": "seepage --help", "got": seconds, "unit": unit, "limit": 0.3}


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def imports() -> Iterator[Finding]:
    """`import seepage` beyond `import torch`, and with a name looked up."""
    uses = ("import seepage; seepage.FedSGD", "import seepage; seepage.audit")
    for text, limit in (("import seepage", 50.0), *((use, None) for use in uses)):
        code = f"import torch, time; t=time.perf_counter(); {text}; print(time.perf_counter()-t)"
        taken = [
            float(subprocess.check_output([sys.executable, "-c", code])) * 1000 for _ in range(7)
        ]
        yield {"what": f"{text} after torch", "got": min(taken), "unit": "ms", "limit": limit}


def store() -> Iterator[Finding]:
    """10,000 rows: read, and rendered to a page."""
    with tempfile.TemporaryDirectory() as folder:
        place = Store(Path(folder))
        row = run(_trial(_quick, 0))
        with place.writing() as append:
            append(row)
        lines = (json.dumps({**row, "key": f"{i:016x}", "seed": i}) for i in range(10_000))
        (place.folder / "rows.jsonl").write_text("".join(f"{line}\n" for line in lines))
        began = time.process_time()
        rows = place.rows()
        loaded = time.process_time() - began
        yield {"what": "load 10,000 rows", "got": loaded, "unit": "CPU s", "limit": 2.0}
        began = time.process_time()
        report = Report([*rows.values()], place.folder)
        str(report)
        page = report.save(place.folder / "report.html")
        took = loaded + time.process_time() - began
        yield {"what": "load and render 10,000 rows", "got": took, "unit": "CPU s", "limit": 5.0}
        yield {"what": "its page", "got": page.stat().st_size / 1e6, "unit": "MB", "limit": 5.0}


def audit() -> Iterator[Finding]:
    """`sweep` beside a bare loop of the same trials, half a second each."""
    ratios = []
    for pair in range(6):
        trials = [_trial(_half_a_second, 4 * pair + i) for i in range(4)]
        with tempfile.TemporaryDirectory() as folder:
            ours = _cpu(functools.partial(sweep, trials, Path(folder, "store")))
        ratios.append(ours / _cpu(functools.partial(_bare, trials)))
    ratio = statistics.median(ratios)
    yield {"what": "sweep / bare loop, trials of 0.5 s", "got": ratio, "unit": "x", "limit": 1.05}


def client() -> Iterator[Finding]:
    """`FedSGD()` beside a plain `autograd.grad`."""
    sample = zoo.photos(8, 32)
    networks = {
        "ConvNet": zoo.convnet(16, classes=sample.form.classes, seed=0),
        "ResNet-18": zoo.resnet18(classes=sample.form.classes, seed=0),
    }
    for name, network in networks.items():
        ratio = _client_ratio(sample.model(network), network.eval(), sample.batch)
        yield {"what": f"FedSGD / autograd.grad, {name}", "got": ratio, "unit": "x", "limit": 1.15}


def _client_ratio(model: Model, network: nn.Module, batch: Batch) -> float:
    params = list(network.parameters())

    def plain() -> None:
        torch.autograd.grad(nn.functional.cross_entropy(network(batch.x), batch.target), params)

    def ours() -> None:
        FedSGD()(model, batch, Generator())

    pairs = []
    for pair in range(24):
        # In turns, each first as often as the other: neither profits from a warm cache.
        first, second = (plain, ours) if pair % 2 else (ours, plain)
        taken = {first: _cpu(first), second: _cpu(second)}
        pairs.append(taken[ours] / taken[plain])
    return statistics.median(pairs[2:])


def _quick(seen: Observation, rng: Generator) -> Reconstruction:
    x = torch.rand(8, *seen.model.form.shape, generator=rng)
    return Reconstruction(x, None, torch.zeros(8), torch.ones(8), "tried", {"curve": [1.0] * 20})


def _half_a_second(seen: Observation, rng: Generator) -> Reconstruction:
    matrix = torch.rand(300, 300, generator=rng)
    for _ in range(_ROUNDS):
        matrix = matrix @ matrix / matrix.norm()
    return _quick(seen, rng)


def _trial(attack: Any, seed: int) -> Trial:
    sample = zoo.photos(8, 32)
    model = sample.model(zoo.convnet(16, classes=sample.form.classes, seed=0))
    return Trial(model, sample.batch, FedSGD(), attack, seed=seed)


def _bare(trials: list[Trial]) -> None:
    """The same without us: a round, the attack on it, and its score."""
    for trial in trials:
        seen = observe(trial.model, trial.batch, trial.client, stream(trial.seed, "client"))
        answer = trial.attack(seen, stream(trial.seed, "attack"))
        context = Context(None, stream(trial.seed, "score"))
        score(trial.model.form, trial.batch, answer.x, answer.y, context)


def _cpu(work: Callable[[], Any]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def _rounds() -> int:
    """How many products take half a second here."""
    matrix = torch.rand(300, 300, generator=stream(0, "rounds"))
    began, done = time.process_time(), 0
    while time.process_time() - began < 0.5:
        matrix = matrix @ matrix / matrix.norm()
        done += 1
    return done


def main(wanted: list[str]) -> None:
    """Measure, print each finding as it comes, and a table at the end."""
    parts = {"start": start, "import": imports, "store": store, "audit": audit, "client": client}
    found = []
    for name in wanted or parts:
        for finding in parts[name]():
            print(json.dumps(finding), flush=True)
            found.append(finding)
    grid = Table("what", "got", "limit", "")
    for finding in found:
        limit = finding["limit"]
        verdict = "" if limit is None else "ok" if finding["got"] <= limit else "too much"
        got = f"{finding['got']:.3g} {finding['unit']}"
        grid.add_row(finding["what"], got, "" if limit is None else f"{limit:g}", verdict)
    Console(width=100).print(grid)


if __name__ == "__main__":
    torch.set_num_threads(1)
    _ROUNDS = _rounds()
    main(sys.argv[1:])
