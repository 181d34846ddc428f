"""The last linear layer, and what an update says of it."""

import math
from dataclasses import dataclass

from torch import Tensor

from seepage.clients import FedAvg
from seepage.core import Observation
from seepage.errors import InvalidInput


@dataclass(frozen=True, eq=False)
class Head:
    """The last linear layer and what was shared of its gradient."""

    weight: Tensor
    bias: Tensor | None
    weight_gradient: Tensor | None
    bias_gradient: Tensor | None
    name: str

    @property
    def classes(self) -> int:
        return len(self.weight)


def head_of(seen: Observation) -> Head:
    """The last matrix with a row for each class; averaged steps are turned into one gradient."""
    classes = seen.model.form.classes
    rows = [n for n, p in seen.model.params.items() if p.ndim == 2 and len(p) == classes]
    if not rows or classes < 2:
        raise InvalidInput(
            f"no linear layer of this model has a row for each of the form's {classes} classes, "
            "so labels cannot be read from it. Tell the labels (tell=('n', 'y')) or use Joint()."
        )
    name = rows[-1]
    bias = name.removesuffix("weight") + "bias" if name.endswith("weight") else ""
    scale = 1 / _step_length(seen)
    update = {k: u.detach() * scale for k, u in seen.update.items() if k in (name, bias)}
    if not update:
        raise InvalidInput(
            f"the update does not hold the last layer '{name}', so labels cannot be read from it. "
            "Tell the labels (tell=('n', 'y')) or use Joint()."
        )
    params = seen.model.params
    return Head(params[name], params.get(bias), update.get(name), update.get(bias), name)


def _step_length(seen: Observation) -> float:
    """How many gradients an update sums up, each times its rate (local steps taken as one)."""
    client, length = seen.client, 1.0
    while client is not None:
        if isinstance(client, FedAvg):
            n = seen.n or client.batch_size or 1
            length *= client.lr * client.epochs * math.ceil(n / (client.batch_size or n))
        client = getattr(client, "inner", None)  # type: ignore[assignment]
    return length
