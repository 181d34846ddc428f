"""A variational bottleneck before the last layer."""

import copy
import math

import torch
from torch import Tensor, nn

from seepage.checks import at_least
from seepage.core import Loss, Model
from seepage.errors import InvalidInput
from seepage.values import value


class Bottleneck(nn.Module):
    """The last layer of a network behind a random code; one more output carries its divergence.

    Outside training the code is its mean.
    """

    def __init__(self, head: nn.Linear, code: int) -> None:
        super().__init__()
        self.encoder = nn.Linear(head.in_features, 2 * code)
        self.decoder = nn.Linear(code, head.in_features)
        self.head = head

    def forward(self, h: Tensor) -> Tensor:
        mean, log_variance = self.encoder(h).chunk(2, dim=1)
        spread = (log_variance / 2).exp() if self.training else torch.zeros_like(mean)
        code = mean + spread * torch.randn_like(mean) if self.training else mean
        apart = (mean.square() + log_variance.exp() - 1 - log_variance).sum(1) / 2
        return torch.cat([self.head(self.decoder(code)), apart[:, None]], 1)


@value
class CodedLoss:
    """The plain loss of all outputs but the last, plus beta times the mean of the last."""

    plain: Loss
    beta: float

    def __call__(self, output: Tensor, y: Tensor) -> Tensor:
        return self.plain(output[:, :-1], y) + self.beta * output[:, -1].mean()


def precode(model: Model, code: int = 256, beta: float = 1e-3, seed: int = 0) -> Model:
    """The same model with a code mu + sqrt(v) xi, [mu, log v] = W_e h + b_e, before its last layer.

    Its loss adds beta KL(N(mu, v) || N(0, 1)). Scheliga et al. 2022, arXiv 2108.04725. The noise is
    drawn in training only, so share with `FedSGD("train")`; the predictions have one more column,
    the divergence. Layers before the code leak as before (Scheliga et al. 2022, arXiv 2208.04767).

    >>> from seepage import zoo
    >>> model = zoo.digits(1).model(zoo.mlp(64, 16, 10))
    >>> precode(model, code=8).predict(zoo.digits(2).x).shape
    torch.Size([2, 11])
    """
    at_least("precode.code", code, 1)
    at_least("precode.beta", beta, 0)
    module = copy.deepcopy(model.module)
    module.load_state_dict(model.state)
    layers = [(name, m) for name, m in module.named_modules() if isinstance(m, nn.Linear)]
    if not layers or not layers[-1][0]:
        raise InvalidInput("precode goes before the last linear layer of a larger network.")
    name, head = layers[-1]
    parent, _, own = name.rpartition(".")
    made = Bottleneck(head, code)
    _draw(made, seed)
    setattr(module.get_submodule(parent), own, made.to(head.weight.dtype).to(head.weight.device))
    return Model.of(module, CodedLoss(model.loss, beta), model.form)


def _draw(made: Bottleneck, seed: int) -> None:
    """PyTorch's own initial weights, from a stream of their own."""
    drawn = torch.Generator().manual_seed(seed)
    for layer in (made.encoder, made.decoder):
        bound = 1 / math.sqrt(layer.in_features)
        for parameter in layer.parameters():
            nn.init.uniform_(parameter, -bound, bound, generator=drawn)
