"""A network as a value: called statelessly, with the parameters that the server broadcast."""

import copy
import dataclasses
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Generator, Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from seepage import tree
from seepage.errors import InvalidInput
from seepage.forms import Form
from seepage.tree import Tensors

Loss = Callable[[Tensor, Tensor], Tensor]
Mode = Literal["eval", "train"]


@dataclass(frozen=True, eq=False)
class Batch:
    """Examples and their labels: the private ones, or an attacker's candidate.

    Without labels (`y=None`) the data are their own target, as in next-token training.
    """

    x: Tensor
    y: Tensor | None = None

    def __post_init__(self) -> None:
        if self.x.ndim == 0 or len(self.x) == 0:
            raise InvalidInput(
                f"Batch.x has shape {tuple(self.x.shape)}: it needs a first dimension of at "
                "least one example. Add it with x[None]."
            )
        if self.y is not None and (self.y.ndim == 0 or len(self.y) != len(self.x)):
            raise InvalidInput(
                f"Batch.y has shape {tuple(self.y.shape)} for {len(self.x)} examples in x. "
                "Pass one label for each example."
            )

    def __len__(self) -> int:
        return len(self.x)

    @property
    def target(self) -> Tensor:
        """What the loss compares the output with."""
        return self.x if self.y is None else self.y

    @property
    def simulated(self) -> bool:
        """Whether an attacker differentiates through it, so that graphs must be kept."""
        return self.x.requires_grad or self.target.requires_grad

    def __getitem__(self, index: Tensor | slice) -> "Batch":
        return Batch(self.x[index], None if self.y is None else self.y[index])


@dataclass(frozen=True, eq=False)
class Model:
    """A network called statelessly, the parameters that the server broadcast, loss and form.

    >>> from seepage.forms import Column, Table
    >>> form = Table((Column("age"), Column("height")), classes=2)
    >>> model = Model.of(nn.Linear(2, 2), nn.functional.cross_entropy, form)
    >>> list(model.params)
    ['weight', 'bias']
    """

    module: nn.Module
    params: Tensors
    buffers: Tensors
    loss: Loss
    form: Form

    @classmethod
    def of(cls, module: nn.Module, loss: Loss, form: Form) -> "Model":
        """Snapshot a module: what is done to it later does not reach the model.

        Parameters that do not require a gradient (frozen, the base of a LoRA) become buffers.
        """
        module = copy.deepcopy(module).eval()
        named = dict(module.named_parameters())
        params = {name: p.detach() for name, p in named.items() if p.requires_grad}
        frozen = {name: p.detach() for name, p in named.items() if not p.requires_grad}
        if not params:
            raise InvalidInput(
                f"{type(module).__name__} has no parameter that requires a gradient, so a client "
                "shares nothing. Call requires_grad_() on what is trained."
            )
        return cls(module, params, frozen | dict(module.named_buffers()), loss, form)

    def shell(self) -> nn.Module:
        """A copy of the network to put hooks and other layers on, which shares its tensors."""
        tensors = [*self.module.parameters(), *self.module.buffers()]
        return copy.deepcopy(self.module, {id(tensor): tensor for tensor in tensors})

    @property
    def state(self) -> dict[str, Tensor]:
        """Parameters and buffers, as the server broadcasts them."""
        return {**self.params, **self.buffers}

    @property
    def device(self) -> torch.device:
        return next(iter(self.params.values())).device

    def with_params(self, params: Tensors) -> "Model":
        """The same network with other parameters; buffers that are not given stay as they are."""
        tied = dict(self.module.named_parameters(remove_duplicate=False))
        given = {name: p for name, p in params.items() if name in self.state or name not in tied}
        buffers = {name: b for name, b in self.buffers.items() if name in given}
        tree.check_names(given, {**self.params, **buffers}, "these parameters")
        floats = {name: p for name, p in given.items() if self.state[name].is_floating_point()}
        tree.check_floats(floats, "these parameters")
        tree.check_finite(floats, "these parameters")
        cast = {name: p.to(self.state[name]) for name, p in given.items()}
        return self.replaced(cast)

    def replaced(self, state: Tensors) -> "Model":
        """The same network where the tensors named in the state have these values, unchecked."""
        return dataclasses.replace(
            self,
            params={name: state.get(name, p) for name, p in self.params.items()},
            buffers={name: state.get(name, b) for name, b in self.buffers.items()},
        )

    def predict(self, x: Tensor, params: Tensors | None = None) -> Tensor:
        """The network's output in eval mode."""
        output: Tensor = self._call(self.params if params is None else params, x, self.buffers)
        return output

    def risk(self, params: Tensors, batch: Batch) -> Tensor:
        """The scalar whose gradient leaks, in eval mode."""
        return self.loss(self.predict(batch.x, params), batch.target)

    def step(
        self, params: Tensors, batch: Batch, mode: Mode, rng: Generator
    ) -> tuple[Tensor, Tensors]:
        """The risk, and the buffers as one forward pass leaves them (BatchNorm's statistics)."""
        if mode == "eval":
            return self.risk(params, batch), self.buffers
        # BatchNorm writes into its buffers and dropout draws from the global generator: the model
        # is a value, so both happen on copies.
        buffers = tree.mapped(torch.clone, self.buffers)
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(int(torch.randint(2**62, (), generator=rng)))
            self.module.train()
            try:
                output = self._call(params, batch.x, buffers)
            finally:
                self.module.eval()
        return self.loss(output, batch.target), buffers

    def _call(self, params: Tensors, x: Tensor, buffers: Tensors) -> Any:
        # The fused attention on CPU has no second derivative, which simulating a client needs.
        exact = sdpa_kernel(SDPBackend.MATH) if x.requires_grad else nullcontext()
        with exact:
            return torch.func.functional_call(self.module, {**params, **buffers}, (x,))
