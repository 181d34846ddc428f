"""The Bayesian Cramer-Rao bound: no attacker's mean squared error is below it."""

from collections.abc import Callable, Sequence

import scipy
import torch
from torch import Generator, Tensor

from seepage.analysis.bounds.bound import Bound, Label
from seepage.analysis.bounds.channel import Channel, Linearised
from seepage.errors import InvalidInput

_DENSE = 2000  # unknowns up to which matrices are held


def plug_in(channel: Channel, samples: int, rng: Generator) -> Bound:
    """E|x^ - x|^2 / N >= Tr(A^-1) / N, A = E[I(x)] + J_pi, the mean over a few samples.

    Van Trees 1968. Few samples give a value that is too high (Jensen), by far on trained
    networks: `certificate` is not misled. For at most 2000 unknowns.
    """
    total = _mean_information(channel, samples, rng)
    bound = float(torch.linalg.inv(total).trace()) / channel.unknowns
    why = f"plug-in over {samples} samples, biased upward"
    return _bound(channel, bound, "estimated", why)


def cheap(channel: Channel, samples: int, probes: int, rng: Generator) -> Bound:
    """N / (Tr E[I(x)] + Tr J_pi): below Tr(A^-1)/N, and one J v for each random sign vector v."""
    traces = []
    for _ in range(samples):
        linear = channel.linearised(channel.sample(rng))
        traces += [float(linear.energy(_signs(channel.unknowns, rng))) for _ in range(probes)]
    prior = channel.n * float(channel.prior.precision.trace())
    mean = sum(traces) / len(traces)
    why = f"trace from {len(traces)} random signs"
    return _bound(channel, channel.unknowns / (mean + prior), "estimated", why)


def lanczos(channel: Channel, samples: int, rng: Generator, steps: int = 64) -> Bound:
    """Tr(A^-1) from one random sign vector v: |v|^2 e_1^T T_k^-1 e_1, T_k of k Lanczos steps on A.

    A lower estimate of v^T A^-1 v, whose mean over v is the trace. For any number of unknowns.
    """
    linear = [channel.linearised(channel.sample(rng)) for _ in range(samples)]
    v = _signs(channel.unknowns, rng)
    value = inverse_energy(_operator(channel, linear), v, steps) / channel.unknowns
    why = f"{steps} Lanczos steps over {samples} samples, biased upward by few samples"
    return _bound(channel, value, "estimated", why)


