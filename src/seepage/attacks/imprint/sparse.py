"""The imprint for federated averaging: each row answers to one bin only, so steps do not mix."""

import math
from typing import Any, Literal

import torch
from torch import Generator, Tensor, nn

from seepage.attacks.imprint import edges
from seepage.attacks.imprint.block import Add, Notes, Rows, block_of, gradients
from seepage.attacks.imprint.imprint import Public, activations, along, known, linear
from seepage.attacks.imprint.invert import reconstruction
from seepage.attacks.imprint.placement import Site, site
from seepage.attacks.imprint.singly import read_rows
from seepage.checks import at_least, one_of, positive
from seepage.core import Batch, Model, Observation, Reconstruction
from seepage.forms import Tokens
from seepage.values import value

_FLOOR = 1e-3  # of the longest row: below, only rounding moved it
_ROUNDING = 6e-8  # of a float32: what an update smaller than this share of its weight loses
_WANTED_STEP = 5e-7  # lr times gradient that float32 weights of this size still record
_DRY_RUNS, _LOCAL_BATCH = 16, 8


@value
class SparseImprint:
    """a_i = clamp((w.x - e_i) / d_i, 0, 1), d_i = e_{i+1} - e_i: a row's update is its bin's alone.

    x_i = (W_before - W_after)_i / (b_before - b_after)_i, summed over all local steps

    Fowl et al. 2021, arXiv 2110.13057, section 4.4. Biases of 10 to 100 swallow updates of 1e-6 in
    float32, so the edges can stand elsewhere: offset="buffer" keeps them in a buffer behind the
    rows (as BatchNorm keeps a running mean), "feature" weighs a constant 1; the bias is then 0.
    scale="bin" reads no bias at all: x = dW / s with s = w.dW / (middle of the bin), "auto" does so
    where the bias is predicted to be worse. `out` defaults to what a dry run on public data asks.
    """

    bins: int = 128
    measure: str | Tensor = "avg"
    at: str = ""
    public: Public = None
    offset: Literal["buffer", "feature", "bias"] = "buffer"
    scale: Literal["auto", "bias", "bin"] = "auto"
    out: float | None = None
    lr: float = 1e-4

    def __post_init__(self) -> None:
        one_of("SparseImprint.offset", self.offset, ("buffer", "feature", "bias"))
        one_of("SparseImprint.scale", self.scale, ("auto", "bias", "bin"))
        at_least("SparseImprint.bins", self.bins, 2)
        positive("SparseImprint.lr", self.lr)
        if self.out is not None:
            positive("SparseImprint.out", self.out)

    def craft(self, model: Model, rng: Generator) -> Model:
        """The model with clamped rows in front of a layer."""
        place = site(model, self.at)
        public = known(self.public, "SparseImprint", model)
        w = edges.measures(self.measure, 1, place.size, rng)
        h = place.project(public, w) if isinstance(public, Tensor) else public
        cuts, spread = _cuts(along(h, 0), self.bins)
        slope = 1 / cuts.diff()
        weight, start = slope[:, None] * w, slope * cuts[:-1]
        fired = nn.functional.hardtanh(_shares(place, public, h, (weight, start)), 0.0, 1.0)
        none = torch.zeros(len(slope)).long()
        notes = Notes(
            w, none, cuts[:-1], cuts[1:], torch.tensor([spread], dtype=torch.float64), place.reader
        )
        out = self.out
        if out is None:
            trial = self._placed(model, notes, (weight, start), fired.mean(0), 1.0)
            out = _dry_run(trial, public, self.lr, len(slope), rng)
        return self._placed(model, notes, (weight, start), fired.mean(0), out)

    def __call__(self, seen: Observation, rng: Generator) -> Reconstruction:
        if _finds(seen.client, "optimizer") == "adam":
            return Reconstruction.nothing(
                seen, "Adam divides each weight's step by its own size, so steps do not add up to x"
            )
        weight, bias, notes = gradients(seen)
        name, _, _ = block_of(seen.model.module)
        prefix = f"{name}.linear." if name else "linear."
        before = seen.model.params[prefix + "weight"], seen.model.params[prefix + "bias"]
        decay = _decay(seen)
        size = notes.measures.shape[1]
        weight = (weight.double() - decay * before[0].double())[:, :size]
        bias = bias.double() - decay * before[1].double()
        count = self._counts(weight, bias, before[1].double(), notes)
        return reconstruction(seen, read_rows(weight, count, notes, seen.n, _FLOOR), notes)

    def _counts(self, weight: Tensor, bias: Tensor, before: Tensor, notes: Notes) -> Tensor:
        """What to divide each row by: the bias's step, or what the middle of the bin implies."""
        middle = ((notes.lower + notes.upper) / 2).to(bias)
        by_bin = weight @ notes.measures[0].to(weight) / middle
        if self.scale == "bin":
            return by_bin
        if self.scale == "bias":
            return bias
        width = (notes.upper - notes.lower).to(bias)
        bias_error = _ROUNDING * before.abs() / bias.abs().clamp_min(1e-300)
        bin_error = width / (math.sqrt(12) * middle.abs().clamp_min(1e-300))
        return torch.where(bias_error > bin_error, by_bin, bias)

    def _placed(
        self, model: Model, notes: Notes, rows: tuple[Tensor, Tensor], centre: Tensor, out: float
    ) -> Model:
        weight, start = rows
        zero = torch.zeros_like(start)
        if self.offset == "feature":
            weight = torch.cat([weight, -start[:, None]], 1)
        layer = linear(weight.clone(), -start if self.offset == "bias" else zero)
        offset = start.clone() if self.offset == "buffer" else None
        block = Rows(layer, nn.Hardtanh(0.0, 1.0), Add(out / len(start), centre), offset)
        block.notes = notes
        return site(model, self.at).with_rows(block)


