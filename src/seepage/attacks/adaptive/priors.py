"""A normal belief about inputs, fitted to public data."""

from torch import Tensor

from seepage.values import value


@value
class NormalPrior:
    """-log N(u; mean, covariance) of each example, up to a constant: u is what `Invert` searches.

    With `units="raw"` that is the network's input for images in [0, 1].

    >>> import torch
    >>> prior = NormalPrior(torch.zeros(2), torch.eye(2))
    >>> prior.of_pixels(torch.tensor([[1.0, 2.0]]))
    (tensor(2.5000), tensor([[1., 2.]]))
    """

    mean: Tensor
    precision: Tensor
    weight: float = 1.0

    def of_pixels(self, u: Tensor) -> tuple[Tensor, Tensor]:
        apart = (u - self.mean.to(u)).flatten(1)
        pull = apart @ self.precision.to(u)
        return self.weight * (apart * pull).sum() / 2, self.weight * pull.view(u.shape)
