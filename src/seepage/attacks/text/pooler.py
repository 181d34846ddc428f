"""A malicious server widens the pooler, reads its inputs, and lets them guide the search."""

import copy
import dataclasses
from typing import Any, Literal

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import normalize

from seepage.attacks.text.anatomy import Network, refuse_dropout
from seepage.attacks.text.embedded import Frame, Misfit, nearest, relative
from seepage.attacks.text.lamp import Lamp, Search, lengths_of
from seepage.attacks.text.pooler_states import States, pooled_states, random_states
from seepage.checks import at_least, one_of, positive
from seepage.core import Model, Observation, Reconstruction
from seepage.errors import InvalidInput
from seepage.values import value

_SOLVED = 1e-3
"""States that leave more than this of the pooler's gradients are not recovered."""


class Cubic(nn.Module):
    """x^3 + x^2, whose second and third derivatives never vanish together."""

    def forward(self, x: Tensor) -> Tensor:
        return x**3 + x**2


_ACTIVATIONS = {
    "tanh": nn.Tanh,
    "cubic": Cubic,
    "relu": nn.ReLU,
    "elu": nn.ELU,
    "selu": nn.SELU,
}


@value
class Pooler:
    """Widen the pooler to read every sentence's state, then match gradients and states.

    The first rows of the pooler stay, the rest are N(0, I) on the first `used` coordinates, and
    the classifier's row k is (k+1)/width. The states are solved for from the pooler's gradients
    (all coordinates, since gradients of zeroed weights are not zero), and LAMP's objective gets
    `weight` * (1 - mean cos^2) of simulated and recovered states, assigned anew at each step.

    Li et al. 2024, arXiv 2312.05720. The order of the states is not told: the original's was.
    """

    width: int = 30_000
    used: int = 100
    activation: Literal["tanh", "cubic", "relu", "elu", "selu"] = "tanh"
    weight: float = 0.05
    match: Literal["assignment", "subspace"] = "assignment"
    lamp: Lamp = Lamp()
    starts: int = 40

    def __post_init__(self) -> None:
        at_least("Pooler.width", self.width, 1)
        positive("Pooler.weight", self.weight)
        one_of("Pooler.activation", self.activation, tuple(_ACTIVATIONS))
        one_of("Pooler.match", self.match, ("assignment", "subspace"))

    def craft(self, model: Model, rng: Generator) -> Model:
        """The model with the widened pooler, on as many classes."""
        network = Network.of(model)
        anatomy = network.anatomy
        if not anatomy.pooler or not anatomy.classifier:
            raise InvalidInput(
                "Pooler() widens the pooler under a classifier, and this model has none. "
                "Use TokenSpan(), which needs neither."
            )
        module = copy.deepcopy(network.module).requires_grad_(True)
        pooler, head = (module.get_submodule(n) for n in (anatomy.pooler, anatomy.classifier))
        length = float(random_states(network, rng)[:, : self.used].norm(dim=1).mean())
        wide = _widened(pooler, self.width, self.used, length, rng)
        parent, _, name = anatomy.pooler.rpartition(".")
        setattr(module.get_submodule(parent), name, wide)
        module.get_submodule(parent).activation = _ACTIVATIONS[self.activation]()
        parent, _, name = anatomy.classifier.rpartition(".")
        setattr(module.get_submodule(parent), name, _counted(head, self.width))
        return Model.of(module, model.loss, model.form)

    def __call__(self, seen: Observation, rng: Generator) -> Reconstruction:
        refuse_dropout(seen)
        network = Network.of(seen.model)
        states = pooled_states(seen, network, rng, self.starts)
        trace: dict[str, Any] = {"states": states.states, "state residual": states.residual}
        if states.residual > _SOLVED and seen.y is None:
            nothing = Reconstruction.nothing(seen, "the pooled states do not come out")
            return dataclasses.replace(nothing, trace=trace)
        y = states.labels.to(network.word.device) if seen.y is None else seen.y
        frame = Frame.of(network, lengths_of(seen, network, self.lamp.lengths, len(y)))
        misfit = Misfit.of(seen, y, self.lamp.distance, self.lamp.alpha)
        search = Search(self.lamp, network, frame, misfit, rng)
        search.guide = self._guide(network, frame, states)
        x, curve = search.run(search.begin())
        ids = nearest(network, x, frame)
        error = relative(seen, ids, y, rng)
        residual = network.word.new_full((len(y),), error)
        note = "" if states.residual <= _SOLVED else "the pooled states do not come out"
        trace |= {"objective": curve, "gradient error": error}
        return Reconstruction(ids, y, -residual, residual, note, trace)

    def _guide(self, network: Network, frame: Frame, states: States) -> "_Guide":
        return _Guide(network, frame, states.states, self.weight, self.match)


@dataclasses.dataclass(frozen=True, eq=False)
class _Guide:
    """How far the states of embeddings are from the recovered ones."""

    network: Network
    frame: Frame
    states: Tensor
    weight: float
    match: str

    def __call__(self, x: Tensor) -> Tensor:
        lengths = (self.frame.ids != self.network.form.pad).int() | self.frame.free.int()
        rows = zip(x, lengths.sum(1).tolist(), strict=True)
        ours = torch.cat([self.network.last_of(row[None, :n])[:, 0] for row, n in rows])
        ours, theirs = normalize(ours, dim=1), normalize(self.states.to(ours), dim=1)
        if self.match == "subspace":
            basis = torch.linalg.svd(theirs, full_matrices=False).Vh
            inside: Tensor = self.weight * (1 - (ours @ basis.T).square().sum(1).mean())
            return inside
        angles = ours @ theirs.T
        missed: Tensor = self.weight * (1 - angles[_assigned(angles)].square().mean())
        return missed


def _assigned(angles: Tensor) -> tuple[Tensor, Tensor]:
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(-angles.detach().abs().cpu().numpy())
    return torch.as_tensor(rows), torch.as_tensor(columns)


def _widened(old: nn.Module, width: int, used: int, norm: float, rng: Generator) -> nn.Linear:
    """The old rows, then random ones on the first coordinates; no bias on these."""
    weight, bias = old.get_parameter("weight").detach(), old.get_parameter("bias").detach()
    rows, inputs = weight.shape
    made = _linear(inputs, width).to(weight)
    drawn = torch.zeros(width, inputs, dtype=weight.dtype)
    drawn[:, :used] = torch.randn(width, min(used, inputs), generator=rng) / norm
    kept = min(rows, width)
    with torch.no_grad():
        made.weight.copy_(drawn)
        made.weight[:kept] = weight[:kept]
        made.bias.zero_()
        made.bias[:kept] = bias[:kept]
    return made


def _counted(old: nn.Module, width: int) -> nn.Linear:
    """A classifier whose row k is (k+1)/width."""
    weight = old.get_parameter("weight").detach()
    made = _linear(width, len(weight)).to(weight)
    with torch.no_grad():
        made.weight.copy_((torch.arange(len(weight)) + 1.0)[:, None].expand(-1, width) / width)
        made.bias.zero_()
    return made


def _linear(inputs: int, outputs: int) -> nn.Linear:
    # A fresh layer draws from the global generator, which belongs to the caller.
    with torch.random.fork_rng(devices=[]):
        return nn.Linear(inputs, outputs)
