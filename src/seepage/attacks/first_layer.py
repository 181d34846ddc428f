"""The fully connected layer that reads an example directly, found by looking at what enters it."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from seepage.core import Model
from seepage.errors import InvalidInput
from seepage.forms import Tokens

_REMEDY = (
    "A ratio gives back what enters a layer. Attack with Span or Invert, which do not need the "
    "example itself to enter it."
)


@dataclass(frozen=True)
class Layer:
    """A fully connected layer by its name in the network."""

    name: str

    @property
    def weight(self) -> str:
        return f"{self.name}.weight".removeprefix(".")

    @property
    def bias(self) -> str:
        return f"{self.name}.bias".removeprefix(".")

    @property
    def title(self) -> str:
        """How messages call it."""
        return f"layer '{self.name}'" if self.name else "the network's only layer"


def find(model: Model, wanted: str | None, rng: Generator) -> Layer:
    """The named layer, or the first that takes an example's entries; refused with the reason."""
    if isinstance(model.form, Tokens):
        raise InvalidInput(f"the data are tokens, and no layer takes their numbers. {_REMEDY}")
    linear = {n: m for n, m in model.module.named_modules() if isinstance(m, nn.Linear)}
    if not linear:
        raise InvalidInput(f"the network has no fully connected layer. {_REMEDY}")
    names = list(linear) if wanted is None else [_known(wanted, linear)]
    probe = torch.rand(2, *model.form.shape, generator=rng)
    like = next(iter(model.params.values()))
    faults = {name: _fault(model, name, probe.to(like)) for name in names}
    direct = [name for name, fault in faults.items() if not fault]
    if not direct:
        raise InvalidInput(f"{faults[names[0]]}. {_REMEDY}")
    if linear[direct[0]].bias is None:
        raise InvalidInput(
            f"{Layer(direct[0]).title} has no bias, so there is nothing to divide its weight's "
            "gradient by. Attack with Span, which needs none, or with Invert."
        )
    return Layer(direct[0])


def _known(name: str, linear: Iterable[str]) -> str:
    if name in linear:
        return name
    known = ", ".join(repr(n) for n in linear)
    raise InvalidInput(f"layer={name!r} is no fully connected layer of this network: use {known}.")


def _fault(model: Model, name: str, probe: Tensor) -> str:
    """Why the layer does not take the example directly, or nothing when it does."""
    seen: list[Tensor] = []
    module = model.shell()
    module.get_submodule(name).register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad():
        torch.func.functional_call(module, model.state, (probe,))
    title, entries = Layer(name).title, probe[0].numel()
    if len(seen) != 1:
        return f"{title} is used {len(seen)} times in a forward pass, and once is needed"
    given = tuple(seen[0].shape[1:])
    if given != (entries,):
        return f"{title} takes inputs of shape {given}, and an example has {entries} entries"
    if not torch.equal(seen[0], probe.flatten(1)):
        return f"{title} takes {entries} entries computed from the example, not the example itself"
    return ""


def slopes(model: Model, layer: Layer, x: Tensor) -> tuple[Tensor, Tensor]:
    """For one example, the output (C,) and its derivative by the layer's own output, (C, K)."""
    inner: list[Tensor] = []

    def replaced(_: nn.Module, __: object, out: Tensor) -> Tensor:
        inner.append(out.detach().requires_grad_())
        return inner[-1]

    module = model.shell()
    module.get_submodule(layer.name).register_forward_hook(replaced)
    output = torch.func.functional_call(module, model.state, (x[None],))[0]
    every = torch.eye(len(output), dtype=output.dtype, device=output.device)
    (jacobian,) = torch.autograd.grad(output, inner[0], every, is_grads_batched=True)
    return output.detach(), jacobian[:, 0]


def is_whole(model: Model, layer: Layer, rng: Generator) -> bool:
    """Whether the network computes this layer of its input and nothing more."""
    weight, bias = model.params[layer.weight], model.params[layer.bias]
    probe = torch.rand(2, *model.form.shape, generator=rng).to(weight)
    with torch.no_grad():
        output, own = model.predict(probe), probe.flatten(1) @ weight.T + bias
    return output.shape == own.shape and bool(torch.allclose(output, own, atol=1e-4))


def is_cross_entropy(model: Model, rng: Generator) -> bool:
    """Whether the loss has the slope (softmax(z) - onehot(y)) / n by its logits, as CE has."""
    like = next(iter(model.params.values()))
    with torch.no_grad():
        logits = model.predict(torch.rand(2, *model.form.shape, generator=rng).to(like))
    if logits.ndim != 2 or logits.shape[1] < 2:
        return False
    logits = (3 * torch.rand(logits.shape, generator=rng)).to(like).requires_grad_()
    y = torch.tensor([0, logits.shape[1] - 1], device=like.device)
    try:
        (slope,) = torch.autograd.grad(model.loss(logits, y), logits)
    except (RuntimeError, ValueError, TypeError, IndexError):  # it takes other labels
        return False
    wanted = (logits.detach().softmax(1) - torch.eye(logits.shape[1]).to(like)[y]) / 2
    return bool(torch.allclose(slope, wanted, atol=1e-5))
