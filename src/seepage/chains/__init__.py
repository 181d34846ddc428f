"""Networks that are one chain of layers: the walk, its layers, and what a gradient says of each."""

from seepage.chains.activations import Activation, Turned
from seepage.chains.counts import layer_rank, network_ranks
from seepage.chains.layers import Layer, Window
from seepage.chains.walk import Chain, walk

__all__ = [
    "Activation",
    "Chain",
    "Layer",
    "Turned",
    "Window",
    "layer_rank",
    "network_ranks",
    "walk",
]
