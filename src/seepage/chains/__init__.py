"""Networks that are one chain of layers: the walk, its layers, and what a gradient says of each."""

from seepage.chains.activations import Activation, Turned
from seepage.chains.blocks import Block, Linked
from seepage.chains.chain import Chain
from seepage.chains.counts import layer_rank, network_ranks
from seepage.chains.layers import Layer, Window
from seepage.chains.walk import linked, walk

__all__ = [
    "Activation",
    "Block",
    "Chain",
    "Layer",
    "Linked",
    "Turned",
    "Window",
    "layer_rank",
    "linked",
    "network_ranks",
    "walk",
]
