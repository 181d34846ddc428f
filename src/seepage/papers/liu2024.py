"""Data Reconstruction Attacks and Defenses: A Systematic Evaluation.

Liu, Wang, Chen and Lei 2024, arXiv 2402.09478: defenses are compared at equal loss of utility by
the strongest attack on each, and features of deeper networks, recovered by tensor methods from the
last two layers, guide gradient matching. The paper's tables are not available to us, so figures
are measured on small networks that are really trained; its claim that gradient pruning is the
strongest defense is put to the test.
"""

import itertools
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import mean

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from seepage import zoo
from seepage.attacks import TV, Invert, Recovered, Span
from seepage.attacks.span import LayerInputs, features
from seepage.clients import FedSGD
from seepage.core import observe, stream
from seepage.papers.claims import Claim
from seepage.papers.equal_utility import similarity, trade_off

# Chosen on other batches. Features of an untrained ResNet nearly coincide: .03 spoils the search.
_WEIGHTS = {"two convolutions": 0.03, "ResNet-18": 0.001}
_STEPS = {"two convolutions": 200, "ResNet-18": 80}


def reproduce(quick: bool, folder: Path | None) -> Iterator[Claim]:
    """Features of deeper networks, matching with them, and the trade-off of defenses."""
    for activation in (nn.ReLU, nn.GELU):
        yield _deep_features(activation, quick)
    yield _with_features("two convolutions", 4, quick)
    for n in (2,) if quick else (1, 2):
        yield _with_features("ResNet-18", n, quick)
    yield from trade_off(quick, folder)


def _deep_features(activation: Callable[[], nn.Module], quick: bool) -> Claim:
    sizes, seeds = ((2, 4), 1) if quick else ((2, 4, 8), 3)
    parts = []
    for n in sizes:
        errors = [_features_missed(activation, n, 3 + seed) for seed in range(seeds)]
        right = sum(error < 1e-3 for error in errors)
        parts.append(f"B={n}: {right} of {seeds} right, at worst {max(errors):.0e}")
    return Claim(
        f"features of ResNet-18 under a {type(activation()).__name__} head, relative error",
        "not available",
        "; ".join(parts),
        "measured",
        "float32 update, photographs of 32 pixels, untrained; a second dense layer is added to the "
        "head, as in the paper, for ResNets have one; 'inf' where Span says that it failed",
    )


def _features_missed(activation: Callable[[], nn.Module], n: int, seed: int) -> float:
    photos = zoo.photos(n, 32, seed=seed).relabelled(10)
    model = photos.model(_two_layer_head(activation))
    seen = observe(model, photos.batch, FedSGD(), stream(0, "client"))
    found = features(seen, stream(0, "attack"), Span(starts=6))
    return math.inf if found is None else _feature_error(found, photos.x)


def _two_layer_head(activation: Callable[[], nn.Module]) -> nn.Sequential:
    """ResNet-18 with one dense layer more."""
    body = zoo.resnet18(seed=0)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        head = (nn.Linear(512, 256), activation(), nn.Linear(256, 10))
        return nn.Sequential(*list(body.children())[:-1], *head)


def _feature_error(found: LayerInputs, x: Tensor) -> float:
    with torch.no_grad():
        truth = found.of(x).double()
    distance = torch.cdist(truth, found.values.double()) / truth.norm(dim=1, keepdim=True)
    rows, columns = linear_sum_assignment(distance.numpy())
    return float(distance[rows, columns].max())


def _with_features(name: str, n: int, quick: bool) -> Claim:
    """Matching without and with recovered features, on the same batches for as many steps."""
    deep = name == "ResNet-18"
    steps = 12 if deep and quick else _STEPS[name]
    crops = (20,) if quick else (20, 21, 22)
    priors = {"alone": (TV(1e-3),), "guided": (TV(1e-3), Recovered(_WEIGHTS[name]))}
    shares = {kind: list[float]() for kind in priors}
    seconds = dict.fromkeys(priors, 0.0)
    for seed, kind in itertools.product(crops, priors):
        photos = zoo.photos(n, 16, seed=seed).relabelled(10)
        model = photos.model(_two_layer_head(nn.ReLU) if deep else _convolutional(seed))
        seen = observe(model, photos.batch, FedSGD(), stream(seed, "client"), tell=("n", "y"))
        began = time.process_time()
        answer = Invert(priors=priors[kind], steps=steps)(seen, stream(seed, "attack"))
        seconds[kind] += time.process_time() - began
        shares[kind].append(similarity(answer, photos.x, None))
    better = sum(g > a for a, g in zip(shares["alone"], shares["guided"], strict=True))
    told = ", ".join(
        f"{kind} {mean(found):.2f} ({' '.join(f'{share:.2f}' for share in found)}; "
        f"{seconds[kind]:.0f} CPU s)"
        for kind, found in shares.items()
    )
    return Claim(
        f"matching guided by recovered features on {name}, B={n}, share of the images recovered",
        "better than matching alone",
        f"{told}; better on {better} of {len(crops)}",
        "confirmed" if better == len(crops) else "not confirmed",
        f"{len(crops)} batches of photographs of 16 pixels, labels told, {steps} steps each, "
        f"weight {_WEIGHTS[name]:g}",
    )


def _convolutional(seed: int) -> nn.Sequential:
    """Two convolutions and two dense layers."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        body = [nn.Conv2d(3, 32, 5, 2, 2), nn.ReLU(), nn.Conv2d(32, 32, 5, 2, 2), nn.ReLU()]
        head = [nn.Flatten(), nn.Linear(512, 128), nn.GELU(), nn.Linear(128, 10)]
        return nn.Sequential(*body, *head)
