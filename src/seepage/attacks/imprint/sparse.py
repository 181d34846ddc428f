"""The imprint for federated averaging: each row answers to one bin only, so steps do not mix."""

import math
from typing import Any, Literal

import torch
from torch import Generator, Tensor, nn

from seepage.attacks.imprint import edges
from seepage.attacks.imprint.block import Add, Notes, Rows, block_of, gradients
from seepage.attacks.imprint.gain import dry_run
from seepage.attacks.imprint.imprint import Public, activations, along, known, linear, only_at_input
from seepage.attacks.imprint.invert import reconstruction
from seepage.attacks.imprint.peel import on_grid, peel
from seepage.attacks.imprint.placement import Site, site
from seepage.attacks.imprint.singly import read_rows
from seepage.checks import at_least, one_of, positive
from seepage.core import Model, Observation, Reconstruction
from seepage.values import value

_FLOOR = 1e-3  # of the longest row: below, only rounding moved it
_ROUNDING = 6e-8  # of a float32: what an update smaller than this share of its weight loses


@value
class SparseImprint:
    """a_i = clamp((w.x - e_i) / d_i, 0, 1), d_i = e_{i+1} - e_i: a row's update is its bin's alone.

    x_i = (W_before - W_after)_i / (b_before - b_after)_i, summed over all local steps

    Fowl et al. 2021, arXiv 2110.13057, section 4.4. Float32 weights swallow steps smaller than a
    part in 10^7 of them, first of all biases of 10 to 100. So the rows can stand elsewhere:
    offset="frozen" keeps them in a frozen layer beside which weights that start at 0 are trained,
    as adapters do, and every step is recorded to seven digits; "buffer" keeps the edges alone in
    a buffer (as BatchNorm keeps a running mean), "feature" weighs a constant 1 with them, and
    "bias" is the published place. scale="bin" reads no bias: x = dW / s with
    s = w.dW / (middle of the bin); "auto" does so where the bias is predicted to be worse.

    `gain` uses a symmetry of the network: W / gain, a clamp at 1 / gain and an output times gain
    are the same function, and its update is gain^2 times larger beside the weights. By default,
    unless the rows are frozen, a dry run on public data with the learning rate `lr` chooses it:
    as large as leaves the bins in place over a local step.
    """

    bins: int = 128
    measure: str | Tensor = "fine"
    at: str = ""
    public: Public = None
    offset: Literal["frozen", "buffer", "feature", "bias"] = "frozen"
    scale: Literal["auto", "bias", "bin"] = "auto"
    out: float = 1.0
    gain: float | None = None
    lr: float = 1e-4
    directions: int = 1

    def __post_init__(self) -> None:
        one_of("SparseImprint.offset", self.offset, ("frozen", "buffer", "feature", "bias"))
        one_of("SparseImprint.scale", self.scale, ("auto", "bias", "bin"))
        at_least("SparseImprint.directions", self.directions, 1)
        at_least("SparseImprint.bins", self.bins, 2 * self.directions)
        positive("SparseImprint.lr", self.lr)
        positive("SparseImprint.out", self.out)
        if self.gain is not None:
            positive("SparseImprint.gain", self.gain)

    def craft(self, model: Model, rng: Generator) -> Model:
        """The model with clamped rows in front of a layer."""
        place = site(model, self.at)
        public = known(self.public, "SparseImprint", model)
        only_at_input(place, self.directions)
        w = edges.measures(self.measure, self.directions, place.shape, rng)
        h = place.project(public, w) if isinstance(public, Tensor) else public
        notes = _noted(h, w, self.bins, place)
        slope = 1 / (notes.upper - notes.lower)
        weight, start = slope[:, None] * w[notes.direction], slope * notes.lower
        fired = nn.functional.hardtanh(_shares(place, public, (weight, start)), 0.0, 1.0)
        gain = 1.0 if self.offset == "frozen" and self.gain is None else self.gain
        if gain is None:
            trial = self._placed(model, notes, (weight, start), fired.mean(0), 1.0)
            gain = dry_run(trial, public, self.lr, rng)
        return self._placed(model, notes, (weight, start), fired.mean(0), gain)

    def __call__(self, seen: Observation, rng: Generator) -> Reconstruction:
        if _finds(seen.client, "optimizer") == "adam":
            return Reconstruction.nothing(
                seen, "Adam divides each weight's step by its own size, so steps do not add up to x"
            )
        weight, bias, notes = gradients(seen)
        before, decayed = _before(seen), _decayed(seen)
        size = notes.measures.shape[1]
        weight = (decayed[0] - (before[0] - weight)).double() if decayed else weight.double()
        bias = (decayed[1] - (before[1] - bias)).double() if decayed else bias.double()
        weight = weight[:, :size]
        count = self._counts(weight, bias, before[1].double(), notes)
        found = (
            peel((weight, count), notes, seen.n, nested=False, rule=on_grid(notes, before[0].dtype))
            if len(notes.measures) > 1
            else read_rows(weight, count, notes, seen.n, _FLOOR, before[0].dtype)
        )
        return reconstruction(seen, found, notes)

    def _counts(self, weight: Tensor, bias: Tensor, before: Tensor, notes: Notes) -> Tensor:
        """What to divide each row by: the bias's step, or what the middle of the bin implies."""
        middle = ((notes.lower + notes.upper) / 2).to(bias)
        by_bin = (weight * notes.measures.to(weight)[notes.direction]).sum(1) / middle
        if self.scale == "bin":
            return by_bin
        if self.scale == "bias":
            return bias
        width = (notes.upper - notes.lower).to(bias)
        bias_error = _ROUNDING * before.abs() / bias.abs().clamp_min(1e-300)
        bin_error = width / (math.sqrt(12) * middle.abs().clamp_min(1e-300))
        return torch.where(bias_error > bin_error, by_bin, bias)

    def _placed(
        self, model: Model, notes: Notes, rows: tuple[Tensor, Tensor], centre: Tensor, gain: float
    ) -> Model:
        weight, start = rows[0] / gain, rows[1] / gain
        zero, base = torch.zeros_like(start), None
        if self.offset == "frozen":
            base, weight = linear(weight, -start).requires_grad_(False), torch.zeros_like(weight)
        if self.offset == "feature":
            weight = torch.cat([weight, -start[:, None]], 1)
        layer = linear(weight.clone(), -start if self.offset == "bias" else zero)
        offset = start.clone() if self.offset == "buffer" else None
        join = Add(self.out * gain / len(start), centre / gain)
        block = Rows(layer, nn.Hardtanh(0.0, 1 / gain), join, offset)
        block.base, block.notes = base, notes
        return site(model, self.at).with_rows(block)


