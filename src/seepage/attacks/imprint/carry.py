"""Placeholder."""

from collections.abc import Callable

from torch import Tensor, nn

from seepage.errors import InvalidInput


def carrier(module: nn.Module, at: str, probe: Tensor) -> Callable[[Tensor], Tensor]:
    raise InvalidInput(f"at={at!r}")
