"""What an update says of the protocol that made it: how many examples, gradient or steps, labels.

Under softmax cross-entropy one step on one example gives the last layer s (p - e_y) h^T and its
bias s (p - e_y): the ratio is h, whatever s, so p is known, and the label and s follow. Several
examples leave the rank of the layer that reads them, and s from classes that none of them has,
where the bias is s p_c.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from seepage import tree
from seepage.attacks import first_layer
from seepage.attacks.labels import Counts, Head, head_of
from seepage.clients import FedAvg, FedSGD
from seepage.core import Batch, Client, Observation
from seepage.errors import InvalidInput
from seepage.tree import Tensors

__all__ = ["Protocol", "infer"]

_EXACT = 2e-3  # relative distance below which a simulated fit is no accident
_NEAR = 2e-2  # and below which one step is a fair description of several small ones
_STEPS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20)
_LARGEST = 1_000_000  # parameters of a network whose local training is simulated


@dataclass(frozen=True)
class Protocol:
    """The client to believe in, what it trained on, and each assumption that this rests on."""

    client: Client
    n: int | None
    y: Tensor | None
    assumptions: tuple[str, ...]


def infer(seen: Observation, rng: Generator) -> Protocol:
    """Whatever can be read off the update; each thing that cannot is said to be assumed.

    >>> from seepage import FedAvg, observe, stream, zoo
    >>> model, batch = zoo.example()
    >>> seen = observe(model, batch, FedAvg(lr=0.1), stream(0, "client"), FedSGD(), tell=())
    >>> found = infer(seen, stream(0, "attack"))
    >>> found.client, found.n, found.y
    (FedAvg(lr=0.1), 1, tensor([1]))
    """
    shape = _shape(seen.update)
    n, said = (seen.n, f"n={seen.n}: told") if seen.n else _examples(seen, rng)
    try:
        head = head_of(seen)
    except InvalidInput as error:
        why = f"gradient of one step: assumed, since {error}"
        return Protocol(FedSGD(), n, seen.y, (*shape, said, why))
    if not first_layer.is_cross_entropy(seen.model, rng):
        why = "gradient of one step: assumed, since the loss is no softmax cross-entropy"
        return Protocol(FedSGD(), n, seen.y, (*shape, said, why))
    found = _single(seen, head, rng) if n in (1, None) else None
    if found is None:
        found = _several(seen, head, n, rng)
        return _prefixed(found, (*shape, said))
    return _prefixed(found, (*shape, *(() if n is None else (said,))))


def _prefixed(found: Protocol, said: tuple[str, ...]) -> Protocol:
    return Protocol(found.client, found.n, found.y, (*said, *found.assumptions))


def _shape(update: Tensors) -> tuple[str, ...]:
    """What was done to the update, where its entries show it."""
    entries = tree.flat(update).abs()
    zero = float((entries == 0).double().mean())
    size = entries[entries > 0]
    said = []
    if zero > 0.6:
        said.append(f"{zero:.0%} of the entries are zero: sparsified, or mostly dead units")
    sample = size[:: max(1, len(size) // 10**6)]
    if len(sample) and float((sample / sample.median() - 1).abs().quantile(0.9)) < 1e-2:
        said.append(
            f"nearly all entries have size {float(size.median()):.3g}: signs, or Adam's first "
            "step at that rate; pass --client"
        )
    return tuple(said)


def _examples(seen: Observation, rng: Generator) -> tuple[int | None, str]:
    """n is the rank of the weight update of a layer that saw each example as one vector."""
    try:
        name, steps = first_layer.find(seen.model, None, rng).weight, "any number of full-batch"
    except InvalidInput:
        rows = [k for k, p in seen.model.params.items() if p.ndim == 2 and k in seen.update]
        if not rows:
            return None, "n: unknown, since no layer sees an example as one vector; pass --n"
        name, steps = rows[-1], "one"
    if name not in seen.update:
        return None, f"n: unknown, since the update does not hold {name}; pass --n"
    matrix = seen.update[name].double()
    values = torch.linalg.svdvals(matrix)
    rank = int((values > _floor(seen, name, values)).sum())
    alive = min(int(matrix.any(1).sum()), int(matrix.any(0).sum()))  # dead units hold no rank
    # The rows of a softmax classifier add up to zero.
    if rank >= alive - (steps == "one") and rank > 1:
        return None, f"n: at least {rank}, the whole rank of {name}; pass --n"
    if rank == 0:
        return None, f"n: unknown, since {name} did not move; pass --n"
    return rank, f"n={rank}: the rank of {name}, exact for {steps} local steps"


def _floor(seen: Observation, name: str, values: Tensor) -> Tensor:
    """Singular values that rounding alone gives: of the gradient, or of two states' difference."""
    weight = seen.model.params[name].double()
    spread = math.sqrt(weight.shape[0]) + math.sqrt(weight.shape[1])
    rounding = weight.square().mean().sqrt() * spread * 2.0**-24
    return 4 * torch.maximum(rounding, values[0] * 2.0**-21)


