"""The imprint attack: a server that sorts examples into bins and reads each bin's gradient."""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import torch
from torch import Generator, Tensor, nn

from seepage.attacks.imprint import edges, invert
from seepage.attacks.imprint.block import Add, Notes, Replace, Rows, gradients
from seepage.attacks.imprint.carry import Unpack, revealed
from seepage.attacks.imprint.peel import on_grid, peel
from seepage.attacks.imprint.placement import Site, site
from seepage.checks import at_least, one_of, positive
from seepage.core import Batch, Model, Observation, Reconstruction
from seepage.errors import InvalidInput
from seepage.tree import check_finite
from seepage.values import value

Public = Tensor | tuple[float, float] | None
_AS_BATCH = 128  # public samples that stand for a batch in train mode
_STAND_IN = 4096  # points that stand for a normal law where only its mean and std are known


@value
class Imprint:
    """Rows relu(s (w.x - c_i)) in front of the model: the gradient of each bin is one example.

    x_l = (gW_l - gW_{l+1}) / (gb_l - gb_{l+1}),  h(x_l) = w.x_l in [c_l, c_{l+1})

    Fowl, Geiping, Czaja, Goldblum, Goldstein 2021, arXiv 2110.13057. `craft` places `bins` rows
    before the layer named `at`, with edges at equal shares of the public data's measure (samples
    as the model takes them, or the measure's mean and std). A candidate is certified without any
    truth: it lies in its own bin and on the grid of its kind of data (8-bit pixels, one-hot
    groups, embedded words). With several `directions` the rows are dealt among random measures,
    and an example found by one is subtracted from the others' bins until nothing new appears:
    three find nearly all of n examples with bins = 2 n rows, one alone 61 % of them.

    >>> from seepage import FedSGD, observe, stream, zoo
    >>> private, public = zoo.photos(8, 32), zoo.photos(200, 32, split="public")
    >>> attack = Imprint(bins=32, directions=2, public=public.x)
    >>> crafted = attack.craft(private.model(zoo.lenet(8, seed=0)), stream(0, "craft"))
    >>> seen = observe(crafted, private.batch, FedSGD(), stream(0, "client"))
    >>> attack(seen, stream(0, "attack")).note
    '8 of 8 certified'
    """

    bins: int = 128
    measure: str | Tensor = "fine"
    at: str = ""
    directions: int = 1
    public: Public = None
    connection: Literal["add", "linear"] = "add"
    out: float = 1.0
    permute: bool = False
    decoys: int = 0

    def __post_init__(self) -> None:
        one_of("Imprint.connection", self.connection, ("add", "linear"))
        at_least("Imprint.bins", self.bins, 2)
        at_least("Imprint.directions", self.directions, 1)
        at_least("Imprint.decoys", self.decoys, 0)
        positive("Imprint.out", self.out)
        if self.bins < 2 * self.directions:
            raise InvalidInput(
                f"Imprint.bins={self.bins} gives {self.directions} directions fewer than two rows "
                "each, and one row makes no bin. Use more bins or fewer directions."
            )

    def craft(self, model: Model, rng: Generator) -> Model:
        """The model with the rows in it; no private data are needed."""
        place = site(model, self.at)
        public = known(self.public, "Imprint", model)
        only_at_input(place, self.directions)
        w = edges.measures(self.measure, self.directions, place.shape, rng)
        h = place.project(public, w) if isinstance(public, Tensor) else public
        notes, weight, bias = crafted_rows(h, w, self.bins, place)
        if self.decoys:
            notes, weight, bias = _hidden(notes, (weight, bias), self.decoys, rng)
        if self.permute:
            notes, weight, bias = _shuffled(notes, (weight, bias), rng)
        fired = activations(place, public, weight, bias).relu()
        rows = Rows(linear(weight, bias), nn.ReLU(), self._join(fired, notes, weight), None)
        rows.notes = notes
        return place.with_rows(rows)

    def __call__(self, seen: Observation, rng: Generator) -> Reconstruction:
        weight, bias, notes = gradients(seen)
        notes = _as_trained(seen, notes, self.public, rng)
        several = len(notes.measures) > 1
        found = (
            peel((weight, bias), notes, seen.n, nested=True, rule=on_grid(notes, weight.dtype))
            if several
            else invert.invert(weight, bias, notes, seen.n)
        )
        return invert.reconstruction(seen, found, notes)

    def _join(self, fired: Tensor, notes: Notes, weight: Tensor) -> nn.Module:
        rows = len(weight)
        if self.connection == "add":
            return Add(self.out / rows, fired.mean(0))
        replaced = _blank(rows, weight.shape[1], bias=False)
        nn.init.constant_(replaced.weight, self.out / rows * float(notes.spread.mean()))
        return Replace(replaced)