def _cuts(h: Tensor | tuple[float, float], bins: int) -> tuple[Tensor, float]:
    """bins + 1 edges at quantiles i / (bins + 2), i = 1 .. bins + 1; the measure's spread."""
    shares = torch.arange(1, bins + 2, dtype=torch.float64) / (bins + 2)
    return torch.unique(edges.quantiles(h, shares, bins)), edges.moments(h)[1]


def _shares(
    place: Site,
    public: Tensor | tuple[float, float],
    h: Tensor | tuple[float, float],
    rows: tuple[Tensor, Tensor],
) -> Tensor:
    """(m, K) values of (w.x - e_i) / d_i over public data."""
    weight, start = rows
    if isinstance(h, Tensor):
        return place.project(public, weight) - start if isinstance(public, Tensor) else h
    slope = weight.norm(dim=1) / weight[0].norm()
    first = activations(place, h, weight[:1], torch.zeros(1, dtype=torch.float64))
    shares: Tensor = first * slope * h[1] - start
    return shares


def _dry_run(
    trial: Model, public: Tensor | tuple[float, float], lr: float, bins: int, rng: Generator
) -> float:
    """The output gain for which a local step is large enough to survive float32, at most `bins`."""
    if not isinstance(public, Tensor) or isinstance(trial.form, Tokens):
        return 0.1 * bins
    name, _, _ = block_of(trial.module)
    leaf = f"{name}.linear.bias"
    pick = torch.randint(len(public), (_DRY_RUNS,), generator=rng)
    labels = torch.randint(trial.form.classes, (_DRY_RUNS,), generator=rng)
    steps = []
    for i, y in zip(pick.tolist(), labels.to(trial.device), strict=True):
        b = trial.params[leaf].clone().requires_grad_()
        risk = trial.risk({**trial.params, leaf: b}, Batch(public[i : i + 1], y[None]))
        (gradient,) = torch.autograd.grad(risk, [b])
        steps.append(float(gradient.abs().max()) * lr / _LOCAL_BATCH)
    typical = sorted(steps)[len(steps) // 4]
    return min(float(bins), max(1.0, _WANTED_STEP / max(typical, 1e-30)))


def _finds(client: object, field: str) -> Any:
    """The first value of a field among a client and those that it wraps."""
    while client is not None:
        if hasattr(client, field):
            return getattr(client, field)
        client = getattr(client, "inner", None)
    return None


def _decay(seen: Observation) -> float:
    """The share by which weight decay alone shrinks the weights over the local steps."""
    rate = float(_finds(seen.client, "weight_decay") or 0) * float(_finds(seen.client, "lr") or 0)
    size, n = _finds(seen.client, "batch_size"), seen.n
    per_epoch = math.ceil(n / size) if size and n else 1
    return 1 - (1 - rate) ** (per_epoch * int(_finds(seen.client, "epochs") or 1))