def _single(seen: Observation, head: Head, rng: Generator) -> Protocol | None:
    """One example: one step where the last layer is an outer product that its label explains."""
    if head.weight_gradient is None or head.bias_gradient is None or head.bias is None:
        return None
    u, bias = head.weight_gradient.double(), head.bias_gradient.double()
    if not bool(bias.any()):
        return None
    features = u.T @ bias / bias.square().sum()
    apart = float((u - torch.outer(bias, features)).norm() / u.norm().clamp_min(1e-300))
    p = (head.weight.double() @ features + head.bias.double()).softmax(0)
    scale, label, left = _scaled(bias, p)
    exact = max(apart, left) < _rounding(head)
    if not exact and (trained := _stepwise(seen, int(bias.argmin()), rng)):
        return trained
    if max(apart, left) > _NEAR:
        return None
    client = _client(scale)
    how = "one step" if exact else "about one step, or several small ones,"
    said = f"{_kind(client)}: the last layer is {how} on one example to {max(apart, left):.1e}"
    return _answer(client, label, said)


def _rounding(head: Head) -> float:
    """The relative error that the difference of two states in float32 may have."""
    assert head.weight_gradient is not None
    entries = head.weight_gradient.double().square().mean().sqrt().clamp_min(1e-300)
    weight = head.weight.double().square().mean().sqrt()
    return min(_NEAR, 2e-5 + 8 * 2.0**-24 * float(weight / entries))


def _scaled(bias: Tensor, p: Tensor) -> tuple[float, int, float]:
    """The label and s of bias = s (p - e_y) that leave the least, and how much they leave."""
    slopes = p[None] - torch.eye(len(p), dtype=p.dtype, device=p.device)
    scales = (slopes @ bias) / slopes.square().sum(1).clamp_min(1e-300)
    left = (bias - scales[:, None] * slopes).norm(dim=1) / bias.norm()
    left = torch.where(scales > 0, left, math.inf)
    best = int(left.argmin())
    return float(scales[best]), best, float(left[best])


def _stepwise(seen: Observation, label: int, rng: Generator) -> Protocol | None:
    """Rate and steps of local training on one example that the first layer gives: simulated."""
    try:
        layer = first_layer.find(seen.model, None, rng)
    except InvalidInput:
        return None
    if not {layer.weight, layer.bias} <= set(seen.update):
        return None
    u, bias = seen.update[layer.weight].double(), seen.update[layer.bias].double()
    x = u.T @ bias / bias.square().sum()
    small = tree.size(seen.model.params) <= _LARGEST
    if not small or float((u - torch.outer(bias, x)).norm()) > _EXACT * float(u.norm()):
        return None
    like = seen.update[layer.weight]
    batch = Batch(
        x.to(like).reshape(1, *seen.model.form.shape), torch.tensor([label], device=like.device)
    )
    left, client = min(_simulated(seen, batch), key=lambda pair: pair[0])
    if left > 5 * _EXACT:
        return None
    said = f"{_kind(client)}: local training of the example, simulated, leaves {left:.1e}"
    return _answer(client, label, said)


