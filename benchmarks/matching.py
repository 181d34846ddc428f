"""Gradient matching's cost: CPU time of a step over that of a training step, in one process.

    python benchmarks/matching.py [--rounds 15] [--only ViT] [--memory]

One thread, one example of 32x32, interleaved rounds, the median of each. Prints a JSON line for
each network and a table. With --memory: the peak of a process with a
network and eight examples, at rest, after three steps of training, and after a search that begins
(it checks its step against autograd's) and makes three steps; then of these steps alone.
"""

import argparse
import ctypes
import json
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

from seepage.papers.matching_cost import NETWORKS, example, measured, steps, training


def main() -> None:
    args = _arguments()
    torch.set_num_threads(1)
    names = [name for name in NETWORKS if args.only in (None, name)]
    if args.memory:
        memory(names)
    else:
        times(names, args.rounds)


def times(names: list[str], rounds: int) -> None:
    """The ratios of each network."""
    rows = [{"network": name, **measured(name, rounds)} for name in names]
    for row in rows:
        print(json.dumps(row))
    print(
        f"{'network':12s} {'step/training':>14s} {'goal':>5s} {'plain/step':>11s} {'backward':>17s}"
    )
    for row in rows:
        print(
            f"{row['network']:12s} {row['step']:14.2f} {row['goal']:5.1f} "
            f"{row['plain']:11.2f} {row['backward']:17.2f}"
        )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", choices=NETWORKS)
    parser.add_argument("--memory", action="store_true")
    return parser.parse_args()


def memory(names: list[str]) -> None:
    """Each in a process of its own, since what a process has freed stays with it."""
    fresh = multiprocessing.get_context("spawn")
    for name in names:
        row: dict[str, object] = {"network": name}
        for kind in ("rest", "training", "search", "its steps"):
            with ProcessPoolExecutor(1, mp_context=fresh) as one:
                row[f"{kind} MB"] = one.submit(peak, name, kind).result()
        print(json.dumps(row), flush=True)


def peak(name: str, kind: str) -> int:
    """The most memory that this process has held, in megabytes (Linux)."""
    torch.set_num_threads(1)
    given = example(name, 8)
    runs: dict[str, Callable[[], object]] = {
        "rest": lambda: None,
        "training": lambda: training(*given),
    }
    run = runs.get(kind) or steps(*given)["step"]
    if kind == "its steps":
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    for _ in range(3):
        run()
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) // 1024


if __name__ == "__main__":
    main()
