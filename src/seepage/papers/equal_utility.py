"""Defenses at equal loss of utility, each by the strongest attack on it: the protocol of Liu et al.

Liu, Wang, Chen and Lei 2024, arXiv 2402.09478. Networks are really trained under each defense, and
attacked before and after by attackers who know it: `Span`, which fills in a pruned gradient, and
`Adaptive`, which tries every known way around.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from seepage import tree, zoo
from seepage.attacks import Adaptive, Invert, Span
from seepage.attacks.matching import Adam, Gray
from seepage.clients import FedAvg, FedSGD, SecureSum
from seepage.core import Attack, Client, Model, Reconstruction, observe, stream
from seepage.defenses import Dropout, Noise, Prune
from seepage.papers.claims import Claim

_LOSSES = (0.01, 0.02, 0.05, 0.1)
_FREE, _MARGIN = 0.005, 0.05
_USERS, _BATCH, _RATE = 8, 8, 0.5
_PRIVATE = 4


@dataclass(frozen=True)
class Defense:
    """A family of clients, its strengths (those of the quick form first), and users in a sum."""

    name: str
    strengths: tuple[float, ...]
    few: int
    client: Callable[[float], Client]
    users: Callable[[float], int] = lambda _: 1


DEFENSES = (
    Defense("prune", (0.9, 0.99, 0.5, 0.997), 2, lambda q: Prune(FedSGD(), q)),
    Defense(
        "prune what tells most", (0.5, 0.9, 0.2), 1, lambda q: Prune(FedSGD(), q, kind="optimal")
    ),
    Defense("noise", (1.0, 3.0, 0.3, 10.0), 2, lambda s: Noise(FedSGD(), s, relative=True)),
    Defense(
        "noise where it tells most",
        (1.0, 0.3, 3.0),
        1,
        lambda s: Noise(FedSGD(), s, kind="optimal", relative=True),
    ),
    Defense("dropout of units", (0.2, 0.5, 0.05), 1, lambda p: Dropout(FedSGD(), p)),
    Defense("local steps", (5.0, 2.0), 1, lambda k: FedAvg(epochs=int(k), lr=_RATE)),
    Defense("sum over users", (8.0, 2.0), 1, lambda k: SecureSum(FedSGD(), int(k)), int),
)


@dataclass(frozen=True)
class Point:
    """One strength: the accuracy that it costs, the share that leaks, and to which attack."""

    strength: float
    lost: float
    leak: float
    winner: str


def trade_off(quick: bool, folder: Path | None) -> Iterator[Claim]:
    """The curve of each defense, and who is strongest at equal loss."""
    rounds, seeds = (60, 1) if quick else (100, 2)
    bare = [_trained(FedSGD(), rounds, seed) for seed in range(seeds)]
    base = mean(_accuracy(model, seed) for seed, model in enumerate(bare))
    protocol = Protocol(60 if quick else 200, quick)
    start = protocol.leak(FedSGD(), 1, bare)
    curves: dict[str, list[Point]] = {}
    for defense in DEFENSES:
        points = [Point(0.0, 0.0, *start)]
        for strength in defense.strengths[: defense.few] if quick else defense.strengths:
            client = defense.client(strength)
            models = [_trained(client, rounds, seed) for seed in range(seeds)]
            lost = base - mean(_accuracy(model, seed) for seed, model in enumerate(models))
            leak = protocol.leak(client, defense.users(strength), models)
            points.append(Point(strength, max(lost, 0.0), *leak))
        curves[defense.name] = sorted(points, key=lambda point: point.lost)
        yield _curve(defense.name, points[1:], base, rounds)
    yield strongest(curves)
    if folder is not None:
        _plot(folder / "liu2024.png", curves)


def _curve(name: str, points: Sequence[Point], base: float, rounds: int) -> Claim:
    ordered = sorted(points, key=lambda point: point.strength)
    return Claim(
        f"{name}, {' '.join(f'{point.strength:g}' for point in ordered)}: accuracy lost, leak",
        "not available",
        ", ".join(f"{point.lost:.3f} {point.leak:.2f} ({point.winner})" for point in ordered),
        "measured",
        f"digits, 64-128-10 GELU, {rounds} rounds of {_USERS} users, accuracy {base:.2f} "
        "undefended; leak = share of the images recovered by the strongest attack, named, the "
        "larger of before and after training (quick: before)",
    )


def strongest(curves: Mapping[str, list[Point]]) -> Claim:
    """Who leaks least at equal loss, the free ones included."""
    free = [name for name, points in curves.items() if points[-1].lost <= _FREE]
    lines, ahead = [], []
    for lost in _LOSSES:
        leaks = {name: _at(points, lost) for name, points in curves.items() if name not in free}
        known = {name: leak for name, leak in leaks.items() if leak is not None}
        if "prune" in known and len(known) > 1:
            costless = {name: min(p.leak for p in curves[name]) for name in free}
            others = [leak for name, leak in (known | costless).items() if name != "prune"]
            ahead.append(known["prune"] < min(others) - _MARGIN)
            shown = ", ".join(f"{name} {leak:.2f}" for name, leak in known.items())
            lines.append(f"at {lost:.0%} lost: {shown}")
    spared = ", ".join(f"{name} {min(p.leak for p in curves[name]):.2f}" for name in free)
    return Claim(
        "the strongest defense at equal loss of accuracy",
        "gradient pruning",
        ("; ".join(lines) or "the curves do not overlap") + f"; at no loss: {spared or 'none'}",
        "confirmed" if ahead and all(ahead) else "not confirmed",
        "interpolated between measured strengths, never beyond; every attack knows the defense; "
        f"confirmed where it leaks less by {_MARGIN} than any other, at every loss",
    )


def _at(points: Sequence[Point], lost: float) -> float | None:
    if not points[0].lost <= lost <= points[-1].lost:
        return None
    return float(np.interp(lost, [p.lost for p in points], [p.leak for p in points]))


def network(seed: int) -> Model:
    """A two-layer network of digits at its start."""
    return zoo.digits(1).model(zoo.two_layer(64, 128, "gelu", classes=10, seed=seed))


def _trained(client: Client, rounds: int, seed: int) -> Model:
    """Federated training with every update defended. A sum over users is the server's own."""
    own = client.inner if isinstance(client, SecureSum) else client
    model, data = network(seed), zoo.digits(800, seed=seed)
    # Every defense sees the same batches: their order alone moves the accuracy by .05.
    draw, defended = stream(seed, "training"), stream(seed, "defense")
    rate = 1.0 if isinstance(client, FedAvg) else _RATE
    for _ in range(rounds):
        order = torch.randperm(800, generator=draw)
        picks = [order[k * _BATCH : (k + 1) * _BATCH] for k in range(_USERS)]
        updates = [own(model, data.batch[pick], defended) for pick in picks]
        step = tree.scale(tree.total(updates), rate / _USERS)
        model = model.with_params(tree.subtract(model.params, step))
    return model


