"""What the tests of malicious servers share: data, networks, and scores by brute force."""

from typing import Any

import torch
from torch import Tensor, nn

from seepage import zoo
from seepage.attacks.imprint.block import block_of
from seepage.clients import FedSGD
from seepage.core import Batch, Model, Reconstruction, observe, stream
from seepage.forms import Column, Images, Table
from seepage.metrics.match import assign, distances

CLASSES = 100
PUBLIC = zoo.photos(800, 32, split="public", seed=77).normalised()


def private(n: int, seed: int) -> zoo.Sample:
    return zoo.photos(n, 32, seed=seed).relabelled(CLASSES, seed=seed).normalised()


def small(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, 2, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 64, CLASSES),
    )


def attacked(
    attack: Any, model: Model, batch: Batch, client: Any = None, seed: int = 0
) -> tuple[Model, Reconstruction]:
    crafted = attack.craft(model, stream(seed, "craft"))
    seen = observe(crafted, batch, client or FedSGD(), stream(seed, "client"))
    return crafted, attack(seen, stream(seed, "attack"))


def psnr(found: Reconstruction, sample: zoo.Sample) -> Tensor:
    """(n,) of each truth's own candidate, -inf where it has none."""
    form = sample.form
    assert isinstance(form, Images)
    errors = distances(form.show(sample.x), form.show(found.x))
    matched = assign(errors)
    values = -10 * errors.clamp_min(1e-20).log10()
    best = values.gather(1, matched.clamp_min(0)[:, None])[:, 0]
    return best.masked_fill(matched < 0, -torch.inf)


def wrong(found: Reconstruction, x: Tensor) -> int:
    """Certified candidates that are no private example."""
    sure = torch.tensor(found.trace["certified"], dtype=torch.bool)
    nearest = (
        distances(found.x[sure].double(), x.double()).amin(1) if sure.any() else x.new_zeros(0)
    )
    return int((nearest > 1e-9).sum())


def cells(crafted: Model, x: Tensor) -> Tensor:
    """(P, n) the bin of each private example in each direction, by brute force."""
    _, _, notes = block_of(crafted.module)
    h = x.flatten(1).double() @ notes.measures.T
    rows = [
        torch.searchsorted(notes.lower[notes.direction == p].sort().values, h[:, p].contiguous())
        for p in range(len(notes.measures))
    ]
    return torch.stack(rows)


def people(n: int, seed: int, numbers: int = 5) -> tuple[Batch, Table]:
    groups = tuple(Column(f"g{i}", ("a", "b", "c", "d")) for i in range(5))
    form = Table((*(Column(f"x{i}") for i in range(numbers)), *groups), classes=2)
    rng = stream(seed, "people")
    parts = [torch.randn(n, numbers, generator=rng)] + [
        nn.functional.one_hot(torch.randint(4, (n,), generator=rng), 4).float() for _ in groups
    ]
    return Batch(torch.cat(parts, 1), torch.randint(2, (n,), generator=rng)), form
