"""Defenses, those who know them, and what no attacker exceeds: the figures of docs/defenses.md.

`python benchmarks/defenses.py [name ...]` prints JSON lines, then a table; without names, all.
"""

import dataclasses
import itertools
import json
import math
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from seepage import (
    DPSGD,
    Adaptive,
    Batch,
    Client,
    Dropout,
    FedSGD,
    Images,
    InstaHide,
    MixUp,
    Model,
    Noise,
    Prune,
    Quantize,
    Sign,
    Soteria,
    observe,
    stream,
    tradeoffs,
    zoo,
)
from seepage.analysis import bounds, utility
from seepage.analysis.bounds import Channel, Gaussian
from seepage.attacks.adaptive.attack import ways
from seepage.defenses.precode import precode
from seepage.guard import dp

Row = tuple[str, str]
FORM = Images((1, 8, 8), 10)


def digits_prior() -> Gaussian:
    """The normal distribution fitted to the first 900 digits."""
    from sklearn.datasets import load_digits

    images = torch.from_numpy(load_digits().images[:900]).double()[:, None] / 16
    return Gaussian.fit(images)


def smooth_network(seed: int, activation: str = "tanh") -> Model:
    """64-64-10 without bias, weights N(0, 1/fan-in), in double precision."""
    module, drawn = zoo.mlp(64, 64, 10, activation=activation, bias=False), stream(seed, "weights")
    for p in module.parameters():
        p.data.copy_(torch.randn(p.shape, generator=drawn) / p.shape[1] ** 0.5)
    return Model.of(module.double(), cross_entropy, FORM)


def learned(seed: int) -> tuple[Model, float]:
    """The same network trained until it is sure of its answers, with its accuracy on others."""
    model, train, test = smooth_network(seed), zoo.digits(898, split="public"), zoo.digits(899)
    module = model.with_params(model.params).module
    module.load_state_dict(model.state)
    optimizer = torch.optim.Adam(module.parameters(), 0.01)
    for _ in range(1000):
        optimizer.zero_grad()
        cross_entropy(module(train.x.double()), train.y).backward()
        optimizer.step()
    model = Model.of(module, cross_entropy, FORM)
    return model, utility.accuracy(model, Batch(test.x.double(), test.y))


