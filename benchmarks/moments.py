"""Success rates, errors and CPU seconds of Span and Moments: benchmarks/moments.py [PART [SHIFT]].

Prints one JSON line a row, then a table. Parts: span, relu, peel, noise, moments, polish, memory,
further, all. SHIFT (0) is added to every seed: 1000 gives batches and weights that no one tuned on.
"""

import itertools
import json
import math
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from seepage import zoo
from seepage.attacks import Moments, Span
from seepage.clients import FedAvg, FedSGD
from seepage.core import Attack, Batch, Client, Model, Observation, Reconstruction, observe, stream
from seepage.forms import Images
from seepage.papers.two_layer import Jitter, Scene, direction_error, wide

Row = dict[str, object]
SHIFT = int(sys.argv[2]) if len(sys.argv) > 2 else 0
LAYERS = {"selu": nn.SELU, "leaky": nn.LeakyReLU}


def seeds(count: int) -> range:
    """As many seeds, from the shift on."""
    return range(SHIFT, SHIFT + count)


def relative_error(answer: Reconstruction, truth: Tensor) -> float:
    """The largest relative distance of a truth to the candidate assigned to it."""
    if len(answer.x) < len(truth):
        return math.inf
    found, mode = answer.x.double().flatten(1), "donot_use_mm_for_euclid_dist"
    distance = torch.cdist(truth.double(), found, compute_mode=mode)
    distance = distance / truth.double().norm(dim=1, keepdim=True)
    return float(distance[linear_sum_assignment(distance.clamp_min(1e-16).log().numpy())].max())


@dataclass(frozen=True)
class Sizes:
    """A batch of n in d columns through h hidden units to C classes."""

    n: int
    d: int
    h: int
    classes: int = 10


def default(activation: str, sizes: Sizes, seed: int, data: str = "uniform") -> Scene:
    """PyTorch's initial weights, biases, a softmax head; uniform inputs or handwritten digits."""
    form = Images((1, 1, sizes.d), sizes.classes)
    if data == "digits":
        sample = zoo.digits(sizes.n, seed=seed)
        batch, form = Batch(sample.x.double(), sample.y), sample.form
    else:
        draw = stream(seed, "benchmark")
        x = torch.rand((sizes.n, 1, 1, sizes.d), generator=draw, dtype=torch.float64)
        batch = Batch(x, torch.randint(sizes.classes, (sizes.n,), generator=draw))
    kind = LAYERS.get(activation, activation)
    net = zoo.mlp(sizes.d, sizes.h, sizes.classes, activation=kind, seed=seed).double()
    return Scene(Model.of(net, nn.functional.cross_entropy, form), batch)


def measured(label: str, scenes: list[Scene], attack: Attack, client: Client, limit: float) -> Row:
    """How often an attack succeeds on these scenes, and how often it claims what it has not."""
    errors, starts, seconds, false = [], [], [], 0
    for seed, scene in enumerate(scenes):
        seen = observe(scene.model, scene.batch, client, stream(seed, "client"))
        began = time.process_time()
        answer = attack(seen, stream(seed, "attack"))
        seconds.append(time.process_time() - began)
        lines = isinstance(attack, Moments) or "signs" in answer.note
        errors.append((direction_error if lines else relative_error)(answer, scene.x))
        starts.append(answer.trace.get("starts", answer.trace.get("restarts", 0)))
        claimed = answer.note == "" or answer.note.startswith("rank")
        false += claimed and errors[-1] > max(limit, 1e-4)
    good = sum(error <= limit for error in errors)
    return {
        "what": label,
        "recovered": f"{good}/{len(errors)}",
        "median error": median(errors),
        "worst error": max(errors),
        "claimed but wrong": f"{false}/{len(errors)}",
        "median starts": median(starts),
        "median CPU s": round(median(seconds), 2),
    }


def span() -> Iterator[Row]:
    """Smooth activations with one output, with ten classes, on digits, and in float32."""
    for name, d, n, h in [("gelu", 3072, 4, 64), ("gelu", 784, 8, 1024), ("elu", 784, 8, 1024),
                          ("softplus", 784, 8, 1024), ("tanh", 784, 8, 1024),
                          ("elu", 3072, 4, 64), ("sigmoid", 784, 8, 1024)]:  # fmt: skip
        scenes = [wide(name, (n, d, h), 100 + seed) for seed in seeds(4)]
        yield measured(f"A5 {name} C=1 d={d} B={n} h={h}", scenes, Span(), FedSGD(), 1e-6)
    for name, (n, d, h) in itertools.product(("gelu", "tanh"), [(4, 784, 256), (8, 64, 128),
                                                                (16, 784, 512)]):  # fmt: skip
        scenes = [default(name, Sizes(n, d, h), 200 + seed) for seed in seeds(3)]
        yield measured(f"A6 {name} d={d} B={n} h={h}", scenes, Span(), FedSGD(), 1e-8)
        singles = [single(scene) for scene in scenes]
        yield measured(f"A6 {name} d={d} B={n} h={h} float32", singles, Span(), FedSGD(), 1e-4)
    for name in ("gelu", "elu", "silu", "tanh", "softplus", "sigmoid"):
        scenes = [default(name, Sizes(8, 64, 512), 300 + seed, "digits") for seed in seeds(5)]
        yield measured(f"A6 {name} digits B=8 h=512", scenes, Span(), FedSGD(), 1e-8)


