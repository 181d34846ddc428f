"""Small reference networks, losses, and bundled data: what examples, tests and papers share."""

from seepage.zoo.data import digits, example, faces, photos
from seepage.zoo.generators import generator
from seepage.zoo.language import reviews, sentences, styled, texts
from seepage.zoo.losses import logistic_loss, squared_loss
from seepage.zoo.models import (
    cnn6,
    cnn6_d,
    convnet,
    fcn3,
    lenet,
    lenet_leaky,
    linear,
    mlp,
    resnet18,
    strided2,
    three_conv,
    two_layer,
    vit,
)
from seepage.zoo.samples import Sample
from seepage.zoo.tables import table

__all__ = [
    "Sample",
    "cnn6",
    "cnn6_d",
    "convnet",
    "digits",
    "example",
    "faces",
    "fcn3",
    "generator",
    "lenet",
    "lenet_leaky",
    "linear",
    "logistic_loss",
    "mlp",
    "photos",
    "resnet18",
    "reviews",
    "sentences",
    "squared_loss",
    "strided2",
    "styled",
    "table",
    "texts",
    "three_conv",
    "two_layer",
    "vit",
]
