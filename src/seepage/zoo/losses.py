"""Losses that PyTorch does not have in the form of the papers."""

from torch import Tensor
from torch.nn import functional

from seepage.errors import InvalidInput

__all__ = ["logistic_loss", "squared_loss"]


def logistic_loss(output: Tensor, y: Tensor) -> Tensor:
    """The mean of log(1 + exp(-y f(x))) for one output and labels y = -1 or +1.

    Zhu and Blaschko 2021, arXiv 2010.07733, write binary classification so.

    >>> import torch
    >>> logistic_loss(torch.zeros(2, 1), torch.tensor([-1, 1]))
    tensor(0.6931)
    """
    if output.numel() != y.numel():
        raise InvalidInput(
            f"logistic_loss: an output of shape {tuple(output.shape)} for labels of shape "
            f"{tuple(y.shape)}. Use a network with one output and one label of -1 or +1 each."
        )
    return functional.softplus(-y.reshape(-1) * output.reshape(-1)).mean()


def squared_loss(output: Tensor, y: Tensor) -> Tensor:
    """Half the mean over examples of |f(x) - y|^2, so that its slope at one is f(x) - y.

    Wang, Lee and Lei 2023, arXiv 2212.03714, attack it.

    >>> import torch
    >>> squared_loss(torch.tensor([[3.0], [0.0]]), torch.tensor([1.0, 0.0]))
    tensor(1.)
    """
    if output.numel() != y.numel():
        raise InvalidInput(
            f"squared_loss: an output of shape {tuple(output.shape)} for targets of shape "
            f"{tuple(y.shape)}. Pass one target for each output; one-hot labels for classes."
        )
    return (output - y.reshape(output.shape)).square().sum() / (2 * len(output))
