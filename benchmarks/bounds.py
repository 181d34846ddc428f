"""What no attacker exceeds: the figures of docs/defenses.md on bounds.

`python benchmarks/bounds.py [name ...]` prints JSON lines, then a table; without names, all.
"""

import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from parts import Row, printed
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from seepage import Batch, FedSGD, Images, Model, Noise, stream, zoo
from seepage.analysis import bounds, utility
from seepage.analysis.bounds import Channel, Gaussian

Array = np.ndarray[Any, Any]
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
        each = [limited_on_average(smooth_network(s, "relu"), std, prior) for s in range(5)]
        error = likeliest(smooth_network(0, "relu"), std, prior, labels_of_one(100), 3)
        drawn = ", ".join(f"{one:.4f}" for one in each)
        got = f"five draws of the weights {drawn} (MAP on the first {error:.4f})"
        yield f"rate bound, ReLU, sigma={std}", got
    one = bounds.private_records(prior, 1.0).psnr().value
    alone = -10 * math.log10(float(prior.spectrum.mean()))
    yield "ceiling at z=1, T=1 (prior alone)", f"{one:.2f} dB ({alone:.2f} dB)"


def limited_on_average(model: Model, std: float, prior: Gaussian) -> float:
    """The mean of the rate bound over the labels."""
    return sum(limited(model, std, prior, label) for label in range(10)) / 10


def limited(model: Model, std: float, prior: Gaussian, label: int) -> float:
    """The rate bound for one known label, by 2 x 1000 samples."""
    here = Channel(model, Noise(FedSGD(), std), prior, torch.tensor([label]))
    return bounds.any_network(here, 1000, 200, stream(label, "rate")).value


def rates_apart() -> Iterator[Row]:
    """The rate bound without the package: closed-form gradients, energies, water-filling."""
    prior, random = digits_prior(), np.random.default_rng(77)
    mean, covariance = prior.mean.numpy().reshape(-1), prior.covariance.numpy()
    root, sizes = np.linalg.cholesky(covariance), np.linalg.eigvalsh(covariance)
    for seed in range(5):
        first, second = (p.numpy() for p in smooth_network(seed, "relu").params.values())
        nats = []
        for label in range(10):
            x = mean + random.standard_normal((2000, len(mean))) @ root.T
            nats.append(told_at_most(by_hand(first, second, x, label), (0.3, 1.0)))
        apart = [np.mean([filled(sizes, one) for one in told]) for told in zip(*nats, strict=True)]
        joint = [filled(sizes, float(np.mean(told))) for told in zip(*nats, strict=True)]
        said = f"{apart[0]:.4f}, {apart[1]:.4f}; nats averaged first {joint[0]:.4f}, {joint[1]:.4f}"
        yield f"rate bound by hand, draw {seed}, sigma=.3, 1", said


def by_hand(first: Array, second: Array, x: Array, y: int) -> Array:
    """Each example's gradient of the cross-entropy of W2 relu(W1 x), flat."""
    before = x @ first.T
    hidden = np.maximum(before, 0)
    odds = np.exp(hidden @ second.T)
    error = odds / odds.sum(1, keepdims=True) - np.eye(10)[y]
    below = (error @ second) * (before > 0)
    layers = below[:, :, None] * x[:, None], error[:, :, None] * hidden[:, None]
    return np.concatenate([layer.reshape(len(x), -1) for layer in layers], 1)


def told_at_most(gradients: Array, stds: tuple[float, ...]) -> list[float]:
    """The nats let through: 200 directions from one half, their energies from the other."""
    one, two = np.split(gradients, 2)
    one, two = one - one.mean(0), two - one.mean(0)
    squares, sides = (part[..., -200:] for part in np.linalg.eigh(one @ one.T))
    along = np.square(two @ (one.T @ sides) / np.sqrt(squares)).mean(0)
    rest, left = np.square(two).sum(1).mean() - along.sum(), two.shape[1] - len(along)
    return [
        float(np.log1p(along / std**2).sum() + left * np.log1p(rest / left / std**2)) / 2
        for std in stds
    ]


def filled(sizes: Array, nats: float) -> float:
    """The mean of min(level, size) at the level that costs so many nats, by bisection."""
    low, high = -50.0, float(np.log(sizes).max())
    for _ in range(100):
        level = (low + high) / 2
        spent = np.maximum(np.log(sizes) - level, 0).sum() / 2
        low, high = (level, high) if spent > nats else (low, level)
    return float(np.minimum(sizes, math.exp(high)).mean())


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


PARTS = {
    "likeliest_and_bound": likeliest_and_bound,
    "likeliest_of_four": likeliest_of_four,
    "certificates": certificates,
    "rates": rates,
    "rates_apart": rates_apart,
    "costs": costs,
}


if __name__ == "__main__":
    printed(PARTS)
