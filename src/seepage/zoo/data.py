"""Data for examples, tests and papers, all carried by installed packages: nothing is downloaded.

Each function returns a `Sample`: n examples as a `Batch`, with their `Form`. The private and the
public split have nothing in common, and the same seed gives the same examples.
"""

from pathlib import Path
from typing import Literal

import torch
from torch import nn

from seepage.checks import at_least, one_of
from seepage.core import Batch, Model
from seepage.forms import Column, Images, Table
from seepage.zoo.bundled import Split, chosen, scikit_learn
from seepage.zoo.photographs import ALL, PRIVATE, PUBLIC, crops, resized
from seepage.zoo.samples import Sample

__all__ = ["digits", "example", "faces", "photos"]


def example() -> tuple[Model, Batch]:
    """The smallest model that leaks: two classes of one person of three columns.

    >>> model, batch = example()
    >>> model.form.show(batch.x[0])
    {'age': 52.0, 'income': 31000.0, 'smokes': 'yes'}
    """
    columns = (
        Column("age", mean=40.0, std=10.0),
        Column("income", mean=35000.0, std=8000.0),
        Column("smokes", ("no", "yes")),
    )
    module = nn.Linear(4, 2)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[0.3, -0.2, 0.1, -0.4], [-0.1, 0.4, -0.3, 0.2]]))
        module.bias.copy_(torch.tensor([0.1, -0.1]))
    batch = Batch(torch.tensor([[1.2, -0.5, 0.0, 1.0]]), torch.tensor([1]))
    return Model.of(module, nn.functional.cross_entropy, Table(columns, classes=2)), batch


def photos(
    n: int, size: int, split: Literal["private", "public", "both"] = "private", seed: int = 0
) -> Sample:
    """Random squares of eight photographs, four private and four public; the photograph is y.

    Squares of .15 to .9 of the short edge, flipped, with contrast and brightness jitter, resized
    with antialiasing, and rounded to 8 bit. The private ones: an astronaut, a cat, a cup of
    coffee, a rocket; the public ones: galaxies, stained tissue, a motorcycle, a retina. "both"
    draws from all eight, which flatters attacks with public data: for older results made so.

    >>> batch, form = photos(2, 32)
    >>> batch.x.shape, form.classes
    (torch.Size([2, 3, 32, 32]), 8)
    """
    at_least("photos.n", n, 1)
    at_least("photos.size", size, 1)
    one_of("photos.split", split, ("private", "public", "both"))
    names = {"private": PRIVATE, "public": PUBLIC, "both": (*PUBLIC, *PRIVATE)}[split]
    x, y = crops(n, size, names, seed)
    return Sample(Batch(x, y), Images((3, size, size), classes=len(ALL)))


def faces(n: int, split: Split = "private", seed: int = 0) -> Sample:
    """Grey 25x25 squares of Labeled Faces in the Wild: 1 a face, 0 none; 100 in each split.

    The subset that scikit-image carries. Huang et al. 2007, UMass Amherst TR 07-49.

    >>> faces(2).form.shape
    (1, 25, 25)
    """
    import numpy as np
    import skimage

    raw = np.load(Path(skimage.__file__).parent / "data" / "lfw_subset.npy", allow_pickle=False)
    x = (torch.from_numpy(raw).float()[:, None] * 255).round() / 255
    y = (torch.arange(len(x)) < len(x) // 2).long()  # the faces come first
    part = chosen("faces", len(x), n, split, seed)
    return Sample(Batch(x[part], y[part]), Images((1, 25, 25), classes=2))


def digits(n: int, size: int = 8, split: Split = "private", seed: int = 0) -> Sample:
    """Handwritten digits, 8x8 in 17 grey levels, or resized; about 900 in each split.

    The set that scikit-learn carries. Alpaydin and Kaynak 1998, UCI Machine Learning Repository.

    >>> digits(2, 28).form.shape
    (1, 28, 28)
    """
    at_least("digits.size", size, 1)
    raw = scikit_learn().load_digits()
    x = torch.from_numpy(raw.images).float()[:, None] / 16
    y = torch.from_numpy(raw.target).long()
    part = chosen("digits", len(x), n, split, seed)
    shown = x[part] if size == 8 else torch.stack([resized(image, size) for image in x[part]])
    return Sample(Batch(shown, y[part]), Images((1, size, size), classes=10))
