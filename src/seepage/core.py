"""The nouns: an update is a measurement, a client the operator, an attack the inverse."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Generator, Tensor

from seepage import tree
from seepage.errors import InvalidInput
from seepage.forms import Form, Tokens
from seepage.model import Batch, Loss, Mode, Model
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

Told = Literal["n", "y"]


def stream(seed: int, role: str) -> Generator:
    """A random stream of its own for each role, so that no role can guess another's draws.

    >>> client, attack = stream(0, "client"), stream(0, "attack")
    >>> client.initial_seed() == attack.initial_seed()
    False
    """
    digest = hashlib.blake2b(f"{seed}/{role}".encode(), digest_size=8).digest()
    return Generator().manual_seed(int.from_bytes(digest, "big") >> 1)


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
        whole = isinstance(seen.model.form, Tokens)
        x = like.new_empty((0, *seen.model.form.shape), dtype=torch.long if whole else None)
        none = like.new_empty(0)
        return Reconstruction(x, None, none, none, f"not recovered: {note}")


class Attack(Protocol):
    """What a server could do with an observation. A malicious one also has `craft(model, rng)`."""

    def __call__(self, seen: Observation, rng: Generator) -> Reconstruction: ...
