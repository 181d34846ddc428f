"""The imprint module: a few rows in front of a layer, whose gradients keep examples apart."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from seepage.core import Observation
from seepage.errors import InvalidInput

__all__ = ["Add", "Notes", "Placed", "Replace", "Rows", "block_of", "gradients"]


@dataclass(frozen=True)
class Notes:
    """What the server writes down about its rows when it crafts them; no private data."""

    measures: Tensor
    """(P, N) float64: one measuring direction a row of this matrix."""
    direction: Tensor
    """(K,) which of the measures a row belongs to; -1 for a decoy."""
    lower: Tensor
    """(K,) float64: the row's own edge of the measure."""
    upper: Tensor
    """(K,) float64: where the next bin begins."""
    spread: Tensor
    """(P,) float64: standard deviation of each measure over the public data."""
    reader: Any
    """A `certificate.Reader`: from what the rows saw to examples, and whether they are real."""
    remarks: tuple[str, ...] = ()


class Add(nn.Module):
    """y = x + gain (sum_i a_i - centre) on every entry: no parameters, the network still works."""

    def __init__(self, gain: float, centre: Tensor) -> None:
        super().__init__()
        self.gain = gain
        self.register_buffer("centre", centre)

    def forward(self, activations: Tensor, x: Tensor) -> Tensor:
        """Shift each example by its own number."""
        centre: Tensor = self.centre  # type: ignore[assignment]
        shift = self.gain * (activations - centre).sum(1)
        return x + shift.view(-1, *[1] * (x.ndim - 1))


class Replace(nn.Module):
    """y = V a, with all weights of V equal, so that every row gets the same gradient."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, activations: Tensor, x: Tensor) -> Tensor:
        """What the network behind sees instead of x."""
        replaced: Tensor = self.linear(activations)
        return replaced.view_as(x)


class Rows(nn.Module):
    """a = activation(W x + b + base(x) - offset), joined to x: an ordinary block to look at.

    `base` is a frozen layer beside which W and b train, as adapters do.
    """

    def __init__(
        self, linear: nn.Linear, activation: nn.Module, join: nn.Module, offset: Tensor | None
    ) -> None:
        super().__init__()
        self.linear, self.activation, self.join = linear, activation, join
        self.register_buffer("offset", offset)
        self.base: nn.Linear | None = None
        self.notes: Notes | None = None

    def forward(self, x: Tensor) -> Tensor:
        """The input, marked by the rows."""
        flat = _as_rows(x, self.linear.in_features)
        z = self.linear(flat) if self.base is None else self.linear(flat) + self.base(flat)
        offset: Tensor | None = self.offset  # type: ignore[assignment]
        joined: Tensor = self.join(self.activation(z if offset is None else z - offset), x)
        return joined


class Placed(nn.Module):
    """The block, then the layer that stood in its place."""

    def __init__(self, block: Rows, inner: nn.Module) -> None:
        super().__init__()
        self.block, self.inner = block, inner

    def forward(self, x: Tensor) -> Any:
        """The layer's output on the marked input."""
        return self.inner(self.block(x))


def block_of(module: nn.Module) -> tuple[str, Rows, Notes]:
    """The crafted block of a network with its name, as the server finds its own work again."""
    for name, part in module.named_modules():
        if isinstance(part, Rows) and part.notes is not None:
            return name, part, part.notes
    raise InvalidInput(
        f"{type(module).__name__} holds no crafted rows. This attack is a malicious server's: "
        "broadcast attack.craft(model, rng), observe that model, and attack what comes back."
    )


def gradients(seen: Observation) -> tuple[Tensor, Tensor, Notes]:
    """The update of the rows' weights and biases, and what the server knows of the rows."""
    name, _, notes = block_of(seen.model.module)
    prefix = f"{name}.linear." if name else "linear."
    missing = [part for part in ("weight", "bias") if prefix + part not in seen.update]
    if missing:
        raise InvalidInput(
            f"the update lacks {', '.join(prefix + part for part in missing)}: the client did not "
            "share the crafted rows, and without both nothing can be divided. "
            "Observe a client that shares them (no `Only`, or one whose pattern keeps them)."
        )
    return seen.update[prefix + "weight"], seen.update[prefix + "bias"], notes


def _as_rows(x: Tensor, width: int) -> Tensor:
    """Flatten, with a constant 1 as a last feature where the rows have a weight for it."""
    flat = x.flatten(1)
    return flat if flat.shape[1] == width else nn.functional.pad(flat, (0, 1), value=1.0)
