"""`seepage demo`: four bundled photographs, a small network, and what leaks of them."""

from pathlib import Path

import typer
from torch import nn

from seepage import zoo
from seepage.attacks import BiasRatio, Invert
from seepage.auditing import Plan, audit
from seepage.cli import auditing, screen
from seepage.clients import FedAvg, FedSGD
from seepage.core import Attack, Client
from seepage.defenses import Clip, Noise, Prune

_SIZE, _PHOTOS = 32, 4


def run(out: Path, workers: int) -> None:
    """Audit the example, write its report, and print its table and verdict."""
    private = zoo.photos(_PHOTOS, _SIZE)
    network = zoo.mlp(3 * _SIZE * _SIZE, 256, private.form.classes, seed=0)
    model = private.model(network, nn.functional.cross_entropy)
    public = zoo.photos(64, _SIZE, split="public").x
    with screen.trials() as progress:
        plan = Plan(
            public=public, store=out, executor=auditing.executor(workers, 1), progress=progress
        )
        report = audit(model, private.batch, None, clients(), attacks(), plan)
    page = report.save(out / "report.html")
    typer.echo(str(report))
    screen.note(f"Report: {page}")


def clients() -> list[Client]:
    """Devices that share more, and less."""
    plain = FedSGD()
    return [
        plain,
        FedAvg(epochs=2, batch_size=2, lr=0.05),
        *(Prune(plain, ratio=ratio) for ratio in (0.5, 0.9, 0.99)),
        Noise(Clip(plain, norm=1.0), std=0.01),
    ]


def attacks() -> list[Attack]:
    """One that computes, and one that searches."""
    return [BiasRatio(), Invert(steps=300)]
