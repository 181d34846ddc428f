"""How a candidate moves, given the value and the slope of what is minimised."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Generator, Tensor

from seepage.checks import at_least, positive
from seepage.errors import InvalidInput
from seepage.values import value

Leaves = Sequence[Tensor]
Evaluate = Callable[[], tuple[float, list[Tensor]]]


@dataclass(frozen=True)
class Moment:
    """When a step is taken: the factor on the rate, the share of the budget done, and chance."""

    factor: float
    done: float
    rng: Generator


Mover = Callable[[Evaluate, Moment], None]


class Optimiser(Protocol):
    """Prepares to move some tensors in place; the answer takes one step at a time.

    A search begins again where its misfit rises above `patience` times the lowest so far.
    """

    @property
    def patience(self) -> float: ...

    def on(self, leaves: Leaves) -> Mover: ...


@value
class Adam:
    """Adam of the slope, or of its sign: every pixel then moves at the same speed.

    Kingma and Ba 2015, arXiv 1412.6980; the sign is Geiping et al. 2020, arXiv 2003.14053. `soft`
    is tanh(k g) / k with k falling from 1, `noise` adds lr noise N(0, 1) to the slope, `clip`
    bounds the slope's length first, `decay` pulls towards zero.
    """

    lr: float = 0.1
    sign: Literal["hard", "soft"] | None = None
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    decay: float = 0.0
    noise: float = 0.0
    clip: float | None = None

    def __post_init__(self) -> None:
        positive("Adam.lr", self.lr)
        if self.sign not in (None, "hard", "soft"):
            raise InvalidInput(f"Adam.sign={self.sign!r} is not known: use None, 'hard' or 'soft'.")
        for name in ("eps", "decay", "noise"):
            at_least(f"Adam.{name}", getattr(self, name), 0)
        if not all(0 <= beta < 1 for beta in self.betas):
            raise InvalidInput(f"Adam.betas={self.betas} must be at least 0 and below 1.")

    @property
    def patience(self) -> float:
        return math.inf

    def on(self, leaves: Leaves) -> Mover:
        first = [torch.zeros_like(leaf) for leaf in leaves]
        second = [torch.zeros_like(leaf) for leaf in leaves]
        taken = 0

        def move(evaluate: Evaluate, moment: Moment) -> None:
            nonlocal taken
            taken += 1
            _, slopes = evaluate()
            for leaf, slope, m, s in zip(
                leaves, self._bent(slopes, moment), first, second, strict=True
            ):
                self._step(leaf, slope, (m, s), taken, self.lr * moment.factor)

        return move

    def _bent(self, slopes: list[Tensor], moment: Moment) -> list[Tensor]:
        if self.noise:
            length = self.lr * moment.factor * self.noise
            slopes = [g + length * _normal(g, moment.rng) for g in slopes]
        if self.clip is not None:
            length = torch.stack([g.norm() for g in slopes]).norm()
            slopes = [g * (self.clip / length).clamp(max=1) for g in slopes]
        if self.sign == "hard":
            return [g.sign() for g in slopes]
        if self.sign == "soft":
            sharp = max(1 - moment.done, 1e-3)
            return [(sharp * g).tanh() / sharp for g in slopes]
        return slopes

    def _step(
        self, leaf: Tensor, slope: Tensor, memory: tuple[Tensor, Tensor], taken: int, lr: float
    ) -> None:
        (m, s), (keep, keep_square) = memory, self.betas
        m.lerp_(slope, 1 - keep)
        s.mul_(keep_square).addcmul_(slope, slope, value=1 - keep_square)
        if self.decay:
            leaf.mul_(1 - lr * self.decay)
        root = (s / (1 - keep_square**taken)).sqrt_().add_(self.eps)
        leaf.addcdiv_(m, root, value=-lr / (1 - keep**taken))


@value
class LBFGS:
    """Limited-memory quasi-Newton steps, `inner` of them in each: for smooth networks.

    Liu and Nocedal 1989, in PyTorch's implementation; `line_search` is None or "strong_wolfe".
    Where it throws the misfit above `patience` times the lowest, the search begins again.
    """

    lr: float = 1.0
    inner: int = 20
    history: int = 100
    line_search: Literal["strong_wolfe"] | None = None
    patience: float = 10.0

    def __post_init__(self) -> None:
        positive("LBFGS.lr", self.lr)
        at_least("LBFGS.inner", self.inner, 1)
        at_least("LBFGS.history", self.history, 1)
        if self.line_search not in (None, "strong_wolfe"):
            raise InvalidInput(
                f"LBFGS.line_search={self.line_search!r} is not known: use None or 'strong_wolfe'."
            )

    def on(self, leaves: Leaves) -> Mover:
        held = [leaf.requires_grad_(False) for leaf in leaves]
        solver = torch.optim.LBFGS(
            held,
            lr=self.lr,
            max_iter=self.inner,
            history_size=self.history,
            line_search_fn=self.line_search,
            tolerance_grad=0,
            tolerance_change=0,
        )

        def move(evaluate: Evaluate, moment: Moment) -> None:
            def closure() -> float:
                total, slopes = evaluate()
                for leaf, slope in zip(held, slopes, strict=True):
                    leaf.grad = slope
                return total

            for group in solver.param_groups:
                group["lr"] = self.lr * moment.factor
            solver.step(closure)  # type: ignore[no-untyped-call]

        return move


def _normal(like: Tensor, rng: Generator) -> Tensor:
    return torch.randn(like.shape, generator=rng, dtype=torch.float64).to(like)
