"""Trap weights: random rows that fire for about one example of a batch."""

import math
from typing import Literal

import torch
from torch import Generator, Tensor, nn

from seepage.attacks.imprint.block import Add, Notes, Rows, gradients
from seepage.attacks.imprint.imprint import Public, known, linear
from seepage.attacks.imprint.invert import reconstruction
from seepage.attacks.imprint.placement import Site, site
from seepage.attacks.imprint.singly import read_rows
from seepage.checks import at_least, one_of, positive
from seepage.core import Model, Observation, Reconstruction
from seepage.errors import InvalidInput
from seepage.values import value

_NOISE = 1e-6


@value
class Trap:
    """Independent rows, each firing with probability 1/n: x_i = gW_i / gb_i where one fired alone.

    Expected isolated: n (1 - (1 - q)^k), q = (1/n) (1 - 1/n)^(n-1), for independent rows.

    "quantile": W ~ N(0, 1/N), b_i the (1 - 1/n) quantile of public data with its sign turned
    (Nowak et al. 2024, arXiv 2406.18745). "cah": half the entries negative, half the same
    magnitudes times a scale, no bias (Boenisch et al. 2021, arXiv 2112.02918); here each row's
    scale is calibrated so that it fires at rate 1/n. It needs inputs in [0, 1].
    """

    n: int | None = None
    rows: int = 128
    kind: Literal["quantile", "cah"] = "quantile"
    at: str = ""
    public: Public = None
    out: float = 1.0

    def __post_init__(self) -> None:
        one_of("Trap.kind", self.kind, ("quantile", "cah"))
        at_least("Trap.rows", self.rows, 1)
        positive("Trap.out", self.out)
        if self.n is None:
            raise InvalidInput(
                "Trap.n is missing: rows are tuned to fire once in a batch. Write Trap(n=64)."
            )
        at_least("Trap.n", self.n, 2)

    def craft(self, model: Model, rng: Generator) -> Model:
        """The model with trap rows in front of a layer."""
        place = site(model, self.at)
        public = known(self.public, "Trap", model)
        if not isinstance(public, Tensor):
            raise InvalidInput(
                "Trap.public must be samples: each row has its own threshold, which (mean, std) "
                "cannot tell. Pass a tensor of inputs as the model takes them."
            )
        make = _quantile if self.kind == "quantile" else _cah
        weight, bias, remarks = make(place, public, (self.rows, self.n or 2), rng)
        fired = (place.project(public, weight) + bias).relu().mean(0)
        join = Add(self.out / self.rows, fired)
        rows = Rows(linear(weight, bias), nn.ReLU(), join, None)
        nowhere = torch.full((self.rows,), math.inf, dtype=torch.float64)
        none, one = torch.zeros(self.rows).long(), torch.ones(1, dtype=torch.float64)
        rows.notes = Notes(weight[:1], none, -nowhere, nowhere, one, place.reader, remarks)
        return place.with_rows(rows)

    def __call__(self, seen: Observation, rng: Generator) -> Reconstruction:
        weight, bias, notes = gradients(seen)
        return reconstruction(seen, read_rows(weight, bias, notes, seen.n, _NOISE), notes)


Made = tuple[Tensor, Tensor, tuple[str, ...]]


def _quantile(place: Site, public: Tensor, size: tuple[int, int], rng: Generator) -> Made:
    rows, n = size
    weight = torch.randn(rows, place.size, generator=rng, dtype=torch.float64) / place.size**0.5
    z = place.project(public, weight)
    return weight, -torch.quantile(z, 1 - 1 / n, dim=0), ()


def _cah(place: Site, public: Tensor, size: tuple[int, int], rng: Generator) -> Made:
    """Row i fires where scale P_i(x) > N_i(x): the scale is the 1/n quantile of N_i / P_i."""
    rows, n = size
    half = place.size // 2
    magnitude = 0.5 * torch.randn(rows, half, generator=rng, dtype=torch.float64).abs()
    shuffled = torch.rand(rows, half, generator=rng).argsort(1)
    order = torch.rand(rows, place.size, generator=rng).argsort(1)
    up = torch.zeros(rows, place.size, dtype=torch.float64)
    down = up.clone()
    up.scatter_(1, order[:, :half], magnitude.gather(1, shuffled))
    down.scatter_(1, order[:, half : 2 * half], magnitude)
    rises, falls = place.project(public, up), place.project(public, down)
    ratio = torch.where(rises > 0, falls / rises, math.inf)
    scale = torch.quantile(ratio, 1 / n, dim=0)
    remarks = () if float(public.min()) >= 0 else (_CENTRED,)
    return scale.clamp(1e-6, 1e6)[:, None] * up - down, torch.zeros(rows).double(), remarks


_CENTRED = (
    "'cah' needs inputs in [0, 1] and these have negative entries: its rows do not isolate; "
    "use kind='quantile'"
)
