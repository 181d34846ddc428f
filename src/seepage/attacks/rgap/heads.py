"""The last layer: what its gradient says of its input x, its error signal k and the label.

The gradient of the last layer's weights is G = k x^T. With a bias, k is the bias's gradient.
Without one, the loss itself ties the length of k to that of x.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from seepage.chains import Layer

# The least value of -m/(1 + e^m), and the m that reaches it.
LOWEST, TURNING = -0.2784645427610738, 1.2784645427610738


@dataclass(frozen=True, eq=False)
class Head:
    """One reading of the last layer: its input, dL/dz, the label, and the clipping factor."""

    x: Tensor
    k: Tensor
    label: int | None
    margin: float = math.nan
    factor: float = 1.0
    note: str = ""


def margins(c: float) -> tuple[list[float], str]:
    """Every m with -m/(1 + e^m) = c: two of them for c in (-0.278, 0).

    m = -c - w, where w e^w = c e^-c (Lambert's W).

    >>> [round(m, 6) for m in margins(-0.2)[0]], margins(1.0)[0][0] < 0
    ([0.54488, 2.396139], True)
    """
    if c <= LOWEST:
        return [TURNING], "the margin is below its least value: the gradient is noisy"
    from scipy.special import lambertw  # here, as scipy is slow to import

    argument = c * math.exp(-c) if c < 700 else 0.0
    branches = (0,) if c >= 0 else (0, -1)
    return [-c - float(lambertw(argument, branch).real) for branch in branches], ""


def biased(weight: Tensor, bias: Tensor, label: int | None) -> Head:
    """k = dL/db and x = G^T k / (k^T k), exact for any loss."""
    k = bias
    return Head(weight.T @ k / (k @ k), k, label)


def logistic(layer: Layer, weight: Tensor, told: int | None) -> list[Head]:
    """One output, no bias: both labels, and both margins where two fit.

    With f the output and m = y f, <G, W> = k z = -m/(1 + e^m) fixes m; then
    k = -y act'(z)/(1 + e^m) and x = G^T k / k^2.
    """
    roots, note = margins(float((weight * layer.weight).sum()))
    return [
        _logistic_head(layer, weight, sign, margin, note)
        for sign in ((1, -1) if told is None else (told,))
        for margin in roots
    ]


def _logistic_head(layer: Layer, weight: Tensor, sign: int, margin: float, note: str) -> Head:
    output = weight.new_tensor([sign * margin])
    k = -sign * torch.sigmoid(-sign * output) * layer.after.turned(output).derivative
    return Head(weight[0] / k, k, sign, margin, note=note)


def two_classes(layer: Layer, weight: Tensor, told: int | None) -> list[Head]:
    """Cross-entropy over two classes is the logistic loss of the difference of their weights."""
    single = Layer(
        layer.name,
        layer.kind,
        layer.weight[1:] - layer.weight[:1],
        None,
        None,
        layer.inputs,
        (1,),
        layer.after,
    )
    sign = None if told is None else 2 * told - 1
    halves = logistic(single, (weight[1:] - weight[:1]) / 2, sign)
    return [
        Head(h.x, torch.cat([-h.k, h.k]), int((h.label or 0) > 0), h.margin, note=h.note)
        for h in halves
    ]


def softmax(layer: Layer, weight: Tensor, told: int | None, clipped: bool = False) -> list[Head]:
    """Three classes or more, no bias: G = k x^T has rank one, and softmax fixes the scale.

    With G = u v^T and |u| = 1, x = m v and k = a u. For j other than y,
    log u_j = m (W v)_j + const, a line whose slope is m; a = 1/m unless the update was clipped.
    Gauss-Newton then polishes softmax(m W v) - e_y = a u.
    """
    left, sizes, right = torch.linalg.svd(weight, full_matrices=False)
    u, v = left[:, 0], sizes[0] * right[0]
    fits = []
    for label in _labels(u) if told is None else [told]:
        side = -1.0 if u[label] > 0 else 1.0
        fit = _Scale(side * u, layer.weight @ (side * v), label, clipped)
        fits.append([(fit, side, fit.polished(slope)) for slope in fit.starts()])
    chosen = min(fits, key=lambda tried: min(fit.worth(*scales) for fit, _, scales in tried))
    return [fit.head(side * v, scales) for fit, side, scales in chosen]


def _labels(u: Tensor) -> list[int]:
    """|k_y| is the sum of all others: the largest, or the two that are alike, +1 and -1."""
    sizes, places = u.abs().topk(2)
    alike = float(sizes[1]) > (1 - 1e-4) * float(sizes[0])
    return [int(place) for place in places[: 2 if alike else 1]]


@dataclass(frozen=True, eq=False)
class _Scale:
    """The search for the length m of x along v, and a of k along u."""

    u: Tensor
    s: Tensor
    label: int
    clipped: bool

    def starts(self) -> list[float]:
        slope = self._line()
        if slope is None or slope <= 0 or not math.isfinite(slope):
            return self._grid()
        # Of a softmax that is sure of a wrong class only two entries of k are left, +1 and -1:
        # the line has one point, and the length is known.
        return [min((slope, 0.5**0.5), key=lambda m: self.worth(*self.polished(m)))]

    def _line(self) -> float | None:
        chosen = self.u > 0
        chosen[self.label] = False
        if int(chosen.sum()) < 2:
            return None
        s, t, w = self.s[chosen], self.u[chosen].log(), self.u[chosen].square()
        s, t = s - (w * s).sum() / w.sum(), t - (w * t).sum() / w.sum()
        spread = float((w * s * s).sum())
        return float((w * s * t).sum()) / spread if spread > 0 else None

    def _grid(self) -> list[float]:
        """Every local minimum of the misfit over a in [1e-8, 1.5/max |u|]."""
        high = math.log(1.5 / float(self.u.abs().max()))
        logs = torch.linspace(math.log(1e-8), high, 600, dtype=torch.float64)
        slopes = [math.exp(-float(v)) for v in logs]
        misfit = [float(self._misfit(m, self._length(m)).norm()) for m in slopes]
        inner = range(1, len(misfit) - 1)
        low = [i for i in inner if misfit[i] <= min(misfit[i - 1], misfit[i + 1])]
        return [slopes[i] for i in low] or [slopes[misfit.index(min(misfit))]]

    def _error(self, m: float) -> Tensor:
        p = torch.softmax(m * self.s, 0)
        p[self.label] -= 1
        # 1 - p_y by its terms: the difference would lose digits where p_y is near one.
        p[self.label] = -(p.sum() - p[self.label])
        return p

    def _length(self, m: float) -> float:
        return float(self._error(m) @ self.u) if self.clipped else 1 / m

    def _misfit(self, m: float, a: float) -> Tensor:
        return self._error(m) - a * self.u

    def worth(self, m: float, a: float) -> float:
        """How badly these scales fit."""
        return float(self._misfit(m, a).norm())

    def polished(self, m: float) -> tuple[float, float]:
        """At most 20 Gauss-Newton steps on log m (and log a), each halved while it worsens."""
        a = self._length(m)
        best = float(self._misfit(m, a).norm())
        for _ in range(20):
            step = self._step(m, a)
            for _half in range(30):
                trial = m * math.exp(step)
                length = self._length(trial)
                worth = float(self._misfit(trial, length).norm())
                if worth < best:
                    break
                step /= 2
            else:
                return m, a
            m, a, best = trial, length, worth
        return m, a

    def _step(self, m: float, a: float) -> float:
        p = torch.softmax(m * self.s, 0)
        change = m * p * (self.s - p @ self.s)
        along = -(change @ self.u) * self.u if self.clipped else a * self.u
        row = change + along
        size = float(row @ row)
        step = -float(row @ self._misfit(m, a)) / size if size > 0 else 0.0
        return max(-2.0, min(2.0, step))

    def head(self, v: Tensor, scales: tuple[float, float]) -> Head:
        m, a = scales
        return Head(m * v, a * self.u, self.label, factor=1 / (a * m))
