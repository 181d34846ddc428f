"""The features that the last two fully connected layers read, for attacks that use them."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Generator, Tensor

from seepage.attacks.span.attack import Span
from seepage.attacks.span.layers import inputs_of, stack_of
from seepage.core import Observation


@dataclass(frozen=True)
class LayerInputs:
    """One row for each private example, in no known order, with signs and lengths.

    `of(x)` computes the same features of a candidate, differentiably.
    """

    layer: str
    values: Tensor
    of: Callable[[Tensor], Tensor]
    residual: float


def features(seen: Observation, rng: Generator, span: Span | None = None) -> LayerInputs | None:
    """The features f_{l-2}(x_i) of every private example, None where Span does not find them.

    Wang, Lee and Lei 2023, arXiv 2212.03714, section 5, recover them with tensor moments.
    """
    answer = (span or Span())(seen, rng)
    if not answer.trace.get("holds", False):
        return None
    hidden = stack_of(seen.model).hidden
    read = inputs_of(seen.model, hidden)
    return LayerInputs(hidden.name, answer.trace["features"], read, answer.trace["residual"])
