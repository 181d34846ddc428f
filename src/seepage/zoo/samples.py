"""A batch with its form: what the data of the zoo come as."""

import dataclasses
from typing import NamedTuple

import torch
from torch import Tensor, nn

from seepage.core import Batch, Loss, Model, stream
from seepage.errors import InvalidInput
from seepage.forms import Form, Images

__all__ = ["Sample"]

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class Sample(NamedTuple):
    """Examples as a `Batch`, and the `Form` that tells what they are.

    >>> from seepage import zoo
    >>> batch, form = zoo.photos(2, 32)
    >>> form.shape
    (3, 32, 32)
    """

    batch: Batch
    form: Form

    @property
    def x(self) -> Tensor:
        """The examples."""
        return self.batch.x

    @property
    def y(self) -> Tensor:
        """The labels."""
        return self.batch.target

    def model(self, module: nn.Module, loss: Loss = nn.functional.cross_entropy) -> Model:
        """A model of this network on data of this form."""
        return Model.of(module, loss, self.form)

    def normalised(
        self,
        mean: tuple[float, ...] = _IMAGENET[0],
        std: tuple[float, ...] = _IMAGENET[1],
    ) -> "Sample":
        """The same images, shifted and scaled channel by channel: with ImageNet's figures."""
        form = dataclasses.replace(self._images(), mean=mean, std=std)
        return Sample(Batch(form.normalised(self.x), self.batch.y), form)

    def distinct(self, classes: int | None = None) -> "Sample":
        """The same examples with a label of its own each: 0, 1, 2, ..."""
        n = len(self.batch)
        if classes is not None and classes < n:
            raise InvalidInput(f"distinct: classes={classes} gives {n} examples no label each.")
        form = dataclasses.replace(self.form, classes=classes or n)
        return Sample(Batch(self.x, torch.arange(n)), form)

    def relabelled(self, classes: int, seed: int = 0) -> "Sample":
        """The same examples with labels drawn uniformly from this many classes."""
        y = torch.randint(classes, (len(self.batch),), generator=stream(seed, "zoo labels"))
        return Sample(Batch(self.x, y), dataclasses.replace(self.form, classes=classes))

    def signed(self) -> "Sample":
        """The same examples with labels -1 (even classes) and +1 (odd), for `logistic_loss`."""
        form = dataclasses.replace(self.form, classes=2)
        return Sample(Batch(self.x, self.y % 2 * 2 - 1), form)

    def _images(self) -> Images:
        if not isinstance(self.form, Images) or self.form.mean is not None:
            raise InvalidInput(
                f"{type(self.form).__name__}: only images in raw units are normalised, once."
            )
        return self.form
