"""Least squares without a matrix: LSMR (Fong & Saunders 2011) on two functions, A v and A^T u."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

_CHECK_EVERY = 20


@dataclass(frozen=True)
class Operator:
    """A linear map and its adjoint on flat vectors."""

    forward: Callable[[Tensor], Tensor]
    adjoint: Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Solution:
    """The minimum-norm least-squares solution, the iterations spent and |b - A x| / |b|."""

    x: Tensor
    iterations: int
    residual: float


@dataclass
class _Bidiagonal:
    """The scalars of the Golub-Kahan process and of its two rotations."""

    alpha: float
    zeta_bar: float
    alpha_bar: float
    rho: float = 1.0
    rho_bar: float = 1.0
    cos_bar: float = 1.0
    sin_bar: float = 0.0
    square: float = 0.0

    def rotated(self, alpha: float, beta: float) -> tuple[float, float, float]:
        """One step of both rotations: the factors of h_bar, x and h."""
        rho_old, rho_bar_old = self.rho, self.rho_bar
        self.rho = math.hypot(self.alpha_bar, beta)
        cos, sin = self.alpha_bar / self.rho, beta / self.rho
        theta, self.alpha_bar = sin * alpha, cos * alpha
        theta_bar, mixed = self.sin_bar * self.rho, self.cos_bar * self.rho
        self.rho_bar = math.hypot(mixed, theta)
        self.cos_bar, self.sin_bar = mixed / self.rho_bar, theta / self.rho_bar
        zeta, self.zeta_bar = self.cos_bar * self.zeta_bar, -self.sin_bar * self.zeta_bar
        self.square += alpha**2 + beta**2
        self.alpha = alpha
        back = theta_bar * self.rho / (rho_old * rho_bar_old)
        return back, zeta / (self.rho * self.rho_bar), theta / self.rho


def lsmr(operator: Operator, b: Tensor, tol: float = 1e-9, most: int | None = None) -> Solution:
    """argmin |A x - b|, of least norm among the minimisers.

    It stops when |A^T r| <= tol |A| |r|, when |r| <= tol (|b| + |A| |x|), or after `most` steps
    (4 n unless given). The residual r is formed every 20 steps only, and nothing stops between.

    >>> a = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]], dtype=torch.float64)
    >>> b = a @ torch.tensor([3.0, -1.0], dtype=torch.float64)
    >>> lsmr(Operator(lambda v: a @ v, lambda u: a.T @ u), b).x.round(decimals=9)
    tensor([ 3., -1.], dtype=torch.float64)
    """
    length = float(b.norm())
    if length == 0:
        return Solution(torch.zeros_like(operator.adjoint(b)), 0, 0.0)
    u = b / length
    v = operator.adjoint(u)
    alpha = float(v.norm())
    x = torch.zeros_like(v)
    if alpha == 0:
        return Solution(x, 0, 1.0)
    v = v / alpha
    state = _Bidiagonal(alpha, alpha * length, alpha, square=alpha**2)
    h, h_bar = v.clone(), torch.zeros_like(v)
    limit, step, ended = most or 4 * v.numel(), 0, False
    while step < limit and not ended:
        step += 1
        u = operator.forward(v).sub_(u, alpha=state.alpha)
        beta = _normalise(u)
        v = operator.adjoint(u).sub_(v, alpha=beta)
        alpha = _normalise(v)
        back, forth, side = state.rotated(alpha, beta)
        h_bar.mul_(-back).add_(h)
        x.add_(h_bar, alpha=forth)
        h.mul_(-side).add_(v)
        ended = alpha == 0 or beta == 0
        if step % _CHECK_EVERY == 0 and not ended:
            ended = _converged(state, float((b - operator.forward(x)).norm()), length, x, tol)
    return Solution(x, step, float((b - operator.forward(x)).norm()) / length)


def _normalise(vector: Tensor) -> float:
    size = float(vector.norm())
    if size > 0:
        vector.div_(size)
    return size


def _converged(state: _Bidiagonal, r: float, b: float, x: Tensor, tol: float) -> bool:
    size = math.sqrt(state.square)
    return abs(state.zeta_bar) <= tol * size * r or r <= tol * (b + size * float(x.norm()))
