"""What devices do in one round: one gradient, local epochs, sums over users, captured updates."""

import dataclasses
import fnmatch
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Generator, Tensor

from seepage import tree
from seepage.checks import at_least, one_of, positive
from seepage.core import Batch, Client, Mode, Model
from seepage.errors import InvalidInput
from seepage.tree import Tensors
from seepage.values import value

__all__ = ["FedAvg", "FedSGD", "Given", "Only", "SecureSum"]


@value
class FedSGD:
    """One gradient of the mean loss over the batch: u = dL(f(x; theta), y)/dtheta.

    McMahan et al. 2017, arXiv 1602.05629. In train mode BatchNorm normalises by the batch, and its
    statistics are shared too, as before minus after; wrap in `Only` to keep them back.
    Where the candidate requires a gradient, the update keeps its graph, for attackers who simulate
    it; the statistics never have one.

    >>> from seepage import zoo
    >>> model, batch = zoo.example()
    >>> sorted(FedSGD()(model, batch, torch.Generator()))
    ['bias', 'weight']
    """

    mode: Mode = "eval"

    def __post_init__(self) -> None:
        one_of("FedSGD.mode", self.mode, ("eval", "train"))

    def __call__(self, model: Model, batch: Batch, rng: Generator) -> Tensors:
        leaves = tree.mapped(
            lambda p: p if p.requires_grad else p.detach().requires_grad_(), model.params
        )
        with torch.enable_grad():
            risk, after = model.step(leaves, batch, self.mode, rng)
            gradients = torch.autograd.grad(
                _scalar(risk),
                list(leaves.values()),
                create_graph=batch.simulated,
                materialize_grads=True,
            )
        update = dict(zip(leaves, gradients, strict=True))
        return update | _statistics(model.buffers, after)


@value
class FedAvg:
    """Local training from the broadcast parameters: u = theta_before - theta_after.

    McMahan et al. 2017, arXiv 1602.05629. Each local step takes the inner client's update of one
    minibatch for its gradient; the optimiser starts fresh, as PyTorch's SGD and Adam do. The order
    of the examples comes from the client's own stream. A step of Adam is nearly a sign: who
    differentiates through it gets the derivative of a smoother one.
    """

    inner: Client = FedSGD()
    epochs: int = 1
    batch_size: int | None = None
    lr: float = 0.01
    momentum: float = 0.0
    weight_decay: float = 0.0
    optimizer: Literal["sgd", "adam"] = "sgd"
    shuffle: bool = True

    def __post_init__(self) -> None:
        one_of("FedAvg.optimizer", self.optimizer, ("sgd", "adam"))
        at_least("FedAvg.epochs", self.epochs, 1)
        if self.batch_size is not None:
            at_least("FedAvg.batch_size", self.batch_size, 1)
        for name in ("momentum", "weight_decay"):
            at_least(f"FedAvg.{name}", getattr(self, name), 0)
        positive("FedAvg.lr", self.lr)

    def __call__(self, model: Model, batch: Batch, rng: Generator) -> Tensors:
        local, memory, names = model, _Memory({}, {}, 0), dict[str, None]()
        for part in self._minibatches(batch, rng):
            update = self.inner(local, part, rng)
            gradient = {name: u for name, u in update.items() if name in model.params}
            statistics = {name: u for name, u in update.items() if name not in model.params}
            step, memory = self._step(local.params, gradient, memory)
            local = local.replaced(tree.subtract(local.state, step | statistics))
            names |= dict.fromkeys(update)
        before, after = model.state, local.state
        return {name: before[name] - after[name] for name in before if name in names}

    def _minibatches(self, batch: Batch, rng: Generator) -> Iterator[Batch]:
        size = self.batch_size or len(batch)
        for _ in range(self.epochs):
            order = torch.randperm(len(batch), generator=rng) if self.shuffle else None
            ordered = batch if order is None else batch[order.to(batch.x.device)]
            for start in range(0, len(batch), size):
                yield ordered[start : start + size]

    def _step(
        self, params: Tensors, gradient: Tensors, memory: "_Memory"
    ) -> tuple[dict[str, Tensor], "_Memory"]:
        decayed = {name: g + self.weight_decay * params[name] for name, g in gradient.items()}
        if self.optimizer == "adam":
            return _adam(decayed, memory, self.lr)
        if self.momentum == 0:
            return tree.scale(decayed, self.lr), memory
        past = memory.first
        first = {name: self.momentum * past[name] + g if past else g for name, g in decayed.items()}
        return tree.scale(first, self.lr), _Memory(first, {}, memory.steps + 1)


