"""The believed client, run on a candidate, and what its network computed on the way."""

import dataclasses
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor, nn

from seepage import tree
from seepage.core import Batch, Client, Model
from seepage.errors import InvalidInput


@dataclass(frozen=True, eq=False)
class Simulator:
    """The update that the believed client would share for a candidate.

    `order` seeds what the client draws by chance, such as the order of its minibatches: one guess
    for the whole search. `inputs` holds what the tapped layers got in the first forward pass,
    `within` is entered around the client, and tensors in `short` are given by three numbers.
    """

    model: Model
    client: Client
    order: int
    inputs: dict[str, Tensor] = field(default_factory=dict)
    within: AbstractContextManager[object] = field(default_factory=nullcontext)
    short: frozenset[str] = frozenset()

    def __call__(self, x: Tensor, y: Tensor | None) -> tree.Tensors:
        self.inputs.clear()
        order = Generator().manual_seed(self.order)
        with self.within:
            return self.client(self.model, Batch(x, y), order)

    def tapped(self, names: Iterable[str]) -> "Simulator":
        """The same on a network of its own that notes the inputs of the named layers."""
        wanted = list(names)
        if not wanted:
            return self
        module, inputs = self.model.shell(), dict[str, Tensor]()
        for name in wanted:
            module.get_submodule(name).register_forward_pre_hook(_tap(inputs, name))
        model = dataclasses.replace(self.model, module=module)
        return dataclasses.replace(self, model=model, inputs=inputs)

    def halved(self) -> "Simulator":
        """The same with products in bfloat16, as PyTorch's autocast makes them."""
        device = self.model.device.type
        return dataclasses.replace(self, within=torch.autocast(device, torch.bfloat16))

    def doubled(self) -> "Simulator":
        """The same in double precision, without taps."""
        params, buffers = (tree.mapped(doubled, t) for t in (self.model.params, self.model.buffers))
        model = dataclasses.replace(self.model, params=params, buffers=buffers)
        return Simulator(model, self.client, self.order)


def doubled(t: Tensor) -> Tensor:
    """A tensor of floats in double precision; others as they are."""
    return t.double() if t.is_floating_point() else t


def normalisations(model: Model) -> list[str]:
    """The names of the BatchNorm layers that keep statistics, in order."""
    names = [
        name
        for name, _ in model.module.named_modules()
        if f"{name}.running_mean" in model.buffers and f"{name}.running_var" in model.buffers
    ]
    if not names:
        raise InvalidInput(
            "BatchStats needs BatchNorm layers with running statistics, and the model has none. "
            "Leave it out of priors."
        )
    return names


def _tap(inputs: dict[str, Tensor], name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def tap(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        inputs.setdefault(name, given[0])

    return tap


def seeded(rng: Generator) -> int:
    """A seed drawn from a stream."""
    return int(torch.randint(2**62, (), generator=rng))