def certificate(
    channel: Channel, samples: tuple[int, int], rng: Generator, probes: int = 16
) -> Bound:
    """A lower limit of Tr(A^-1)/N with 99% confidence, whatever was drawn first.

    v^T A^-1 v >= 2 u^T v - u^T A u for any u: the first samples choose u ~ A_1^-1 v, and fresh
    ones estimate u^T A u without bias. Up to 2000 unknowns v runs over all directions and the
    interval is over samples; above, v is a random sign vector with samples of its own.
    """
    first, second = samples
    if first < 1 or second < 16 or probes < 16:
        raise InvalidInput(
            f"certificate: samples={samples}, probes={probes}. Use at least 16 fresh samples and "
            "16 probes (128 and 256 samples are usual), or the interval means nothing."
        )
    if channel.unknowns <= _DENSE:
        values = _over_samples(channel, first, second, rng)
    else:
        values = _over_probes(channel, first, second // probes, probes, rng)
    mean, spread = float(values.mean()), float(values.std()) / len(values) ** 0.5
    low = mean - float(scipy.stats.t.ppf(0.99, len(values) - 1)) * spread
    found = _bound(channel, max(low, 0.0), "certified", "99 % confidence")
    return Bound(found.value, found.unit, found.label, found.assumptions, (max(low, 0.0), mean))


def unbiased(channel: Channel, x: Tensor) -> Bound:
    """Tr(I(x)^-1) / N, which only binds attackers without bias, and so without any prior.

    Hannun et al. 2021, arXiv 2102.11673; Guo et al. 2022, arXiv 2201.12383. Real attackers have a
    prior and do better: no ceiling.
    """
    matrix = channel.linearised(x).information()
    value = float(torch.linalg.pinv(matrix, hermitian=True).trace()) / channel.unknowns
    if int(torch.linalg.matrix_rank(matrix, hermitian=True)) < channel.unknowns:
        value = float("inf")
    return Bound(value, "mean squared error", "indicative", ("unbiased attackers only",))


def inverse_energy(operator: Callable[[Tensor], Tensor], v: Tensor, steps: int) -> float:
    """v^T A^-1 v from below, by Lanczos with full reorthogonalisation."""
    basis, diagonal, beside = [v / v.norm()], [], []
    for _ in range(min(steps, len(v))):
        w = operator(basis[-1])
        diagonal.append(float(w @ basis[-1]))
        frame = torch.stack(basis)
        for _ in range(2):  # twice is enough
            w = w - frame.T @ (frame @ w)
        length = float(w.norm())
        if length <= 1e-12 * abs(diagonal[0]):
            break
        beside.append(length)
        basis.append(w / length)
    size = len(diagonal)
    matrix = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
    for i in range(size - 1):
        matrix[i, i + 1] = matrix[i + 1, i] = beside[i]
    first = torch.zeros(size, dtype=torch.float64)
    first[0] = 1
    return float(v @ v) * float(torch.linalg.solve(matrix, first)[0])


def _over_samples(channel: Channel, first: int, second: int, rng: Generator) -> Tensor:
    u = torch.linalg.inv(_mean_information(channel, first, rng))
    fixed = 2 * u.trace() - (u @ _prior_matrix(channel) * u).sum()
    values = []
    for _ in range(second):
        matrix = channel.linearised(channel.sample(rng)).information()
        values.append((fixed - (u @ matrix * u).sum()) / channel.unknowns)
    return torch.stack(values)


def _over_probes(channel: Channel, first: int, group: int, probes: int, rng: Generator) -> Tensor:
    start = [channel.linearised(channel.sample(rng)) for _ in range(first)]
    operator, values = _operator(channel, start), []
    for _ in range(probes):
        v = _signs(channel.unknowns, rng)
        u = conjugate_gradients(operator, v, 64)
        fixed = 2 * u @ v - u @ channel.prior.informed(u)
        fresh = [channel.linearised(channel.sample(rng)).energy(u) for _ in range(max(group, 1))]
        values.append((fixed - torch.stack(fresh).mean()) / channel.unknowns)
    return torch.stack(values)


def conjugate_gradients(operator: Callable[[Tensor], Tensor], v: Tensor, steps: int) -> Tensor:
    """A^-1 v, nearly."""
    u, rest = torch.zeros_like(v), v.clone()
    way, square = rest.clone(), rest @ rest
    for _ in range(steps):
        moved = operator(way)
        length = square / (way @ moved)
        u, rest = u + length * way, rest - length * moved
        before, square = square, rest @ rest
        if float(square) <= 1e-20 * float(v @ v):
            break
        way = rest + square / before * way
    return u


def _operator(channel: Channel, linear: Sequence[Linearised]) -> Callable[[Tensor], Tensor]:
    def times(v: Tensor) -> Tensor:
        informed = torch.stack([one.informed(v) for one in linear]).mean(0)
        return informed + channel.prior.informed(v)

    return times


def _mean_information(channel: Channel, samples: int, rng: Generator) -> Tensor:
    if channel.unknowns > _DENSE:
        raise InvalidInput(
            f"{channel.unknowns} unknowns are too many for whole matrices (at most {_DENSE}). "
            "Use lanczos, cheap or certificate."
        )
    total = _prior_matrix(channel)
    for _ in range(samples):
        total = total + channel.linearised(channel.sample(rng)).information() / samples
    return total


def _prior_matrix(channel: Channel) -> Tensor:
    return torch.kron(torch.eye(channel.n).double(), channel.prior.precision.contiguous())


def _signs(size: int, rng: Generator) -> Tensor:
    return 2 * torch.randint(2, (size,), generator=rng).double() - 1


def _bound(channel: Channel, value: float, best: Label, why: str) -> Bound:
    label, conditions = channel.proven()
    kept: Label = best if label == "certified" else label
    return Bound(value, "mean squared error", kept, (*conditions, why))