def single(scene: Scene) -> Scene:
    """The same scene in float32."""
    module = scene.model.module.float()
    model = Model.of(module, scene.model.loss, scene.model.form)
    model = model.with_params({name: p.float() for name, p in scene.model.params.items()})
    return Scene(model, Batch(scene.batch.x.float(), scene.batch.y))


def relu() -> Iterator[Row]:
    """ReLU at default initialisation and with one output."""
    for n in (4, 8):
        scenes = [default("relu", Sizes(n, 784, 512), 400 + seed) for seed in seeds(6)]
        yield measured(f"A7 relu d=784 B={n} h=512", scenes, Span(), FedSGD(), 1e-8)
    scenes = [default("relu", Sizes(4, 64, 512), 410 + seed, "digits") for seed in seeds(6)]
    yield measured("A7 relu digits B=4 h=512", scenes, Span(), FedSGD(), 1e-8)
    scenes = [wide("relu", (8, 3072, 64), 420 + seed) for seed in seeds(6)]
    yield measured("A7 relu C=1 d=3072 B=8 h=64", scenes, Span(), FedSGD(), 1e-6)


def peel() -> Iterator[Row]:
    """ReLU at default initialisation in larger batches: which come off unit by unit."""
    for n in (16, 32, 64):
        scenes = [default("relu", Sizes(n, 784, 512), 430 + seed) for seed in seeds(4)]
        yield measured(f"relu d=784 B={n} h=512", scenes, Span(), FedSGD(), 1e-8)
    for n in (8, 16, 32):
        scenes = [default("relu", Sizes(n, 64, 512), 440 + seed, "digits") for seed in seeds(6)]
        yield measured(f"relu digits B={n} h=512", scenes, Span(), FedSGD(), 1e-8)
    for n in (8, 16, 32):
        scenes = [crops(n, 450 + seed) for seed in seeds(6)]
        yield measured(f"relu crops 3x32x32 B={n} h=512", scenes, Span(), FedSGD(), 1e-8)
        singles = [single(scene) for scene in scenes]
        yield measured(f"the same, float32, B={n}", singles, Span(starts=1), FedSGD(), 1e-4)
    for n in (8, 16, 32):
        scenes = [crops(n, 460 + seed, normalised=True) for seed in seeds(4)]
        yield measured(f"relu normalised crops B={n}", scenes, Span(starts=2), FedSGD(), 1e-8)
    for n in (4, 8, 16):
        scenes = [deep(n, 470 + seed) for seed in seeds(4)]
        yield measured(f"relu 100-512-256-256-128-10 B={n}", scenes, Span(starts=6), FedSGD(), 1e-6)
    for n in (8, 16, 32):
        scenes = [default("leaky", Sizes(n, 784, 512), 480 + seed) for seed in seeds(4)]
        yield measured(f"leaky .01 d=784 B={n} h=512", scenes, Span(), FedSGD(), 1e-8)


def crops(n: int, seed: int, normalised: bool = False) -> Scene:
    """Crops of photographs, in [0, 1] or brought to mean 0 and variance 1 as networks often ask."""
    sample = zoo.photos(n, 32, seed=seed).relabelled(10)
    x, form = sample.x.double(), sample.form
    if normalised:
        x, form = (x - 0.45) / 0.25, Images(form.shape, 10, low=-1.8, high=2.2)
    net = zoo.mlp(3072, 512, 10, activation="relu", seed=seed).double()
    return Scene(Model.of(net, nn.functional.cross_entropy, form), Batch(x, sample.y))


def deep(n: int, seed: int) -> Scene:
    """Five fully connected layers, whose features nearly coincide at default initialisation."""
    scene = default("relu", Sizes(n, 100, 512), seed)
    net = zoo.mlp(100, 512, 256, 256, 128, 10, activation="relu", seed=seed).double()
    return Scene(Model.of(net, nn.functional.cross_entropy, scene.model.form), scene.batch)


def noise() -> Iterator[Row]:
    """Noise of a share of each tensor's spread."""
    for share, limit in ((1e-4, 1e-4), (1e-2, 1e-2), (0.1, 0.1)):
        scenes = [default("gelu", Sizes(4, 64, 512), 500 + seed) for seed in seeds(10)]
        yield measured(f"A8 gelu s={share}", scenes, Span(), Jitter(FedSGD(), share), limit)


