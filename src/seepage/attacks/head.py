"""The last linear layer, and what an update says of it."""

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from seepage.attacks.units import noise
from seepage.clients import FedAvg
from seepage.core import Batch, Observation
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


def mean_prediction(seen: Observation, x: Tensor) -> Tensor:
    """The mean softmax over inputs."""
    with torch.no_grad():
        return seen.model.predict(x).softmax(-1).mean(0)


def bias_gradient(seen: Observation, head: Head, rng: Generator) -> Tensor:
    """gb, or where the layer has no bias sum_j gW_cj over the mean feature sum of random inputs."""
    if head.bias_gradient is not None:
        return head.bias_gradient.clone()
    rows = matrix(head, "this rule").sum(1)
    inputs = noise(seen.model.form, 16, rows, rng)
    return rows / torch.stack([_feature_sum(seen, x[None], head) for x in inputs]).mean()


def _feature_sum(seen: Observation, x: Tensor, head: Head) -> Tensor:
    # The gradient of one example is an outer product: its row y is (p_y - 1) times the features.
    leaf = head.weight.detach().requires_grad_()
    label = torch.zeros(1, dtype=torch.long, device=x.device)
    with torch.enable_grad():
        risk = seen.model.risk({**seen.model.params, head.name: leaf}, Batch(x, label))
    (gradient,) = torch.autograd.grad(risk, leaf)
    off = mean_prediction(seen, x)[0] - 1
    features: Tensor = gradient[0].sum() / off
    return features


def matrix(head: Head, rule: str) -> Tensor:
    """The gradient of its weight, which the rule needs."""
    if head.weight_gradient is None:
        raise InvalidInput(
            f"{rule} reads the gradient of '{head.name}', and the update does not hold it. "
            "Use Counts(), which reads the bias."
        )
    return head.weight_gradient
