"""Labels from the last layer: which rule finds them, on networks trained or not.

Zhao et al. 2020 (one example), Yin et al. 2021 (no duplicates), Wainakh et al. 2021 (impact),
and counts k_c = n (p_c - gb_c) under several guesses of p. Digits, ReLU MLP 64-128-64-10, labels
drawn uniformly, share of labels found beside chance.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from seepage import zoo
from seepage.attacks import Chance, Counts, Impact, Yin, labels
from seepage.attacks.head import head_of
from seepage.attacks.labels import Rule
from seepage.clients import FedSGD
from seepage.core import Batch, Observation, observe, stream
from seepage.papers.claims import Claim
from seepage.papers.rounds import trained
from seepage.zoo import Sample

RULES: dict[str, Rule] = {
    "chance": Chance(),
    "Yin": Yin(),
    "Impact": Impact(),
    "uniform": Counts("uniform"),
    "noise": Counts("noise"),
    "features": Counts("features"),
}


def reproduce(quick: bool, folder: Path | None) -> Iterator[Claim]:  # noqa: ARG001
    """The table, network by network; the quick form draws 10 batches in place of 30."""
    private, draws = zoo.digits(800), 10 if quick else 30
    for name, accuracy, sizes in (
        ("untrained", 0.0, (1, 8, 32)),
        ("75 % accurate", 0.75, (8, 32)),
        ("92 % accurate", 0.92, (8, 32)),
    ):
        module = network(accuracy)
        for n in sizes:
            yield _claim(name, n, table(private, module, n, draws), draws)


def network(accuracy: float, seed: int = 0) -> nn.Module:
    """The MLP, trained on public digits until it is this accurate there."""
    module = zoo.mlp(64, 128, 64, 10, activation="relu", seed=seed)
    public = zoo.digits(800, split="public")
    return trained(module, public, accuracy, seed) if accuracy else module


def table(private: Sample, module: nn.Module, n: int, draws: int) -> dict[str, float]:
    """The mean share of labels found by each rule, and by the counts with the true p."""
    found = dict.fromkeys([*RULES, "true p"], 0.0)
    for seed in range(draws):
        seen, batch = _observed(private, module, n, seed)
        for name, rule in RULES.items():
            guess = _capped(rule, seen, n, seed)
            found[name] += labels.overlap(guess, batch.target) / draws
        exact = _true(seen, batch)
        found["true p"] += labels.overlap(exact, batch.target) / draws
    return found


def _observed(private: Sample, module: nn.Module, n: int, seed: int) -> tuple[Observation, Batch]:
    """A batch with labels drawn uniformly, each example one of its label's."""
    rng = stream(seed, "labels")
    wanted = torch.randint(10, (n,), generator=rng).tolist()
    pools = [(private.y == c).nonzero()[:, 0] for c in range(10)]
    places = [int(pools[c][int(torch.randint(len(pools[c]), (), generator=rng))]) for c in wanted]
    batch = private.batch[torch.tensor(places)]
    model = private.model(module)
    return observe(model, batch, FedSGD(), stream(seed, "client")), batch


def _capped(rule: Rule, seen: Observation, n: int, seed: int) -> torch.Tensor:
    """Yin's rule names ten labels at most; beyond them it has no more to say."""
    known = min(n, seen.model.form.classes) if isinstance(rule, Yin) else n
    guess = rule(seen, known, stream(seed, "attack"))
    return guess if len(guess) == n else torch.cat([guess, guess.new_full((n - known,), -1)])


def _true(seen: Observation, batch: Batch) -> torch.Tensor:
    head, n = head_of(seen), len(batch)
    predicted = labels.mean_prediction(seen, batch.x)
    gradient = head.bias_gradient
    assert gradient is not None
    return labels.rounded(n * (predicted - gradient), n)


def _claim(name: str, n: int, found: dict[str, float], draws: int) -> Claim:
    got = ", ".join(f"{rule} {share:.2f}" for rule, share in found.items())
    exact = found["true p"] > 1 - 1e-9
    return Claim(
        f"share of {n} labels, {name} network",
        "with the true p every label is found (derived)",
        got,
        "confirmed" if exact else "not confirmed",
        f"{draws} draws, digits, MLP 64-128-64-10; chance is a uniform guess",
    )
