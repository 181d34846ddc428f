"""The cost of gradient matching: an exact step against a training step, and against the usual loop.

In forward passes F of linear layers: a training step costs 3 F; simulating an update with its
graph and one product of it with a cotangent 7 F, so 7/3 of a training step is the floor; PyTorch's
own convolution rule builds an unused cotangent (8 F), `.backward()` fills the parameters' slots
too (9 F). CPU time, one thread, one example of 3x32x32, median of interleaved rounds.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from seepage import zoo
from seepage.attacks import Invert, Told
from seepage.attacks.matching.problem import Problem
from seepage.clients import FedSGD
from seepage.core import Batch, Model, observe, stream
from seepage.forms import Images
from seepage.papers.claims import Claim

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


NETWORKS: dict[str, tuple[Callable[[], nn.Module], float]] = {
    "ConvNet(32)": (lambda: zoo.convnet(32, seed=0), 2.5),
    "ResNet-18": (lambda: zoo.resnet18(seed=0), 3.0),
    "ViT": (lambda: zoo.vit(seed=0), 2.9),
    "BERT-shaped": (Bert, 2.9),
    "MLP": (lambda: zoo.mlp(3072, 1024, 1024, 10, seed=0), 4.2),
}
"""Each network, and the most that a step may cost."""


def reproduce(quick: bool, folder: Path | None) -> Iterator[Claim]:  # noqa: ARG001
    """The ratio of every network; the quick form takes one round."""
    for name in NETWORKS:
        found = measured(name, 1 if quick else 15)
        yield Claim(
            f"step over training step, {name}",
            f"at most {found['goal']} (a goal of ours; the floor is 2.33)",
            f"{found['step']:.2f}; the usual loop takes {found['plain']:.2f} steps, "
            f"with .backward() {found['backward']:.2f}",
            "confirmed" if found["step"] <= found["goal"] else "not confirmed",
            "one thread, one example, CPU time, medians; busy machines blur it",
        )


def measured(name: str, rounds: int) -> dict[str, float]:
    """The ratios of one network."""
    runs = steps(*example(name))
    times: dict[str, list[float]] = {key: [] for key in runs}
    for turn in range(rounds + 1):
        for key, run in runs.items():
            spent = _timed(run)
            if turn:
                times[key].append(spent)
    middle = {key: statistics.median(spent) for key, spent in times.items()}
    return {
        "goal": NETWORKS[name][1],
        "step": middle["step"] / middle["training"],
        "step_of_minima": min(times["step"]) / min(times["training"]),
        "plain": middle["plain"] / middle["step"],
        "backward": middle["backward"] / middle["step"],
        "training_ms": 1000 * middle["training"],
    }


def example(name: str, n: int = 1) -> tuple[Model, Batch]:
    """One of the networks, and noise of 32x32 for it."""
    model = Model.of(NETWORKS[name][0](), nn.functional.cross_entropy, FORM)
    x = torch.rand(n, 3, 32, 32, generator=stream(0, "x"))
    return model, Batch(x, (torch.arange(n) + 3) % 10)


def steps(model: Model, batch: Batch) -> dict[str, Callable[[], object]]:
    """A training step, an exact step of the search, and those of the usual loops."""
    seen = observe(model, batch, FedSGD(), stream(0, "client"), tell=("n", "y"))
    search = Invert(priors=(), labels=Told()).begin(seen, stream(0, "attack"))
    problem, leaves = search.problem, search.leaves
    return {
        "training": lambda: training(model, batch),
        "step": lambda: problem.slope(leaves),
        "plain": lambda: usual(problem, model, leaves[0], False),
        "backward": lambda: usual(problem, model, leaves[0], True),
    }


def training(model: Model, batch: Batch) -> object:
    """One forward and backward pass."""
    leaves = {name: p.detach().requires_grad_() for name, p in model.params.items()}
    return torch.autograd.grad(model.risk(leaves, batch), list(leaves.values()))


def usual(problem: Problem, model: Model, u: Tensor, backward: bool) -> object:
    """The loop that everybody writes: create_graph, 1 - cos, and autograd for all of it."""
    u = u.detach().requires_grad_()
    leaves = {name: p.detach().requires_grad_() for name, p in model.params.items()}
    risk = model.risk(leaves, Batch(problem.units.x(u), problem.y))
    given = torch.autograd.grad(risk, list(leaves.values()), create_graph=True)
    pairs = list(zip(given, problem.match.observed.values(), strict=True))
    inner = torch.stack([(a * b).sum() for a, b in pairs]).sum()
    left = torch.stack([a.square().sum() for a, _ in pairs]).sum().sqrt()
    right = torch.stack([b.square().sum() for _, b in pairs]).sum().sqrt()
    misfit = 1 - inner / (left * right)
    if backward:
        return misfit.backward()  # type: ignore[no-untyped-call]
    return torch.autograd.grad(misfit, u)


def _timed(run: Callable[[], object]) -> float:
    """CPU seconds of one call, repeated until they can be told from the clock's grain."""
    began, calls = time.process_time(), 0
    while time.process_time() - began < 0.05:
        run()
        calls += 1
    return (time.process_time() - began) / calls
