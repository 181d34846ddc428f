"""Arithmetic on named tensors: updates, gradients and parameters are all of this type."""

import hashlib
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from seepage.errors import InvalidInput

Tensors = Mapping[str, Tensor]


def mapped(function: Callable[[Tensor], Tensor], tensors: Tensors) -> dict[str, Tensor]:
    """Apply a function to every tensor."""
    return {name: function(tensor) for name, tensor in tensors.items()}


def combined(
    function: Callable[[Tensor, Tensor], Tensor], left: Tensors, right: Tensors
) -> dict[str, Tensor]:
    """Apply a function to every pair of tensors that share a name, in the order of the left."""
    return {name: function(tensor, right[name]) for name, tensor in left.items() if name in right}


def straight_through(value: Tensor, smooth: Tensor) -> Tensor:
    """The value of the first with the derivative of the second, for who simulates a client."""
    return value.detach() + (smooth - smooth.detach()) if smooth.requires_grad else value


def blur(tensors: Tensors) -> Tensor:
    """How wide the jump of a sign is made for who differentiates through it.

    A third of the mean entry. (Of a median that is zero, as where most of a candidate's pixels are
    black, a search would never come back.)
    """
    return flat(tensors).detach().abs().mean().clamp(min=1e-30) / 3


def subtract(left: Tensors, right: Tensors) -> dict[str, Tensor]:
    """left - right, name by name."""
    return combined(torch.sub, left, right)


def scale(tensors: Tensors, factor: float | Tensor) -> dict[str, Tensor]:
    """factor * tensors."""
    return mapped(lambda tensor: tensor * factor, tensors)


def total(parts: Iterable[Tensors]) -> dict[str, Tensor]:
    """The sum of several sets of tensors with the same names."""
    remaining = iter(parts)
    result = dict(next(remaining))
    for part in remaining:
        result = combined(torch.add, result, part)
    return result


def flat(tensors: Tensors) -> Tensor:
    """All entries in one vector, in the order of the names."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors.values()])


def dot(left: Tensors, right: Tensors) -> Tensor:
    """The inner product over the names that both have."""
    return torch.stack([(t * right[name]).sum() for name, t in left.items() if name in right]).sum()


def norm(tensors: Tensors) -> Tensor:
    """The Euclidean length over all tensors together."""
    lengths = torch.stack([tensor.norm() for tensor in tensors.values()])
    return lengths.square().sum().sqrt()


def size(tensors: Tensors) -> int:
    """The number of entries in all tensors together."""
    return sum(tensor.numel() for tensor in tensors.values())


def detached(tensors: Tensors) -> dict[str, Tensor]:
    """Copies without history: what is done to the originals later does not reach them."""
    return mapped(lambda tensor: tensor.detach().clone(), tensors)


def fingerprint(tensors: Tensors) -> str:
    """Twelve hexadecimal digits that change when any name, shape, type or value changes."""
    digest = hashlib.blake2b(digest_size=6)
    for name, tensor in tensors.items():
        digest.update(f"{name}:{tuple(tensor.shape)}:{tensor.dtype};".encode())
        plain = tensor.detach().to("cpu").contiguous().reshape(-1)
        digest.update(plain.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def check_names(given: Tensors, expected: Tensors, what: str) -> None:
    """Demand the same names and shapes, and say all that differs."""
    missing = [name for name in expected if name not in given]
    unexpected = [name for name in given if name not in expected]
    shaped = [
        f"{name} is {tuple(given[name].shape)}, expected {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in given and given[name].shape != tensor.shape
    ]
    found = [
        f"{label}: {_shortened(names)}"
        for label, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("mis-shaped", shaped),
        )
        if names
    ]
    if found:
        raise InvalidInput(
            f"{what} and the model differ. " + "; ".join(found) + ". "
            "Pass tensors of the same network, with the names of its state_dict()."
        )


def check_floats(tensors: Tensors, what: str) -> None:
    """Refuse anything but the floating-point types that torch calculates with."""
    for name, tensor in tensors.items():
        if tensor.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
            raise InvalidInput(
                f"{what}: tensor '{name}' is {tensor.dtype}, and an update is made of floats. "
                "Convert it with .float(), after undoing any quantisation."
            )


def check_finite(tensors: Tensors, what: str) -> None:
    """Refuse NaN and infinity, naming the tensor that holds them."""
    for name, tensor in tensors.items():
        wide = tensor.float() if tensor.is_floating_point() and tensor.itemsize < 4 else tensor
        # A finite sum has finite terms, and costs a tenth; one that is not finite may overflow.
        if not bool(torch.isfinite(wide.sum())) and not bool(torch.isfinite(wide).all()):
            raise InvalidInput(
                f"{what}: tensor '{name}' holds NaN or infinity. Nothing can be measured "
                "on it: look for a diverged training step or an overflow in half precision."
            )


def _shortened(names: list[str], shown: int = 5) -> str:
    rest = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {rest} more" if rest > 0 else "")
