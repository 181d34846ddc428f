"""Features that were recovered exactly, as a prior for what they were computed from."""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from seepage.attacks.matching.priors import Term
from seepage.attacks.span.features import features
from seepage.checks import at_least, one_of
from seepage.core import Observation, stream
from seepage.errors import Failed
from seepage.values import value


@value
class Recovered:
    """Draw a candidate's features F_i to those that `Span` recovers from the last two layers.

    weight / n sum_i (1 - cos^2(F_i, z_p(i))), or weight sum_i |F_i - z_p(i)|^2 / |z|^2 for
    `by="distance"`, which Span's features allow as they have signs and lengths. The private
    examples come in no known order, so p assigns each recovered z to the candidate whose features
    are nearest; the truth is never asked. Liu et al. 2024, arXiv 2402.09478.
    """

    weight: float = 0.01
    by: Literal["distance", "cosine"] = "distance"

    def __post_init__(self) -> None:
        at_least("Recovered.weight", self.weight, 0)
        one_of("Recovered.by", self.by, ("distance", "cosine"))

    def fitted(self, seen: Observation) -> Term:
        found = features(seen, stream(0, "recovered features"))
        if found is None:
            raise Failed(
                "Recovered draws candidates to features that Span recovers, and it recovers none "
                "from this update. Leave Recovered out of priors."
            )
        wanted = found.values

        def away(inputs: Mapping[str, Tensor], _: Tensor | None) -> Tensor:
            made = inputs[found.layer]
            return self.weight * _apart(made, wanted.to(made), self.by)

        return Term((found.layer,), away)


def _apart(made: Tensor, wanted: Tensor, by: str) -> Tensor:
    if by == "cosine":
        costs = 1 - (normalize(made) @ normalize(wanted).T).square()
    else:
        costs = (made[:, None] - wanted).square().sum(2) / wanted.square().sum()
    from scipy.optimize import linear_sum_assignment  # here, as scipy is slow to import

    rows, columns = linear_sum_assignment(costs.detach().cpu().numpy())
    chosen = costs[torch.as_tensor(rows), torch.as_tensor(columns)]
    return chosen.mean() if by == "cosine" else chosen.sum()
