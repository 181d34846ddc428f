"""Gradient matching's cost: CPU time of a step over that of a training step, in one process.

    python benchmarks/matching.py [--rounds 10] [--only convnet]

One thread, one example of 32x32, interleaved rounds, the median of the ratios. Prints a JSON line
for each network and a table.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from seepage import zoo
from seepage.attacks import Invert, Told
from seepage.attacks.matching.problem import Problem
from seepage.clients import FedSGD
from seepage.core import Batch, Model, observe, stream
from seepage.forms import Images

FORM = Images((3, 32, 32), classes=10)


class Bert(nn.Module):
    """Six blocks of width 384 over 32 embedded tokens, pooled by the mean."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(384, 6, 1536, 0.0, "gelu", batch_first=True)
        self.blocks = nn.TransformerEncoder(layer, 6, enable_nested_tensor=False)
        self.embed = nn.Linear(96, 384)
        self.head = nn.Linear(384, 10)

    def forward(self, x: Tensor) -> Tensor:
        # The 3072 numbers of one example as 32 tokens of 96.
        output: Tensor = self.head(self.blocks(self.embed(x.reshape(len(x), 32, 96))).mean(1))
        return output


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "convnet32": lambda: zoo.convnet(32, seed=0),
    "resnet18": lambda: zoo.resnet18(seed=0),
    "vit": lambda: zoo.vit(seed=0),
    "bert": Bert,
    "mlp": lambda: zoo.mlp(3072, 1024, 1024, 10, seed=0),
}
GOALS = {"convnet32": 2.5, "resnet18": 3.0, "vit": 2.9, "bert": 2.9, "mlp": 4.2}


def main() -> None:
    args = _arguments()
    torch.set_num_threads(1)
    rows = [measured(name, args.rounds) for name in NETWORKS if args.only in (None, name)]
    for row in rows:
        print(json.dumps(row))
    print(
        f"{'network':12s} {'step/training':>14s} {'goal':>5s} "
        f"{'plain/step':>11s} {'.backward()/step':>17s}"
    )
    for row in rows:
        print(
            f"{row['network']:12s} {row['step']:14.2f} {row['goal']:5.1f} "
            f"{row['plain']:11.2f} {row['backward']:17.2f}"
        )


def measured(name: str, rounds: int) -> dict[str, float | str]:
    """The ratios of one network."""
    model = Model.of(NETWORKS[name](), nn.functional.cross_entropy, FORM)
    batch = Batch(torch.rand(1, 3, 32, 32, generator=stream(0, "x")), torch.tensor([3]))
    seen = observe(model, batch, FedSGD(), stream(0, "client"), tell=("n", "y"))
    problem, leaves = Invert(priors=(), labels=Told())._posed(seen, stream(0, "attack"))
    runs = {
        "training": lambda: training(model, batch),
        "step": lambda: problem.slope(leaves),
        "plain": lambda: plain(problem, model, leaves[0], False),
        "backward": lambda: plain(problem, model, leaves[0], True),
    }
    times: dict[str, list[float]] = {key: [] for key in runs}
    for turn in range(rounds + 2):
        for key, run in runs.items():
            spent = timed(run)
            if turn >= 2:
                times[key].append(spent)
    best = {key: min(spent) for key, spent in times.items()}
    middle = {key: statistics.median(spent) for key, spent in times.items()}
    return {
        "network": name,
        "goal": GOALS[name],
        "step": middle["step"] / middle["training"],
        "step_of_minima": best["step"] / best["training"],
        "plain": middle["plain"] / middle["step"],
        "backward": middle["backward"] / middle["step"],
        "training_ms": 1000 * middle["training"],
    }


def timed(run: Callable[[], object]) -> float:
    """CPU seconds of one call, repeated until they can be told from the clock's grain."""
    began, calls = time.process_time(), 0
    while time.process_time() - began < 0.05 or calls < 1:
        run()
        calls += 1
    return (time.process_time() - began) / calls


def training(model: Model, batch: Batch) -> object:
    """One forward and backward pass."""
    leaves = {name: p.detach().requires_grad_() for name, p in model.params.items()}
    return torch.autograd.grad(model.risk(leaves, batch), list(leaves.values()))


def plain(problem: Problem, model: Model, u: Tensor, backward: bool) -> object:
    """The loop that everybody writes: create_graph, 1 - cos, and autograd for all of it."""
    u = u.detach().requires_grad_()
    leaves = {name: p.detach().requires_grad_() for name, p in model.params.items()}
    risk = model.risk(leaves, Batch(problem.units.x(u), problem.y))
    given = torch.autograd.grad(risk, list(leaves.values()), create_graph=True)
    pairs = list(zip(given, problem.observed.values(), strict=True))
    inner = sum((a * b).sum() for a, b in pairs)
    lengths = sum(a.square().sum() for a, _ in pairs), sum(b.square().sum() for _, b in pairs)
    misfit = 1 - inner / (lengths[0].sqrt() * lengths[1].sqrt())
    if backward:
        return misfit.backward()
    return torch.autograd.grad(misfit, u)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--only", choices=NETWORKS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
