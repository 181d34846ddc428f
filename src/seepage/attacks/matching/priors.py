"""What real data look like: terms added to the misfit."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from seepage.attacks.head import head_of
from seepage.attacks.matching.simulator import normalisations
from seepage.checks import at_least, one_of
from seepage.core import Observation
from seepage.errors import InvalidInput
from seepage.values import value

_SMALL = 1e-8


@runtime_checkable
class PixelPrior(Protocol):
    """A term of the candidate alone: its value and its derivative in u."""

    def of_pixels(self, u: Tensor) -> tuple[Tensor, Tensor]: ...


@value
class TV:
    """weight mean (|dx|^p + |dy|^p)^q over neighbouring pixels: natural images are flat.

    Rudin, Osher and Fatemi 1992. `colour` also counts the differences between channels, as if
    they were images. Differences are one-sided, and there is none at the border.

    >>> TV(2.0).of_pixels(torch.tensor([[[[0.0, 1.0]]]]))[1]
    tensor([[[[-1.,  1.]]]])
    """

    weight: float = 1e-5
    p: float = 1.0
    q: float = 1.0
    colour: bool = False

    def __post_init__(self) -> None:
        at_least("TV.weight", self.weight, 0)

    def of_pixels(self, u: Tensor) -> tuple[Tensor, Tensor]:
        if u.ndim != 4:  # the entries of a table have no neighbours
            return u.new_zeros(()), torch.zeros_like(u)
        if self.colour and u.shape[1] != 3:
            raise InvalidInput(
                f"TV(colour=True) compares three channels, and the images have {u.shape[1]}. "
                "Use colour=False."
            )
        if not self.colour:
            return self._plain(u)
        rolled = u.roll(-1, 1)  # R-G, G-B, B-R: the sign of a difference does not matter
        term, slope = self._plain(torch.cat([u, u - rolled], 1))
        own, between = slope[:, :3], slope[:, 3:]
        return term, own + between - between.roll(1, 1)

    def _plain(self, u: Tensor) -> tuple[Tensor, Tensor]:
        right, down = torch.zeros_like(u), torch.zeros_like(u)
        torch.sub(u[..., :, 1:], u[..., :, :-1], out=right[..., :, :-1])
        torch.sub(u[..., 1:, :], u[..., :-1, :], out=down[..., :-1, :])
        across, along = right.abs() + _SMALL, down.abs() + _SMALL
        total = across**self.p + along**self.p
        outer = self.q * total ** (self.q - 1) * (self.weight / u.numel())
        across = outer * self.p * across ** (self.p - 1) * right.sign()
        along = outer * self.p * along ** (self.p - 1) * down.sign()
        slope = -(across + along)
        slope[..., :, 1:] += across[..., :, :-1]
        slope[..., 1:, :] += along[..., :-1, :]
        return self.weight * (total**self.q).mean(), slope


@value
class L2Prior:
    """weight mean(u^2) / 2: values near the middle."""

    weight: float = 1e-6

    def __post_init__(self) -> None:
        at_least("L2Prior.weight", self.weight, 0)

    def of_pixels(self, u: Tensor) -> tuple[Tensor, Tensor]:
        return self.weight * u.square().mean() / 2, u * (self.weight / u.numel())


@runtime_checkable
class ActivationPrior(Protocol):
    """A term of what the network computes on the candidate."""

    def fitted(self, seen: Observation) -> "Term": ...


@dataclass(frozen=True, eq=False)
class Term:
    """A scalar of the inputs of the named layers and of the labels."""

    layers: tuple[str, ...]
    value: Callable[[Mapping[str, Tensor], Tensor | None], Tensor]


@value
class BatchStats:
    """weight sum_l w_l (||mean_l - mu_l|| + ||var_l - var'_l||): a batch like those trained on.

    Over the inputs of every BatchNorm layer, the first counting `first` times. Yin et al. 2021,
    arXiv 2104.07586. `running` takes mu from the broadcast model; `inferred` from the statistics
    that a client in train mode shares, which are those of the private batch itself: a stronger
    threat model, to be said beside every figure.
    """

    weight: float = 0.1
    first: float = 10.0
    source: Literal["running", "inferred"] = "running"

    def __post_init__(self) -> None:
        at_least("BatchStats.weight", self.weight, 0)
        one_of("BatchStats.source", self.source, ("running", "inferred"))

    def fitted(self, seen: Observation) -> Term:
        names = normalisations(seen.model)
        goals = {name: self._goal(seen, name) for name in names}
        weights = {
            name: self.weight * (self.first if i == 0 else 1) for i, name in enumerate(names)
        }

        def value(inputs: Mapping[str, Tensor], _: Tensor | None) -> Tensor:
            parts = [w * _statistics_gap(inputs[name], *goals[name]) for name, w in weights.items()]
            return torch.stack(parts).sum()

        return Term(tuple(names), value)

    def _goal(self, seen: Observation, name: str) -> tuple[Tensor, Tensor, bool]:
        keys = f"{name}.running_mean", f"{name}.running_var"
        mean, var = (seen.model.buffers[key] for key in keys)
        if self.source == "running":
            return mean, var, False
        if not all(key in seen.update for key in keys):
            raise InvalidInput(
                "BatchStats(source='inferred') reads the statistics that a client in train mode "
                "shares, and the update holds none. Use source='running'."
            )
        momentum: float = getattr(seen.model.module.get_submodule(name), "momentum", None) or 0.1
        # after = (1 - m) before + m batch, and the update is before - after.
        mean, var = (b - seen.update[k] / momentum for b, k in zip((mean, var), keys, strict=True))
        return mean, var, True


@value
class Features:
    """weight mean (h_i - gW_y / gb_y)^2: each example's feature is what its own row says.

    h is the input of the last linear layer, and only labels that occur once count: their row of
    the gradient is this one example's, up to what the others predict.
    """

    weight: float = 0.1

    def __post_init__(self) -> None:
        at_least("Features.weight", self.weight, 0)

    def fitted(self, seen: Observation) -> Term:
        head = head_of(seen)
        if head.weight_gradient is None or head.bias_gradient is None:
            raise InvalidInput(
                f"Features divides the weight gradient of '{head.name}' by its bias gradient, and "
                "the update does not hold both. Leave it out of priors."
            )
        sure = head.bias_gradient.abs() > 1e-8
        means = head.weight_gradient / torch.where(sure, head.bias_gradient, 1)[:, None]
        layer = head.name.removesuffix(".weight")

        def value(inputs: Mapping[str, Tensor], y: Tensor | None) -> Tensor:
            features = inputs[layer]
            if y is None or y.is_floating_point():
                return features.new_zeros(())
            single = (torch.bincount(y, minlength=len(sure)) == 1) & sure
            chosen = single[y].nonzero()[:, 0]
            if len(chosen) == 0:
                return features.new_zeros(())
            return self.weight * (features[chosen] - means[y[chosen]].to(features)).square().mean()

        return Term((layer,), value)


def _statistics_gap(x: Tensor, mean: Tensor, var: Tensor, unbiased: bool) -> Tensor:
    across = [dim for dim in range(x.ndim) if dim != 1]
    n = x.numel() // x.shape[1]
    goal = var * ((n - 1) / n) if unbiased else var
    gaps = x.mean(across) - mean, x.var(across, unbiased=False) - goal
    return sum((_root(gap) for gap in gaps), start=x.new_zeros(()))


def _root(gap: Tensor) -> Tensor:
    # The slope of a length is infinite at zero.
    return (gap.square().sum() + 1e-12).sqrt()


Prior = PixelPrior | ActivationPrior
