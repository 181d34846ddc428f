"""One example out of an aggregate of thousands: one narrow bin that one of them hits."""

import math
from typing import Literal

import torch
from torch import Generator, Tensor, nn

from seepage.attacks.imprint import edges
from seepage.attacks.imprint.block import Add, Notes, Rows, gradients
from seepage.attacks.imprint.imprint import Public, activations, known, linear
from seepage.attacks.imprint.invert import Found, invert, reconstruction
from seepage.attacks.imprint.placement import site
from seepage.attacks.imprint.singly import read_rows
from seepage.checks import at_least, one_of, positive
from seepage.core import Model, Observation, Reconstruction
from seepage.errors import InvalidInput
from seepage.values import value


@value
class OneShot:
    """A bin of mass 1/n at the median: it holds exactly one of n examples in 1/e of rounds.

    P(one) = n p (1 - p)^(n - 1), largest at p = 1/n, where it tends to 1/e

    Fowl et al. 2021, arXiv 2110.13057, section 4.3. `n` is the number of examples summed. With
    rows="pair" two ReLU rows bound the bin, and their difference loses digits to the thousands of
    examples above it; "clamp" is one row clamped to [0, 1], whose gradient holds the bin alone.
    """

    n: int | None = None
    measure: str | Tensor = "avg"
    at: str = ""
    public: Public = None
    rows: Literal["clamp", "pair"] = "clamp"
    out: float = 1.0

    def __post_init__(self) -> None:
        one_of("OneShot.rows", self.rows, ("clamp", "pair"))
        positive("OneShot.out", self.out)
        if self.n is None:
            raise InvalidInput(
                "OneShot.n is missing: the bin's width follows from how many examples the server "
                "will sum. Write OneShot(n=16384)."
            )
        at_least("OneShot.n", self.n, 2)

    def craft(self, model: Model, rng: Generator) -> Model:
        """The model with one narrow bin in front of a layer."""
        place = site(model, self.at)
        public = known(self.public, "OneShot", model)
        w = edges.measures(self.measure, 1, place.shape, rng)
        h = place.project(public, w)[:, 0] if isinstance(public, Tensor) else public
        low, width, spread = narrow(h, self.n or 2)
        cuts = torch.tensor([low, low + width], dtype=torch.float64)
        ends = torch.tensor([low + width, math.inf], dtype=torch.float64)
        clamp = self.rows == "clamp"
        rows, slope = (1, 1 / width) if clamp else (2, 1 / spread)
        weight, bias = slope * w.expand(rows, -1), -slope * cuts[:rows]
        activation = nn.Hardtanh(0.0, 1.0) if clamp else nn.ReLU()
        fired = activation(activations(place, public, weight, bias))
        join = Add(self.out / rows, fired.mean(0))
        block = Rows(linear(weight.clone(), bias), activation, join, None)
        known_spread = torch.tensor([spread], dtype=torch.float64)
        block.notes = Notes(
            w, torch.zeros(rows).long(), cuts[:rows], ends[:rows], known_spread, place.reader
        )
        return place.with_rows(block)

    def __call__(self, seen: Observation, rng: Generator) -> Reconstruction:
        weight, bias, notes = gradients(seen)
        if self.rows == "clamp":
            return reconstruction(seen, read_rows(weight, bias, notes, 1, 0.0), notes)
        return reconstruction(seen, _lower_bin(invert(weight, bias, notes, None)), notes)


def narrow(h: Tensor | tuple[float, float], n: int) -> tuple[float, float, float]:
    """Lower edge, width and spread of a bin of mass 1/n at the median: width = 1 / (n f(median)).

    >>> low, width, spread = narrow((0.0, 1.0), 100)
    >>> round(width, 4)
    0.0251
    """
    mean, spread = edges.moments(h)
    if not isinstance(h, Tensor):
        return mean, math.sqrt(2 * math.pi) * spread / n, spread
    middle = float(h.median())
    # Silverman's rule of thumb for the width of the smoothing kernel.
    kernel = 0.9 * min(spread, _quartiles(h) / 1.34) * len(h) ** -0.2
    density = torch.exp(-(((h - middle) / kernel) ** 2) / 2).mean() / kernel
    return middle, math.sqrt(2 * math.pi) / (n * float(density)), spread


def _quartiles(h: Tensor) -> float:
    """The distance between the quartiles."""
    low, high = torch.quantile(h, torch.tensor([0.25, 0.75], dtype=h.dtype)).tolist()
    return float(high - low)


def _lower_bin(found: Found) -> Found:
    """Only the narrow bin: the one above it holds half of everything."""
    kept = torch.nonzero(found.bin == 0).flatten()
    return Found(
        found.x[kept.to(found.x.device)],
        found.certified[kept],
        found.size[kept],
        found.residual[kept],
        found.bin[kept],
        len(kept),
    )
