"""Differentially private gradients: each example clipped, their sum noised."""

from collections.abc import Iterator

import torch
from torch import Generator, Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from seepage import tree
from seepage.checks import at_least, positive
from seepage.core import Batch, Client, Model
from seepage.defenses.chance import normal
from seepage.errors import InvalidInput
from seepage.tree import Tensors
from seepage.values import value

_TINY = 1e-6  # as in Opacus, which avoids dividing by zero so
_ENTRIES = 2**25  # of per-example gradients held at once


@value
class DPSGD:
    """u = (sum_i g_i min(1, C / (|g_i| + 1e-6)) + z C xi) / B, each g_i one example's gradient.

    Abadi et al. 2016, arXiv 1607.00133. `norm` is C, `multiplier` z. With `rate` each example is in
    the round by that chance, independently of the others (Poisson sampling); a round without any is
    noise alone. B is `expected`, or the batch size times the rate. What it proves depends on how
    batches are sampled and on the number of rounds: see `guard.dp`.

    >>> from seepage import zoo
    >>> model, batch = zoo.example()
    >>> update = DPSGD(norm=0.5, multiplier=0.0)(model, batch, torch.Generator())
    >>> round(float(tree.norm(update)), 4)
    0.5
    """

    norm: float
    multiplier: float
    expected: float | None = None
    rate: float | None = None

    def __post_init__(self) -> None:
        positive("DPSGD.norm", self.norm)
        at_least("DPSGD.multiplier", self.multiplier, 0)
        if self.expected is not None:
            positive("DPSGD.expected", self.expected)
        if self.rate is not None and not 0 < self.rate <= 1:
            raise InvalidInput(f"DPSGD.rate={self.rate} is no chance: use 0 < rate <= 1.")

    def __call__(self, model: Model, batch: Batch, rng: Generator) -> Tensors:
        _refuse_batch_norm(model.module)
        chosen = batch if self.rate is None else _sampled(batch, self.rate, rng)
        total = tree.mapped(torch.zeros_like, model.params)
        if chosen is not None:
            chunks = _examples(model, chosen)
            total = tree.total(_clipped_sum(chunk, self.norm) for chunk in chunks)
        size = self.expected or len(batch) * (self.rate or 1)
        spread = self.multiplier * self.norm
        return tree.mapped(lambda u: (u + spread * normal(u, rng)) / size, total)

    def noiseless(self) -> Client:
        return DPSGD(self.norm, 0.0, self.expected)


def _sampled(batch: Batch, rate: float, rng: Generator) -> Batch | None:
    """The examples that are in this round; None where there are none, which no batch can hold."""
    places = (torch.rand(len(batch), generator=rng) < rate).nonzero().flatten()
    return batch[places.to(batch.x.device)] if len(places) else None


def _examples(model: Model, batch: Batch) -> Iterator[Tensors]:
    """The gradients of single examples, stacked, some examples at a time."""

    def risk(params: Tensors, x: Tensor, y: Tensor | None) -> Tensor:
        return model.risk(params, Batch(x[None], None if y is None else y[None]))

    single = torch.func.grad(risk)
    gradient = torch.func.vmap(single, in_dims=(None, 0, 0 if batch.y is not None else None))
    params, size = dict(model.params), max(1, _ENTRIES // tree.size(model.params))
    for start in range(0, len(batch), size):
        part = batch[start : start + size]
        try:
            yield gradient(params, part.x, part.y)
        except RuntimeError:  # a network that looks at its data, as language models do at padding
            y = [None] * len(part) if part.y is None else part.y
            each = [single(params, x, label) for x, label in zip(part.x, y, strict=True)]
            yield {name: torch.stack([g[name] for g in each]) for name in params}


def _clipped_sum(examples: Tensors, norm: float) -> dict[str, Tensor]:
    squares = torch.stack([g.flatten(1).square().sum(1) for g in examples.values()]).sum(0)
    # The derivative of a root at zero is infinite, and who simulates the client needs a finite one.
    lengths = torch.where(squares > 0, squares, 1).sqrt() * (squares > 0)
    factors = (norm / (lengths + _TINY)).clamp(max=1)
    return tree.mapped(lambda g: torch.tensordot(factors, g, 1), examples)


def _refuse_batch_norm(module: nn.Module) -> None:
    found = [name or "itself" for name, m in module.named_modules() if isinstance(m, _BatchNorm)]
    if found:
        raise InvalidInput(
            f"DPSGD clips each example by itself, and layer '{found[0]}' (BatchNorm) mixes the "
            f"examples of a batch ({len(found)} such layers). Use nn.GroupNorm in its place."
        )
