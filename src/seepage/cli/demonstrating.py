"""`seepage demo`: four photographs, and four sentences, and what leaks of them."""

import dataclasses
from pathlib import Path

import typer
from torch import nn

from seepage import zoo
from seepage.attacks import BiasRatio, Invert, TokenSpan
from seepage.auditing import Plan, audit
from seepage.cli import auditing, screen
from seepage.clients import FedAvg, FedSGD
from seepage.core import Attack, Client
from seepage.defenses import Clip, Noise, Prune, Quantize
from seepage.forms import Tokens
from seepage.integrations import small_bert
from seepage.report import Report

_SIZE, _PHOTOS, _SENTENCES = 32, 4, 4


def run(out: Path, workers: int) -> None:
    """Audit the examples, write a report of each, and print its table and verdict."""
    executor = auditing.executor(workers, 1)
    with screen.trials() as progress:
        _shown(photographs(Plan(store=out, executor=executor, progress=progress)), out)
    if not small_bert.available():
        screen.note("Sentences are part of the demo with: pip install 'seepage[text]'")
        return
    out = out / "sentences"
    with screen.trials() as progress:
        _shown(sentences(Plan(store=out, executor=executor, progress=progress)), out)


def _shown(report: Report, out: Path) -> None:
    page = report.save(out / "report.html")
    typer.echo(str(report))
    screen.note(f"Report: {page}")


def photographs(plan: Plan) -> Report:
    """What a small network's clients leak of four photographs."""
    private = zoo.photos(_PHOTOS, _SIZE)
    network = zoo.mlp(3 * _SIZE * _SIZE, 256, private.form.classes, seed=0)
    model = private.model(network, nn.functional.cross_entropy)
    public = zoo.photos(64, _SIZE, split="public").x
    plan = dataclasses.replace(plan, public=public)
    return audit(model, private.batch, None, clients(), attacks(), plan)


def sentences(plan: Plan) -> Report:
    """What a small BERT's clients leak of four sentences."""
    private = zoo.sentences(_SENTENCES)
    assert isinstance(private.form, Tokens)
    plan = dataclasses.replace(plan, public=zoo.sentences(16, split="public").batch.x)
    exact = TokenSpan()
    noisy = TokenSpan(tolerance=0.3, accept=0.03, rank="spectrum", budget=1000)
    plain = FedSGD()
    shared: list[Client] = [
        plain,
        FedAvg(epochs=2, lr=0.05),
        Quantize(plain, bits=16),
        Prune(plain, ratio=0.9),
    ]
    model = small_bert.small_bert(private.form)
    return audit(model, private.batch, None, shared, [exact, noisy], plan)


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
