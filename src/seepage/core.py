"""The nouns: an update is a measurement, a client the operator, an attack the inverse."""

import copy
import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Generator, Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from seepage import tree
from seepage.errors import InvalidInput
from seepage.forms import Form
from seepage.tree import Tensors
from seepage.values import describe, value

__all__ = [
    "Attack",
    "Batch",
    "Client",
    "Form",
    "Loss",
    "Mode",
    "Model",
    "Observation",
    "Reconstruction",
    "Tensors",
    "describe",
    "noiseless",
    "observe",
    "stream",
    "value",
]

Loss = Callable[[Tensor, Tensor], Tensor]
Mode = Literal["eval", "train"]
Told = Literal["n", "y"]


def stream(seed: int, role: str) -> Generator:
    """A random stream of its own for each role, so that no role can guess another's draws.

    >>> client, attack = stream(0, "client"), stream(0, "attack")
    >>> client.initial_seed() == attack.initial_seed()
    False
    """
    digest = hashlib.blake2b(f"{seed}/{role}".encode(), digest_size=8).digest()
    return Generator().manual_seed(int.from_bytes(digest, "big") >> 1)


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

    @property
    def state(self) -> dict[str, Tensor]:
        """Parameters and buffers, as the server broadcasts them."""
        return {**self.params, **self.buffers}

    @property
    def device(self) -> torch.device:
        return next(iter(self.params.values())).device

    def with_params(self, params: Tensors) -> "Model":
        """The same network with other parameters (buffers too, when all of them are given)."""
        both = any(name in self.buffers for name in params)
        tree.check_names(params, self.state if both else self.params, "these parameters")
        floats = {
            name: params[name]
            for name, t in self.state.items()
            if name in params and t.is_floating_point()
        }
        tree.check_floats(floats, "these parameters")
        tree.check_finite(floats, "these parameters")
        cast = {name: params[name].to(t) for name, t in self.state.items() if name in params}
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


class Client(Protocol):
    """What a device does in one round: it returns what the server subtracts from its state."""

    def __call__(self, model: Model, batch: Batch, rng: Generator) -> Tensors: ...


def noiseless(client: Client) -> Client:
    """The deterministic part of a client: all that an attacker can simulate."""
    own = getattr(client, "noiseless", None)
    if own is not None:
        stripped: Client = own()
        return stripped
    inner = getattr(client, "inner", None)
    if inner is None or not dataclasses.is_dataclass(client):
        return client
    return dataclasses.replace(client, inner=noiseless(inner))


@dataclass(frozen=True, eq=False, slots=True)
class Observation:
    """Exactly what the server holds after a round, and no field for the truth."""

    model: Model
    client: Client
    """The client that the attacker believes in and may simulate."""
    update: Tensors
    n: int | None = None
    y: Tensor | None = None

    def save(self, path: str | Path) -> None:
        """Write all of it, but the network's code, to one safetensors file."""
        from seepage.captured import save  # it writes what this file defines

        save(self, path)

    @staticmethod
    def load(path: str | Path, model: Model, client: Client | None = None) -> "Observation":
        """Read a saved observation of this network, or a bare file of named update tensors.

        The network's code comes from `model`, its parameters from the file where it holds them.
        Without `client`, the one that the file names is believed, or plain FedSGD.
        """
        from seepage.captured import load  # it reads what this file defines

        return load(path, model, client)


def observe(
    model: Model,
    batch: Batch,
    client: Client,
    rng: Generator,
    believed: Client | None = None,
    tell: Sequence[Told] = ("n",),
) -> Observation:
    """One round of one client, seen from the server: detached, copied, and checked.

    `believed` is the client that the attacker takes it for (the real one unless given), `tell`
    what the threat model gives away beside the update: the number of examples `n`, the labels `y`.
    """
    unknown = set(tell) - {"n", "y"}
    if unknown:
        raise InvalidInput(f"tell={sorted(unknown)} is not known: use 'n', 'y', both or ().")
    update = tree.detached(client(model, batch, rng))
    y = batch.y.detach().clone() if "y" in tell and batch.y is not None else None
    n = len(batch) if "n" in tell else None
    check_update(update, model, "the client's update")
    return Observation(model, believed or client, update, n, y)


def check_update(update: Tensors, model: Model, what: str) -> None:
    """Demand some of the model's own tensors, in their shapes, of finite floats."""
    state = model.state
    shared = {name: tensor for name, tensor in state.items() if name in update}
    if not shared:
        raise InvalidInput(
            f"{what} has no tensor of this model: it holds "
            f"{', '.join(list(update)[:5]) or 'none'}, the model {', '.join(list(state)[:5])}. "
            "Name tensors as in state_dict()."
        )
    tree.check_names(update, shared, what)
    tree.check_floats(update, what)
    tree.check_finite(update, what)


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """Candidates in any number and order, each with how well it explains the update.

    `belief` ranks them by the attacker's own measure (higher is surer), `residual` is the
    certificate: a distance to the update computed without the truth, NaN where there is none.
    `note` says why the attack stopped; it begins with "not recovered" when the attack says so.
    """

    x: Tensor
    y: Tensor | None
    belief: Tensor
    residual: Tensor
    note: str = ""
    trace: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        wanted = len(self.x)
        for name, given in (("y", self.y), ("belief", self.belief), ("residual", self.residual)):
            if given is not None and len(given) != wanted:
                raise InvalidInput(
                    f"Reconstruction.{name} has {len(given)} entries for {wanted} candidates in x."
                )

    def __len__(self) -> int:
        return len(self.x)

    @staticmethod
    def nothing(seen: Observation, note: str) -> "Reconstruction":
        """The answer of an attack that recovered no candidate, and says why."""
        like = next(iter(seen.model.params.values()))
        x, none = like.new_empty((0, *seen.model.form.shape)), like.new_empty(0)
        return Reconstruction(x, None, none, none, f"not recovered: {note}")


class Attack(Protocol):
    """What a server could do with an observation. A malicious one also has `craft(model, rng)`."""

    def __call__(self, seen: Observation, rng: Generator) -> Reconstruction: ...