def robustness() -> Iterator[Row]:
    """Acceptance 1 and 3: ceilings, the optimal attacker, and Monte Carlo."""
    yield "ReRo, M=100, z=1: bound", f"{bounds.rero(0.01, 1.0).value:.5f}"
    yield "optimum on orthogonal candidates", f"{bounds.optimal_naming(100, 1.0):.5f}"
    random, right, draws = np.random.default_rng(1), 0, 2_000_000
    for _ in range(draws // 100_000):
        seen = random.standard_normal((100_000, 100), dtype=np.float32)
        seen[:, 0] += 1
        right += int((seen.argmax(1) == 0).sum())
    yield "the same by 2e6 draws", f"{right / draws:.5f}"
    for rate, rounds in ((0.01, 100), (0.05, 200)):
        for kappa in (0.1, 0.01):
            exact = bounds.rero(kappa, 1.0, rounds, rate).value
            drawn = bounds.drawn(kappa, 1.0, rounds, rate, 200_000, 1)
            got = f"{exact:.4f} (drawn {drawn.interval[0]:.4f}, certified {drawn.value:.4f})"
            yield f"ReRo, q={rate}, T={rounds}, kappa={kappa}", got


def flower() -> Iterator[Row]:
    """Acceptance 2: what Flower's formula declares beside what holds."""
    for row in dp.flower_table():
        got = f"tight {row['tight']} (2C: {row['tight_replace']}), std {row['std']} needs "
        yield f"Flower, declared {row['declared']:g}", got + f"{row['std_needed']}"
    yield (
        "the claim is false above (C, 2C)",
        f"{dp.false_above():.2f}, {dp.false_above(factor=2):.4f}",
    )


SETTINGS: dict[str, tuple[Client, tuple[int, ...]]] = {
    "Prune .9": (Prune(FedSGD(), 0.9), (64, 128, 10)),
    "Prune .99": (Prune(FedSGD(), 0.99), (64, 128, 10)),
    "Quantize 2": (Quantize(FedSGD(), 2), (64, 128, 10)),
    "entry dropout .1": (Dropout(FedSGD(), 0.1, "entries"), (64, 128, 10)),
    "unit dropout .5": (Dropout(FedSGD(), 0.5), (64, 128, 64, 10)),
    "Soteria .5": (Soteria(FedSGD(), share=0.5), (64, 128, 64, 10)),
    "Sign": (Sign(FedSGD()), (64, 128, 10)),
    "Noise relative .1": (Noise(FedSGD(), 0.1, relative=True), (64, 128, 10)),
    "Noise relative 1": (Noise(FedSGD(), 1.0, relative=True), (64, 128, 10)),
}


def adaptive(n: int = 1, steps: int = 300, seeds: int = 6) -> Iterator[Row]:
    """Acceptance 4: mean PSNR of each way around each defense, digits at init, labels told."""
    for name, (client, sizes) in SETTINGS.items():
        found: dict[str, list[float]] = {}
        for seed in range(100, 100 + seeds):
            for way, decibels in attacked(client, sizes, seed, (n, steps)):
                found.setdefault(way, []).append(decibels)
        got = {way: round(sum(psnr) / len(psnr), 1) for way, psnr in found.items()}
        yield f"{name}, n={n}", json.dumps(got)


def attacked(
    client: Client, sizes: tuple[int, ...], seed: int, how: tuple[int, int]
) -> Iterator[tuple[str, float]]:
    """Every way, and at last the one of the lowest residual."""
    n, steps = how
    sample = zoo.digits(n, seed=seed)
    model = sample.model(zoo.mlp(*sizes, activation="tanh", seed=seed))
    tell = ("n", "y")
    seen = observe(model, sample.batch, client, stream(seed, "client"), tell=tell)
    inner, chosen = dataclasses.replace(Adaptive().inner, steps=steps), (math.inf, 0.0)
    for way in ways(seen):
        answer = Adaptive(inner, (way.name,))(seen, stream(seed, "attack"))
        psnr = -10 * (answer.x - sample.x).square().flatten(1).mean(1).log10()
        yield way.name, float(psnr.mean())
        chosen = min(chosen, (float(answer.residual[0]), float(psnr.mean())))
    yield "chosen", chosen[1]


def mixtures(seeds: int = 3) -> Iterator[Row]:
    """MixUp and InstaHide of digits with different labels: blind, and taken apart."""
    for (name, make), n in itertools.product((("MixUp", MixUp), ("InstaHide", InstaHide)), (2, 4)):
        found: dict[str, list[float]] = {"blind": [], "unmix": []}
        for seed in range(300, 300 + seeds):
            batch = different(n, seed)
            module = zoo.mlp(64, 128, 10, activation="tanh", seed=seed)
            model, rng = Model.of(module, cross_entropy, FORM), stream(seed, "client")
            seen = observe(model, batch, make(FedSGD(), k=2), rng, tell=("n", "y"))
            for way in found:
                answer = Adaptive(only=(way,))(seen, stream(seed, "attack"))
                found[way] += mse_decibels(answer.x, batch.x)
        said = {way: f"{np.mean(psnr):.1f} (least {min(psnr):.1f})" for way, psnr in found.items()}
        yield f"{name} k=2, n={n}", json.dumps(said)


def different(n: int, seed: int) -> Batch:
    """Digits of different classes."""
    batch = zoo.digits(200, seed=seed).batch
    y = [int(label) for label in batch.target]
    return batch[torch.tensor([y.index(label) for label in list(dict.fromkeys(y))[:n]])]


def mse_decibels(x: Tensor, truth: Tensor) -> list[float]:
    """The PSNR of each example, in its own place."""
    found: list[float] = (-10 * (x - truth).square().flatten(1).mean(1).log10()).tolist()
    return found


def bottleneck(seeds: int = 6) -> Iterator[Row]:
    """PRECODE on a network without biases: blind, its layers left out, its encoder read."""
    found: dict[str, list[float]] = {}
    for seed in range(100, 100 + seeds):
        sample = zoo.digits(1, seed=seed)
        plain = sample.model(zoo.mlp(64, 128, 64, 10, activation="tanh", bias=False, seed=seed))
        for name, model in (("undefended", plain), ("precode", precode(plain, code=32))):
            rng = stream(seed, "client")
            seen = observe(model, sample.batch, FedSGD("train"), rng, tell=("n", "y"))
            for way in ways(seen):
                answer = Adaptive(only=(way.name,))(seen, stream(seed, "attack"))
                label = name if name == "undefended" else way.name
                found.setdefault(label, []).extend(mse_decibels(answer.x, sample.x))
    yield "PRECODE, n=1", json.dumps({way: round(float(np.mean(v)), 1) for way, v in found.items()})


def batch_of_four() -> Iterator[Row]:
    """The same at n=4, 500 steps, for pruning."""
    yield from (row for row in adaptive(4, 500, 4) if row[0].startswith("Prune .9,"))


def likeliest(model: Model, std: float, prior: Gaussian, y: Tensor, seed: int) -> float:
    """The mean squared error of MAP from the prior's mean and one draw; each row of y a batch."""
    count = y.numel()
    x = prior.sample(count, stream(seed, "x")).view(*y.shape, *prior.mean.shape)
    gradient = torch.func.vmap(
        torch.func.grad(lambda p, x, y: model.risk(p, Batch(x, y))), (None, 0, 0)
    )

    def shared(x: Tensor) -> Tensor:
        return torch.cat([g.flatten(1) for g in gradient(dict(model.params), x, y).values()], 1)

    clean = shared(x)
    seen = clean + std * torch.randn(clean.shape, generator=stream(seed, "n"), dtype=clean.dtype)

    def energy(u: Tensor) -> Tensor:
        apart = (u - prior.mean).flatten(2)
        belief = (apart @ prior.precision * apart).sum((1, 2)) / 2
        return (shared(u) - seen).square().sum(1) / (2 * std**2) + belief

    best, lowest = x, torch.full(y.shape[:1], torch.inf, dtype=x.dtype)
    other = prior.sample(count, stream(seed, "start")).view(x.shape)
    for start in (prior.mean.expand(x.shape), other):
        u = descended(energy, start.clone())
        level = energy(u).detach()
        better = level < lowest
        best = torch.where(better.view(-1, 1, 1, 1, 1), u, best)
        lowest = level.minimum(lowest)
    return float((best - x).square().mean())


def descended(energy: Callable[[Tensor], Tensor], u: Tensor) -> Tensor:
    """400 steps of Adam, .05 annealed."""
    u.requires_grad_()
    optimizer = torch.optim.Adam([u], 0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 400)
    for _ in range(400):
        optimizer.zero_grad()
        energy(u).sum().backward()
        optimizer.step()
        schedule.step()
    return u.detach()


def by_label(model: Model, std: float, prior: Gaussian, y: Tensor) -> float:
    """The bound's mean over known labels, by 100 samples of each."""
    values = []
    for label in range(10):
        here = Channel(model, Noise(FedSGD(), std), prior, torch.tensor([label]))
        found = bounds.plug_in(here, 100, stream(label, "bound")).value
        values.append(found * float((y == label).double().mean()))
    return sum(values)


def likeliest_and_bound() -> Iterator[Row]:
    """Acceptance 5: MAP over the Bayesian Cramer-Rao bound at initialisation."""
    prior, model, y = digits_prior(), smooth_network(0), labels_of_one(100)
    for std in (0.01, 0.03, 0.1, 0.3, 1.0):
        error = likeliest(model, std, prior, y, 3)
        bound = by_label(model, std, prior, y.flatten())
        yield f"MAP/bound, sigma={std}", f"{error / bound:.3f} ({error:.3g} / {bound:.3g})"


def labels_of_one(draws: int) -> Tensor:
    """Any label for each batch of one."""
    return torch.randint(10, (draws, 1), generator=stream(3, "y"))


def likeliest_of_four(draws: int = 24) -> Iterator[Row]:
    """The same for batches of four, each beside its own bound.

    Their labels are known and differ: of two examples with one label no update tells which is
    which, and an attacker who has both, but in the other order, has all the error there is.
    """
    prior, model, order = digits_prior(), smooth_network(0), stream(3, "labels")
    y = torch.stack([torch.randperm(10, generator=order)[:4] for _ in range(draws)])
    for std in (0.01, 0.03, 0.1, 0.3, 1.0):
        error = likeliest(model, std, prior, y, 3)
        values = [
            bounds.plug_in(
                Channel(model, Noise(FedSGD(), std), prior, labels, 4), 12, stream(i, "bound")
            ).value
            for i, labels in enumerate(y[:8])
        ]
        bound = sum(values) / len(values)
        yield f"MAP/bound, B=4, sigma={std}", f"{error / bound:.3f} ({error:.3g} / {bound:.3g})"


def certificates() -> Iterator[Row]:
    """Acceptance 6: a trained network, where few samples mislead the plug-in."""
    prior, (model, accuracy) = digits_prior(), learned(0)
    yield "accuracy of the trained network", f"{accuracy:.3f}"
    here = Channel(model, Noise(FedSGD(), 0.01), prior, torch.tensor([3]))
    truth = bounds.plug_in(here, 2000, stream(0, "truth")).value
    yield "bound at sigma=.01, 2000 samples", f"{truth:.3g}"
    for few in (1, 8, 64):
        found = [bounds.plug_in(here, few, stream(s, "few")).value for s in range(10)]
        yield f"plug-in / truth, S={few}", f"{sum(found) / 10 / truth:.2f}"
    found = [bounds.certificate(here, (128, 256), stream(s, "split")).value for s in range(20)]
    over = sum(value > truth for value in found)
    yield (
        "certificates (128, 256) above the truth",
        f"{over} of 20, {np.mean(found) / truth:.2f} of it",
    )


def rates() -> Iterator[Row]:
    """Acceptance 7: the rate bound of ReLU networks, and of private records."""
    prior = digits_prior()
    for std in (0.3, 1.0):
        each = []
        for seed in range(5):
            model = smooth_network(seed, "relu")
            labels = range(10) if seed == 0 else (0, 2, 5, 8)
            each.append(np.mean([limited(model, std, prior, label) for label in labels]))
        error = likeliest(smooth_network(0, "relu"), std, prior, labels_of_one(100), 3)
        drawn = f"five draws of the weights {min(each):.4f} to {max(each):.4f}"
        got = f"{each[0]:.4f} (MAP {error:.4f}); {drawn}, mean {np.mean(each):.4f}"
        yield f"rate bound, ReLU, sigma={std}", got
    one = bounds.private_records(prior, 1.0).psnr().value
    alone = -10 * math.log10(float(prior.spectrum.mean()))
    yield "ceiling at z=1, T=1 (prior alone)", f"{one:.2f} dB ({alone:.2f} dB)"


def limited(model: Model, std: float, prior: Gaussian, label: int) -> float:
    """The rate bound for one known label, by 2 x 1000 samples."""
    here = Channel(model, Noise(FedSGD(), std), prior, torch.tensor([label]))
    return bounds.any_network(here, 1000, 200, stream(label, "rate")).value


def convolutional() -> Model:
    """Two convolutions and a linear layer, smooth, on digits."""
    module = nn.Sequential(
        *(nn.Conv2d(1, 32, 3, padding=1), nn.Tanh(), nn.Conv2d(32, 64, 3, padding=1), nn.Tanh()),
        *(nn.Flatten(), nn.Linear(64 * 64, 19), nn.Tanh(), nn.Linear(19, 10)),
    )
    return Model.of(module.double(), cross_entropy, FORM)


def costs() -> Iterator[Row]:
    """Acceptance 8: what bounds cost, in iterations of an attack."""
    yield "cost in attack iterations, MLP, n=1", cost(smooth_network(0), 1)
    yield "cost in attack iterations, convolutions, n=4", cost(convolutional(), 4)


def cost(model: Model, n: int) -> str:
    """A trace by 32 probes and 64 Lanczos steps, each at the best of three."""
    here = Channel(model, Noise(FedSGD(), 0.1), digits_prior(), torch.arange(n), n)
    once = min(seconds(lambda: iterations(here, 20)) for _ in range(3)) / 20
    trace = min(seconds(lambda: bounds.cheap(here, 1, 32, stream(0, "c"))) for _ in range(3))
    krylov = min(seconds(lambda: bounds.lanczos(here, 1, stream(0, "c"))) for _ in range(3))
    return f"trace {trace / once:.0f}, Lanczos {krylov / once:.0f}"


def iterations(here: Channel, count: int) -> None:
    """So many steps of gradient matching: the update, its distance, the slope in x."""
    x, goal = here.sample(stream(0, "x")), here.gradient(here.sample(stream(1, "x"))).detach()
    for _ in range(count):
        leaf = x.requires_grad_()
        distance = (here.gradient(leaf) - goal).square().sum()
        (slope,) = torch.autograd.grad(distance, leaf)
        x = (x - 1e-3 * slope).detach()


def seconds(work: Callable[[], object]) -> float:
    """CPU seconds."""
    start = time.process_time()
    work()
    return time.process_time() - start


CLIENTS: dict[str, Client] = {
    "none": FedSGD(),
    "Noise relative 3": Noise(FedSGD(), 3.0, relative=True),
    "Prune .9": Prune(FedSGD(), 0.9),
    "Prune .99": Prune(FedSGD(), 0.99),
    "Sign": Sign(FedSGD()),
    "Quantize 2": Quantize(FedSGD(), 2),
    "unit dropout .5": Dropout(FedSGD(), 0.5),
    **{f"DPSGD C=1, z={z}": DPSGD(1.0, z) for z in (0.1, 0.5, 1.0, 2.0)},
}


def accuracies() -> Iterator[Row]:
    """Section 4: accuracy under each client, its rate tuned, seeds paired."""
    one, two = zoo.digits(898, split="public"), zoo.digits(899)
    data = utility.Splits.of(Batch(torch.cat([one.x, two.x]), torch.cat([one.y, two.y])))
    none = None
    for name, client in CLIENTS.items():
        found = utility.utility(
            client,
            lambda seed: one.model(zoo.mlp(64, 128, 10, activation="tanh", seed=seed)),
            data,
            none=none,
        )
        none = none or found
        low, high = found.interval
        got = f"{found.mean:.3f}, cost {found.loss:.3f} [{low:.3f}, {high:.3f}]"
        yield f"accuracy, {name}", got + (" (edge of the grid)" if found.edge else "")


PRICED: dict[str, Client] = {
    name: CLIENTS[name]
    for name in ("none", "Noise relative 3", "Prune .99", "Sign", "DPSGD C=1, z=1.0")
}


def other_tasks() -> Iterator[Row]:
    """Section 4 on photographs by class, faces, a table, and made-up reviews."""
    for name in ("photos", "faces", "table", "reviews"):
        task, none = tradeoffs.named(name), None
        for label, client in PRICED.items():
            found = utility.utility(client, task.make, task.data, none=none)
            none = none or found
            low, high = found.interval
            spread = f"{min(found.accuracy):.3f} to {max(found.accuracy):.3f}"
            edge = " (edge of the grid)" if found.edge else ""
            cost = f"cost {found.loss:.3f} [{low:.3f}, {high:.3f}]"
            yield f"{name}, {label}", f"{found.mean:.3f} ({spread}), {cost}{edge}"


PARTS = {
    "robustness": robustness,
    "flower": flower,
    "adaptive": adaptive,
    "batch_of_four": batch_of_four,
    "mixtures": mixtures,
    "bottleneck": bottleneck,
    "likeliest_and_bound": likeliest_and_bound,
    "likeliest_of_four": likeliest_of_four,
    "certificates": certificates,
    "rates": rates,
    "costs": costs,
    "accuracies": accuracies,
    "other_tasks": other_tasks,
}


if __name__ == "__main__":
    torch.set_num_threads(1)
    rows = []
    for part in sys.argv[1:] or PARTS:
        for name, got in PARTS[part]():
            print(json.dumps({"part": part, "name": name, "got": got}), flush=True)
            rows.append((name, got))
    for name, got in rows:
        print(f"| {name} | {got} |")
