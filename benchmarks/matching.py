"""Gradient matching's cost: CPU time of a step over that of a training step, in one process.

    python benchmarks/matching.py [--rounds 15] [--only ViT] [--memory]

One thread, one example of 32x32, interleaved rounds, the median of each. Prints a JSON line for
each network and a table. With --memory, for eight examples: what a training step holds of tensors
at its peak, the model's own among them, and a search as it begins (it checks its step against
autograd's), and in its steps.
"""

import argparse
import itertools
import json
from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

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
    """Megabytes of tensors alive at once, counted from every allocation: no noise in them."""
    for name in names:
        model, batch = example(name, 8)
        own = sum(t.nbytes for t in model.state.values()) / 2**20
        training_step, _, _ = peak(lambda model=model, batch=batch: training(model, batch))
        begun, held, runs = peak(lambda model=model, batch=batch: steps(model, batch))
        row = {"network": name, "model": own, "training": own + training_step}
        row |= {"begins": own + begun, "steps": own + held + peak(runs["step"])[0]}
        row |= {"usual loop": own + held + peak(runs["plain"])[0]}
        ratios = {f"{k}/training": row[k] / row["training"] for k in ("begins", "steps")}
        print(
            json.dumps({k: v if k == "network" else round(v, 2) for k, v in (row | ratios).items()})
        )


def peak(run: Callable[[], Any]) -> tuple[float, float, Any]:
    """The most megabytes that a run allocates at once, those that its answer keeps, the answer."""
    run()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        answer = run()
    events = [e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    sums = list(itertools.accumulate(event.nbytes() for event in events)) or [0]
    return max(sums) / 2**20, sums[-1] / 2**20, answer


if __name__ == "__main__":
    main()