def _accuracy(model: Model, seed: int) -> float:
    """On digits never trained on."""
    test = zoo.digits(800, split="public", seed=seed)
    guess = model.predict(test.x).argmax(1)
    return float((guess == test.y).double().mean())


@dataclass(frozen=True)
class Protocol:
    """How many steps the adaptive attacker searches, and whether trained networks are spared."""

    steps: int
    fresh: bool

    def leak(self, client: Client, users: int, models: Sequence[Model]) -> tuple[float, str]:
        """The largest share of the images that any attack recovers, and which attack it was."""
        search = Invert(priors=(), start=Gray(), optimiser=Adam(lr=0.4), schedule="cosine")
        adaptive = Adaptive(dataclasses.replace(search, steps=self.steps))
        attacks: dict[str, Attack] = {"Span": Span(starts=8), "Adaptive": adaptive}
        stages = [[network(seed) for seed in range(len(models))]]
        stages += [] if self.fresh else [list(models)]
        worst = {
            name: max(mean(_shares(attack, client, users, stage)) for stage in stages)
            for name, attack in attacks.items()
        }
        winner = max(worst, key=lambda name: worst[name])
        return worst[winner], winner


def _shares(attack: Attack, client: Client, users: int, models: Sequence[Model]) -> Iterator[float]:
    for seed, model in enumerate(models):
        batch = zoo.digits(_PRIVATE * users, seed=50 + seed).batch
        seen = observe(model, batch, client, stream(seed, "client"), tell=("n", "y"))
        yield similarity(attack(seen, stream(seed, "attack")), batch.x, _grey())


def _grey() -> float:
    return float(zoo.digits(200, split="public").x.mean())


def similarity(answer: Reconstruction, truth: Tensor, centre: float | None) -> float:
    """Mean over truths of 1 - |x' - x|^2 / |x - c|^2, at least 0: a grey image recovers nothing."""
    if len(answer.x) == 0:
        return 0.0
    found, wanted = answer.x.double().flatten(1), truth.double().flatten(1)
    middle = float(wanted.mean()) if centre is None else centre
    missed = torch.cdist(wanted, found).square() / (wanted - middle).square().sum(1, keepdim=True)
    rows, columns = linear_sum_assignment(missed.clamp_min(1e-12).log().numpy())
    return float((1 - missed[rows, columns]).clamp_min(0).sum()) / len(wanted)


def _plot(path: Path, curves: Mapping[str, list[Point]]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 5), layout="constrained")
    axes = figure.subplots()
    for (name, points), mark in zip(curves.items(), "osD^v<>", strict=True):
        lost, leak = [p.lost for p in points], [p.leak for p in points]
        (line,) = axes.plot(lost, leak, f"{mark}--", label=name, alpha=0.8, linewidth=1)
        for point in points[1:]:
            axes.annotate(
                f"{point.strength:g}",
                (point.lost, point.leak),
                xytext=(4, -11),
                textcoords="offset points",
                fontsize=7,
                color=line.get_color(),
            )
    axes.set_xscale("symlog", linthresh=0.01)  # losses that matter are small
    ticks = [0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set(
        xlabel="accuracy lost (logarithmic above .01)",
        ylabel="share of the images recovered by the strongest attack",
        ylim=(0, 1.05),
        title="Every attack knows the defense. Numbers are strengths; between them nothing is "
        "measured",
    )
    axes.title.set_fontsize(9)
    axes.legend(fontsize=8, loc="lower left")
    figure.savefig(path, dpi=150)