def moments() -> Iterator[Row]:
    """The estimator alone on unit inputs in 64 columns."""
    for name, m, limit in (("relu", 20_000, 0.2), ("relu", 200_000, 0.06), ("gelu", 200_000, 0.06),
                           ("elu", 200_000, 0.07), ("selu", 200_000, 0.07),
                           ("tanh", 200_000, 0.07), ("sigmoid", 200_000, 0.08)):  # fmt: skip
        scenes = [wide(LAYERS.get(name, name), (4, 64, m), 600 + seed) for seed in seeds(3)]
        rough = Moments(polish=False)
        yield measured(f"A1 {name} m={m} unpolished", scenes, rough, FedSGD(), limit)


def polish() -> Iterator[Row]:
    """The estimator polished on the exact equations, without and with noise."""
    for name in ("relu", "gelu", "elu"):
        scenes = [wide(name, (4, 64, 20_000), 700 + seed) for seed in seeds(26)]
        yield measured(f"A3 {name} m=2e4 polished", scenes, Moments(), FedSGD(), 1e-6)
    for name in ("relu", "gelu", "elu"):
        scenes = [wide(name, (4, 64, 20_000), 800 + seed) for seed in seeds(14)]
        client = Jitter(FedSGD(), 0.1)
        yield measured(f"A3 {name} m=2e4 s=.1", scenes, Moments(), client, 0.05)


def memory() -> Iterator[Row]:
    """The peak of memory at 784 columns and 50 000 hidden units in float32: run this part alone."""
    imports = resident()
    draw, columns, units = stream(0, "memory"), 784, 50_000
    net = zoo.mlp(columns, units, 1, activation="relu", bias=False, seed=0)
    with torch.no_grad():
        net[1].weight.normal_()
        net[3].weight.fill_(1 / units)
    x = torch.randn(4, columns, generator=draw) / columns**0.5
    slopes = torch.tensor([1.0, -1.2, 0.7, -0.5])
    with torch.no_grad():
        update = {"linear2.weight": slopes[None] @ torch.relu(net[1](x))}
    form = Images((1, 28, 28), classes=1, low=-1)
    params = {name: p.detach() for name, p in net.named_parameters()}
    model = Model(net.eval(), params, {}, zoo.squared_loss, form)
    seen = Observation(model, FedSGD(), update, 4)
    before = resident()
    began = time.process_time()
    answer = Moments(polish=False)(seen, stream(0, "attack"))
    seconds, error = round(time.process_time() - began, 1), direction_error(answer, x)
    yield {"what": "A10 relu d=784 m=50000 B=4, unpolished", "peak MB": resident(),
           "before the attack": before, "after the imports": imports, "error": error,
           "CPU s": seconds}  # fmt: skip


def resident() -> int:
    """The most memory that this process has held so far, in MB."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def further() -> Iterator[Row]:
    """Beyond the published settings."""
    for name in ("selu", "sigmoid", "softplus"):
        scenes = [default(name, Sizes(8, 784, 512), 900 + seed) for seed in seeds(4)]
        yield measured(f"{name} d=784 B=8 h=512", scenes, Span(), FedSGD(), 1e-8)
    for n in (8, 16):
        scenes = [pooler(n, 920 + seed) for seed in seeds(2)]
        yield measured(f"BERT pooler (768, tanh, 768) B={n}", scenes, Span(), FedSGD(), 1e-6)
    for epochs, lr in ((1, 0.1), (2, 0.001), (2, 0.1)):
        scenes = [default("gelu", Sizes(4, 784, 256), 940 + seed) for seed in seeds(3)]
        client = FedAvg(epochs=epochs, lr=lr)
        yield measured(f"gelu FedAvg {epochs} x lr={lr}", scenes, Span(starts=8), client, 1e-2)


def pooler(n: int, seed: int) -> Scene:
    """The inputs of BERT's pooler as layer normalisation leaves them, and its initial weights."""
    scene, draw = default("tanh", Sizes(n, 768, 768, 2), seed), stream(seed, "pooler")
    x = torch.randn((n, 1, 1, 768), generator=draw, dtype=torch.float64)
    params = {
        name: 0.02 * torch.randn(p.shape, generator=draw) if p.ndim == 2 else torch.zeros(p.shape)
        for name, p in scene.model.params.items()
    }
    return Scene(scene.model.with_params(params), Batch(x, scene.batch.y))


PARTS = {f.__name__: f for f in (span, relu, peel, noise, moments, polish, memory, further)}


def shown(cell: object) -> str:
    """A cell of the table."""
    if not isinstance(cell, float):
        return str(cell)
    return f"{cell:.1e}" if 0 < abs(cell) < 0.01 else f"{cell:.3g}"


def main() -> None:
    torch.set_num_threads(1)
    wanted = sys.argv[1] if len(sys.argv) > 1 else "all"
    rows = []
    for name, part in PARTS.items():
        for row in part() if wanted in (name, "all") else ():
            print(json.dumps(row), flush=True)
            rows.append(row)
    for keys, group in itertools.groupby(rows, key=tuple):
        print(f"\n| {' | '.join(keys)} |\n|{'---|' * len(keys)}")
        for row in group:
            print(f"| {' | '.join(map(shown, row.values()))} |")


if __name__ == "__main__":
    main()