def _noted(h: Tensor | tuple[float, float], w: Tensor, bins: int, place: Site) -> Notes:
    """Bins between the quantiles i / (k + 2), i = 1 .. k + 1, of each direction."""
    lower, upper, direction, spread = [], [], [], []
    for p in range(len(w)):
        share = bins // len(w) + (p < bins % len(w))
        shares = torch.arange(1, share + 2, dtype=torch.float64) / (share + 2)
        cuts = torch.unique(edges.quantiles(along(h, p), shares, share))
        lower.append(cuts[:-1])
        upper.append(cuts[1:])
        direction.append(torch.full((len(cuts) - 1,), p))
        spread.append(edges.moments(along(h, p))[1])
    return Notes(
        w,
        torch.cat(direction),
        torch.cat(lower),
        torch.cat(upper),
        torch.tensor(spread, dtype=torch.float64),
        place.reader,
    )


def _shares(
    place: Site, public: Tensor | tuple[float, float], rows: tuple[Tensor, Tensor]
) -> Tensor:
    """(m, K) values of (w.x - e_i) / d_i over public data."""
    weight, start = rows
    if isinstance(public, Tensor):
        return place.project(public, weight) - start
    # With W_i = w / d_i and start = e_i / d_i, lengths tell the widths d_i apart.
    slope = weight.norm(dim=1) / weight[0].norm()
    first = activations(place, public, weight[:1], torch.zeros(1, dtype=torch.float64))
    shares: Tensor = first * slope * public[1] - start
    return shares


def _finds(client: object, field: str) -> Any:
    """The first value of a field among a client and those that it wraps."""
    while client is not None:
        if hasattr(client, field):
            return getattr(client, field)
        client = getattr(client, "inner", None)
    return None


def _before(seen: Observation) -> tuple[Tensor, Tensor]:
    """The rows' weights and biases as they were broadcast."""
    name, _, _ = block_of(seen.model.module)
    prefix = f"{name}.linear." if name else "linear."
    return seen.model.params[prefix + "weight"], seen.model.params[prefix + "bias"]


def _decayed(seen: Observation) -> tuple[Tensor, Tensor] | None:
    """Where weight decay alone takes the rows over all local steps, rounded as the client rounds.

    Its step is often less than half a unit in the last place: only the same arithmetic tells
    which entries moved.
    """
    rate = float(_finds(seen.client, "weight_decay") or 0) * float(_finds(seen.client, "lr") or 0)
    if rate == 0:
        return None
    size, n = _finds(seen.client, "batch_size"), seen.n
    per_epoch = math.ceil(n / size) if size and n else 1
    weight, bias = _before(seen)
    for _ in range(per_epoch * int(_finds(seen.client, "epochs") or 1)):
        weight, bias = weight - rate * weight, bias - rate * bias
    return weight, bias
