"""Exact recovery from the row space of a fully connected layer's gradient."""

from seepage.attacks.span.attack import Span
from seepage.attacks.span.features import LayerInputs, features
from seepage.attacks.span.layers import inputs_of, stack_of

__all__ = ["LayerInputs", "Span", "features", "inputs_of", "stack_of"]