def _simulated(seen: Observation, batch: Batch) -> Iterator[tuple[float, FedAvg]]:
    """For each number of steps, the rate whose update is as long as the one seen."""
    wanted = {name: u for name, u in seen.update.items() if name in seen.model.params}
    gradient = FedSGD()(seen.model, batch, Generator())
    own = float(tree.norm({name: gradient[name] for name in wanted}))
    first = float(tree.norm(wanted)) / max(own, 1e-300)
    best, worse = math.inf, 0
    for steps in _STEPS:
        left, client = _fitted(seen, batch, steps, first / steps)
        yield left, client
        worse = worse + 1 if left > best else 0
        best = min(best, left)
        if worse > 2:  # past the right number, more steps fit less and less
            return


def _fitted(seen: Observation, batch: Batch, steps: int, rate: float) -> tuple[float, FedAvg]:
    """The rate at which so many steps give an update of the length seen, and what that leaves."""
    wanted = {name: u for name, u in seen.update.items() if name in seen.model.params}
    length, left = float(tree.norm(wanted)), math.inf
    for _ in range(6):
        client = FedAvg(epochs=steps, lr=_round(rate))
        full = client(seen.model, batch, Generator())
        made = {name: full[name] for name in wanted}
        own = float(tree.norm(made))
        if not 0 < own < math.inf:
            return math.inf, client
        left = float(tree.norm(tree.subtract(made, wanted))) / length
        rate *= length / own
    return left, client


def _several(seen: Observation, head: Head, n: int | None, rng: Generator) -> Protocol:
    """s from the classes that no example has: there the bias is s times the mean prediction."""
    scale = None if head.bias_gradient is None else _absent(head)
    if scale is None:
        why = "gradient of one step: assumed, since the last layer shows no scale; pass --client"
        return Protocol(FedSGD(), n, None, (why,))
    client: Client = FedSGD() if 0.75 < scale < 1.33 else FedAvg(lr=_round(scale, 2))
    said = (
        f"{_kind(client)}: about, from classes that no example seems to have (steps and rate "
        "multiply to this; pass --client if you know them)"
    )
    guess = _counted(Observation(seen.model, client, seen.update, n), n, rng)
    return Protocol(client, n, None, (said, *guess))


def _absent(head: Head) -> float | None:
    """The rate at which absent classes were pushed down, over their mean prediction."""
    assert head.bias_gradient is not None
    bias = head.bias_gradient.double()
    up = bias > 0
    if not bool(up.any()):
        return None
    p = torch.full_like(bias, 1 / head.classes)
    if head.weight_gradient is not None and head.bias is not None:
        features = head.weight_gradient.double()[up].sum(0) / bias[up].sum()
        p = (head.weight.double() @ features + head.bias.double()).softmax(0)
    ratios = (bias / p.clamp_min(1e-12))[up]
    return float(ratios[ratios > 0.7 * ratios.max()].mean())


def _counted(seen: Observation, n: int | None, rng: Generator) -> tuple[str, ...]:
    if n is None:
        return ("labels: unknown, since n is",)
    y = Counts("features")(seen, n, rng).tolist()
    return (
        f"labels: about {', '.join(map(str, y))}, from the last layer; attacks look themselves",
    )


def _answer(client: Client, label: int, said: str) -> Protocol:
    known = (said, f"label {label}: from the last layer")
    return Protocol(client, 1, torch.tensor([label]), known)


def _client(scale: float) -> Client:
    return FedSGD() if abs(scale - 1) < _EXACT else FedAvg(lr=_round(scale))


def _kind(client: Client) -> str:
    if not isinstance(client, FedAvg):
        return "the gradient of one step"
    steps = f"{client.epochs} steps" if client.epochs > 1 else "one step"
    return f"before minus after, {steps} at lr={client.lr:g}"


def _round(number: float, digits: int = 4) -> float:
    """A rate as people write it: rounding noise of the last digits is not theirs.

    >>> _round(0.0499998)
    0.05
    """
    return float(f"{number:.{digits}g}")