def known(public: Public, who: str, model: Model) -> Tensor | tuple[float, float]:
    """Public samples or the two numbers that stand for them, checked."""
    if isinstance(public, Tensor):
        return _checked(public, who, model)
    if isinstance(public, (tuple, list)) and len(public) == 2:
        return float(public[0]), float(public[1])
    raise InvalidInput(
        f"{who}.public={public!r}: edges come from public data of the same kind. Pass a tensor of "
        f"inputs as the model takes them, (m, {', '.join(map(str, model.form.shape))}), "
        "or the pair (mean, std) of the measure."
    )


def only_at_input(place: Site, directions: int) -> None:
    """Peeling subtracts examples as the rows saw them, which carried images are not."""
    if directions > 1 and place.reader.decode is not None:
        raise InvalidInput(
            f"directions={directions} at {place.at!r}: several directions are peeled at the input "
            "only. Use at='' or directions=1."
        )


def activations(
    place: Site, public: Tensor | tuple[float, float], weight: Tensor, bias: Tensor
) -> Tensor:
    """(m, K) values of W x + b over public data.

    Where only (mean, std) of the measure are known, evenly spread points of that normal law stand
    for the data: with W_i = s w, a row's values are s h + b_i, and s follows from its length.
    """
    if isinstance(public, Tensor):
        return place.project(public, weight) + bias
    shares = (torch.arange(_STAND_IN, dtype=torch.float64) + 0.5) / _STAND_IN
    normal: Tensor = torch.special.ndtri(shares)[:, None]
    return normal + public[0] / public[1] + bias


def _checked(public: Tensor, who: str, model: Model) -> Tensor:
    """Public samples must look like what the model takes, and be numbers."""
    shape = tuple(model.form.shape)
    if public.shape[1:] != shape or len(public) == 0:
        raise InvalidInput(
            f"{who}.public has shape {tuple(public.shape)}: expected (m, "
            f"{', '.join(map(str, shape))}), inputs as the model takes them."
        )
    check_finite({"public": public}, who)
    like = next(iter(model.params.values()))
    return public.to(like) if public.is_floating_point() else public


def along(h: Tensor | tuple[float, float], p: int) -> Tensor | tuple[float, float]:
    """What is known of measure p."""
    return h[:, p] if isinstance(h, Tensor) else h


def linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    """An ordinary layer with these weights."""
    layer = _blank(weight.shape[1], len(weight), bias=True)
    layer.weight.data, layer.bias.data = weight, bias
    return layer


def _blank(inputs: int, outputs: int, bias: bool) -> nn.Linear:
    # Initial weights would be drawn from the global generator.
    make: Callable[..., nn.Linear] = nn.utils.skip_init
    return make(nn.Linear, inputs, outputs, bias=bias)


