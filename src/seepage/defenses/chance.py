"""What defenses draw by chance: on the CPU, so that one seed means one draw on every device."""

import torch
from torch import Generator, Tensor


def uniform(like: Tensor, rng: Generator) -> Tensor:
    """Uniform on [0, 1)."""
    return torch.rand(like.shape, generator=rng, dtype=torch.float64).to(like.device)


def normal(like: Tensor, rng: Generator) -> Tensor:
    """Normal, of standard deviation one."""
    return torch.randn(like.shape, generator=rng, dtype=torch.float64).to(like)


def laplace(like: Tensor, rng: Generator) -> Tensor:
    """Laplace, of standard deviation one: its scale is 1 / sqrt(2)."""
    half = torch.rand(like.shape, generator=rng, dtype=torch.float64) - 0.5
    return (-half.sign() * torch.log1p(-2 * half.abs()) / 2**0.5).to(like)


def mask(size: int, keep: float, like: Tensor, rng: Generator) -> Tensor:
    """Ones with probability `keep`, else zeros."""
    return (torch.rand(size, generator=rng, dtype=torch.float64) < keep).to(like)
