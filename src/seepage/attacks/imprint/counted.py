"""Bins that count their examples: certificates for data without a grid, such as noisy floats."""

import math

import torch
from torch import Generator, Tensor, nn

from seepage.attacks.imprint import edges
from seepage.attacks.imprint.block import Add, Rows, gradients
from seepage.attacks.imprint.imprint import Public, crafted_rows, known, linear, only_at_input
from seepage.attacks.imprint.invert import reconstruction
from seepage.attacks.imprint.peel import Rule, peel
from seepage.attacks.imprint.placement import site
from seepage.checks import at_least
from seepage.core import Model, Observation, Reconstruction
from seepage.errors import InvalidInput
from seepage.values import value

_WEIGHT = 1e-3  # of each activation in the extra logit: too little to move any softmax
_CERTAIN = 40.0  # how far the extra logit lies above all others: its probability is then 1
_AT_ONCE = 256
_OFF = 0.2  # how far from one a count may lie


@value
class Counted:
    """The rows feed one more logit with weight lambda and a large bias: a bin's gradient counts.

    d_l = lambda (number of examples in bin l) / n,  so that x_l = D_l / d_l where the count is 1

    Every example's gradient at the extra logit is its probability, 1, whatever its label, so all
    weigh the same and bins are certified without a grid, and peeled over several `directions` as
    in `Imprint`. The bias lies 40 above the network's largest logit on the public data. It needs n
    and a classifier with cross-entropy; the loss of 40 and more is visible.
    """

    bins: int = 128
    measure: str | Tensor = "fine"
    directions: int = 3
    public: Public = None

    def __post_init__(self) -> None:
        at_least("Counted.directions", self.directions, 1)
        at_least("Counted.bins", self.bins, 2 * self.directions)

    def craft(self, model: Model, rng: Generator) -> Model:
        """The model with one more class, fed by the rows alone."""
        place = site(model, "")
        _check_classifier(model, place.probe)
        public = known(self.public, "Counted", model)
        only_at_input(place, self.directions)
        w = edges.measures(self.measure, self.directions, place.shape, rng)
        h = place.project(public, w) if isinstance(public, Tensor) else public
        notes, weight, bias = crafted_rows(h, w, self.bins, place)
        rows = Rows(linear(weight, bias), nn.ReLU(), Add(0.0, torch.zeros(len(bias))), None)
        rows.notes = notes
        like = next(iter(model.params.values()))
        certain = _CERTAIN + _largest(model, public)
        return Model.of(Counting(rows.to(like), place.module, certain), model.loss, model.form)

    def __call__(self, seen: Observation, rng: Generator) -> Reconstruction:
        weight, bias, notes = gradients(seen)
        if seen.n is None:
            raise InvalidInput(
                "Counted needs the number of examples: counts are shares of it. "
                "Observe with tell=('n',)."
            )
        unit = _WEIGHT / seen.n

        def judge(features: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
            return (weights / unit - 1).abs() / _OFF, features

        rule = Rule(judge, slack=math.inf, same=1e-2)
        found = peel((weight, bias), notes, seen.n, nested=True, rule=rule)
        return reconstruction(seen, found, notes)


def _check_classifier(model: Model, probe: Tensor) -> None:
    with torch.no_grad():
        shape = tuple(model.predict(probe[:1]).shape)
    if len(shape) != 2:
        raise InvalidInput(
            f"Counted needs a classifier with outputs (n, classes), and this model's have shape "
            f"{shape}. Use Imprint for other models."
        )


def _largest(model: Model, public: Tensor | tuple[float, float]) -> float:
    """The largest logit over public data: trained networks reach dozens."""
    if not isinstance(public, Tensor):
        return 0.0
    with torch.no_grad():
        parts = (public[start : start + _AT_ONCE] for start in range(0, len(public), _AT_ONCE))
        return max(0.0, *(float(model.predict(part.to(model.device)).max()) for part in parts))


class Counting(nn.Module):
    """The network's logits and one more: a large number + lambda sum_i a_i."""

    def __init__(self, block: Rows, inner: nn.Module, certain: float) -> None:
        super().__init__()
        self.block, self.inner, self.certain = block, inner, certain

    def forward(self, x: Tensor) -> Tensor:
        """One class more than the network has, and nearly certain."""
        fired = self.block.activation(self.block.linear(x.flatten(1)))
        extra = self.certain + _WEIGHT * fired.sum(1, keepdim=True)
        return torch.cat([self.inner(x), extra], 1)