@dataclasses.dataclass(frozen=True)
class _Memory:
    """What an optimiser carries from step to step."""

    first: Tensors
    second: Tensors
    steps: int


def _adam(gradient: Tensors, memory: _Memory, lr: float) -> tuple[dict[str, Tensor], _Memory]:
    steps, (keep, keep_square), floor = memory.steps + 1, (0.9, 0.999), 1e-8
    first = {n: (1 - keep) * g + keep * memory.first.get(n, 0) for n, g in gradient.items()}
    second = {
        n: (1 - keep_square) * g * g + keep_square * memory.second.get(n, 0)
        for n, g in gradient.items()
    }
    scale, bias = lr / (1 - keep**steps), (1 - keep_square**steps) ** 0.5
    roots = {name: _root(square) / bias for name, square in second.items()}
    moved = {name: scale * m / (roots[name] + floor) for name, m in first.items()}
    if any(m.requires_grad for m in first.values()):
        # Nearly a sign, whose derivative is nearly zero: who follows it gets a smoother step's.
        wide = tree.blur(roots) + floor
        smooth = {name: scale * m / (roots[name] + wide) for name, m in first.items()}
        moved = tree.combined(tree.straight_through, moved, smooth)
    return moved, _Memory(first, second, steps)


def _root(square: Tensor) -> Tensor:
    # The derivative of a square root at zero is infinite, and a simulated step needs a finite one.
    return torch.where(square > 0, square, 1).sqrt() * (square > 0)


@value
class SecureSum:
    """The server sees only the example-weighted mean over users: u = sum_k n_k u_k / n.

    Bonawitz et al. 2017. The batch is dealt in order to the users, as evenly as it goes.
    """

    inner: Client
    users: int

    def __post_init__(self) -> None:
        at_least("SecureSum.users", self.users, 1)

    def __call__(self, model: Model, batch: Batch, rng: Generator) -> Tensors:
        if len(batch) < self.users:
            raise InvalidInput(
                f"SecureSum.users={self.users} cannot share {len(batch)} examples. "
                "Pass a batch with at least one example for each user."
            )
        parts = torch.arange(len(batch), device=batch.x.device).tensor_split(self.users)
        return tree.total(
            tree.scale(self.inner(model, batch[part], rng), len(part) / len(batch))
            for part in parts
        )


@value
class Only:
    """Share only the tensors whose names match a shell pattern; a leading "!" shares the others.

    >>> Only(FedSGD("train"), "!*.running_*").pattern
    '!*.running_*'
    """

    inner: Client
    pattern: str

    def __call__(self, model: Model, batch: Batch, rng: Generator) -> Tensors:
        update = self.inner(model, batch, rng)
        wanted, glob = not self.pattern.startswith("!"), self.pattern.removeprefix("!")
        kept = {n: u for n, u in update.items() if fnmatch.fnmatchcase(n, glob) == wanted}
        if not kept:
            raise InvalidInput(
                f"Only.pattern={self.pattern!r} matches no tensor of the update: "
                f"{', '.join(list(update)[:8])}. Use shell wildcards, as in '*.weight'."
            )
        return kept


@value
class Given:
    """A captured update: the same whatever the model and the batch."""

    update: Tensors

    def __call__(self, model: Model, batch: Batch, rng: Generator) -> Tensors:
        return self.update


def _statistics(before: Tensors, after: Tensors) -> dict[str, Tensor]:
    """The shared change of the buffers that a forward pass wrote: counters of steps stay home."""
    return {
        name: tensor - after[name]
        for name, tensor in before.items()
        if after[name] is not tensor
        and tensor.is_floating_point()
        and not torch.equal(tensor, after[name])
    }


def _scalar(risk: Tensor) -> Tensor:
    if risk.numel() != 1:
        raise InvalidInput(
            f"the loss returned shape {tuple(risk.shape)}, and a client shares the gradient of one "
            "number. Use a loss that averages over the batch (reduction='mean')."
        )
    return risk
