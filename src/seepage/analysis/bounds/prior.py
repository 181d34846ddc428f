"""What is believed of an example before the update is seen."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Generator, Tensor

from seepage.errors import InvalidInput


@dataclass(frozen=True, eq=False)
class Gaussian:
    """x ~ N(mean, covariance), each example by itself; mean has the shape of an example."""

    mean: Tensor
    covariance: Tensor

    @classmethod
    def fit(cls, public: Tensor, ridge: float = 1e-3) -> "Gaussian":
        """The mean and the covariance of public examples, plus ridge times the identity."""
        flat = public.flatten(1).double()
        if len(flat) < 2:
            raise InvalidInput(f"a prior is fitted to at least 2 examples, and got {len(flat)}.")
        covariance = torch.cov(flat.T).reshape(flat.shape[1], flat.shape[1])
        return cls(public.double().mean(0), covariance + ridge * torch.eye(flat.shape[1]).double())

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
