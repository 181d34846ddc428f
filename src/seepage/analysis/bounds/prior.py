"""What is believed of an example before the update is seen."""

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Generator, Tensor

from seepage.errors import InvalidInput

GIVEN = "private examples drawn from the prior"


def fitted(public: Tensor) -> str:
    """What a bound assumes whose prior was fitted to public examples."""
    return f"private examples like the {len(public)} public ones (normal law)"


class Spread(Protocol):
    """What a rate bound asks of a prior: the eigenvalues of its covariance, and its words."""

    @property
    def spectrum(self) -> Tensor: ...

    @property
    def about(self) -> str: ...


@dataclass(frozen=True, eq=False)
class Spectrum:
    """The eigenvalues alone, of examples too large for their covariance to be held."""

    spectrum: Tensor
    about: str = GIVEN

    @classmethod
    def fit(cls, public: Tensor, ridge: float = 1e-3) -> "Spectrum":
        """Those of `Gaussian.fit`, from the singular values of the centred examples.

        >>> public = torch.rand(5, 3)
        >>> apart = Spectrum.fit(public).spectrum - Gaussian.fit(public).spectrum
        >>> bool(apart.abs().max() < 1e-12)
        True
        """
        flat = _flat(public)
        found = torch.linalg.svdvals(flat - flat.mean(0)).square() / (len(flat) - 1)
        rest = max(0, flat.shape[1] - len(found))
        return cls(torch.cat([found.new_zeros(rest), found.flip(0)]) + ridge, fitted(public))


@dataclass(frozen=True, eq=False)
class Gaussian:
    """x ~ N(mean, covariance), each example by itself; mean has the shape of an example."""

    mean: Tensor
    covariance: Tensor
    about: str = GIVEN

    @classmethod
    def fit(cls, public: Tensor, ridge: float = 1e-3) -> "Gaussian":
        """The mean and the covariance of public examples, plus ridge times the identity."""
        flat = _flat(public)
        covariance = torch.cov(flat.T).reshape(flat.shape[1], flat.shape[1])
        ridged = covariance + ridge * torch.eye(flat.shape[1]).double()
        return cls(public.double().mean(0), ridged, fitted(public))

    @cached_property
    def precision(self) -> Tensor:
        """The inverse covariance: what the prior knows of x."""
        inverse: Tensor = torch.cholesky_inverse(self.root)
        return inverse

    @cached_property
    def root(self) -> Tensor:
        """The lower triangle L with L L^T the covariance."""
        lower: Tensor = torch.linalg.cholesky(self.covariance)
        return lower

    @cached_property
    def spectrum(self) -> Tensor:
        """The eigenvalues of the covariance."""
        found: Tensor = torch.linalg.eigvalsh(self.covariance).clamp(min=0)
        return found

    def sample(self, n: int, rng: Generator) -> Tensor:
        """n examples."""
        drawn = torch.randn((n, len(self.root)), generator=rng, dtype=torch.float64)
        return self.mean + (drawn @ self.root.T).view(n, *self.mean.shape)

    def informed(self, v: Tensor) -> Tensor:
        """J_pi v for a batch of any number of examples, flattened: the precision of each."""
        return (v.view(-1, len(self.root)) @ self.precision).view(v.shape)


def _flat(public: Tensor) -> Tensor:
    if len(public) < 2:
        raise InvalidInput(f"a prior is fitted to at least 2 examples, and got {len(public)}.")
    return public.flatten(1).double()