def _as_trained(seen: Observation, notes: Notes, public: Public, rng: Generator) -> Notes:
    """Where the client normalises by its batch, carried images come out standardised.

    An update that carries the running statistics tells by what; otherwise a batch of public
    samples is the best guess there is, and too rough for a certificate.
    """
    decode = notes.reader.decode
    if not isinstance(decode, Unpack) or not is_training(seen.client):
        return notes
    model, n = seen.model, seen.n or 1
    # Statistics that one batch did not move are not in an update: they are as they were.
    if f"{decode.steps[0].norm}.running_mean" in seen.update:
        after = {k: b - seen.update.get(k, 0) for k, b in model.buffers.items()}
    elif isinstance(public, Tensor):
        some = public[:_AS_BATCH].to(next(iter(model.params.values())))
        labels = torch.zeros(len(some), dtype=torch.long, device=model.device)
        after, n = dict(model.step(model.params, Batch(some, labels), "train", rng)[1]), len(some)
    else:
        return notes
    return replace(notes, reader=replace(notes.reader, decode=revealed(decode, model, after, n)))


def is_training(client: object) -> bool:
    """Whether the client, or one that it wraps, is believed to run in train mode."""
    while client is not None:
        if getattr(client, "mode", None) == "train":
            return True
        client = getattr(client, "inner", None)
    return False


def crafted_rows(
    h: Tensor | tuple[float, float], w: Tensor, bins: int, place: Site
) -> tuple[Notes, Tensor, Tensor]:
    """W_i = s w, b_i = -s c_i with s = 1 / std h, for each direction its share of the rows."""
    directions = len(w)
    shares = [bins // directions + (p < bins % directions) for p in range(directions)]
    cuts = [edges.cut(along(h, p), share) for p, share in enumerate(shares)]
    lower = torch.cat([c.edges for c in cuts])
    end = torch.tensor([float("inf")], dtype=torch.float64)
    upper = torch.cat([torch.cat([c.edges[1:], end]) for c in cuts])
    direction = torch.cat([torch.full((len(c.edges),), p) for p, c in enumerate(cuts)])
    spread = torch.tensor([c.spread for c in cuts], dtype=torch.float64)
    merged = sum(c.merged for c in cuts)
    remarks = (f"{merged} equal edges merged",) if merged else ()
    notes = Notes(w, direction, lower, upper, spread, place.reader, remarks)
    slope = 1 / spread[direction]
    return notes, slope[:, None] * w[direction], -slope * lower


def _hidden(
    notes: Notes, rows: tuple[Tensor, Tensor], decoys: int, rng: Generator
) -> tuple[Notes, Tensor, Tensor]:
    """Random rows, and a hundredth of the entries disturbed: the matrix has full rank then.

    A random direction bears less than the average: there the disturbance would move examples
    across edges, so it shrinks with how much of the rows' length the measure itself uses.
    """
    weight, bias = rows
    size, length = weight.shape, weight.norm(dim=1, keepdim=True) / weight.shape[1] ** 0.5
    even = float((weight.sum(1).abs() / weight.abs().sum(1)).mean())
    strength = max(even, 1 / len(weight)) * length
    noise = torch.randn(size, generator=rng, dtype=torch.float64) * strength
    touched = torch.rand(size, generator=rng, dtype=torch.float64) < 0.01
    extra = torch.randn(decoys, size[1], generator=rng, dtype=torch.float64) * length.mean()
    return (
        _renumbered(notes, None, decoys),
        torch.cat([weight + noise * touched, extra]),
        torch.cat([bias, bias.new_zeros(decoys)]),
    )


def _shuffled(
    notes: Notes, rows: tuple[Tensor, Tensor], rng: Generator
) -> tuple[Notes, Tensor, Tensor]:
    order = torch.randperm(len(rows[1]), generator=rng)
    return _renumbered(notes, order, 0), rows[0][order], rows[1][order]


def _renumbered(notes: Notes, order: Tensor | None, decoys: int) -> Notes:
    """The same notes for shuffled rows, or with decoys behind them."""
    none = notes.lower.new_zeros(decoys)
    direction = torch.cat([notes.direction, torch.full((decoys,), -1)])
    lower, upper = torch.cat([notes.lower, none]), torch.cat([notes.upper, none])
    if order is not None:
        direction, lower, upper = direction[order], lower[order], upper[order]
    return replace(notes, direction=direction, lower=lower, upper=upper)
